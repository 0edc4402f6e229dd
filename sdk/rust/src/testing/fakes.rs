//! The functions of `sys`, against the fake host of this thread.

use super::state::{self, State, call};
use super::{LogLine, Published, SentContent, SentEmail, Service, TemplateUse};
use crate::error::HostError;
use crate::health::State as Health;
use crate::time::Timestamp;

pub(crate) use super::{documents, sql};

pub(crate) fn config_get(key: &str) -> Option<String> {
    state::with(|state| state.config.get(key).cloned()).flatten()
}

pub(crate) fn config_all() -> Vec<(String, String)> {
    state::with(|state| state.config.clone().into_iter().collect()).unwrap_or_default()
}

pub(crate) fn connections() -> Vec<(String, Health)> {
    state::with(|state| state.health.clone().into_iter().collect()).unwrap_or_default()
}

pub(crate) fn log(level: log::Level, message: &str, fields: &[(String, String)]) {
    let line = LogLine { level, message: message.to_owned(), fields: fields.to_vec() };
    // A log line without a host is nobody's; other threads of the test program log too.
    let _kept = state::with(|state| state.logs.push(line));
}

pub(crate) fn now() -> Timestamp {
    state::with(|state| state.now).unwrap_or_default()
}

pub(crate) mod cache {
    //! A map with times.

    use super::{HostError, Service, State, Timestamp, call};
    use crate::sys::Condition;
    use crate::testing::state::Entry;

    /// As the host's own default.
    const TTL_DEFAULT_MS: u64 = 3_600_000;

    type Result<T> = std::result::Result<T, HostError>;

    pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>> {
        call(Service::Cache, |state| Ok(state.cached(key)))
    }

    pub(crate) fn get_many(keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        call(Service::Cache, |state| Ok(keys.iter().map(|key| state.cached(key)).collect()))
    }

    pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>, condition: Condition) -> Result<bool> {
        call(Service::Cache, |state| {
            let present = state.cached(key).is_some();
            let write = match condition {
                Condition::Always => true,
                Condition::IfAbsent => !present,
                Condition::IfPresent => present,
            };
            if write {
                put(state, key, value, ttl_ms);
            }
            Ok(write)
        })
    }

    pub(crate) fn set_many(entries: &[(String, Vec<u8>)], ttl_ms: Option<u64>) -> Result<()> {
        call(Service::Cache, |state| {
            for (key, value) in entries {
                put(state, key, value, ttl_ms);
            }
            Ok(())
        })
    }

    pub(crate) fn take(key: &str) -> Result<Option<Vec<u8>>> {
        call(Service::Cache, |state| {
            let value = state.cached(key);
            state.cache.remove(key);
            Ok(value)
        })
    }

    pub(crate) fn delete(keys: &[String]) -> Result<u64> {
        call(Service::Cache, |state| {
            let there = keys.iter().filter(|key| state.cached(key).is_some() && state.cache.remove(*key).is_some());
            Ok(there.count() as u64)
        })
    }

    pub(crate) fn delete_prefix(prefix: &str) -> Result<u64> {
        if prefix.is_empty() {
            return Err(HostError::Invalid("the prefix is empty".to_owned()));
        }
        call(Service::Cache, |state| {
            let before = state.cache.len();
            state.cache.retain(|key, _| !key.starts_with(prefix));
            Ok((before - state.cache.len()) as u64)
        })
    }

    pub(crate) fn exists(key: &str) -> Result<bool> {
        Ok(get(key)?.is_some())
    }

    pub(crate) fn expire(key: &str, ttl_ms: u64) -> Result<bool> {
        call(Service::Cache, |state| {
            let value = state.cached(key);
            if let Some(value) = &value {
                put(state, key, value, Some(ttl_ms));
            }
            Ok(value.is_some())
        })
    }

    pub(crate) fn ttl(key: &str) -> Result<Option<u64>> {
        call(Service::Cache, |state| {
            let there = state.cached(key).is_some();
            let left = |state: &State| Some(crate::time::millis(state.cache.get(key)?.ends.since(state.now)));
            Ok(if there { left(state) } else { None })
        })
    }

    pub(crate) fn increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64> {
        call(Service::Cache, |state| {
            let Some(old) = state.cached(key) else {
                put(state, key, by.to_string().as_bytes(), ttl_ms);
                return Ok(by);
            };
            let number = std::str::from_utf8(&old).ok().and_then(|text| text.parse::<i64>().ok());
            let sum = number.and_then(|number| number.checked_add(by));
            let sum = sum.ok_or_else(|| HostError::Invalid(format!("`{key}` holds no number")))?;
            if let Some(entry) = state.cache.get_mut(key) {
                entry.value = sum.to_string().into_bytes();
            }
            Ok(sum)
        })
    }

    fn put(state: &mut State, key: &str, value: &[u8], ttl_ms: Option<u64>) {
        let ends = state.now.as_millis().saturating_add(ttl_ms.unwrap_or(TTL_DEFAULT_MS));
        state.cache.insert(key.to_owned(), Entry { value: value.to_vec(), ends: Timestamp::from_millis(ends) });
    }
}

pub(crate) mod pubsub {
    //! A list of what was published.

    use super::{HostError, Published, Service, call, state};
    use crate::pubsub::Parts;

    pub(crate) fn publish(topic: &str, message: Parts) -> Result<String, HostError> {
        call(Service::Pubsub, |state| {
            let key = state.effect_key(message.dedupe_key.as_deref(), &format!("publish/{topic}"));
            if let Some(id) = state.done(key.as_deref()) {
                return Ok(id);
            }
            let id = state::unique("msg");
            state.record(key, &id);
            state.published.push(Published {
                id: id.clone(),
                topic: topic.to_owned(),
                body: message.body,
                content_type: message.content_type.unwrap_or_else(|| "application/json".to_owned()),
                attributes: message.attributes,
                ordering_key: message.ordering_key,
                dedupe_key: message.dedupe_key,
                delay: message.delay,
            });
            Ok(id)
        })
    }

    pub(crate) fn publish_many(topic: &str, messages: Vec<Parts>) -> Vec<Result<String, HostError>> {
        messages.into_iter().map(|message| publish(topic, message)).collect()
    }
}

pub(crate) mod email {
    //! A mailbox.

    use super::{HostError, SentContent, SentEmail, Service, TemplateUse, call, state, templates};
    use crate::email::{Body, Envelope, Outcome, Quota, SendError};
    use crate::template::Request;
    use crate::templates::RenderFailure;

    pub(crate) fn send(envelope: Envelope, body: Body) -> Result<Outcome, SendError> {
        let (template, content) = match body {
            Body::Parts(parts) => {
                let content = SentContent {
                    subject: parts.subject,
                    html: parts.html,
                    text: parts.text,
                    attachments: parts.attachments,
                };
                (None, Some(content))
            }
            Body::Template(request) => render(request)?,
        };
        let name = template.as_ref().map_or("", |template: &TemplateUse| template.name.as_str());
        let what = format!("email/{name}/{:?}", (&envelope.to, &envelope.cc, &envelope.bcc));
        let sent = call(Service::Email, |state| {
            let key = state.effect_key(envelope.idempotency_key.as_deref(), &what);
            if let Some(id) = state.done(key.as_deref()) {
                return Ok(Ok(Outcome::AlreadySent(id)));
            }
            let id = match state.outcomes.pop_front() {
                None => state::unique("mail"),
                Some(Ok(Outcome::Sent(id))) => id,
                Some(other) => return Ok(other),
            };
            state.record(key, &id);
            state.emails.push(SentEmail {
                id: id.clone(),
                sender: envelope.sender,
                to: envelope.to,
                cc: envelope.cc,
                bcc: envelope.bcc,
                reply_to: envelope.reply_to,
                headers: envelope.headers,
                tags: envelope.tags,
                idempotency_key: envelope.idempotency_key,
                template,
                content,
            });
            Ok(Ok(Outcome::Sent(id)))
        });
        sent?
    }

    pub(crate) fn send_many(emails: Vec<(Envelope, Body)>) -> Vec<Result<Outcome, SendError>> {
        emails.into_iter().map(|(envelope, body)| send(envelope, body)).collect()
    }

    /// As a provider's sandbox has it.
    pub(crate) fn quota() -> Result<Quota, HostError> {
        call(Service::Email, |state| {
            let sent = u32::try_from(state.emails.len()).unwrap_or(u32::MAX);
            Ok(Quota { per_day: 200.0, sent_today: f64::from(sent), per_second: 1.0 })
        })
    }

    fn render(request: Request) -> Result<(Option<TemplateUse>, Option<SentContent>), SendError> {
        let data = serde_json::from_str(&request.data).map_err(|error| SendError::Render(error.to_string()))?;
        let template = TemplateUse { name: request.name.clone(), locale: request.locale.clone(), data };
        let content = match templates::render(request) {
            Ok(content) => Some(SentContent {
                subject: content.subject,
                html: Some(content.html),
                text: content.text,
                attachments: Vec::new(),
            }),
            // The test brought no templates: the data is all there is to look at.
            Err(RenderFailure::UnknownTemplate(_)) if !templates::any() => None,
            Err(error) => return Err(SendError::Render(error.to_string())),
        };
        Ok((Some(template), content))
    }
}

pub(crate) mod templates {
    //! The test's own templates.

    use super::state;
    use crate::template::{Content, RenderError, Request};
    use crate::templates::RenderFailure;

    /// Whether the test brought templates.
    pub(super) fn any() -> bool {
        state::with(|state| state.templates.is_some()).unwrap_or_default()
    }

    pub(crate) fn render(mut request: Request) -> Result<Content, RenderFailure> {
        // Out of the state first: a template may log and read its configuration.
        let templates = state::with(|state| state.templates.clone()).flatten();
        let templates = templates.ok_or_else(|| RenderFailure::UnknownTemplate(request.name.clone()))?;
        let result = match templates.render(&request) {
            Err(RenderError::UnknownTemplate(_)) => {
                "default".clone_into(&mut request.name);
                templates.render(&request)
            }
            other => other,
        };
        result.map_err(|error| match error {
            RenderError::UnknownTemplate(name) => RenderFailure::UnknownTemplate(name),
            RenderError::InvalidData(reason) => RenderFailure::InvalidData(reason),
            RenderError::Failed(reason) => RenderFailure::Failed(reason),
        })
    }
}
