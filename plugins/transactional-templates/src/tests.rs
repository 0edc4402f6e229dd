//! The templates as the host asks for them.

use super::*;
use sandpost_sdk::testing::{self, Host};

fn render(name: &str, locale: Option<&str>, data: &serde_json::Value) -> Result<Content, RenderError> {
    testing::render(&templates(), name, locale, data)
}

#[test]
fn every_sample_renders_in_every_language() {
    let host = Host::new();
    testing::render_samples(&templates()).unwrap();
    host.config("product_url", "https://example.com");
    testing::render_samples(&templates()).unwrap();
}

#[test]
fn the_subjects_are_those_of_the_origin_documents() {
    let host = Host::new();
    host.config("product_name", "VibeWork");
    let subject = |name, locale| {
        let data = json!({"name": "Ana", "title": "Bill", "message": "Due."});
        render(name, Some(locale), &data).unwrap().subject
    };
    assert_eq!(subject("welcome", "en"), "Welcome to VibeWork!");
    assert_eq!(subject("welcome", "pt-BR"), "Boas-vindas ao VibeWork!");
    assert_eq!(subject("notification", "en"), "Bill");
    assert_eq!(subject("default", "en"), "Notification");
    assert_eq!(subject("default", "pt"), "Notificação");
}

#[test]
fn without_configuration_the_product_is_sandpost() {
    let _host = Host::new();
    assert_eq!(render("welcome", None, &json!({"name": "Ana"})).unwrap().subject, "Welcome to Sandpost!");
}

#[test]
fn locales_fall_back() {
    let _host = Host::new();
    let heading = |locale| render("welcome", locale, &json!({"name": "Ana"})).unwrap().html;
    for locale in ["pt", "pt-BR", "pt-PT", "PT_br"] {
        let html = heading(Some(locale));
        assert!(html.contains("Boas-vindas, Ana!") && html.contains("lang=\"pt\""), "{locale}");
    }
    for locale in [None, Some("en-GB"), Some("de")] {
        assert!(heading(locale).contains("Welcome Ana!"), "{locale:?}");
    }
}

#[test]
fn data_is_escaped_in_html_and_not_in_text_or_subject() {
    let _host = Host::new();
    let data = json!({"name": "<b>&\"'", "title": "A & B <i>", "message": "<script>alert(1)</script>\nx"});
    let content = render("notification", Some("en"), &data).unwrap();
    assert!(!content.html.contains("<script>") && !content.html.contains("<b>&") && !content.html.contains("<i>"));
    assert!(content.html.contains("alert(1)") && content.html.contains("<br>x"));
    assert_eq!(content.subject, "A & B <i>");
    assert!(content.text.unwrap().contains("<script>alert(1)</script>\nx"));
}

#[test]
fn the_subject_is_one_line() {
    let _host = Host::new();
    let content = render("notification", None, &json!({"title": "A\r\nBcc: x", "message": "m"})).unwrap();
    assert_eq!(content.subject, "A Bcc: x");
}

#[test]
fn invalid_data_names_the_field() {
    let _host = Host::new();
    let cases = [
        ("welcome", json!({}), "missing field `name`"),
        ("welcome", json!({"name": 7}), "`name`: invalid type: integer `7`, expected a string"),
        ("welcome", json!({"name": " "}), "`name`: it is empty"),
        ("notification", json!({"title": "t"}), "missing field `message`"),
        (
            "notification",
            json!({"title": "t", "message": "m", "actionUrl": "javascript:alert(1)"}),
            "`actionUrl`: not a http or https link",
        ),
    ];
    for (name, data, reason) in cases {
        assert_eq!(render(name, None, &data), Err(RenderError::InvalidData(reason.into())), "{name} {data}");
    }
}

#[test]
fn the_layout_is_shared() {
    let _host = Host::new();
    for info in templates().infos() {
        let sample = serde_json::from_str(&info.sample).unwrap();
        let content = render(&info.name, None, &sample).unwrap();
        for part in ["prefers-color-scheme: dark", "class=\"preheader\"", "This mail was sent by Sandpost."] {
            assert!(content.html.contains(part), "{}: {part}", info.name);
        }
        assert!(content.text.unwrap().ends_with("-- \nThis mail was sent by Sandpost."), "{}", info.name);
    }
}

#[test]
fn the_text_parts_read_well() {
    let host = Host::new();
    host.config("product_url", "https://example.com");
    let data = json!({"name": "Ana", "title": "Bill", "message": "Due.\nSoon.", "actionUrl": "https://example.com/7"});
    let text = |name, locale| render(name, Some(locale), &data).unwrap().text.unwrap();
    let end = "\n\n-- \nThis mail was sent by Sandpost.\nhttps://example.com";
    assert_eq!(
        text("welcome", "en"),
        format!("Welcome Ana!\n\nYour Sandpost account is ready. It is good to have you here.{end}")
    );
    assert_eq!(text("notification", "en"), format!("Bill\n\nHello Ana,\n\nDue.\nSoon.\n\nhttps://example.com/7{end}"));
    assert_eq!(text("default", "en"), format!("Hello Ana,\n\nYou have a new notification{end}"));
    assert!(text("default", "pt").starts_with("Olá, Ana,\n\nVocê tem uma nova notificação\n\n-- \nEste e-mail"));
}

#[test]
fn a_product_url_that_is_no_link_is_refused() {
    let host = Host::new();
    host.config("product_url", "javascript:alert(1)");
    let error = render("welcome", None, &json!({"name": "Ana"})).unwrap_err();
    assert!(matches!(error, RenderError::Failed(reason) if reason.contains("product_url")));
}
