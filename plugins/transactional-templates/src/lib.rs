//! The mails of the origin documents: `welcome`, `notification` and `default`, in English and Portuguese.
//!
//! What they say stands in `templates/`: the languages side by side, one layout around all. Everything that comes from
//! data is escaped in HTML by the file's ending; the text parts are plain. Styles stay in a `<style>`: the host inlines
//! them and keeps the dark mode.
//!
//! Configuration: `product_name` (default "Sandpost") and `product_url` (none: no link to it).

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use askama::Template as _;
use sandpost_sdk::config;
use sandpost_sdk::prelude::*;
use sandpost_sdk::template::{Content, Locale, RenderError, Template, Templates};

const PRODUCT_NAME_KEY: &str = "product_name";
const PRODUCT_NAME_DEFAULT: &str = "Sandpost";
const PRODUCT_URL_KEY: &str = "product_url";
/// English first: it is the fallback.
const LOCALES: [&str; 2] = ["en", "pt"];

#[sandpost_sdk::templates]
fn templates() -> Templates {
    let name = "Ana";
    Templates::new()
        .add(
            Template::new("welcome", welcome)
                .description("The first mail to a new user.")
                .locales(LOCALES)
                .sample(json!({"name": name})),
        )
        .add(
            Template::new("notification", notification)
                .description("A notification with a title and a message of its own.")
                .locales(LOCALES)
                .sample(json!({
                    "name": name,
                    "title": "Your order is on its way",
                    "message": "It left our warehouse this morning.\nYou will have it on Friday.",
                    "actionUrl": "https://example.com/orders/7",
                })),
        )
        .add(
            Template::new("default", default)
                .description("For every type without a template of its own.")
                .locales(LOCALES)
                .sample(json!({"name": name})),
        )
}

/// What the layout needs.
struct Page {
    portuguese: bool,
    product: String,
    url: Option<String>,
}

impl Page {
    fn new(locale: &Locale) -> Result<Self, RenderError> {
        let url = config::get(PRODUCT_URL_KEY).filter(|url| !url.is_empty());
        if url.as_deref().is_some_and(|url| !is_web_link(url)) {
            let reason = format!("the configuration key `{PRODUCT_URL_KEY}` is no http or https link");
            return Err(RenderError::Failed(reason));
        }
        let product = config::get(PRODUCT_NAME_KEY).filter(|name| !name.is_empty());
        let product = product.unwrap_or_else(|| PRODUCT_NAME_DEFAULT.to_owned());
        Ok(Self { portuguese: locale.is("pt"), product, url })
    }

    /// The language that it is written in, for screen readers and translators.
    fn language(&self) -> &'static str {
        if self.portuguese { "pt" } else { "en" }
    }
}

#[derive(Deserialize)]
struct Welcome {
    name: String,
}

#[derive(askama::Template)]
#[template(path = "welcome.html")]
struct WelcomeHtml<'a> {
    page: &'a Page,
    name: &'a str,
}

#[derive(askama::Template)]
#[template(path = "welcome.txt")]
struct WelcomeText<'a> {
    page: &'a Page,
    name: &'a str,
}

fn welcome(data: Welcome, locale: &Locale) -> Result<Content, RenderError> {
    let page = &Page::new(locale)?;
    let name = &required("name", data.name)?;
    let welcome = if page.portuguese { "Boas-vindas ao" } else { "Welcome to" };
    let subject = format!("{welcome} {}!", one_line(&page.product));
    Ok(Content::new(subject, WelcomeHtml { page, name }.render()?).with_text(WelcomeText { page, name }.render()?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    name: Option<String>,
    title: String,
    message: String,
    action_url: Option<String>,
}

#[derive(askama::Template)]
#[template(path = "notification.html")]
struct NotificationHtml<'a> {
    page: &'a Page,
    data: &'a Notification,
}

#[derive(askama::Template)]
#[template(path = "notification.txt")]
struct NotificationText<'a> {
    page: &'a Page,
    data: &'a Notification,
}

fn notification(data: Notification, locale: &Locale) -> Result<Content, RenderError> {
    let page = &Page::new(locale)?;
    let title = required("title", data.title)?;
    let message = required("message", data.message)?;
    if data.action_url.as_deref().is_some_and(|url| !is_web_link(url)) {
        return Err(RenderError::invalid_field("actionUrl", "not a http or https link"));
    }
    let data = &Notification { title: one_line(&title), message, ..data };
    let html = NotificationHtml { page, data }.render()?;
    Ok(Content::new(&data.title, html).with_text(NotificationText { page, data }.render()?))
}

#[derive(Deserialize)]
struct Default {
    name: Option<String>,
}

#[derive(askama::Template)]
#[template(path = "default.html")]
struct DefaultHtml<'a> {
    page: &'a Page,
    data: &'a Default,
}

#[derive(askama::Template)]
#[template(path = "default.txt")]
struct DefaultText<'a> {
    page: &'a Page,
    data: &'a Default,
}

#[expect(clippy::needless_pass_by_value, reason = "the SDK hands the data over")]
fn default(data: Default, locale: &Locale) -> Result<Content, RenderError> {
    let (page, data) = (&Page::new(locale)?, &data);
    let subject = if page.portuguese { "Notificação" } else { "Notification" };
    let html = DefaultHtml { page, data }.render()?;
    Ok(Content::new(subject, html).with_text(DefaultText { page, data }.render()?))
}

/// A text that is not empty.
fn required(field: &str, text: String) -> Result<String, RenderError> {
    if text.trim().is_empty() { Err(RenderError::invalid_field(field, "it is empty")) } else { Ok(text) }
}

/// Without line breaks: a subject is one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Escaping keeps a link inside its attribute; only this keeps it from being `javascript:`.
fn is_web_link(url: &str) -> bool {
    let begins = |scheme: &str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    (begins("https://") || begins("http://")) && !url.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests;
