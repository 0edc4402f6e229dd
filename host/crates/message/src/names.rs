//! The names: topics, subscriptions, plugins, connections, message ids, digests. Parsed once, valid ever after.
//!
//! The alphabets are the narrowest of the services behind them, so that a name works on every driver: Google
//! Pub/Sub takes 3 to 255 characters that begin with a letter (its page "Resource names", read November 2026);
//! label and plugin names are also folder names, metric labels and keys of a configuration file.

use std::fmt;
use std::str::FromStr;

/// Why a text is not the name it was taken for. The text itself is not repeated: it can be long, or hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is {rule}")]
pub struct NameError {
    /// Which kind of name was asked for.
    pub what: &'static str,
    /// What it has to look like.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The rule, in words, for messages and documentation.
            pub const RULE: &'static str = $rule;

            /// The name as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(
    /// What publishers publish to and subscriptions listen to.
    Topic,
    "topic",
    "3 to 255 ASCII letters, digits, `-`, `_` or `.`, beginning with a letter",
    |text| (3..=255).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
);

name!(
    /// A topic bound to a handler plugin.
    SubscriptionName,
    "subscription",
    "3 to 255 ASCII letters, digits, `-`, `_` or `.`, beginning with a letter",
    |text| (3..=255).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
);

name!(
    /// A plugin, whatever its version.
    PluginName,
    "plugin name",
    "1 to 64 lower-case ASCII letters, digits or `-`, beginning with a letter",
    |text| (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

name!(
    /// What plugins call a connection. The address behind it is the host's alone.
    ConnectionLabel,
    "connection label",
    "1 to 64 lower-case ASCII letters, digits, `-` or `_`, beginning with a letter",
    |text| (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
);

name!(
    /// One published message, over all its deliveries. The host makes time-ordered UUIDs; brokers with ids of
    /// their own keep theirs.
    MessageId,
    "message id",
    "1 to 128 ASCII letters, digits, `-`, `_`, `.` or `:`",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
);

name!(
    /// The sha256 of an artifact's bytes, in lower-case hexadecimal.
    Digest,
    "digest",
    "64 lower-case hexadecimal digits",
    |text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

impl MessageId {
    /// A new id; ids made later in one process sort later.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl Digest {
    /// From the 32 bytes of a sha256.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in bytes {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// The first twelve digits: enough for a person to tell two artifacts apart.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topics_keep_to_the_narrowest_alphabet() {
        for good in ["notification-created", "a.b", "A_1"] {
            assert!(good.parse::<Topic>().is_ok(), "{good}");
        }
        for bad in ["", "ab", "1ab", "-ab", "a b", "a/b", "ünïcode", "a..\u{0}"] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
        assert!("a".repeat(256).parse::<Topic>().is_err());
    }

    #[test]
    fn new_ids_are_valid_and_differ() {
        let (one, two) = (MessageId::new(), MessageId::new());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse::<MessageId>(), Ok(one));
    }

    #[test]
    fn digest_is_hexadecimal() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.as_str(), "ab".repeat(32));
        assert_eq!(digest.short().len(), 12);
        assert!("AB".repeat(32).parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn a_parsed_name_prints_as_it_was_written(text in ".{0,80}") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.as_str(), text.as_str());
                prop_assert!(text.is_ascii());
            }
        }
    }
}
