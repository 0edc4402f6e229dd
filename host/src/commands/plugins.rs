//! `sandpost plugins`: what is live on a running host, and what was refused.

use crate::client::Target;
use crate::exit::Expected;
use crate::output;
use serde_json::Value;

pub(crate) fn plugins(target: &Target, json: bool) -> Result<(), Expected> {
    let answer = target.get("/v1/plugins")?;
    if json {
        output::json(&answer.body);
        return Ok(());
    }
    let list = answer.body.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = vec![["NAME", "VERSION", "DIGEST", "EXPORTS", "IN FLIGHT", "REFUSED"].map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(row));
    output::table(&rows);
    Ok(())
}

fn row(plugin: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let live = &plugin["live"];
    let mut exports = Vec::new();
    if live["handler"] == true {
        exports.push("handler".to_owned());
    }
    exports.extend(live["templates"].as_array().into_iter().flatten().map(|name| format!("template {}", text(name))));
    vec![
        text(&plugin["name"]),
        text(&live["version"]),
        text(&live["digest"]).chars().take(12).collect(),
        if exports.is_empty() { "-".to_owned() } else { exports.join(", ") },
        live["in_flight"].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string()),
        plugin["refused"]["reason"].as_str().unwrap_or_default().to_owned(),
    ]
}
