//! What `sandpost doctor` asks the real services of a configuration: reach, identity, quota, drift.
//!
//! Invariants
//! - Nothing is changed anywhere, and nothing embedded is opened: a host may be running on the same folder.
//! - Every question has a time; one service that does not answer hides no other.

use super::{mongo, mysql, postgres, redis};
use crate::config::Config;
use crate::config::services::{BrokerDriver, CacheDriver, DocumentsDriver, EmailDriver, SqlDriver};
use crate::exit::{Expected, chain};
use sandpost_ports::PortError;
use sandpost_ports::health::Health;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For one question. Longer than a driver's own times, so that its words are seen and not these.
const QUESTION: Duration = Duration::from_secs(15);

/// What was asked, and what came of it: `Err` for what a person has to see to.
pub(crate) type Finding = (String, Result<String, String>);

/// A connection to ask.
type Opened = Result<Arc<dyn Health>, Expected>;

/// Asks all of them, together.
pub(crate) async fn probe(config: &Config) -> Vec<Finding> {
    let mut opened: Vec<(String, Opened)> = Vec::new();
    match config.cache.driver {
        CacheDriver::Embedded => {}
        CacheDriver::Redis => opened.push(("cache".to_owned(), redis::cache(config).map(|one| one as Arc<dyn Health>))),
    }
    let mut closing = Vec::new();
    for (label, one) in &config.sql {
        let database = match one.driver {
            SqlDriver::Embedded => continue,
            SqlDriver::Mysql => mysql(label, one, &mut closing),
            SqlDriver::Postgres => postgres(label, one, &mut closing),
        };
        opened.push((format!("sql.{label}"), database.map(|one| one as Arc<dyn Health>)));
    }
    for (label, one) in &config.documents {
        match one.driver {
            DocumentsDriver::Embedded => {}
            DocumentsDriver::Mongo => {
                opened.push((format!("documents.{label}"), mongo(label, one).map(|one| one as Arc<dyn Health>)));
            }
        }
    }
    let reached = futures_util::future::join_all(opened.into_iter().map(|(name, opened)| async move {
        let outcome = match opened {
            Ok(service) => reach(&*service).await,
            Err(error) => Err(error.message),
        };
        (name, outcome)
    }));
    let (mut findings, of_broker, of_email) = tokio::join!(reached, broker(config), email(config));
    for closing in closing {
        closing().await;
    }
    findings.extend(of_broker);
    findings.extend(of_email);
    findings
}

/// One round trip.
async fn reach(service: &(impl Health + ?Sized)) -> Result<String, String> {
    let since = Instant::now();
    ask(service.check()).await.map(|()| format!("answered within {} ms", since.elapsed().as_millis()))
}

async fn ask<T>(question: impl Future<Output = Result<T, PortError>>) -> Result<T, String> {
    match tokio::time::timeout(QUESTION, question).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", QUESTION.as_secs())),
    }
}

async fn broker(config: &Config) -> Vec<Finding> {
    match config.broker.driver {
        BrokerDriver::Embedded => Vec::new(),
        BrokerDriver::Pubsub => Box::pin(pubsub(config)).await,
    }
}

#[cfg(not(feature = "pubsub"))]
async fn pubsub(_: &Config) -> Vec<Finding> {
    std::future::ready(Vec::new()).await
}

/// Reach, then what is missing or has drifted.
#[cfg(feature = "pubsub")]
async fn pubsub(config: &Config) -> Vec<Finding> {
    use sandpost_pubsub::Severity;
    let clock = Arc::new(sandpost_ports::clock::SystemClock);
    let broker = match sandpost_pubsub::open(config.broker.pubsub.clone(), clock) {
        Ok(broker) => broker,
        Err(error) => return vec![("broker".to_owned(), Err(chain(&error)))],
    };
    let reached = reach(&*broker).await;
    let mut findings = Vec::new();
    if reached.is_ok() {
        let bindings: Vec<_> = config
            .subscriptions
            .iter()
            .map(|(name, subscription)| (name.clone(), subscription.topic.clone()))
            .collect();
        match Box::pin(ask(broker.verify(&bindings))).await {
            Ok(found) => findings.extend(found.into_iter().map(|one| {
                let outcome = match one.severity {
                    Severity::Error => Err(one.to_string()),
                    Severity::Drift => Ok(format!("drift: {one}")),
                };
                ("broker.pubsub".to_owned(), outcome)
            })),
            Err(error) => findings.push(("broker.pubsub".to_owned(), Err(error))),
        }
    }
    findings.insert(0, ("broker".to_owned(), reached));
    broker.close().await;
    findings
}

async fn email(config: &Config) -> Vec<Finding> {
    match config.email.driver {
        EmailDriver::Embedded => Vec::new(),
        EmailDriver::Null => vec![("email".to_owned(), Ok("every mail is thrown away".to_owned()))],
        EmailDriver::Ses => ses(config).await,
        EmailDriver::Smtp => {
            let outcome = match super::provider(config, None).await {
                Ok(relay) => reach(&*relay).await,
                Err(error) => Err(error.message),
            };
            vec![("email".to_owned(), outcome)]
        }
    }
}

#[cfg(not(feature = "ses"))]
async fn ses(_: &Config) -> Vec<Finding> {
    std::future::ready(Vec::new()).await
}

/// Reach, the sender's identity, and what the account still allows.
#[cfg(feature = "ses")]
async fn ses(config: &Config) -> Vec<Finding> {
    use sandpost_ports::email::EmailSender as _;
    let provider = match super::ses(config, None).await {
        Ok(provider) => provider,
        Err(error) => return vec![("email".to_owned(), Err(error.message))],
    };
    let mut findings = vec![("email".to_owned(), reach(&*provider).await)];
    let quota = ask(provider.quota()).await.map(|quota| {
        format!("{} of {} recipients in 24 hours, {} a second", quota.sent_today, quota.per_day, quota.per_second)
    });
    findings.push(("email.ses quota".to_owned(), quota));
    if config.email.ses.from_address.is_some() || config.email.from.is_some() {
        findings.push(("email.ses identity".to_owned(), identity(&provider).await));
    }
    findings
}

/// The driver looks for the identity by itself once it is open; this waits for what it finds.
#[cfg(feature = "ses")]
async fn identity(provider: &sandpost_ses::Ses) -> Result<String, String> {
    use sandpost_ses::IdentityStatus;
    const LOOK: Duration = Duration::from_millis(50);
    let found = async {
        while provider.identity() == IdentityStatus::Unknown {
            tokio::time::sleep(LOOK).await;
        }
        Ok(provider.identity())
    };
    match ask(found).await? {
        IdentityStatus::Found { identity, verified: true, dkim } => {
            let signed = if dkim { "its mails are signed" } else { "its mails are not signed (DKIM)" };
            Ok(format!("{identity} may send; {signed}"))
        }
        IdentityStatus::Found { identity, verified: false, .. } => Err(format!("{identity} is not verified yet")),
        IdentityStatus::Missing => {
            Err("neither the default sender nor its domain is an identity of this account and region".to_owned())
        }
        IdentityStatus::NotAllowed => Ok("these credentials may not look at identities".to_owned()),
        IdentityStatus::Unknown => Err("not known".to_owned()),
    }
}
