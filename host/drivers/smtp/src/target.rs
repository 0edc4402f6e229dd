//! Which relay, and how: from the URL and the configuration.

use crate::{Config, OpenError, Starttls};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use sandpost_ports::Secret;
use std::net::IpAddr;
use url::{Host, Url};

const PORT_RELAY: u16 = 25;
const PORT_SUBMISSION: u16 = 587;
const PORT_TLS: u16 = 465;

/// Where mail goes.
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
    pub(crate) login: Option<Credentials>,
    /// Whether a password may go in the clear.
    pub(crate) clear_login: bool,
    pub(crate) hello: ClientId,
}

/// How the connection is encrypted.
pub(crate) enum Security {
    /// Not.
    Clear,
    /// From its first byte.
    Wrapped(TlsParameters),
    /// After the greeting.
    Starttls { parameters: TlsParameters, required: bool },
}

impl Target {
    pub(crate) fn new(config: &Config) -> Result<Self, OpenError> {
        let url = config.url.as_ref().ok_or(OpenError::NoUrl)?;
        // The parser's own words may hold parts of it.
        let url = Url::parse(url.reveal()).map_err(|_| OpenError::Url("it does not parse"))?;
        let wrapped = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err(OpenError::Url("it begins with smtp:// or smtps://")),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(OpenError::Url("it names no host")),
        };
        let starttls = match url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned()) {
            None => config.starttls,
            Some(value) => match value.as_str() {
                "required" => Starttls::Required,
                "opportunistic" => Starttls::WhenOffered,
                "none" => Starttls::Never,
                _ => return Err(OpenError::Url("`tls` is none, opportunistic or required")),
            },
        };
        if url.query_pairs().any(|(name, _)| name != "tls") {
            return Err(OpenError::Url("of parameters it takes `tls` alone"));
        }
        let login = login(config, &url)?;
        let port = url.port().unwrap_or(match (wrapped, &login) {
            (true, _) => PORT_TLS,
            (false, Some(_)) => PORT_SUBMISSION,
            (false, None) => PORT_RELAY,
        });
        let security = if wrapped {
            Security::Wrapped(parameters(config, &host)?)
        } else if starttls == Starttls::Never {
            Security::Clear
        } else {
            Security::Starttls { parameters: parameters(config, &host)?, required: starttls == Starttls::Required }
        };
        let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        Ok(Self {
            clear_login: is_here || starttls == Starttls::Never,
            host,
            port,
            security,
            login,
            hello: config.hello_name.clone().map_or_else(ClientId::default, ClientId::Domain),
        })
    }
}

fn login(config: &Config, url: &Url) -> Result<Option<Credentials>, OpenError> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
    let decoded = |text: &str| decode(text).map_err(|_| OpenError::Url("user and password are UTF-8"));
    let of_url = |text: &str| (!text.is_empty()).then(|| decoded(text)).transpose();
    let set = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let user = set(&config.username).map_or_else(|| of_url(url.username()), |user| Ok(Some(user)))?;
    let password = set(&config.password).map_or_else(|| of_url(url.password().unwrap_or("")), |word| Ok(Some(word)))?;
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some(Credentials::new(user, password))),
        (None, None) => Ok(None),
        _ => Err(OpenError::HalfLogin),
    }
}

fn parameters(config: &Config, host: &str) -> Result<TlsParameters, OpenError> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).map_err(|error| OpenError::CaFile(error.into()))?;
        builder =
            builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| OpenError::CaFile(error.into()))?);
    }
    builder.build().map_err(|error| OpenError::Tls(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, OpenError> {
        Target::new(&Config { url: Some(Secret::new(url)), ..Config::default() })
    }

    #[test]
    fn the_port_follows_from_the_scheme_and_the_login() {
        let port = |url: &str| target(url).unwrap().port;
        assert_eq!(port("smtp://relay.example.com"), 25);
        assert_eq!(port("smtp://user:word@relay.example.com"), 587);
        assert_eq!(port("smtps://relay.example.com"), 465);
        assert_eq!(port("smtp://127.0.0.1:1025"), 1025);
    }

    #[test]
    fn encryption_follows_from_the_url() {
        assert!(matches!(target("smtps://a.example.com").unwrap().security, Security::Wrapped(_)));
        let starttls = |url: &str| match target(url).unwrap().security {
            Security::Starttls { required, .. } => Some(required),
            Security::Clear | Security::Wrapped(_) => None,
        };
        assert_eq!(starttls("smtp://a.example.com"), Some(false));
        assert_eq!(starttls("smtp://a.example.com?tls=required"), Some(true));
        assert_eq!(starttls("smtp://a.example.com?tls=none"), None);
    }

    #[test]
    fn a_password_goes_in_the_clear_to_this_machine_alone() {
        assert!(target("smtp://u:p@localhost").unwrap().clear_login);
        assert!(target("smtp://u:p@[::1]:25").unwrap().clear_login);
        assert!(!target("smtp://u:p@relay.example.com").unwrap().clear_login);
        assert!(target("smtp://u:p@relay.example.com?tls=none").unwrap().clear_login);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_address() {
        for (url, words) in [
            ("http://user:hunter2@relay.example.com", "it begins with smtp:// or smtps://"),
            ("smtp://", "it names no host"),
            ("smtp://relay.example.com?tls=maybe", "`tls` is none, opportunistic or required"),
            ("smtp://relay.example.com?timeout=1", "of parameters it takes `tls` alone"),
            ("smtp://user@relay.example.com", "a user and a password are set together or not at all"),
        ] {
            let Err(error) = target(url) else { panic!("{url} was taken") };
            let said = error.to_string();
            assert!(said.contains(words), "{url}: {said}");
            assert!(!said.contains("relay.example") && !said.contains("hunter2"), "{said}");
        }
        assert!(matches!(Target::new(&Config::default()), Err(OpenError::NoUrl)));
    }
}
