//! Grants against names: tables, and properties over odd ones.

use super::*;
use proptest::prelude::*;

const EXAMPLE: &str = r#"
    cache     = [{ prefix = "user:", access = "read-write" }, { prefix = "shared:", access = "read-only" }]
    publish   = ["notification-sent", "audit.*"]
    email     = [{ from = "*@example.com" }, { from = "default" }, { from = "boss@other.example" }]
    sql       = [{ connection = "main", access = "read-only" }]
    documents = [{ connection = "main", collection = "notifications", access = "read-write" },
                 { connection = "main", collection = "log_*", access = "read-only" }]
    templates = true
"#;

fn grants(text: &str) -> Grants {
    toml::from_str(text).unwrap()
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn label(name: &str) -> ConnectionLabel {
    name.parse().unwrap()
}

#[test]
fn each_check_allows_what_is_granted_and_nothing_beside_it() {
    let grants = grants(EXAMPLE);
    assert!(grants.may_read_cache("user:1").is_ok() && grants.may_write_cache("user:1").is_ok());
    assert!(grants.may_read_cache("shared:1").is_ok() && grants.may_write_cache("shared:1").is_err());
    for key in ["user", "User:1", " user:1", "us*", "*", "../user:1"] {
        assert!(grants.may_read_cache(key).is_err(), "{key}");
    }
    assert!(grants.may_publish(&topic("notification-sent")).is_ok() && grants.may_publish(&topic("audit.x")).is_ok());
    for name in ["notification-sent2", "notification", "Notification-sent", "audit", "auditx"] {
        assert!(grants.may_publish(&topic(name)).is_err(), "{name}");
    }
    assert_eq!(grants.may_open_sql(&label("main")), Ok(Access::ReadOnly));
    assert!(grants.may_open_sql(&label("main2")).is_err());
    assert_eq!(grants.may_open_collection(&label("main"), "notifications"), Ok(Access::ReadWrite));
    assert_eq!(grants.may_open_collection(&label("main"), "log_2026"), Ok(Access::ReadOnly));
    for name in ["notifications2", "log", "", "*", "log*", "LOG_x", "notifications\0"] {
        assert!(grants.may_open_collection(&label("main"), name).is_err(), "{name:?}");
    }
    assert!(grants.may_render().is_ok() && grants.may_see_health().is_err());
}

#[test]
fn senders_are_plain_addresses_of_the_granted_domain() {
    let grants = grants(EXAMPLE);
    for address in [Some("a@example.com"), Some("a.b+c@example.com"), Some("boss@other.example"), None] {
        assert!(grants.may_send_from(address).is_ok(), "{address:?}");
    }
    for address in [
        "a@EXAMPLE.COM",
        "a@example.com.evil.example",
        "a@sub.example.com",
        "a@evil.example@example.com",
        "\"a@evil.example\"@example.com",
        "a@evil.example,b@example.com",
        "a b@example.com",
        "@example.com",
        "a@example.com ",
        "a@example.com\r\nBcc: x@y.example",
        "a@exаmple.com",
        "boss2@other.example",
        "default",
        "",
    ] {
        assert!(grants.may_send_from(Some(address)).is_err(), "{address}");
    }
}

#[test]
fn a_grant_that_says_more_than_it_seems_to_is_refused() {
    for (text, why) in [
        ("publish = [\"a*b\"]", "a star inside"),
        ("publish = [\"audit.**\"]", "two stars"),
        ("publish = [\"\"]", "nothing"),
        ("publish = [\"äudit.*\"]", "no topic begins so"),
        ("email = [{ from = \"*\" }]", "every sender"),
        ("email = [{ from = \"*@*\" }]", "every domain"),
        ("email = [{ from = \"*@*.example.com\" }]", "every subdomain"),
        ("email = [{ from = \"a*@example.com\" }]", "a star in the local part"),
        ("email = [{ from = \"*@Example.com\" }]", "never matches"),
        (
            "documents = [{ connection = \"m\", collection = \"system.*\", access = \"read-only\" }]",
            "the database's own",
        ),
        ("sql = [{ connection = \"*\", access = \"read-only\" }]", "every connection"),
        ("sql = [{ connection = \"main\" }]", "no access"),
        ("sqls = []", "unknown section"),
    ] {
        assert!(toml::from_str::<Grants>(text).is_err(), "{why}: {text}");
    }
}

#[test]
fn a_request_is_covered_by_the_same_or_more() {
    let full = grants(EXAMPLE);
    assert_eq!(full.covers(&full), Vec::<String>::new());
    assert_eq!(full.covers(&Grants::default()), Vec::<String>::new());
    assert_eq!(Grants::default().covers(&full), full.lines());
    for (have, want, covered) in [
        ("publish = [\"*\"]", "publish = [\"audit.*\"]", true),
        ("publish = [\"audit.*\"]", "publish = [\"*\"]", false),
        ("publish = [\"audit.*\"]", "publish = [\"audit.x\"]", true),
        ("publish = [\"audit.x\"]", "publish = [\"audit.*\"]", false),
        (
            "cache = [{ prefix = \"\", access = \"read-only\" }]",
            "cache = [{ prefix = \"a\", access = \"read-write\" }]",
            false,
        ),
        (
            "cache = [{ prefix = \"a\", access = \"read-write\" }]",
            "cache = [{ prefix = \"ab\", access = \"read-only\" }]",
            true,
        ),
        ("email = [{ from = \"*@a.example\" }]", "email = [{ from = \"x@a.example\" }]", true),
        ("email = [{ from = \"*@a.example\" }]", "email = [{ from = \"default\" }]", false),
        ("email = [{ from = \"x@a.example\" }]", "email = [{ from = \"*@a.example\" }]", false),
        ("templates = true", "health = true", false),
    ] {
        assert_eq!(grants(have).covers(&grants(want)).is_empty(), covered, "{have} for {want}");
    }
}

#[test]
fn imports_name_their_section_or_that_nobody_has_them() {
    let none = Grants::default();
    for import in [
        "sandpost:plugin/types@0.1.0",
        "sandpost:plugin/template@0.1.0",
        "sandpost:plugin/log@0.1.0",
        "sandpost:plugin/config@0.1.3",
        "wasi:cli/environment@0.2.6",
        "wasi:filesystem/preopens@0.2.0",
    ] {
        assert_eq!(none.missing_for([import]), Vec::<String>::new(), "{import}");
    }
    for (import, section) in
        [("cache", "cache"), ("pubsub", "publish"), ("email", "email"), ("sql", "sql"), ("health", "health")]
    {
        let import = format!("sandpost:plugin/{import}@0.1.0");
        assert_eq!(needs(&import), Needs::Grant(section));
        assert_eq!(none.missing_for([import.as_str()]).len(), 1);
    }
    for import in [
        "wasi:sockets/tcp@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/environment@0.3.0",
        "sandpost:plugin/cache@0.2.0",
        "sandpost:plugin/shell@0.1.0",
        "sandpost:plugin/cache",
        "evil:thing/x@0.1.0",
        "",
    ] {
        assert!(matches!(needs(import), Needs::Nobody(_)), "{import}");
    }
}

#[test]
fn grants_are_written_as_they_are_read() {
    let full = grants(EXAMPLE);
    assert_eq!(grants(&toml::to_string(&full).unwrap()), full);
}

proptest! {
    #[test]
    fn an_exact_name_matches_itself_alone(granted in "[a-z][a-z0-9.-]{2,20}", asked in "\\PC{0,24}|[a-z.*-]{0,24}") {
        let pattern: Wildcard = granted.parse().unwrap();
        prop_assert_eq!(pattern.matches(&asked), asked == granted);
    }

    #[test]
    fn a_prefix_matches_what_begins_with_its_bytes(prefix in "[a-z.]{0,6}", asked in "\\PC{0,12}|[a-z.*]{0,12}") {
        let pattern: Wildcard = format!("{prefix}*").parse().unwrap();
        prop_assert_eq!(pattern.matches(&asked), asked.as_bytes().starts_with(prefix.as_bytes()));
    }

    #[test]
    fn a_sender_of_another_domain_never_matches(local in "\\PC{0,16}", domain in "[a-zA-Z0-9.@-]{0,20}") {
        let grant: Sender = "*@example.com".parse().unwrap();
        let address = format!("{local}@{domain}");
        if grant.matches(&address) {
            prop_assert!(domain == "example.com" && !local.contains(['@', '"', ' ', ',', '\r', '\n']));
        }
    }

    #[test]
    fn what_is_covered_never_matches_more(have in "[ab]{0,3}\\*?", want in "[ab]{0,3}\\*?", name in "[ab*]{0,5}") {
        if let (Ok(have), Ok(want)) = (have.parse::<Wildcard>(), want.parse::<Wildcard>())
            && have.covers(&want) && want.matches(&name)
        {
            prop_assert!(have.matches(&name));
        }
    }
}
