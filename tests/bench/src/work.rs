//! The work of the measured handler: these lines run in the guest (`tests/guests/bench-call`) and natively.

use serde::Deserialize;

/// A message: a user and lines of text, as many as the size asks for.
#[derive(Debug, Deserialize)]
pub struct Event {
    user: String,
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    title: String,
    count: u32,
}

/// Reads the message.
pub fn read(body: &[u8]) -> Result<Event, serde_json::Error> {
    serde_json::from_slice(body)
}

/// What is asked of the cache.
pub fn key(event: &Event) -> String {
    format!("greeting:{}", event.user)
}

/// A page of about the message's size.
pub fn page(event: &Event, greeting: Option<&[u8]>) -> String {
    let mut page = String::with_capacity(64 + 48 * event.items.len());
    page.push_str("<html><body><p>");
    escape(&mut page, &String::from_utf8_lossy(greeting.unwrap_or(b"Hello")));
    page.push_str("</p><ul>");
    for item in &event.items {
        page.push_str("<li>");
        escape(&mut page, &item.title);
        page.push_str(": ");
        page.push_str(&item.count.to_string());
        page.push_str("</li>");
    }
    page.push_str("</ul></body></html>");
    page
}

fn escape(page: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '<' => page.push_str("&lt;"),
            '&' => page.push_str("&amp;"),
            '"' => page.push_str("&quot;"),
            _ => page.push(letter),
        }
    }
}
