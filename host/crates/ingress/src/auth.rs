//! Who may do what: tokens, roles, and the rule of every route.
//!
//! Invariants
//! - A route without a rule in [`RULES`] is not served at all.
//! - Tokens are compared as sha256 digests, in constant time, with every entry, whichever matches.
//! - Without any token only this machine is served, and no page of another site in its browsers.
//!
//! Not here: what a publisher's token may publish to is asked in `publish`, which knows the topic.

use crate::config::{Config, ConfigError};
use crate::reject::Reject;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, Uri};
use sandpost_message::Topic;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Publish, and nothing else.
    Publisher,
    /// Read: messages, mailbox, dead letters, plugins, metrics.
    Viewer,
    /// Read, publish, replay and discard.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Publisher, Self::Viewer, Self::Operator, Self::Admin];

    pub(crate) fn may(self, access: Access) -> bool {
        match access {
            Access::Open => true,
            Access::Publish => matches!(self, Self::Publisher | Self::Operator | Self::Admin),
            Access::Read | Access::Metrics => matches!(self, Self::Viewer | Self::Operator | Self::Admin),
            Access::Operate => matches!(self, Self::Operator | Self::Admin),
            Access::Administer => matches!(self, Self::Admin),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publisher => "publisher",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// The right to publish.
    Publish,
    /// The right to read.
    Read,
    /// The right to read, unless the operator opened it.
    Metrics,
    /// The right to change.
    Operate,
    /// The right to see what concerns the host's own services.
    Administer,
}

/// The rule of every route. `HEAD` goes by `GET`.
pub(crate) const RULES: &[(Method, &str, Access)] = &[
    (Method::POST, "/v1/topics/{topic}/messages", Access::Publish),
    (Method::POST, "/v1/topics/{topic}/messages:batch", Access::Publish),
    (Method::GET, "/v1/messages/{id}", Access::Read),
    (Method::GET, "/v1/mailbox", Access::Read),
    (Method::GET, "/v1/mailbox/{mail}", Access::Read),
    (Method::GET, "/v1/plugins", Access::Read),
    (Method::GET, "/v1/dead-letters", Access::Read),
    (Method::GET, "/v1/dead-letters/{id}", Access::Read),
    (Method::DELETE, "/v1/dead-letters/{id}", Access::Operate),
    (Method::POST, "/v1/dead-letters/{id}/replay", Access::Operate),
    (Method::GET, "/api/admin/redis/stats", Access::Administer),
    (Method::GET, "/healthz", Access::Open),
    (Method::GET, "/readyz", Access::Open),
    (Method::GET, "/health", Access::Open),
    (Method::GET, "/metrics", Access::Metrics),
    (Method::GET, "/openapi.json", Access::Open),
];

/// The rule of a route; or why it is not served.
pub(crate) fn rule(method: &Method, route: &str) -> Result<Access, Reject> {
    let asked = if *method == Method::HEAD { &Method::GET } else { method };
    let mut allow = Vec::new();
    for (method, template, access) in RULES {
        if *template == route {
            if method == asked {
                return Ok(*access);
            }
            allow.push(method.as_str());
            if *method == Method::GET {
                allow.push("HEAD");
            }
        }
    }
    if allow.is_empty() { Err(Reject::NotFound) } else { Err(Reject::MethodNotAllowed { allow: allow.join(", ") }) }
}

/// A topic's name, or the beginning of some names followed by `*`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern(String);

impl TopicPattern {
    fn matches(&self, topic: &Topic) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => topic.as_str().starts_with(beginning),
            None => topic.as_str() == self.0,
        }
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let beginning = text.strip_suffix('*').unwrap_or(&text);
        let valid = beginning.len() <= 255
            && (text.len() > beginning.len() || text.parse::<Topic>().is_ok())
            && beginning.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if valid { Ok(Self(text)) } else { Err("not a topic, nor the beginning of one followed by `*`") }
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.0
    }
}

/// The tokens with their secrets looked up. Holds digests alone.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Vec<Token>);

#[derive(Debug, Clone)]
struct Token {
    digest: [u8; 32],
    caller: Caller,
}

/// Who asks. In the extensions of every request that got past the gate.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The token's name; `local` where there are none, `anonymous` on routes that ask for none.
    pub(crate) name: Arc<str>,
    role: Role,
    topics: Arc<[TopicPattern]>,
}

impl Caller {
    fn unnamed(name: &str, role: Role) -> Self {
        Self { name: name.into(), role, topics: Arc::new([]) }
    }

    pub(crate) fn may_publish_to(&self, topic: &Topic) -> Result<(), Reject> {
        let free = self.role != Role::Publisher || self.topics.is_empty();
        if free || self.topics.iter().any(|pattern| pattern.matches(topic)) {
            Ok(())
        } else {
            Err(Reject::ForbiddenTopic)
        }
    }
}

/// A shorter token can be guessed.
const TOKEN_MIN_BYTES: usize = 16;

impl Tokens {
    /// Looks up the tokens of a valid configuration. `variable` reads the environment.
    pub fn resolve(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut tokens: Vec<Token> = Vec::with_capacity(config.tokens.len());
        for (name, token) in &config.tokens {
            let key = |last: &str| format!("tokens.{name}.{last}");
            let digest = match (&token.token_from_env, &token.sha256) {
                (Some(name), None) => {
                    let secret = variable(name).unwrap_or_default();
                    let secret = secret.trim();
                    if secret.len() < TOKEN_MIN_BYTES {
                        return Err(ConfigError::new(
                            key("token_from_env"),
                            format!("the variable {name} is not set, or holds less than {TOKEN_MIN_BYTES} characters"),
                        ));
                    }
                    digest_of(secret.as_bytes())
                }
                (None, Some(digits)) => from_hexadecimal(digits)
                    .ok_or_else(|| ConfigError::new(key("sha256"), "is not 64 lower-case hexadecimal digits"))?,
                _ => {
                    return Err(ConfigError::new(
                        format!("tokens.{name}"),
                        "needs one of `token_from_env` and `sha256`",
                    ));
                }
            };
            if tokens.iter().any(|other| other.digest == digest) {
                return Err(ConfigError::new(format!("tokens.{name}"), "is the same token as another one"));
            }
            let caller = Caller { name: name.as_str().into(), role: token.role, topics: token.topics.clone().into() };
            tokens.push(Token { digest, caller });
        }
        Ok(Self(tokens))
    }

    /// Whether there is none, so that only this machine is served.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    fn bearer(&self, token: &str) -> Option<&Caller> {
        let digest = digest_of(token.as_bytes());
        let mut found = u64::MAX;
        for (place, entry) in (0_u64..).zip(&self.0) {
            found.conditional_assign(&place, entry.digest.ct_eq(&digest));
        }
        usize::try_from(found).ok().and_then(|place| self.0.get(place)).map(|entry| &entry.caller)
    }

    /// Lets a request through to a route with this rule, or says why not.
    pub(crate) fn admit(&self, access: Access, headers: &HeaderMap, realm: &str) -> Result<Caller, Reject> {
        if self.is_open() {
            return Ok(Caller::unnamed("local", Role::Admin));
        }
        if access == Access::Open {
            return Ok(Caller::unnamed("anonymous", Role::Viewer));
        }
        let denied = |given| Reject::Unauthenticated { given, realm: realm.to_owned() };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let header = given.next().ok_or_else(|| denied(false))?;
        if given.next().is_some() {
            return Err(denied(true));
        }
        let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(|| denied(true))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(denied(true));
        }
        let caller = self.bearer(token.trim()).ok_or_else(|| denied(true))?;
        if caller.role.may(access) { Ok(caller.clone()) } else { Err(Reject::Forbidden { access }) }
    }
}

/// The guard where there are no tokens: the peer is this machine, the name it asked for is this machine's (a page that
/// rebinds its own name to 127.0.0.1 keeps that name in `Host`), and no page of another site sent it.
pub(crate) fn only_local(peer: Option<SocketAddr>, headers: &HeaderMap, uri: &Uri) -> Result<(), Reject> {
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Err(Reject::NotLocal("configure `http.tokens` to serve other machines"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => uri.authority().map(axum::http::uri::Authority::as_str),
        _ => None,
    };
    let Some(host) = host.filter(|host| is_this_machine(host)) else {
        return Err(Reject::NotLocal(
            "the `Host` header is not a name of this machine: localhost or a loopback address",
        ));
    };
    for origin in headers.get_all(ORIGIN) {
        let same = origin.to_str().is_ok_and(|origin| {
            origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"))
                .is_some_and(|site| site.eq_ignore_ascii_case(host))
        });
        if !same {
            return Err(Reject::NotLocal("the `Origin` header is another site's"));
        }
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn digest_of(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn from_hexadecimal(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn tokens_come_from_a_variable_or_a_digest() {
        let config = config(
            "[tokens.ci]\nrole = \"publisher\"\ntoken_from_env = \"CI\"\n\
             [tokens.ops]\nrole = \"admin\"\nsha256 = \"2c1fd4f5a1ef7d8dcfa3e7ab2cb7eb2b5e2a0a4ed1e5e0c9f0a5a0b9a7e1b0aa\"",
        );
        let secret = |name: &str| (name == "CI").then(|| "0123456789abcdef".to_owned());
        let tokens = Tokens::resolve(&config, secret).unwrap();
        assert_eq!(&*tokens.bearer("0123456789abcdef").unwrap().name, "ci");
        assert!(tokens.bearer("0123456789abcdeF").is_none());
        assert!(tokens.bearer("").is_none());
        let missing = Tokens::resolve(&config, |_| None).unwrap_err();
        assert_eq!(missing.key, "tokens.ci.token_from_env");
        let short = Tokens::resolve(&config, |_| Some("short".into())).unwrap_err();
        assert_eq!(short.key, "tokens.ci.token_from_env");
        assert!(!format!("{short} {tokens:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn one_token_has_one_name() {
        let config = config(
            "[tokens.a]\nrole = \"viewer\"\ntoken_from_env = \"A\"\n[tokens.b]\nrole = \"admin\"\ntoken_from_env = \"A\"",
        );
        assert_eq!(Tokens::resolve(&config, |_| Some("0123456789abcdef".into())).unwrap_err().key, "tokens.b");
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        let topic: Topic = "orders-eu".parse().unwrap();
        for (pattern, matches) in
            [("orders-eu", true), ("orders-*", true), ("*", true), ("orders", false), ("mails-*", false)]
        {
            assert_eq!(TopicPattern::try_from(pattern.to_owned()).unwrap().matches(&topic), matches, "{pattern}");
        }
        for bad in ["", "a", "a*b", "**", "or ders"] {
            assert!(TopicPattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_has_few_names() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80", "127.9.9.9"] {
            assert!(is_this_machine(good), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "10.0.0.1",
            "[::1",
            "[::1]x",
            "::1",
            "localhost:",
            "localhost:8x",
            "0.0.0.0",
        ] {
            assert!(!is_this_machine(bad), "{bad}");
        }
    }
}
