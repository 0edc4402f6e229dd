//! Rendering with whichever template plugin is live, from a handler.
//!
//! To send what is rendered, [`Email::template`](crate::email::Email::template) does both in one call. To write
//! templates, see [`template`](crate::template).

use crate::error::HostError;
use crate::template::{Content, Request};
use crate::{json, sys};
use serde::Serialize;
use std::fmt;

/// Why there is no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderFailure {
    /// No live plugin has a template of this name, nor a `default`.
    UnknownTemplate(String),
    /// The data lacks something, or holds something of the wrong kind; says what and where.
    InvalidData(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for RenderFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTemplate(name) => write!(f, "there is no template `{name}`"),
            Self::InvalidData(reason) => write!(f, "the template's data is not as expected: {reason}"),
            Self::Failed(reason) => write!(f, "the template failed: {reason}"),
        }
    }
}

impl std::error::Error for RenderFailure {}

/// Renders the template, in the language where one is given.
///
/// ```
/// use sandpost_sdk::prelude::*;
/// use sandpost_sdk::template::{Content, Template, Templates};
/// use sandpost_sdk::templates;
///
/// # let host = sandpost_sdk::testing::Host::new();
/// # let hello = Template::new("hello", |_: serde_json::Value, _| Ok(Content::new("Hello", "<p>Hello</p>")));
/// # host.templates(Templates::new().add(hello));
/// let content = templates::render("hello", "en", &json!({}))?;
/// assert_eq!(content.subject, "Hello");
/// # Ok::<_, Error>(())
/// ```
pub fn render<'a, T: Serialize + ?Sized>(
    name: &str,
    locale: impl Into<Option<&'a str>>,
    data: &T,
) -> Result<Content, RenderFailure> {
    let data = json::encode_text(data, "the data").map_err(|error: HostError| match error {
        HostError::Invalid(reason) => RenderFailure::InvalidData(reason),
        other => RenderFailure::Failed(other.to_string()),
    })?;
    sys::templates::render(Request { name: name.to_owned(), locale: locale.into().map(str::to_owned), data })
}
