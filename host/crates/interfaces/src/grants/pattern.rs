//! The patterns of grants: a name, or a prefix and one `*` at the very end; a sender.

use std::fmt;
use std::str::FromStr;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} in a grant is {rule}")]
pub struct PatternError {
    /// Which kind.
    pub what: &'static str,
    /// What it has to look like.
    pub rule: &'static str,
}

/// One name, or all names with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    literal: String,
    exact: bool,
}

impl Wildcard {
    /// Whether this very name is meant. A `*` in `name` is a character.
    pub fn matches(&self, name: &str) -> bool {
        if self.exact { name == self.literal } else { name.starts_with(&self.literal) }
    }

    /// Whether every name that `other` matches is matched.
    pub fn covers(&self, other: &Self) -> bool {
        if self.exact { other.exact && other.literal == self.literal } else { other.literal.starts_with(&self.literal) }
    }

    /// Without the `*`.
    pub fn literal(&self) -> &str {
        &self.literal
    }

    /// Whether it is one name.
    pub fn is_exact(&self) -> bool {
        self.exact
    }
}

impl FromStr for Wildcard {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (literal, exact) = text.strip_suffix('*').map_or((text, true), |prefix| (prefix, false));
        if literal.contains('*') || (exact && literal.is_empty()) {
            return Err(PatternError { what: "name", rule: "exact, or a prefix with one `*` at its end" });
        }
        Ok(Self { literal: literal.to_owned(), exact })
    }
}

impl fmt::Display for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.literal, if self.exact { "" } else { "*" })
    }
}

/// Whom e-mail may come from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sender {
    /// The host's default sender: `"default"`.
    Default,
    /// One address.
    Address(String),
    /// Every plain address of one domain, not of those below it: `"*@domain"`.
    Domain(String),
}

impl Sender {
    /// Whether this address is meant. The domain is compared as it is written: lower-case and ASCII, as the grant has it.
    pub fn matches(&self, address: &str) -> bool {
        match (self, plain(address)) {
            (Self::Address(granted), Some(_)) => granted == address,
            (Self::Domain(granted), Some((_, domain))) => granted == domain,
            (Self::Default, _) | (_, None) => false,
        }
    }

    /// Whether every sender that `other` allows is allowed.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Address(address)) => self.matches(address),
            _ => self == other,
        }
    }
}

impl FromStr for Sender {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let rule = "`default`, a plain address, or `*@` and a domain; the domain in lower-case ASCII";
        let error = PatternError { what: "sender", rule };
        let domain_is_fine = |domain: &str| !domain.bytes().any(|b| b.is_ascii_uppercase());
        if text == "default" {
            return Ok(Self::Default);
        }
        if let Some(domain) = text.strip_prefix("*@") {
            let fine = plain(&format!("x@{domain}")).is_some() && domain_is_fine(domain);
            return fine.then(|| Self::Domain(domain.to_owned())).ok_or(error);
        }
        match plain(text) {
            Some((local, domain)) if !local.contains('*') && domain_is_fine(domain) => {
                Ok(Self::Address(text.to_owned()))
            }
            _ => Err(error),
        }
    }
}

impl TryFrom<String> for Sender {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Sender> for String {
    fn from(sender: Sender) -> Self {
        sender.to_string()
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Address(address) => f.write_str(address),
            Self::Domain(domain) => write!(f, "*@{domain}"),
        }
    }
}

/// Local part and domain of an address that means one thing to every program: no quotes, comments, routes, spaces or
/// second `@`, nothing beyond ASCII. Stricter than RFC 5321 on purpose.
fn plain(address: &str) -> Option<(&str, &str)> {
    let (local, domain) = address.split_once('@')?;
    let dotted = |text: &str| !text.starts_with('.') && !text.ends_with('.') && !text.contains("..");
    // RFC 5322 `atext`, and the dots between.
    let local_fine = (1..=64).contains(&local.len())
        && dotted(local)
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b));
    let domain_fine = (1..=253).contains(&domain.len())
        && dotted(domain)
        && domain.split('.').all(|label| {
            !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    (local_fine && domain_fine).then_some((local, domain))
}
