//! Why a draft is not a mail. For the plugin's author: each names the field and the rule, none repeats an address or
//! a content.

use sandpost_ports::{BoxError, ErrorKind, PortError};

/// Why a draft is not a mail. The same draft fails again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// A line break, NUL or another control character where none may be: the mark of a header injection.
    #[error("the {field} contains a line break or another control character")]
    Control {
        /// Which part of the draft.
        field: String,
    },
    /// Not an address that every provider takes.
    #[error("the {field} is not valid: {source}")]
    Address {
        /// Which part of the draft.
        field: String,
        /// What is wrong with it.
        #[source]
        source: crate::AddressError,
    },
    /// A part breaks a rule.
    #[error("the {field} {rule}")]
    Invalid {
        /// Which part of the draft.
        field: String,
        /// The rule, as the rest of the sentence.
        rule: &'static str,
    },
    /// Not on the list of headers that a plugin may set.
    #[error(
        "header {number} may not be set: only List-*, References, In-Reply-To and X-* may, \
         none that a provider takes for an order to itself, and each once"
    )]
    HeaderRefused {
        /// Counted from 1.
        number: usize,
    },
    /// Over a limit.
    #[error("the {what} is {size}; at most {limit} is accepted")]
    TooLarge {
        /// Which part, and in which unit.
        what: &'static str,
        /// What it is.
        size: usize,
        /// What it may be.
        limit: usize,
    },
    /// A part that must be there is not.
    #[error("the {what} is empty")]
    Empty {
        /// Which part.
        what: &'static str,
    },
    /// The HTML cannot be made safe.
    #[error("the HTML is refused: {reason}")]
    Html {
        /// In words for the author.
        reason: String,
    },
    /// The MIME library refused what the checks let through: a fault of this crate.
    #[error("the mail could not be built")]
    Mime {
        /// What the library said.
        #[source]
        source: BoxError,
    },
}

impl From<ComposeError> for PortError {
    /// With the chain of causes in one message, since a plugin sees only that.
    fn from(error: ComposeError) -> Self {
        let kind = match &error {
            ComposeError::TooLarge { .. } => ErrorKind::Exceeded,
            ComposeError::Mime { .. } => ErrorKind::Other,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, error.to_string()).because(error)
    }
}

pub(crate) fn within(what: &'static str, size: usize, limit: usize) -> Result<(), ComposeError> {
    if size <= limit { Ok(()) } else { Err(ComposeError::TooLarge { what, size, limit }) }
}
