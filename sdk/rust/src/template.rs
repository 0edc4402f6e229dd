//! Writing templates: a list of them, each with typed data and a function that renders it.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::template::{Content, Locale, RenderError, Template, Templates};
//!
//! #[derive(Deserialize)]
//! struct Welcome {
//!     name: String,
//! }
//!
//! fn welcome(data: Welcome, locale: &Locale) -> Result<Content, RenderError> {
//!     let hello = if locale.is("pt") { "Olá" } else { "Hello" };
//!     // Escape what you put into HTML: a template engine that does so by default is the better way.
//!     Ok(Content::new(format!("{hello}!"), format!("<p>{hello}, {}</p>", data.name.replace('<', "&lt;"))))
//! }
//!
//! #[sandpost_sdk::templates]
//! fn templates() -> Templates {
//!     Templates::new().add(
//!         Template::new("welcome", welcome)
//!             .description("The first mail to a new user.")
//!             .locales(["en", "pt"])
//!             .sample(json!({"name": "Ana"})),
//!     )
//! }
//! # fn main() {
//! use sandpost_sdk::testing;
//! let content = testing::render(&templates(), "welcome", "pt-BR", &json!({"name": "Ana"})).unwrap();
//! assert_eq!(content.subject, "Olá!");
//! let error = testing::render(&templates(), "welcome", "en", &json!({})).unwrap_err();
//! assert_eq!(error, RenderError::InvalidData("missing field `name`".into()));
//! testing::render_samples(&templates()).unwrap();
//! # }
//! ```
//!
//! Not here: asking the host to render, see [`templates`](crate::templates).

use crate::error::with_sources;
use crate::json;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;

/// What a template makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Plain text, one line.
    pub subject: String,
    /// The whole page. Styles may stand in a `<style>`: the host inlines them.
    pub html: String,
    /// The host makes one from `html` where there is none.
    pub text: Option<String>,
}

impl Content {
    /// Content without a text part of its own.
    pub fn new(subject: impl Into<String>, html: impl Into<String>) -> Self {
        Self { subject: subject.into(), html: html.into(), text: None }
    }

    /// The same, with this text part.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

/// Why there is no content. `?` makes [`Failed`](RenderError::Failed) of any other error.
// No `std::error::Error` on it, so that `From` can take every other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderError {
    /// There is no template of this name here.
    UnknownTemplate(String),
    /// The data lacks something, or holds something of the wrong kind; says what and where.
    InvalidData(String),
    /// Anything else.
    Failed(String),
}

impl RenderError {
    /// The data is wrong in `field`.
    pub fn invalid_field(field: &str, reason: impl fmt::Display) -> Self {
        Self::InvalidData(format!("`{field}`: {reason}"))
    }
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTemplate(text) => write!(f, "unknown template: {text}"),
            Self::InvalidData(text) => write!(f, "invalid data: {text}"),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for RenderError {
    fn from(error: E) -> Self {
        Self::Failed(with_sources(&error))
    }
}

/// The language to render in: one of those that the template has words for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locale {
    tag: String,
    requested: Option<String>,
}

impl Locale {
    /// The template's own locale that was chosen, as the template spells it.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What was asked for, where something was.
    pub fn requested(&self) -> Option<&str> {
        self.requested.as_deref()
    }

    /// Whether the chosen locale is this language: `pt` is true of `pt` and of `pt-BR`.
    pub fn is(&self, language: &str) -> bool {
        let same = |length: usize| self.tag.get(..length).is_some_and(|start| start.eq_ignore_ascii_case(language));
        same(language.len()) && matches!(self.tag.as_bytes().get(language.len()), None | Some(b'-'))
    }

    /// RFC 4647 lookup: the tag that was asked for, then without its last part, and so on. Then another region's words
    /// for the same language: `pt-PT` is nearer to one who asked for `pt` than English is. Then the fallback.
    fn choose(available: &[String], requested: Option<&str>) -> Self {
        let asked = requested.map(|tag| tag.replace('_', "-"));
        let mut range = asked.as_deref().unwrap_or_default();
        let mut found = None;
        while found.is_none() && !range.is_empty() {
            found = available.iter().find(|tag| tag.eq_ignore_ascii_case(range));
            let shorter = range.rfind('-').map_or("", |dash| &range[..dash]);
            if shorter.is_empty() && found.is_none() {
                let language = |tag: &String| tag.split('-').next().is_some_and(|it| it.eq_ignore_ascii_case(range));
                found = available.iter().find(|tag| language(tag));
            }
            range = shorter;
        }
        let tag = found.or(available.first()).cloned().unwrap_or_default();
        Self { tag, requested: requested.map(str::to_owned) }
    }
}

/// What the host asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) locale: Option<String>,
    pub(crate) data: String,
}

type Render = dyn Fn(&str, &Locale) -> Result<Content, RenderError>;

/// One template: a name, typed data, and a function that makes content of it.
pub struct Template {
    name: String,
    description: String,
    locales: Vec<String>,
    sample: Value,
    render: Box<Render>,
}

impl Template {
    /// A template whose data is read by serde. Data that does not fit is answered as invalid, with the field's path,
    /// before the function runs.
    pub fn new<T: DeserializeOwned>(
        name: impl Into<String>,
        render: impl Fn(T, &Locale) -> Result<Content, RenderError> + 'static,
    ) -> Self {
        let render = move |data: &str, locale: &Locale| {
            let data = json::from_slice(data.as_bytes()).map_err(|fault| RenderError::InvalidData(short(&fault)))?;
            render(data, locale)
        };
        Self {
            name: name.into(),
            description: String::new(),
            locales: vec!["en".to_owned()],
            sample: Value::Object(serde_json::Map::new()),
            render: Box::new(render),
        }
    }

    /// What it is for, in a sentence.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// The locales that it has words for (BCP 47), the fallback first. `en` where nothing is said.
    #[must_use]
    pub fn locales<L: Into<String>>(mut self, locales: impl IntoIterator<Item = L>) -> Self {
        self.locales = locales.into_iter().map(Into::into).collect();
        self
    }

    /// Data that renders without an error: previews and the trial before a swap use it.
    #[must_use]
    pub fn sample(mut self, data: Value) -> Self {
        self.sample = data;
        self
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("name", &self.name).field("locales", &self.locales).finish_non_exhaustive()
    }
}

/// What `templates` tells the host of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The fallback first.
    pub locales: Vec<String>,
    /// JSON text.
    pub sample: String,
}

/// The templates of a plugin. A `default` among them is rendered for names that no live plugin has.
#[derive(Debug, Default)]
pub struct Templates(Vec<Template>);

impl Templates {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more. A name that is there already is replaced.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "the word for adding to a list; no sum of two lists is meant")]
    pub fn add(mut self, template: Template) -> Self {
        self.0.retain(|other| other.name != template.name);
        self.0.push(template);
        self
    }

    /// What the host is told, in the order in which they were added.
    pub fn infos(&self) -> Vec<TemplateInfo> {
        let info = |template: &Template| TemplateInfo {
            name: template.name.clone(),
            description: template.description.clone(),
            locales: template.locales.clone(),
            sample: template.sample.to_string(),
        };
        self.0.iter().map(info).collect()
    }

    pub(crate) fn render(&self, request: &Request) -> Result<Content, RenderError> {
        let template = self.0.iter().find(|template| template.name == request.name);
        let template = template.ok_or_else(|| RenderError::UnknownTemplate(request.name.clone()))?;
        (template.render)(&request.data, &Locale::choose(&template.locales, request.locale.as_deref()))
    }
}

/// Without "at line 1 column 12": the data was not written by hand.
fn short(fault: &json::Fault) -> String {
    let text = fault.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_fall_back_by_the_chain() {
        let available = ["en", "pt", "zh-Hant"].map(str::to_owned);
        let cases = [
            (None, "en"),
            (Some("pt-BR"), "pt"),
            (Some("PT_br"), "pt"),
            (Some("zh-Hant-TW"), "zh-Hant"),
            (Some("zh"), "zh-Hant"),
            (Some("zh-CN"), "zh-Hant"),
            (Some("de-AT"), "en"),
            (Some(""), "en"),
            (Some("-"), "en"),
        ];
        for (requested, tag) in cases {
            assert_eq!(Locale::choose(&available, requested).tag(), tag, "{requested:?}");
        }
    }

    #[test]
    fn a_language_is_a_whole_part() {
        let locale = Locale::choose(&["pt-BR".to_owned()], None);
        assert!(locale.is("pt") && locale.is("PT-br") && !locale.is("p") && !locale.is("pt-PT"));
    }

    #[test]
    fn an_unknown_name_is_said() {
        let request = Request { name: "nope".into(), locale: None, data: "{}".into() };
        assert_eq!(Templates::new().render(&request), Err(RenderError::UnknownTemplate("nope".into())));
    }
}
