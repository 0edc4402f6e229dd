//! Whether the default sender may send: its address as an identity, else its domain, else a domain above it.

use crate::error::{Trouble, sort};
use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::operation::get_email_identity::GetEmailIdentityError;
use aws_sdk_sesv2::types::DkimStatus;
use sandpost_ports::PortError;

/// What is known of the default sender's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityStatus {
    /// No default sender is configured, or SES was not asked yet.
    Unknown,
    /// There is no identity for the address, and none for its domain.
    Missing,
    /// It is there.
    Found {
        /// The address or the domain.
        identity: String,
        /// Whether it may send.
        verified: bool,
        /// Whether its mails are signed.
        dkim: bool,
    },
    /// This host's credentials may send, but not look.
    NotAllowed,
}

/// Looks for the identity that this address sends under.
pub(crate) async fn look(client: &Client, address: &str) -> Result<IdentityStatus, PortError> {
    for name in names(address) {
        match client.get_email_identity().email_identity(&name).send().await {
            Ok(found) => {
                let dkim = found.dkim_attributes();
                return Ok(IdentityStatus::Found {
                    identity: name,
                    verified: found.verified_for_sending_status(),
                    dkim: dkim.is_some_and(|dkim| {
                        dkim.signing_enabled() && matches!(dkim.status(), Some(DkimStatus::Success))
                    }),
                });
            }
            Err(error) if error.as_service_error().is_some_and(GetEmailIdentityError::is_not_found_exception) => {}
            Err(error) => match sort(error, true) {
                Trouble::Denied(_) => return Ok(IdentityStatus::NotAllowed),
                trouble => return Err(trouble.into_port()),
            },
        }
    }
    Ok(IdentityStatus::Missing)
}

/// The address, its domain, and the domains above down to two labels.
fn names(address: &str) -> Vec<String> {
    let address = address.to_ascii_lowercase();
    let domain = address.rsplit('@').next().unwrap_or_default().to_owned();
    let mut names = vec![address.clone()];
    let mut rest = domain.as_str();
    while rest.contains('.') {
        names.push(rest.to_owned());
        rest = rest.split_once('.').map_or("", |(_, above)| above);
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn the_address_comes_first_and_then_its_domains() {
        assert_eq!(names("A@mail.example.com"), ["a@mail.example.com", "mail.example.com", "example.com"]);
        assert_eq!(names("a@localhost"), ["a@localhost"]);
    }
}
