//! What each command does, a file each.

pub(crate) mod build;
pub(crate) mod dead_letters;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod plugins;
pub(crate) mod publish;
pub(crate) mod run;

use crate::config::{Config, GrantMode};
use sandpost_interfaces::Grants;
use sandpost_message::PluginName;

/// What the operator gives to a plugin; none where it gets what it asks for.
pub(crate) fn granted(config: &Config, name: &PluginName) -> Option<Grants> {
    match config.deployment.grants {
        GrantMode::Requested => None,
        GrantMode::Configured => Some(config.plugins.get(name).map(|plugin| plugin.grants.clone()).unwrap_or_default()),
    }
}

/// A text as one segment of a URL's path.
fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_segment_cannot_leave_its_place() {
        assert_eq!(path_segment("../a b?c#d"), "..%2Fa%20b%3Fc%23d");
        assert_eq!(path_segment("notification-created"), "notification-created");
    }
}
