//! One connection, from the first byte to a login that was taken.

use crate::error::{Trouble, unavailable};
use crate::target::{Security, Target};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::Extension;
use sandpost_ports::PortError;
use std::time::Duration;

/// Why there is no connection.
pub(crate) enum NoConnection {
    /// The relay refuses the login.
    Login(sandpost_ports::BoxError),
    /// Anything else: it cannot be reached, or TLS fails.
    Port(PortError),
}

/// Connects, encrypts, logs in; all of it within `limit`.
pub(crate) async fn connect(target: &Target, limit: Duration) -> Result<AsyncSmtpConnection, NoConnection> {
    match tokio::time::timeout(limit, steps(target, limit)).await {
        Ok(ended) => ended,
        Err(elapsed) => Err(NoConnection::Port(unavailable("the mail relay did not answer in time", elapsed))),
    }
}

async fn steps(target: &Target, limit: Duration) -> Result<AsyncSmtpConnection, NoConnection> {
    let unreachable = |error: Error| NoConnection::Port(unavailable("the mail relay cannot be reached", error));
    let no_tls = |error: Error| NoConnection::Port(unavailable("TLS with the mail relay failed", error));
    let wrapped = match &target.security {
        Security::Wrapped(parameters) => Some(parameters.clone()),
        Security::Clear | Security::Starttls { .. } => None,
    };
    let address = (target.host.as_str(), target.port);
    let mut connection = AsyncSmtpConnection::connect_tokio1(address, Some(limit), &target.hello, wrapped, None)
        .await
        .map_err(|error| if error.is_tls() { no_tls(error) } else { unreachable(error) })?;
    if let Security::Starttls { parameters, required } = &target.security {
        if connection.server_info().supports_feature(Extension::StartTls) {
            connection.starttls(parameters.clone(), &target.hello).await.map_err(no_tls)?;
        } else if *required {
            let error = "the relay does not offer STARTTLS, and `starttls` is `required`";
            return Err(NoConnection::Port(unavailable("the mail relay offers no TLS", error)));
        }
    }
    if let Some(login) = &target.login {
        if !connection.is_encrypted() && !target.clear_login {
            let error = "the relay does not offer STARTTLS, and the password is not sent in the clear; \
                         `starttls = \"never\"` would";
            return Err(NoConnection::Port(unavailable("the mail relay offers no TLS", error)));
        }
        connection.auth(&[Mechanism::Plain, Mechanism::Login], login).await.map_err(|error| {
            match Trouble::of(error) {
                Trouble::Login(error) => NoConnection::Login(error),
                // 454: it cannot check it now.
                Trouble::Answer(_, error) if error.is_transient() => unreachable(error),
                Trouble::Answer(_, error) => NoConnection::Login(error.into()),
                Trouble::Broken(error) => {
                    NoConnection::Port(unavailable("the mail relay did not take the login", error))
                }
            }
        })?;
    }
    Ok(connection)
}
