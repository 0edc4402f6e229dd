//! The port on a relay: one mail, one dialogue.

use crate::connect::NoConnection;
use crate::error::{Trouble, answered, unavailable, unknown};
use crate::pool::{Bounds, Leased, Pool};
use crate::target::Target;
use crate::{Config, OpenError};
use lettre::Address as Recipient;
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt, Rset};
use lettre::transport::smtp::extension::{Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use sandpost_ports::email::{EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_ports::{BoxError, ErrorKind, PortError};
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the quota says: a relay has none that it would tell.
const UNLIMITED_PER_DAY: f64 = 1e9;
/// The same in a second.
const UNLIMITED_PER_SECOND: f64 = 1e6;

/// A relay.
pub struct Relay {
    pool: Pool,
    config: Config,
    /// Until when the relay's refusal of the login is believed without asking again.
    refused_until: Mutex<Option<Instant>>,
    /// Recipients that were taken since the host started.
    taken: AtomicU64,
}

/// Opens it. Connects with the first mail.
pub fn open(config: Config) -> Result<Arc<Relay>, OpenError> {
    config.check()?;
    let target = Target::new(&config)?;
    let bounds = Bounds {
        connect: Duration::from_millis(config.connect_timeout_ms),
        wait: Duration::from_millis(config.connection_wait_ms),
        idle: Duration::from_millis(config.idle_max_ms),
    };
    let pool = Pool::new(target, config.connections_max, bounds);
    Ok(Arc::new(Relay { pool, config, refused_until: Mutex::new(None), taken: AtomicU64::new(0) }))
}

#[async_trait::async_trait]
impl EmailSender for Relay {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        self.ready()?;
        let envelope = Envelope::of(mail)?;
        let until = tokio::time::Instant::now() + Duration::from_millis(self.config.send_timeout_ms);
        let mut fresh = false;
        loop {
            let before = tokio::time::timeout_at(until, self.before_content(&envelope, mail, fresh)).await;
            match before.unwrap_or_else(|elapsed| Err(Begin::Port(unavailable(LATE, elapsed)))) {
                Ok(leased) => {
                    let handed = tokio::time::timeout_at(until, self.content(leased, mail)).await;
                    let id = handed.unwrap_or_else(|elapsed| Err(unknown(elapsed)))?;
                    self.taken.fetch_add(envelope.to.len() as u64, Ordering::Relaxed);
                    return Ok(id);
                }
                // The relay closed it while nobody used it; nothing was handed over.
                Err(Begin::Stale) if !fresh => fresh = true,
                Err(Begin::Stale) => return Err(unavailable(BROKE, "the connection was closed").into()),
                Err(Begin::Login(error)) => return Err(self.refused(&*error)),
                Err(Begin::Port(error)) => return Err(error.into()),
                Err(Begin::Mail(error)) => return Err(error),
            }
        }
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        // Far below 2^53, where a float begins to skip.
        let taken = u32::try_from(self.taken.load(Ordering::Relaxed)).map_or(f64::from(u32::MAX), f64::from);
        Ok(SendingQuota { per_day: UNLIMITED_PER_DAY, sent_today: taken, per_second: UNLIMITED_PER_SECOND })
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

#[async_trait::async_trait]
impl Health for Relay {
    async fn check(&self) -> Result<(), PortError> {
        for fresh in [false, true] {
            let mut leased = match self.pool.lease(fresh).await {
                Ok(leased) => leased,
                Err(NoConnection::Login(error)) => return Err(unavailable("the mail relay refuses the login", error)),
                Err(NoConnection::Port(error)) => return Err(error),
            };
            let alive = self.step(async { Ok(leased.connection.test_connected().await) }).await;
            if matches!(alive, Ok(true)) {
                leased.give_back();
                return Ok(());
            }
        }
        Err(PortError::new(ErrorKind::Unavailable, BROKE))
    }

    fn pool(&self) -> Option<PoolUse> {
        Some(self.pool.usage())
    }
}

const LATE: &str = "the mail relay did not answer in time";
const BROKE: &str = "the connection to the mail relay broke";

/// Why the content was not handed over.
enum Begin {
    /// The connection was open before, and is not any more.
    Stale,
    Login(BoxError),
    /// Not about this mail.
    Port(PortError),
    /// About this mail.
    Mail(SendError),
}

/// Who it is from and to, as the relay hears it.
struct Envelope {
    from: Recipient,
    to: Vec<Recipient>,
}

impl Envelope {
    fn of(mail: &Mail) -> Result<Self, SendError> {
        let read = |address: &str, what: &str| {
            let wrong = |source: BoxError| SendError::Rejected {
                reason: format!("{what} is no address that a relay takes"),
                source: Some(source),
            };
            let read: Recipient = address.parse().map_err(|error| wrong(Box::new(error)))?;
            if address.is_ascii() { Ok(read) } else { Err(wrong("not ASCII".into())) }
        };
        let mut seen = HashSet::new();
        let all = mail.to.iter().chain(&mail.cc).chain(&mail.bcc);
        let to = all
            .filter(|one| seen.insert(one.address.as_str()))
            .map(|one| read(&one.address, "a recipient"))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { from: read(&mail.sender.address, "the sender")?, to })
    }
}

impl Relay {
    /// Everything up to the relay's word that it waits for the content.
    async fn before_content(&self, envelope: &Envelope, mail: &Mail, fresh: bool) -> Result<Leased<'_>, Begin> {
        let mut leased = self.pool.lease(fresh).await.map_err(|trouble| match trouble {
            NoConnection::Login(error) => Begin::Login(error),
            NoConnection::Port(error) => Begin::Port(error),
        })?;
        let mut parameters = Vec::new();
        if !mail.mime.is_ascii() {
            if !leased.connection.server_info().supports_feature(Extension::EightBitMime) {
                leased.give_back();
                let reason = "the relay takes no 8-bit mail".to_owned();
                return Err(Begin::Mail(SendError::Rejected { reason, source: None }));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let reused = leased.reused;
        let from = MailFrom::new(Some(envelope.from.clone()), parameters);
        match self.step(async { leased.connection.command(from).await.map_err(Trouble::of) }).await {
            Ok(_) => {}
            Err(Trouble::Broken(_)) if reused => return Err(Begin::Stale),
            Err(trouble) => return Err(self.refuse(leased, trouble).await),
        }
        for to in &envelope.to {
            let command = Rcpt::new(to.clone(), Vec::new());
            if let Err(trouble) =
                self.step(async { leased.connection.command(command).await.map_err(Trouble::of) }).await
            {
                return Err(self.refuse(leased, trouble).await);
            }
        }
        match self.step(async { leased.connection.command(Data).await.map_err(Trouble::of) }).await {
            Ok(_) => Ok(leased),
            Err(trouble) => Err(self.refuse(leased, trouble).await),
        }
    }

    /// The content, and the relay's word for it.
    async fn content(&self, mut leased: Leased<'_>, mail: &Mail) -> Result<ProviderId, SendError> {
        match leased.connection.message(&mail.mime).await {
            Ok(response) => {
                leased.give_back();
                Ok(id(&response, &mail.mime).unwrap_or_else(|| mail.key.clone()))
            }
            Err(error) => match Trouble::of(error) {
                Trouble::Answer(code, error) => {
                    leased.give_back();
                    Err(answered(code, error))
                }
                Trouble::Login(error) => Err(self.refused(&*error)),
                Trouble::Broken(error) => Err(unknown(error)),
            },
        }
    }

    /// What a refusal before the content means; the connection is made ready for the next mail, or closed.
    async fn refuse(&self, mut leased: Leased<'_>, trouble: Trouble) -> Begin {
        match trouble {
            Trouble::Login(error) => Begin::Login(error),
            Trouble::Broken(error) => Begin::Port(unavailable(BROKE, error)),
            Trouble::Answer(code, error) => {
                if self.step(async { leased.connection.command(Rset).await.map_err(Trouble::of) }).await.is_ok() {
                    leased.give_back();
                }
                Begin::Mail(answered(code, error))
            }
        }
    }

    /// One command and its answer.
    async fn step<T>(&self, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let limit = Duration::from_millis(self.config.command_timeout_ms);
        tokio::time::timeout(limit, step).await.unwrap_or_else(|elapsed| Err(Trouble::Broken(elapsed.into())))
    }

    /// Whether mail is taken now.
    fn ready(&self) -> Result<(), SendError> {
        let until = *self.refused_until.lock().unwrap_or_else(PoisonError::into_inner);
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(wait) if !wait.is_zero() => Err(paused(wait)),
            _ => Ok(()),
        }
    }

    /// The relay refuses the login: no mail goes, so none is tried for a while.
    fn refused(&self, error: &dyn std::error::Error) -> SendError {
        let wait = Duration::from_millis(self.config.pause_ms);
        *self.refused_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(wait);
        let wait_ms = self.config.pause_ms;
        tracing::warn!(%error, wait_ms, "Mail is held: the mail relay refuses the login.");
        paused(wait)
    }
}

fn paused(wait: Duration) -> SendError {
    let after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    SendError::Paused { reason: "the mail relay refuses the login".to_owned(), after_ms }
}

/// What the relay calls it (`queued as …`, `id=…`), else what the mail calls itself.
fn id(response: &Response, mime: &[u8]) -> Option<String> {
    for line in response.message() {
        let marked = ["queued as ", "id="].iter().find_map(|mark| line.split_once(mark));
        if let Some((_, rest)) = marked
            && let Some(word) = rest.split_whitespace().next()
        {
            return Some(word.to_owned());
        }
    }
    let end = mime.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(mime.len());
    let headers = String::from_utf8_lossy(&mime[..end]);
    let mut lines = headers.split("\r\n");
    let value = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("message-id").then(|| value.trim().trim_matches(['<', '>']).to_owned())
    })?;
    (!value.is_empty()).then_some(value)
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(said: &str) -> Option<String> {
        use lettre::transport::smtp::response::{Category, Code, Detail, Severity};
        let code = Code::new(Severity::PositiveCompletion, Category::MailSystem, Detail::Zero);
        id(&Response::new(code, vec![said.to_owned()]), b"From: a\r\nMessage-ID: <own@example.com>\r\n\r\nbody")
    }

    #[test]
    fn the_id_is_the_relay_s_word_else_the_mail_s_own() {
        assert_eq!(id_of("2.0.0 Ok: queued as 4ABC").as_deref(), Some("4ABC"));
        assert_eq!(id_of("OK id=1abc-0001-AB").as_deref(), Some("1abc-0001-AB"));
        assert_eq!(id_of("OK").as_deref(), Some("own@example.com"));
    }
}
