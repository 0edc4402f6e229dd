//! What a relay's answer means, by its code and by the step that it came in.

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::{Category, Code, Detail, Severity};
use sandpost_ports::email::SendError;
use sandpost_ports::{BoxError, ErrorKind, PortError};

/// Bytes of the relay's own words that are passed on.
const WORDS_MAX_BYTES: usize = 300;

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The relay refuses this host: its login, or that it has none.
    Login(BoxError),
    /// The relay answered with this code to this mail; the connection is whole.
    Answer(Code, Error),
    /// The connection broke, or an answer did not come.
    Broken(BoxError),
}

impl Trouble {
    /// Sorts what lettre says of a step.
    pub(crate) fn of(error: Error) -> Self {
        match error.status() {
            // Closing down: the connection is gone with it.
            Some(code) if number(code) == 421 => Self::Broken(error.into()),
            Some(code) if matches!(number(code), 530 | 534 | 535 | 538) => Self::Login(error.into()),
            Some(code) => Self::Answer(code, error),
            None => Self::Broken(error.into()),
        }
    }
}

/// What an answer to this mail means.
pub(crate) fn answered(code: Code, error: Error) -> SendError {
    if error.is_permanent() {
        let words = words(&error);
        SendError::Rejected { reason: format!("{code}{words}"), source: Some(error.into()) }
    } else {
        // 450 and 451 are greylisting and rates, 452 is a full disk: later, by the subscription's back-off.
        SendError::Throttled { after_ms: None }
    }
}

/// Nothing was handed over.
pub(crate) fn unavailable(message: &str, error: impl Into<BoxError>) -> PortError {
    PortError::new(ErrorKind::Unavailable, message).because(error)
}

/// It may have been taken.
pub(crate) fn unknown(error: impl Into<BoxError>) -> SendError {
    PortError::new(ErrorKind::UnknownOutcome, "the mail relay's answer was lost").because(error).into()
}

/// The relay's own words, on one line.
fn words(error: &Error) -> String {
    let Some(source) = std::error::Error::source(error) else { return String::new() };
    let text: String = source.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = text.len().min(WORDS_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!(" {}", text[..end].trim())
}

/// A code as the number that it is.
fn number(code: Code) -> u16 {
    let severity = match code.severity {
        Severity::PositiveCompletion => 2,
        Severity::PositiveIntermediate => 3,
        Severity::TransientNegativeCompletion => 4,
        Severity::PermanentNegativeCompletion => 5,
    };
    let category = match code.category {
        Category::Syntax => 0,
        Category::Information => 1,
        Category::Connections => 2,
        Category::Unspecified3 => 3,
        Category::Unspecified4 => 4,
        Category::MailSystem => 5,
    };
    let detail = match code.detail {
        Detail::Zero => 0,
        Detail::One => 1,
        Detail::Two => 2,
        Detail::Three => 3,
        Detail::Four => 4,
        Detail::Five => 5,
        Detail::Six => 6,
        Detail::Seven => 7,
        Detail::Eight => 8,
        Detail::Nine => 9,
    };
    severity * 100 + category * 10 + detail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_number_that_it_is() {
        let code = Code::new(Severity::PermanentNegativeCompletion, Category::Unspecified3, Detail::Five);
        assert_eq!(number(code), 535);
    }
}
