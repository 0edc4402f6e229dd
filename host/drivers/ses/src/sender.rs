//! The port on SES: one mail, one request. Beside it two tasks that look at the account and at the suppression list.

use crate::account::{Account, Counted};
use crate::content;
use crate::error::{Stop, Trouble, sort};
use crate::identity::{self, IdentityStatus};
use crate::pace::{LocalPace, Pace, Turn};
use crate::suppression::{Mirror, Read};
use crate::{Config, OpenError, credentials};
use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_sesv2::config::timeout::TimeoutConfig;
use aws_sdk_sesv2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sesv2::error::BoxError as SdkBoxError;
use sandpost_ports::email::{Address, EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Recipients that SES takes with one mail.
const RECIPIENTS_MAX: usize = 50;
/// Bytes that SES takes with one mail, encoded: 40 MB.
const MAIL_MAX_BYTES: usize = 40_000_000;
/// How much of the rate is used: what is sent evenly does not arrive evenly.
const RATE_USED: f64 = 0.95;
/// The least wait before the account is looked at again when that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long after a refused send the account is looked at, so that many refusals are one look.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// How long a look at the account answers whoever asks how SES is. SES lets an account look about once a second, all hosts
/// together, and a probe may come once a second to each of them: so fifteen hosts are within it. A service that went away
/// without a mail noticing is seen after this time and one look.
const LOOK_HOLDS: Duration = Duration::from_secs(15);

/// SES v2. Dropped, its two tasks end.
pub struct Ses {
    inner: Arc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

struct Inner {
    client: Client,
    config: Config,
    account: Account,
    mirror: Mirror,
    identity: Mutex<IdentityStatus>,
    pace: Arc<dyn Pace>,
    /// Where the shared bucket does not answer.
    alone: LocalPace,
    pace_is_shared: AtomicBool,
    /// What came of the last look at the account; none before the first.
    looked: watch::Sender<Option<Look>>,
    look_now: Notify,
    reachable: Mutex<Option<bool>>,
}

/// One look at the account by the task that looks.
struct Look {
    at: Instant,
    /// Whether SES is there, and knows who asks.
    there: Result<(), Absence>,
    /// Whether it answered, whatever it said.
    is_answered: bool,
    /// A mail found it otherwise since.
    is_outdated: bool,
}

/// A [`PortError`] that can be told more than once.
#[derive(Clone)]
struct Absence {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Opens it: reads the environment and profiles, and starts to look at the account. Needs a Tokio runtime. `pace` is the
/// bucket that several hosts share; none where this host sends alone.
pub async fn open(config: Config, pace: Option<Arc<dyn Pace>>) -> Result<Arc<Ses>, OpenError> {
    config.check()?;
    let client = credentials::client(&config).await;
    let inner = Arc::new(Inner {
        client,
        account: Account::new(&config),
        mirror: Mirror::default(),
        identity: Mutex::new(IdentityStatus::Unknown),
        pace: pace.unwrap_or_else(|| Arc::new(LocalPace::default())),
        alone: LocalPace::default(),
        pace_is_shared: AtomicBool::new(true),
        looked: watch::Sender::new(None),
        look_now: Notify::new(),
        reachable: Mutex::new(None),
        config,
    });
    let tasks = [tokio::spawn(look_again(Arc::clone(&inner))), tokio::spawn(read_again(Arc::clone(&inner)))];
    Ok(Arc::new(Ses { inner, tasks }))
}

impl Ses {
    /// What was found of the default sender's identity.
    pub fn identity(&self) -> IdentityStatus {
        self.inner.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the suppression list now, instead of when its time comes.
    pub async fn read_suppression_list(&self) -> Result<(), PortError> {
        self.inner.read_list().await
    }
}

#[async_trait::async_trait]
impl EmailSender for Ses {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        self.inner.send(mail).await
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.inner.look().await.map_err(Trouble::into_port)
    }

    fn quota_seen(&self) -> Option<SendingQuota> {
        self.inner.account.known()
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

#[async_trait::async_trait]
impl Health for Ses {
    async fn check(&self) -> Result<(), PortError> {
        self.inner.there().await?;
        match self.inner.account.stopped() {
            Some(stop) => Err(PortError::new(ErrorKind::Unavailable, stop.words())),
            None => Ok(()),
        }
    }
}

impl Inner {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        self.account.ready()?;
        if mail.mime.len() > MAIL_MAX_BYTES {
            return Err(rejected(format!("{} bytes; SES takes at most {MAIL_MAX_BYTES}", mail.mime.len())));
        }
        let all = mail.to.len() + mail.cc.len() + mail.bcc.len();
        if all > RECIPIENTS_MAX {
            return Err(rejected(format!("{all} recipients; SES takes at most {RECIPIENTS_MAX}")));
        }
        let keep = |address: &Address| !self.mirror.has(&address.address);
        let recipients = mail.to.iter().chain(&mail.cc).chain(&mail.bcc).filter(|address| keep(address)).count();
        if recipients == 0 {
            return Err(SendError::Suppressed);
        }
        let request = content::request(mail, self.config.content, keep)
            .map_err(|error| PortError::new(ErrorKind::Other, "the request could not be built").because(error))?;
        self.known().await;
        // Within `RECIPIENTS_MAX`.
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        let counted = self.account.count(recipients)?;
        self.turn(recipients).await?;
        // It may have stopped while this mail waited.
        self.account.ready()?;
        self.hand_over(request, counted).await
    }

    async fn hand_over(&self, request: content::Request, counted: Counted<'_>) -> Result<ProviderId, SendError> {
        let transmitted = Transmitted::default();
        let answer = self
            .client
            .send_email()
            .from_email_address(request.from)
            .destination(request.destination)
            .content(request.content)
            .set_email_tags((!request.tags.is_empty()).then_some(request.tags))
            .set_configuration_set_name(self.config.configuration_set.clone())
            .customize()
            .interceptor(transmitted.clone())
            .send()
            .await;
        let trouble = match answer {
            Ok(output) => {
                counted.keep();
                self.account.went();
                self.found(true);
                let no_id = || PortError::new(ErrorKind::UnknownOutcome, "the mail provider gave no id");
                return Ok(output.message_id.filter(|id| !id.is_empty()).ok_or_else(no_id)?);
            }
            Err(error) => sort(error, transmitted.0.load(Ordering::SeqCst)),
        };
        if trouble.unreachable().is_some() {
            self.found(false);
        }
        Err(match trouble {
            Trouble::Throttled => SendError::Throttled { after_ms: Some(1_000) },
            Trouble::Rejected { reason, source } => SendError::Rejected { reason, source: Some(source) },
            Trouble::Line(stop, source) => {
                tracing::debug!(error = %source, "The mail provider refused a mail for what concerns all.");
                self.look_now.notify_one();
                self.account.stop(stop)
            }
            Trouble::Denied(source) => {
                tracing::warn!(error = %source, "The host's credentials have no right to send this mail.");
                SendError::Paused {
                    reason: "the host has no right to send this mail".to_owned(),
                    after_ms: self.config.pause_min_ms,
                }
            }
            Trouble::Port(error) => {
                if error.kind == ErrorKind::UnknownOutcome {
                    counted.keep();
                }
                SendError::Port(error)
            }
        })
    }

    /// Waits for the mail's turn in the bucket.
    async fn turn(&self, recipients: u32) -> Result<(), SendError> {
        let whole = self.account.per_second().unwrap_or(self.config.per_second_unknown);
        let per_second = whole * self.config.rate_share * RATE_USED;
        let wait_max = Duration::from_millis(self.config.rate_wait_max_ms);
        let turn = match self.pace.take(recipients, per_second, wait_max).await {
            Ok(turn) => {
                if !self.pace_is_shared.swap(true, Ordering::Relaxed) {
                    tracing::info!("The sending rate is shared with the other hosts again.");
                }
                turn
            }
            Err(error) => {
                if self.pace_is_shared.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "The shared sending rate cannot be had; this host paces itself alone.");
                }
                self.alone.take_now(recipients, per_second * self.config.rate_share_alone, wait_max)
            }
        };
        match turn {
            Turn::After(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Turn::NotBefore(wait) => {
                let after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                Err(SendError::Throttled { after_ms: Some(after_ms) })
            }
        }
    }

    /// Waits until the account was looked at for the first time, so that the first mails know the rate; not for ever.
    async fn known(&self) {
        let mut looked = self.looked.subscribe();
        let limit = Duration::from_millis(self.config.look_timeout_ms);
        // Late or not, the mail goes on: at the rate of an account that is not known.
        drop(tokio::time::timeout(limit, looked.wait_for(Option::is_some)).await);
    }

    /// What the last look came to; where that was too long ago, the next one, which one task makes for all who ask.
    async fn there(&self) -> Result<(), PortError> {
        let asked = Instant::now();
        let holds = |look: &Look| !look.is_outdated && asked.saturating_duration_since(look.at) < LOOK_HOLDS;
        let mut looked = self.looked.subscribe();
        if looked.borrow().as_ref().is_some_and(|look| !holds(look)) {
            self.look_now.notify_one();
        }
        let ended = || PortError::new(ErrorKind::Unavailable, "the account is not looked at any more");
        let look = looked.wait_for(|look| look.as_ref().is_some_and(holds)).await.map_err(|_closed| ended())?;
        look.as_ref().map_or(Ok(()), |look| look.there.clone()).map_err(PortError::from)
    }

    /// A mail found SES, or did not. Where the last look says otherwise, it answers nobody any more.
    fn found(&self, is_there: bool) {
        self.looked.send_if_modified(|look| {
            if let Some(look) = look {
                look.is_outdated |= look.is_answered != is_there;
            }
            // Nobody waits for this.
            false
        });
    }

    /// One look at the account.
    async fn look(&self) -> Result<SendingQuota, Trouble> {
        let handed = self.account.handed();
        let looking = self
            .client
            .get_account()
            .customize()
            .config_override(aws_sdk_sesv2::config::Builder::new().timeout_config(self.look_timeouts()))
            .send();
        let answer = looking.await.map_err(|error| sort(error, true));
        let unreachable = answer.as_ref().err().and_then(Trouble::unreachable);
        self.report(unreachable);
        Ok(self.account.saw(&answer?, handed))
    }

    /// Says once when SES went away, and once when it came back.
    fn report(&self, unreachable: Option<&PortError>) {
        let mut known = self.reachable.lock().unwrap_or_else(PoisonError::into_inner);
        match (unreachable, *known) {
            (None, Some(false)) => tracing::info!("SES answers again."),
            (None, None) => tracing::info!("SES answers."),
            (Some(error), Some(true) | None) => {
                let cause = error.source.as_deref().map(chain);
                tracing::warn!(%error, cause, "SES does not answer; it is asked again with a back-off.");
            }
            (None, Some(true)) | (Some(_), Some(false)) => {}
        }
        *known = Some(unreachable.is_none());
    }

    async fn look_at_identity(&self) -> Result<(), PortError> {
        let Some(address) = &self.config.from_address else { return Ok(()) };
        if *self.identity.lock().unwrap_or_else(PoisonError::into_inner) != IdentityStatus::Unknown {
            return Ok(());
        }
        let status = self.within(identity::look(&self.client, address)).await?;
        match &status {
            IdentityStatus::Found { identity, verified: true, dkim: true } => {
                tracing::info!(identity, "The default sender is verified, and its mail is signed.");
            }
            IdentityStatus::Found { identity, verified: true, dkim: false } => {
                tracing::warn!(
                    identity,
                    "The default sender is verified, but DKIM is off: mail may be taken for spam."
                );
            }
            IdentityStatus::Found { identity, verified: false, .. } => {
                tracing::warn!(identity, "The default sender is not verified: SES will reject its mail.");
            }
            IdentityStatus::Missing => {
                tracing::warn!("The default sender is no identity of this account: SES will reject its mail.");
            }
            IdentityStatus::NotAllowed => {
                tracing::info!("Whether the default sender is verified is not known: the host may not look.");
            }
            IdentityStatus::Unknown => {}
        }
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = status;
        Ok(())
    }

    async fn read_list(&self) -> Result<(), PortError> {
        match self.mirror.read(&self.client, self.config.suppression_max).await? {
            Read::Whole(addresses) => tracing::debug!(addresses, "The suppression list was read."),
            Read::Bounded => {
                let kept = self.config.suppression_max;
                tracing::warn!(kept, "The suppression list is longer than what is kept (suppression_max).");
            }
            Read::NotAllowed => tracing::info!("The suppression list is left to SES: the host may not look at it."),
        }
        Ok(())
    }

    fn look_timeouts(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(self.config.connect_timeout_ms))
            .operation_timeout(Duration::from_millis(self.config.look_timeout_ms))
            .build()
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        let limit = Duration::from_millis(self.config.look_timeout_ms);
        let late = || PortError::new(ErrorKind::Unavailable, "the mail provider did not answer in time");
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_elapsed| Err(late()))
    }
}

/// Looks at the account from time to time, and at once where a send was refused; at the identity until it is known.
async fn look_again(inner: Arc<Inner>) {
    let poll = Duration::from_millis(inner.config.account_poll_ms);
    let mut failed = 0_u32;
    loop {
        let answer = inner.look().await;
        let is_answered = answer.as_ref().err().and_then(Trouble::unreachable).is_none();
        let there = match answer {
            // SES knows who asks, and that he may not look. Sending is another right, and there is nothing to be had by
            // asking more often.
            Ok(_) | Err(Trouble::Denied(_)) => Ok(()),
            Err(trouble) => {
                if let Trouble::Line(Stop::Keys, error) = &trouble {
                    tracing::warn!(%error, "SES refuses the host's credentials.");
                }
                Err(Absence::from(trouble.into_port()))
            }
        };
        let is_there = there.is_ok();
        inner.looked.send_replace(Some(Look { at: Instant::now(), there, is_answered, is_outdated: false }));
        let looked = is_there && inner.look_at_identity().await.is_ok();
        failed = if looked { 0 } else { failed.saturating_add(1) };
        let wait = if looked { poll } else { back_off(failed).min(poll) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = inner.look_now.notified() => tokio::time::sleep(LOOK_SOON.min(wait)).await,
        }
    }
}

/// Reads the suppression list from time to time.
async fn read_again(inner: Arc<Inner>) {
    if !inner.config.suppression {
        return;
    }
    let poll = Duration::from_millis(inner.config.suppression_poll_ms);
    let mut failed = 0_u32;
    loop {
        let wait = match inner.read_list().await {
            Ok(()) => {
                failed = 0;
                poll
            }
            Err(error) => {
                tracing::debug!(%error, "The suppression list could not be read.");
                failed = failed.saturating_add(1);
                back_off(failed).min(poll)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

impl From<PortError> for Absence {
    fn from(PortError { kind, message, source, .. }: PortError) -> Self {
        Self { kind, message, source: source.map(Arc::from) }
    }
}

impl From<Absence> for PortError {
    fn from(Absence { kind, message, source }: Absence) -> Self {
        let error = Self::new(kind, message);
        match source {
            Some(source) => error.because(source),
            None => error,
        }
    }
}

/// Doubles from [`LOOK_AGAIN`] with each failure.
fn back_off(failed: u32) -> Duration {
    LOOK_AGAIN.saturating_mul(1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX))
}

/// Whether the request went to the connection: everything before it (credentials, signing) sent nothing.
#[derive(Debug, Clone, Default)]
struct Transmitted(Arc<AtomicBool>);

impl Intercept for Transmitted {
    fn name(&self) -> &'static str {
        "Transmitted"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), SdkBoxError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn rejected(reason: String) -> SendError {
    SendError::Rejected { reason, source: None }
}

/// An error with what lies underneath, in one line for the log.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

impl Drop for Ses {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Ses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ses").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
