//! Names, ids, addresses, patterns and trace contexts: what is read must print as it was written, and mean one thing.

use sandpost_interfaces::grants::{Sender, Wildcard, is_cache_key, is_collection};
use sandpost_mail::{check_address, parse_address};
use sandpost_message::{
    ConnectionLabel, Digest, MessageId, NameError, PluginName, SubscriptionName, Topic, TraceParent,
};
use sandpost_ports::email::Address;
use std::str::FromStr;

/// The bytes as each kind of word.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    name::<Topic>(text);
    name::<SubscriptionName>(text);
    name::<PluginName>(text);
    name::<ConnectionLabel>(text);
    name::<MessageId>(text);
    name::<Digest>(text);
    trace(text);
    addresses(text);
    patterns(text);
    if is_collection(text) {
        assert!(text.is_ascii() && !text.contains(['/', '\\', '$', '\0']) && !text.contains(".."), "{text:?}");
    }
    if is_cache_key(text) {
        assert!(!text.is_empty() && !text.contains(['\r', '\n', '\0']), "{text:?}");
    }
}

/// Names go into file names, SQL identifiers, headers and log lines as they are.
fn name<T: FromStr<Err = NameError> + ToString>(text: &str) {
    let Ok(name) = text.parse::<T>() else { return };
    assert_eq!(name.to_string(), text);
    assert!(!text.is_empty() && text.len() <= 255 && text.is_ascii(), "{text:?}");
    assert!(
        !text.bytes().any(|b| b.is_ascii_control() || b.is_ascii_whitespace() || b"/\\'\"*$".contains(&b)),
        "{text:?}"
    );
}

fn trace(text: &str) {
    let Some(trace) = TraceParent::parse(text) else { return };
    let written = trace.to_string();
    assert_eq!(TraceParent::parse(&written), Some(trace), "{text:?}");
    assert!(text.contains(&trace.trace_id()), "the trace goes on under its id: {text:?}");
    assert_eq!(trace.child().trace_id(), trace.trace_id());
}

fn addresses(text: &str) {
    let given = Address { name: Some(text.to_owned()), address: "a@example.com".to_owned() };
    let as_name = check_address(&given);
    let as_address = check_address(&Address { name: None, address: text.to_owned() });
    for checked in [as_name, as_address, parse_address(text)].into_iter().flatten() {
        let Address { name, address } = &checked;
        let all = format!("{}{address}", name.as_deref().unwrap_or_default());
        assert!(!all.contains(char::is_control), "{all:?}");
        let (local, domain) = address.rsplit_once('@').expect("an address has a domain");
        assert!(!local.is_empty() && !domain.is_empty() && domain.is_ascii(), "{address:?}");
        assert_eq!(domain, domain.to_ascii_lowercase(), "a grant compares domains in lower case");
        assert_eq!(check_address(&checked).as_ref(), Ok(&checked), "what is checked stays as it is");
    }
}

fn patterns(text: &str) {
    if let Ok(pattern) = text.parse::<Wildcard>() {
        assert_eq!(pattern.to_string(), text);
        assert!(pattern.matches(pattern.literal()) && pattern.covers(&pattern), "{text:?}");
    }
    if let Ok(sender) = text.parse::<Sender>() {
        assert_eq!(sender.to_string().parse::<Sender>(), Ok(sender.clone()));
        assert!(sender.covers(&sender), "{text:?}");
        assert!(!sender.matches("root@elsewhere.invalid") || text.ends_with("elsewhere.invalid"), "{text:?}");
    }
}
