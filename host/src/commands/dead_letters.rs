//! `sandpost dead-letters`: list, read, replay, discard.

use super::path_segment;
use crate::cli::{DeadLetterAction, DeadLetters};
use crate::exit::Expected;
use crate::output;
use serde_json::Value;

pub(crate) fn dead_letters(arguments: DeadLetters, json: bool) -> Result<(), Expected> {
    let target = arguments.target;
    match arguments.action {
        DeadLetterAction::List { subscription, topic, cause, limit } => {
            let given = [("subscription", subscription), ("topic", topic), ("cause", cause)];
            let filters = given
                .into_iter()
                .filter_map(|(key, value)| value.map(|value| format!("&{key}={}", path_segment(&value))));
            let answer = target.get(&format!("/v1/dead-letters?limit={limit}{}", filters.collect::<String>()))?;
            if json {
                output::json(&answer.body);
            } else {
                list(&answer.body);
            }
        }
        DeadLetterAction::Show { id } => {
            output::json(&target.get(&format!("/v1/dead-letters/{}", path_segment(&id)))?.body);
        }
        DeadLetterAction::Replay { id, unknown_effects } => {
            let decided = unknown_effects.map(|effects| format!("?unknown-effects={}", effects.word()));
            let path = format!("/v1/dead-letters/{}/replay{}", path_segment(&id), decided.unwrap_or_default());
            let answer = target.post(&path, &[], Vec::new())?;
            if json {
                output::json(&answer.body);
            } else {
                output::note(&format!("Replayed {id}."));
            }
        }
        DeadLetterAction::Discard { id } => {
            target.delete(&format!("/v1/dead-letters/{}", path_segment(&id)))?;
            if !json {
                output::note(&format!("Discarded {id}."));
            }
        }
    }
    Ok(())
}

fn list(body: &Value) {
    let letters = body["dead_letters"].as_array().cloned().unwrap_or_default();
    let mut rows = vec![["ID", "WHEN", "SUBSCRIPTION", "CAUSE", "ATTEMPTS", "REASON"].map(str::to_owned).to_vec()];
    for letter in &letters {
        let text = |key: &str| letter[key].as_str().unwrap_or("-").to_owned();
        let attempts = letter["attempts"].as_u64().unwrap_or_default().to_string();
        rows.push(vec![text("id"), text("dead_at"), text("subscription"), text("cause"), attempts, text("reason")]);
    }
    output::table(&rows);
    if letters.is_empty() {
        output::note("No dead letters.");
    }
}
