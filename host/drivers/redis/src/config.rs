//! What is configured, and what is wrong with it.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use sandpost_ports::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Where Redis is, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `redis://[user][:password@]host[:port][/database]`, or `rediss://` for TLS. `REDIS_URL`. Not together with
    /// `cluster_urls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// Stands above the address's. `REDIS_PASSWORD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Some nodes of a cluster; the others are found through them.
    pub cluster_urls: Vec<Secret>,
    /// Certificates (PEM) of the authorities that are trusted for TLS, in place of the system's. Every address has to be
    /// `rediss://` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// How long making a connection may take, and how long calls wait for one that was lost. Default 2 000, the longest wait
    /// between two tries of the origin documents.
    pub connect_timeout_ms: u64,
    /// How long one answer may take. Default 2 000: a cache that needs longer is slower than what it stands in for.
    pub response_timeout_ms: u64,
    /// How long all answers of one call may take, which counts where it is many commands: deleting by prefix, keys by the
    /// thousand. Default 30 000.
    pub call_timeout_ms: u64,
    /// The wait before a lost connection is tried again, and by how much it grows with each try, up to the longest. Default 50.
    pub reconnect_min_ms: u64,
    /// Default 2 000.
    pub reconnect_max_ms: u64,
    /// Keys that are looked for, written or deleted with one command. Default 500: Redis answers nobody else meanwhile.
    pub batch_max: usize,
    /// Bytes of copies that this host keeps of what it read, which Redis says when they are wrong. Default 0: none, because what
    /// another host wrote is then seen a moment late. One server only.
    pub client_side_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            password: None,
            cluster_urls: Vec::new(),
            tls_ca_file: None,
            connect_timeout_ms: 2_000,
            response_timeout_ms: 2_000,
            call_timeout_ms: 30_000,
            reconnect_min_ms: 50,
            reconnect_max_ms: 2_000,
            batch_max: 500,
            client_side_cache_bytes: 0,
        }
    }
}

/// Why the cache cannot be opened. No message holds an address.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither an address nor a cluster's.
    #[error("no address is given; `url` (REDIS_URL) or `cluster_urls` names one")]
    NoAddress,
    /// Both of them.
    #[error("`url` and `cluster_urls` are both given; a cache is one server or one cluster")]
    Both,
    /// An address that cannot be read. What Redis's client says of it may hold the address, so it is left out.
    #[error("`{0}` is no Redis address, as redis://host:6379 or rediss://host:6379")]
    Address(&'static str),
    /// An authority for connections that are not encrypted.
    #[error("`tls_ca_file` is given, and an address is not rediss://")]
    NotTls,
    /// The authorities' certificates could not be read, or there are none in the file.
    #[error("`tls_ca_file` could not be read")]
    CaFile(#[source] std::io::Error),
    /// Copies of a cluster's entries.
    #[error("`client_side_cache_bytes` is for one server; on a cluster this host keeps no copies")]
    CopiesOfCluster,
    /// A bound that cannot be.
    #[error("`{0}` is 0")]
    Zero(&'static str),
    /// The client library refuses its settings.
    #[error("the Redis client cannot be made")]
    Client(#[source] redis::RedisError),
}

impl Config {
    /// The nodes to begin with: one, or a cluster's.
    pub(crate) fn nodes(&self) -> Result<Vec<ConnectionInfo>, OpenError> {
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("response_timeout_ms", self.response_timeout_ms),
            ("call_timeout_ms", self.call_timeout_ms),
            ("reconnect_min_ms", self.reconnect_min_ms),
            ("reconnect_max_ms", self.reconnect_max_ms),
            ("batch_max", self.batch_max as u64),
        ] {
            if value == 0 {
                return Err(OpenError::Zero(name));
            }
        }
        if self.client_side_cache_bytes > 0 && !self.cluster_urls.is_empty() {
            return Err(OpenError::CopiesOfCluster);
        }
        match (&self.url, &self.cluster_urls[..]) {
            (None, []) => Err(OpenError::NoAddress),
            (Some(_), [_, ..]) => Err(OpenError::Both),
            (Some(url), []) => Ok(vec![self.node("url", url)?]),
            (None, urls) => urls.iter().map(|url| self.node("cluster_urls", url)).collect(),
        }
    }

    /// Whom to trust for TLS, where it is not the system that says so.
    pub(crate) fn authorities(&self, nodes: &[ConnectionInfo]) -> Result<Option<TlsCertificates>, OpenError> {
        let Some(path) = &self.tls_ca_file else { return Ok(None) };
        if nodes.iter().any(|node| !matches!(node.addr(), ConnectionAddr::TcpTls { .. })) {
            return Err(OpenError::NotTls);
        }
        let text = std::fs::read_to_string(path).map_err(OpenError::CaFile)?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "no certificate (PEM) in it");
            return Err(OpenError::CaFile(error));
        }
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(text.into_bytes()) }))
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        Duration::from_millis(self.response_timeout_ms)
    }

    fn node(&self, key: &'static str, url: &Secret) -> Result<ConnectionInfo, OpenError> {
        let info = url.reveal().into_connection_info().map_err(|_error| OpenError::Address(key))?;
        Ok(match &self.password {
            None => info,
            Some(password) => {
                let settings = info.redis_settings().clone().set_password(password.reveal());
                info.set_redis_settings(settings)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Vec<ConnectionInfo>, String> {
        toml::from_str::<Config>(text).unwrap().nodes().map_err(|error| error.to_string())
    }

    #[test]
    fn the_password_stands_above_the_addresss() {
        let nodes = with("url = \"redis://:old@localhost:6379\"\npassword = \"new\"").unwrap();
        assert_eq!(nodes[0].redis_settings().password(), Some("new"));
        assert_eq!(with("url = \"redis://:old@localhost\"").unwrap()[0].redis_settings().password(), Some("old"));
    }

    #[test]
    fn what_cannot_work_is_named_and_no_address_is_shown() {
        assert!(with("").unwrap_err().contains("REDIS_URL"));
        let both = "url = \"redis://a\"\ncluster_urls = [\"redis://b\"]";
        assert!(with(both).unwrap_err().contains("both"));
        let error = with("url = \"http://secret:pass@host\"").unwrap_err();
        assert!(error.contains("`url`") && !error.contains("secret") && !error.contains("host:pass"), "{error}");
        assert!(with("url = \"redis://a\"\nbatch_max = 0").unwrap_err().contains("batch_max"));
        let copies = "cluster_urls = [\"redis://b\"]\nclient_side_cache_bytes = 1";
        assert!(with(copies).unwrap_err().contains("client_side_cache_bytes"));
        assert!(toml::from_str::<Config>("urll = \"x\"").is_err());
    }

    #[test]
    fn an_authority_is_for_encrypted_addresses_and_has_to_be_there() {
        let refused = |text: &str| {
            let config = toml::from_str::<Config>(text).unwrap();
            let error = config.authorities(&config.nodes().unwrap()).unwrap_err().to_string();
            assert!(error.contains("`tls_ca_file`") && !error.contains("host"), "{error}");
            error
        };
        assert!(refused("url = \"redis://host\"\ntls_ca_file = \"/nowhere\"").contains("rediss://"));
        assert!(refused("url = \"rediss://host\"\ntls_ca_file = \"/nowhere\"").contains("read"));
        // A file that is there, and holds something else.
        assert!(refused("url = \"rediss://host\"\ntls_ca_file = \"Cargo.toml\"").contains("read"));
    }
}
