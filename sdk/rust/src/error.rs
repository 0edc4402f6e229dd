//! Why something did not work, and the verdict that follows from it.
//!
//! [`HostError`] is what the host answers; [`Error`] is what a handler returns: a reason, and whether trying again can
//! help. `?` turns any error into an [`Error`]; the table of verdicts is [`Error`]'s documentation.
//!
//! Invariant: an error that nobody classified is retried, never rejected; the host's retry budget bounds it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What a handler returns: nothing, or an [`Error`] with its verdict.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the host did not do what it was asked. The text is for logs; decide by the variant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// No grant covers it. Asking again is of no use.
    Denied(String),
    /// The arguments are wrong.
    Invalid(String),
    /// It exists already, or a constraint forbids it.
    Conflict(String),
    /// The service is down, overloaded or throttling; nothing was done.
    Unavailable(String),
    /// It may or may not have been done.
    UnknownOutcome(String),
    /// A limit of the plugin or the host was reached.
    Exceeded(String),
    /// The service behind this connection cannot do it; the text names what.
    Unsupported(String),
    /// Anything else.
    Other(String),
    /// What came back does not fit the type that was asked for. Made here, not by the host.
    Decode(String),
}

impl HostError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::UnknownOutcome(_))
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Denied(text) => ("denied", text),
            Self::Invalid(text) => ("invalid", text),
            Self::Conflict(text) => ("conflict", text),
            Self::Unavailable(text) => ("unavailable", text),
            Self::UnknownOutcome(text) => ("outcome unknown", text),
            Self::Exceeded(text) => ("limit exceeded", text),
            Self::Unsupported(text) => ("unsupported", text),
            Self::Other(text) => ("failed", text),
            Self::Decode(text) => ("unexpected shape", text),
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Denied(_) | Self::Invalid(_) | Self::Unsupported(_) | Self::Decode(_) => Verdict::Reject,
            Self::Conflict(_) | Self::Unavailable(_) | Self::UnknownOutcome(_) | Self::Exceeded(_) | Self::Other(_) => {
                Verdict::Retry { after: None }
            }
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = self.parts();
        write!(f, "{word}: {text}")
    }
}

impl StdError for HostError {}

/// What is to become of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver it again.
    Retry {
        /// Not before this much time; by the subscription's back-off where left out.
        after: Option<Duration>,
    },
    /// Never again: it becomes a dead letter, with the reason.
    Reject,
}

/// Why a handler did not finish, and the verdict on the message.
///
/// `?` works on every error, and gives these verdicts:
///
/// | error | verdict |
/// | --- | --- |
/// | [`HostError`] `Denied`, `Invalid`, `Unsupported`, `Decode` | reject |
/// | [`HostError`] `Unavailable`, `UnknownOutcome`, `Conflict`, `Exceeded`, `Other` | retry |
/// | [`SendError::Rejected`](crate::email::SendError) | reject |
/// | [`SendError::Throttled`](crate::email::SendError) | retry, after the time that the provider named |
/// | [`SendError::Render`](crate::email::SendError): a new template version may mend it | retry |
/// | [`RenderFailure::InvalidData`](crate::templates::RenderFailure) | reject |
/// | `serde_json::Error`: the same text will not parse later | reject |
/// | any other error | retry |
///
/// Say it yourself where you know better:
///
/// ```
/// use sandpost_sdk::prelude::*;
/// use std::time::Duration;
///
/// fn check(age: Option<u32>, quota: u32) -> Result<u32> {
///     let age = age.or_reject("there is no age")?;
///     if quota == 0 {
///         return Err(Error::retry_after(Duration::from_secs(60), "the quota is used up"));
///     }
///     Ok(age)
/// }
///
/// assert_eq!(check(None, 1).unwrap_err().verdict(), Verdict::Reject);
/// assert_eq!(check(Some(1), 0).unwrap_err().reason(), "the quota is used up");
///
/// let parsed: Result<u32> = "x".parse::<u32>().context("reading the age");
/// assert_eq!(parsed.unwrap_err().to_string(), "reading the age: invalid digit found in string");
/// ```
// No `std::error::Error` on it: that is what lets `From` take every other error, as in `anyhow`.
pub struct Error {
    verdict: Verdict,
    reason: String,
}

impl Error {
    /// Deliver the message again, by the subscription's back-off.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self { verdict: Verdict::Retry { after: None }, reason: reason.to_string() }
    }

    /// Deliver the message again, not before `after` has passed. Milliseconds count, what is below does not.
    pub fn retry_after(after: Duration, reason: impl fmt::Display) -> Self {
        Self { verdict: Verdict::Retry { after: Some(after) }, reason: reason.to_string() }
    }

    /// Never deliver the message again: it becomes a dead letter, with this reason.
    pub fn reject(reason: impl fmt::Display) -> Self {
        Self { verdict: Verdict::Reject, reason: reason.to_string() }
    }

    /// What is to become of the message.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The reason, as it stands in the ledger and in the dead letter.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same verdict, with `what` before the reason.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.reason = format!("{what}: {}", self.reason);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.verdict, self.reason)
    }
}

impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let verdict = verdict_on(&error);
        Self { verdict, reason: with_sources(&error) }
    }
}

/// What follows from an error by its type alone.
fn verdict_on(error: &(dyn StdError + 'static)) -> Verdict {
    if let Some(host) = error.downcast_ref::<HostError>() {
        host.verdict()
    } else if let Some(send) = error.downcast_ref::<crate::email::SendError>() {
        use crate::email::SendError;
        match send {
            SendError::Rejected(_) => Verdict::Reject,
            SendError::Throttled(after) => Verdict::Retry { after: *after },
            SendError::Render(_) => Verdict::Retry { after: None },
            SendError::Host(host) => host.verdict(),
        }
    } else if let Some(crate::templates::RenderFailure::InvalidData(_)) = error.downcast_ref() {
        Verdict::Reject
    } else if error.is::<serde_json::Error>() {
        Verdict::Reject
    } else {
        Verdict::Retry { after: None }
    }
}

/// The error and what it came from, "a: b: c".
pub(crate) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Says what went wrong, and what follows, where a result or an option is not what it should be.
pub trait Context<T> {
    /// The same verdict, with `what` before the reason. An option that is empty is retried.
    fn context(self, what: impl fmt::Display) -> Result<T>;
    /// Reject the message, with `what` as (the beginning of) the reason.
    fn or_reject(self, what: impl fmt::Display) -> Result<T>;
    /// Retry the message, with `what` as (the beginning of) the reason.
    fn or_retry(self, what: impl fmt::Display) -> Result<T>;
    /// Retry the message after this much time, with `what` as (the beginning of) the reason.
    fn or_retry_after(self, after: Duration, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(what))
    }

    fn or_reject(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error { verdict: Verdict::Reject, ..error.into().context(what) })
    }

    fn or_retry(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error { verdict: Verdict::Retry { after: None }, ..error.into().context(what) })
    }

    fn or_retry_after(self, after: Duration, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error { verdict: Verdict::Retry { after: Some(after) }, ..error.into().context(what) })
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.or_retry(what)
    }

    fn or_reject(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::reject(what))
    }

    fn or_retry(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::retry(what))
    }

    fn or_retry_after(self, after: Duration, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::retry_after(after, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::email::SendError;

    type Make = fn(String) -> HostError;

    #[test]
    fn every_host_error_has_its_verdict() {
        let retry = Verdict::Retry { after: None };
        let cases: [(Make, Verdict); 9] = [
            (HostError::Denied, Verdict::Reject),
            (HostError::Invalid, Verdict::Reject),
            (HostError::Unsupported, Verdict::Reject),
            (HostError::Decode, Verdict::Reject),
            (HostError::Conflict, retry),
            (HostError::Unavailable, retry),
            (HostError::UnknownOutcome, retry),
            (HostError::Exceeded, retry),
            (HostError::Other, retry),
        ];
        for (make, verdict) in cases {
            let error = make("why".to_owned());
            let text = error.to_string();
            assert!(text.ends_with(": why"), "{text}");
            assert_eq!(Error::from(error).verdict(), verdict, "{text}");
        }
    }

    #[test]
    fn throttling_keeps_the_providers_time() {
        let after = Some(Duration::from_secs(7));
        assert_eq!(Error::from(SendError::Throttled(after)).verdict(), Verdict::Retry { after });
        assert_eq!(Error::from(SendError::Rejected("no".into())).verdict(), Verdict::Reject);
        assert_eq!(Error::from(SendError::Host(HostError::Denied("no".into()))).verdict(), Verdict::Reject);
    }

    #[test]
    fn json_is_rejected_and_anything_else_retried() {
        let json = serde_json::from_str::<u8>("{").unwrap_err();
        assert_eq!(Error::from(json).verdict(), Verdict::Reject);
        let other = std::io::Error::other("disk");
        assert_eq!(Error::from(other).verdict(), Verdict::Retry { after: None });
    }

    #[test]
    fn context_keeps_the_verdict_and_or_reject_changes_it() {
        let failed = || Err::<(), _>(HostError::Unavailable("down".into()));
        let error = failed().context("reading").unwrap_err();
        assert_eq!((error.verdict(), error.reason()), (Verdict::Retry { after: None }, "reading: unavailable: down"));
        assert_eq!(failed().or_reject("reading").unwrap_err().verdict(), Verdict::Reject);
    }
}
