//! Topics and subscriptions: made in development, looked at in production, never changed.

use crate::config::{Config, Manage};
use crate::connection::{Clients, Connection};
use crate::errors::{is_code, not_set_up, of_read, of_write};
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::{DeadLetterPolicy, RetryPolicy, Subscription};
use google_cloud_wkt::Duration as Span;
use sandpost_message::{SubscriptionName, Topic};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::HashSet;
use std::fmt;

/// Pages of a listing that are read at most, of a hundred names and more each.
const PAGES_MAX: usize = 100;

/// What the service answers for a topic that was deleted under its subscription.
const DELETED_TOPIC: &str = "_deleted-topic_";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but not as configured.
    Drift,
    /// It does not work, or messages would be lost.
    Error,
}

/// Something at the service that is not as the configuration says. Nothing is changed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which topic or subscription.
    pub subject: String,
    /// What is found, and what is wanted.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.subject, self.text)
    }
}

fn finding(severity: Severity, subject: impl Into<String>, text: impl Into<String>) -> Finding {
    Finding { severity, subject: subject.into(), text: text.into() }
}

/// Whether it is there; made where it is not and that is wanted. What is found is logged.
pub(crate) async fn ensure(connection: &Connection, name: &SubscriptionName, topic: &Topic) -> Result<(), PortError> {
    let (config, clients) = (&connection.config, connection.clients().await?);
    let found = match get(&clients, config, name.as_str()).await? {
        Some(found) => found,
        None if config.manage() == Manage::Create => {
            make_topic(&clients, config, topic.as_str()).await?;
            make_dead_letter_topic(&clients, config).await?;
            let made = make_subscription(&clients, config, name.as_str(), topic.as_str(), true).await?;
            tracing::info!(subscription = %name, %topic, "Made the subscription at Pub/Sub.");
            made
        }
        None => {
            let words = format!("subscription `{name}` is not there, and this host makes none (`manage` is `verify`)");
            return Err(not_set_up(words));
        }
    };
    if found.topic != config.topic_path(topic.as_str()) {
        let words = format!("subscription `{name}` is bound to another topic than `{topic}`");
        return Err(PortError::new(ErrorKind::Conflict, words));
    }
    for finding in compare(config, name.as_str(), &found) {
        tracing::warn!(subscription = %name, "Pub/Sub is not as configured: {}", finding.text);
    }
    connection.know(config.subscription_path(name.as_str()));
    Ok(())
}

/// Everything that is not as it should be.
pub(crate) async fn verify(
    connection: &Connection,
    bindings: &[(SubscriptionName, Topic)],
) -> Result<Vec<Finding>, PortError> {
    let (config, clients) = (&connection.config, connection.clients().await?);
    let mut findings = Vec::new();
    let mut dead_letter_topics = HashSet::new();
    dead_letter_topics.extend(config.dead_letter_topic.as_deref().map(|topic| config.topic_path(topic)));
    for (name, topic) in bindings {
        let Some(found) = get(&clients, config, name.as_str()).await? else {
            // In development it is made when the host starts.
            let severity = if config.manage() == Manage::Create { Severity::Drift } else { Severity::Error };
            findings.push(finding(severity, name.as_str(), "the subscription is not there"));
            continue;
        };
        if found.topic != config.topic_path(topic.as_str()) {
            let text = format!("bound to another topic than `{topic}`");
            findings.push(finding(Severity::Error, name.as_str(), text));
        }
        findings.extend(compare(config, name.as_str(), &found));
        dead_letter_topics.extend(found.dead_letter_policy.map(|policy| policy.dead_letter_topic));
    }
    for path in dead_letter_topics {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        match subscriptions_of(&clients, &path).await {
            Ok(subscriptions) if subscriptions.is_empty() => {
                let text = "a dead-letter topic without a subscription: what the service puts there is lost";
                findings.push(finding(Severity::Error, name, text));
            }
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Invalid => {
                findings.push(finding(Severity::Error, name, "the dead-letter topic is not there"));
            }
            Err(error) if error.kind == ErrorKind::Other => {
                let text = "the host's account may not see whether the dead-letter topic has a subscription";
                findings.push(finding(Severity::Drift, name, text));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(findings)
}

/// A subscription that is there against what one of this host would be.
fn compare(config: &Config, name: &str, found: &Subscription) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, text: String| findings.push(finding(severity, name, text));
    if found.topic == DELETED_TOPIC {
        add(Severity::Error, "its topic was deleted: nothing new arrives".to_owned());
    }
    if found.detached {
        add(Severity::Error, "it is detached from its topic: nothing can be pulled".to_owned());
    }
    if found.push_config.as_ref().is_some_and(|push| !push.push_endpoint.is_empty()) {
        add(Severity::Error, "it pushes to an endpoint: nothing can be pulled".to_owned());
    }
    if found.enable_message_ordering != config.ordering {
        let text = format!("message ordering is {}, wanted {}", found.enable_message_ordering, config.ordering);
        add(Severity::Drift, text);
    }
    if i64::from(found.ack_deadline_seconds) != i64::from(config.ack_deadline_s) {
        let text = format!("the ack deadline is {} s, wanted {}", found.ack_deadline_seconds, config.ack_deadline_s);
        add(Severity::Drift, text);
    }
    // Not set is the service's default, seven days.
    let retention_s = found.message_retention_duration.map_or(604_800, |span| span.seconds());
    if retention_s != i64::from(config.retention_s) {
        let text = format!("messages are kept for {retention_s} s, wanted {}", config.retention_s);
        add(Severity::Drift, text);
    }
    let seconds = |span: Option<Span>, default: i64| span.map_or(default, |span| span.seconds());
    let back_off = found.retry_policy.as_ref();
    let back_off = back_off.map(|policy| (seconds(policy.minimum_backoff, 10), seconds(policy.maximum_backoff, 600)));
    let wanted = (i64::from(config.retry_min_s), i64::from(config.retry_max_s));
    if back_off != Some(wanted) {
        let found = back_off.map_or("none".to_owned(), |(least, most)| format!("{least} s to {most} s"));
        add(Severity::Drift, format!("the service's back-off is {found}, wanted {} s to {} s", wanted.0, wanted.1));
    }
    let policy = found.dead_letter_policy.as_ref();
    let letters = policy.map(|policy| (policy.dead_letter_topic.as_str(), policy.max_delivery_attempts));
    let wanted_topic = config.dead_letter_topic.as_deref().map(|topic| config.topic_path(topic));
    if letters.map(|(topic, _)| topic) != wanted_topic.as_deref() {
        let short = |path: Option<&str>| path.and_then(|path| path.rsplit('/').next()).unwrap_or("none").to_owned();
        let (found, wanted) = (short(letters.map(|(topic, _)| topic)), short(wanted_topic.as_deref()));
        add(Severity::Drift, format!("the dead-letter topic is {found}, wanted {wanted}"));
    }
    if let Some((_, attempts)) = letters
        && i64::from(attempts) < i64::from(config.dead_letter_attempts_max)
    {
        let wanted = config.dead_letter_attempts_max;
        let text =
            format!("dead-lettered by the service after {attempts} deliveries, wanted {wanted}: stops count too");
        add(Severity::Drift, text);
    }
    if !found.filter.is_empty() && !found.filter.contains(crate::wire::ONLY) {
        add(Severity::Drift, "it has a filter: the service drops what does not match it".to_owned());
    }
    findings
}

/// The full names of a topic's subscriptions. [`ErrorKind::Invalid`] where the topic is not there.
pub(crate) async fn subscriptions_of(clients: &Clients, topic_path: &str) -> Result<HashSet<String>, PortError> {
    let mut names = HashSet::new();
    let mut token = String::new();
    for _ in 0..PAGES_MAX {
        let asking = clients.topics.list_topic_subscriptions().set_topic(topic_path).set_page_token(token);
        let page = asking.send().await.map_err(of_read)?;
        names.extend(page.subscriptions);
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    Ok(names)
}

async fn get(clients: &Clients, config: &Config, name: &str) -> Result<Option<Subscription>, PortError> {
    let asking = clients.subscriptions.get_subscription().set_subscription(config.subscription_path(name));
    match asking.send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_code(&error, Code::NotFound) => Ok(None),
        Err(error) => Err(of_read(error)),
    }
}

async fn make_topic(clients: &Clients, config: &Config, name: &str) -> Result<(), PortError> {
    match clients.topics.create_topic().set_name(config.topic_path(name)).send().await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, Code::AlreadyExists) => Ok(()),
        Err(error) => Err(of_write(error)),
    }
}

/// With a subscription that keeps what arrives there.
async fn make_dead_letter_topic(clients: &Clients, config: &Config) -> Result<(), PortError> {
    let Some(topic) = &config.dead_letter_topic else { return Ok(()) };
    make_topic(clients, config, topic).await?;
    make_subscription(clients, config, &format!("{topic}-kept"), topic, false).await.map(drop)
}

async fn make_subscription(
    clients: &Clients,
    config: &Config,
    name: &str,
    topic: &str,
    dead_letters: bool,
) -> Result<Subscription, PortError> {
    let seconds = |seconds: u32| Span::clamp(i64::from(seconds), 0);
    let back_off = RetryPolicy::new()
        .set_minimum_backoff(seconds(config.retry_min_s))
        .set_maximum_backoff(seconds(config.retry_max_s));
    let mut making = clients
        .subscriptions
        .create_subscription()
        .set_name(config.subscription_path(name))
        .set_topic(config.topic_path(topic))
        .set_enable_message_ordering(config.ordering)
        .set_ack_deadline_seconds(i32::try_from(config.ack_deadline_s).unwrap_or(i32::MAX))
        .set_message_retention_duration(seconds(config.retention_s))
        .set_retry_policy(back_off);
    if dead_letters && let Some(topic) = &config.dead_letter_topic {
        let policy = DeadLetterPolicy::new()
            .set_dead_letter_topic(config.topic_path(topic))
            .set_max_delivery_attempts(i32::try_from(config.dead_letter_attempts_max).unwrap_or(i32::MAX));
        making = making.set_dead_letter_policy(policy);
    }
    match making.send().await {
        Ok(made) => Ok(made),
        // Another host was quicker.
        Err(error) if is_code(&error, Code::AlreadyExists) => {
            let gone = || PortError::new(ErrorKind::Unavailable, "the subscription is made and deleted at once");
            get(clients, config, name).await?.ok_or_else(gone)
        }
        Err(error) => Err(of_write(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { project: Some("demo".to_owned()), dead_letter_topic: Some("dead".to_owned()), ..Config::default() }
    }

    fn as_made() -> Subscription {
        Subscription::new()
            .set_topic("projects/demo/topics/orders")
            .set_enable_message_ordering(true)
            .set_ack_deadline_seconds(60)
            .set_message_retention_duration(Span::clamp(604_800, 0))
            .set_retry_policy(
                RetryPolicy::new().set_minimum_backoff(Span::clamp(10, 0)).set_maximum_backoff(Span::clamp(600, 0)),
            )
            .set_dead_letter_policy(
                DeadLetterPolicy::new()
                    .set_dead_letter_topic("projects/demo/topics/dead")
                    .set_max_delivery_attempts(100),
            )
    }

    #[test]
    fn one_as_this_host_makes_it_is_no_finding() {
        assert_eq!(compare(&config(), "mailer", &as_made()), []);
        let ours = as_made().set_filter("NOT attributes:\"sandpost-only\"");
        assert_eq!(compare(&config(), "mailer", &ours), []);
    }

    #[test]
    fn each_difference_is_one_finding() {
        let drifted: [fn(Subscription) -> Subscription; 7] = [
            |s| s.set_enable_message_ordering(false),
            |s| s.set_ack_deadline_seconds(10),
            |s| s.set_message_retention_duration(Span::clamp(600, 0)),
            |s| s.set_or_clear_retry_policy(None::<RetryPolicy>),
            |s| s.set_or_clear_dead_letter_policy(None::<DeadLetterPolicy>),
            |s| {
                let policy = DeadLetterPolicy::new().set_dead_letter_topic("projects/demo/topics/dead");
                s.set_dead_letter_policy(policy.set_max_delivery_attempts(5))
            },
            |s| s.set_filter("attributes.kind = \"x\""),
        ];
        for (number, change) in drifted.into_iter().enumerate() {
            let findings = compare(&config(), "mailer", &change(as_made()));
            assert_eq!(findings.len(), 1, "case {number}: {findings:?}");
            assert_eq!(findings[0].severity, Severity::Drift, "case {number}");
        }
        assert_eq!(compare(&config(), "mailer", &as_made().set_detached(true))[0].severity, Severity::Error);
    }
}
