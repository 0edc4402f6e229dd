//! Servers that somebody else runs, named by their address in the environment.

use crate::server::{Missing, Server, Url};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How long an address may take to be answered before it counts as not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The server that this variable names, where it is set. One that is set and does not answer is missing: nothing else
/// is tried in its place.
pub(crate) fn server(variable: &str, kind: &str) -> Option<Result<Server, Missing>> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
    Some(connect(variable, kind, &value))
}

/// The server at this address; the variable, or whatever else named it, is for people.
pub(crate) fn connect(variable: &str, kind: &str, value: &str) -> Result<Server, Missing> {
    let url = Url::parse(value).ok_or_else(|| Missing::new(format!("{variable} is no address with a port")))?;
    // The address is left out: it may carry a password.
    let unreachable = |error: std::io::Error| Missing::new(format!("what {variable} names does not answer: {error}"));
    let mut failure = std::io::Error::other("its name has no address");
    for address in url.host_and_port.to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
            Ok(_) => return Ok(Server::given(kind, variable, url, address)),
            Err(error) => failure = error,
        }
    }
    Err(unreachable(failure))
}
