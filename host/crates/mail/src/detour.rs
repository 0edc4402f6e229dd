//! Where mail really goes on a host that must not write to everybody: staging, a developer's machine.
//!
//! [`Detour`] stands before a provider and looks at the recipients alone. With an address to redirect to, whoever is not on
//! the list of those allowed is replaced by it; without, he is left out. [`Discard`] takes everything and sends nothing.
//!
//! Invariants
//! - Only the envelope changes: sender, content and key stay, so that a mail looks as it would in production. A header that
//!   comes first says which visible recipients it was for.
//! - A mail for nobody that is allowed is answered as suppressed: nothing was sent, and trying again would change nothing.

use crate::address::{AddressError, parse_address};
use bytes::{Bytes, BytesMut};
use sandpost_ports::PortError;
use sandpost_ports::email::{Address, EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::{Health, PoolUse};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// The header of a mail that goes to somebody else.
const HEADER: &str = "X-Sandpost-Redirected-From";

/// Who gets mail, and who gets the others'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    redirect_to: Option<Address>,
    /// Whole addresses and domains, in lower case; everybody where it is none.
    allowed: Option<HashSet<String>>,
}

impl Policy {
    /// From `MAIL_REDIRECT_TO`, one address, and `MAIL_ALLOWLIST`, addresses and domains (`example.com`, `@example.com`)
    /// with commas between. Blank counts as not set.
    pub fn parse(redirect_to: Option<&str>, allowlist: Option<&str>) -> Result<Self, AddressError> {
        let is_set = |text: &&str| !text.trim().is_empty();
        let redirect_to = redirect_to.filter(is_set).map(|text| parse_address(text.trim())).transpose()?;
        let allowed = allowlist
            .filter(is_set)
            .map(|list| list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(entry).collect())
            .transpose()?;
        Ok(Self { redirect_to, allowed })
    }

    /// Whether every mail goes where it was meant to.
    pub fn is_open(&self) -> bool {
        self.redirect_to.is_none() && self.allowed.is_none()
    }

    fn allows(&self, address: &str) -> bool {
        let address = address.to_lowercase();
        let domain = address.rsplit('@').next().unwrap_or_default();
        match &self.allowed {
            Some(allowed) => allowed.contains(&address) || allowed.contains(domain),
            None => self.redirect_to.is_none(),
        }
    }

    /// The mail as it may go; none where nobody is left.
    fn apply(&self, mail: &Mail) -> Option<Mail> {
        if mail.to.iter().chain(&mail.cc).chain(&mail.bcc).all(|one| self.allows(&one.address)) {
            return Some(mail.clone());
        }
        let kept = |list: &[Address]| list.iter().filter(|one| self.allows(&one.address)).cloned().collect::<Vec<_>>();
        let mut changed = Mail { to: kept(&mail.to), cc: kept(&mail.cc), bcc: kept(&mail.bcc), ..mail.clone() };
        if let Some(redirect_to) = &self.redirect_to {
            if !changed.to.iter().any(|one| one.address.eq_ignore_ascii_case(&redirect_to.address)) {
                changed.to.push(redirect_to.clone());
            }
            // Hidden ones stay hidden: they are in the envelope of then, never in the MIME.
            let visible = mail.to.iter().chain(&mail.cc).map(|one| one.address.as_str());
            changed.mime = with_header(&mail.mime, &visible.filter(|one| !self.allows(one)).collect::<Vec<_>>());
        }
        (!(changed.to.is_empty() && changed.cc.is_empty() && changed.bcc.is_empty())).then_some(changed)
    }
}

/// One entry of the list: an address, or a domain.
fn entry(text: &str) -> Result<String, AddressError> {
    let domain = text.strip_prefix('@').unwrap_or(text);
    let is_address = domain.contains('@');
    // A domain is what an address at it has.
    let whole = if is_address { domain.to_owned() } else { format!("postmaster@{domain}") };
    let address = parse_address(&whole)?.address.to_lowercase();
    Ok(if is_address { address } else { address.rsplit('@').next().unwrap_or_default().to_owned() })
}

/// The MIME with whom it was for as its first header, an address a line.
fn with_header(mime: &Bytes, others: &[&str]) -> Bytes {
    if others.is_empty() {
        return mime.clone();
    }
    let header = format!("{HEADER}: {}\r\n", others.join(",\r\n "));
    let mut whole = BytesMut::with_capacity(header.len() + mime.len());
    whole.extend_from_slice(header.as_bytes());
    whole.extend_from_slice(mime);
    whole.freeze()
}

/// A provider behind a policy.
pub struct Detour {
    provider: Arc<dyn EmailSender>,
    policy: Policy,
}

impl Detour {
    /// The provider itself where the policy is open.
    pub fn before(provider: Arc<dyn EmailSender>, policy: Policy) -> Arc<dyn EmailSender> {
        if policy.is_open() { provider } else { Arc::new(Self { provider, policy }) }
    }
}

#[async_trait::async_trait]
impl EmailSender for Detour {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        match self.policy.apply(mail) {
            Some(mail) => self.provider.send(&mail).await,
            None => Err(SendError::Suppressed),
        }
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.provider.quota().await
    }

    fn quota_seen(&self) -> Option<SendingQuota> {
        self.provider.quota_seen()
    }

    fn deduplicates(&self) -> bool {
        self.provider.deduplicates()
    }
}

#[async_trait::async_trait]
impl Health for Detour {
    async fn check(&self) -> Result<(), PortError> {
        self.provider.check().await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.provider.pool()
    }
}

impl fmt::Debug for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detour").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Takes every mail and sends none (`MAIL_TRANSPORT=null`). One key has one id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

#[async_trait::async_trait]
impl EmailSender for Discard {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        Ok(format!("discarded-{}", mail.key))
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        // Far above what anyone sends, and still numbers to calculate with.
        Ok(SendingQuota { per_day: 1e9, sent_today: 0.0, per_second: 1e6 })
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

#[async_trait::async_trait]
impl Health for Discard {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Mail>>);

    #[async_trait::async_trait]
    impl EmailSender for Kept {
        async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
            self.0.lock().unwrap().push(mail.clone());
            Ok("1".to_owned())
        }
        async fn quota(&self) -> Result<SendingQuota, PortError> {
            Discard.quota().await
        }
        fn deduplicates(&self) -> bool {
            false
        }
    }

    #[async_trait::async_trait]
    impl Health for Kept {
        async fn check(&self) -> Result<(), PortError> {
            Ok(())
        }
    }

    fn mail() -> Mail {
        // To ana@example.com, copies to cc@example.com and hidden@example.com.
        sandpost_ports::contract::email::sample("no-reply@example.com", "Ana@Client.example")
    }

    async fn sent(redirect_to: Option<&str>, allowlist: Option<&str>) -> Result<Mail, SendError> {
        let kept = Arc::new(Kept::default());
        let detour = Detour::before(kept.clone(), Policy::parse(redirect_to, allowlist).unwrap());
        detour.send(&mail()).await?;
        let mails = kept.0.lock().unwrap();
        Ok(mails[0].clone())
    }

    fn addresses(list: &[Address]) -> Vec<&str> {
        list.iter().map(|one| one.address.as_str()).collect()
    }

    #[tokio::test]
    async fn everything_is_redirected_once_and_says_whom_it_was_for() {
        let mail = sent(Some("team@staging.example"), None).await.unwrap();
        assert_eq!(addresses(&mail.to), ["team@staging.example"]);
        assert!(mail.cc.is_empty() && mail.bcc.is_empty());
        let mime = String::from_utf8(mail.mime.to_vec()).unwrap();
        let header = "X-Sandpost-Redirected-From: Ana@Client.example,\r\n cc@example.com\r\nFrom: ";
        assert!(mime.starts_with(header), "{mime}");
        assert!(!mime.contains("hidden@example.com"), "{mime}");
    }

    #[tokio::test]
    async fn who_is_allowed_gets_it_and_the_others_are_redirected() {
        let mail = sent(Some("team@staging.example"), Some("ana@client.example")).await.unwrap();
        assert_eq!(addresses(&mail.to), ["Ana@Client.example", "team@staging.example"]);
        assert!(mail.cc.is_empty() && mail.bcc.is_empty());
    }

    #[tokio::test]
    async fn without_a_place_to_redirect_to_they_are_left_out() {
        let mail = sent(None, Some(" @example.com ,")).await.unwrap();
        assert!(mail.to.is_empty());
        assert_eq!(addresses(&mail.cc), ["cc@example.com"]);
        assert_eq!(addresses(&mail.bcc), ["hidden@example.com"]);
        let nobody = sent(None, Some("other.example")).await;
        assert!(matches!(nobody, Err(SendError::Suppressed)), "{nobody:?}");
    }

    #[tokio::test]
    async fn an_open_policy_changes_nothing_and_a_wrong_one_is_refused() {
        assert!(Policy::parse(Some(" "), None).unwrap().is_open());
        let unchanged = sent(None, Some("client.example,example.com")).await.unwrap();
        assert_eq!(addresses(&unchanged.to), ["Ana@Client.example"]);
        assert!(Policy::parse(Some("nobody"), None).is_err());
        assert!(Policy::parse(None, Some("ana@example.com, b@@c")).is_err());
    }
}
