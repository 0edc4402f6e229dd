//! The command line: what it says, where it says it, and how it exits.

use sandpost_tests::{Host, Setup, guest, plugin, repository, run_program};
use serde_json::Value;

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let output = run_program(&arguments, environment);
    Run {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_running_host_can_be_spoken_to() {
    let host = Host::start(Setup::scripted(""));
    let url = host.url();
    let environment = [("SANDPOST_URL", url.as_str())];

    let publish = run(&["publish", "work", r#"{"do":"reject","reason":"by hand"}"#], &environment);
    assert_eq!(publish.code, Some(0), "{}", publish.err);
    let id = publish.out.trim().to_owned();
    host.until_step(&id, "dead-lettered");

    let plugins = run(&["plugins"], &environment);
    assert!(plugins.out.starts_with("NAME ") && plugins.out.contains("scripted"), "{}", plugins.out);
    let plugins = run(&["plugins", "--json"], &environment);
    let listed: Value = serde_json::from_str(&plugins.out).expect("JSON");
    assert_eq!(listed["plugins"][0]["name"], "scripted");

    let letters = run(&["dead-letters", "list", "--json"], &environment);
    let listed: Value = serde_json::from_str(&letters.out).expect("JSON");
    let letter = listed["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    let shown = run(&["dead-letters", "show", &letter], &environment);
    assert!(shown.out.contains("by hand"), "{}", shown.out);
    assert_eq!(run(&["dead-letters", "replay", &letter], &environment).code, Some(0));
    host.eventually("the replayed message is rejected again", || {
        let count = host.steps(&id).iter().filter(|step| *step == "dead-lettered").count();
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    });
    let letters = run(&["dead-letters", "list", "--json"], &environment);
    let listed: Value = serde_json::from_str(&letters.out).expect("JSON");
    let letter = listed["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(run(&["dead-letters", "discard", &letter], &environment).code, Some(0));

    let unknown = run(&["publish", "nowhere", "{}"], &environment);
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.starts_with("error: the host refused: no subscription listens to `nowhere`"),
        "{}",
        unknown.err
    );
    assert!(unknown.out.is_empty());
}

#[test]
fn a_host_that_is_not_there_is_69() {
    let gone = run(&["plugins", "--url", "http://127.0.0.1:1"], &[]);
    assert_eq!(gone.code, Some(69));
    assert!(gone.err.contains("hint: is `sandpost run` up there?"), "{}", gone.err);
}

#[test]
fn a_wrong_command_line_is_64() {
    assert_eq!(run(&["publish"], &[]).code, Some(64));
    assert_eq!(run(&["nonsense"], &[]).code, Some(64));
    assert_eq!(run(&["--help"], &[]).code, Some(0));
}

#[test]
fn a_wrong_configuration_is_78_and_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sandpost.toml");
    std::fs::write(&file, "[http]\nlissten = \"127.0.0.1:1\"\n").expect("written");
    let refused = run(&["run", "--config", &file.display().to_string()], &[]);
    assert_eq!(refused.code, Some(78));
    assert!(refused.err.starts_with("error: failed to read config: unknown key `lissten`"), "{}", refused.err);
    assert!(refused.err.contains("sandpost.toml:2") && refused.err.contains("hint: did you mean `listen`?"));
}

#[test]
fn doctor_shows_values_with_their_origin_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sandpost.toml");
    let text = format!(
        "data_dir = {:?}\n[http.tokens.ops]\nrole = \"admin\"\ntoken_from_env = \"OPS_TOKEN\"\n",
        folder.path().join("data")
    );
    std::fs::write(&file, text).expect("written");
    let environment = [("LOG_LEVEL", "warn"), ("OPS_TOKEN", "a-secret-token-0123456789")];
    let shown = run(&["doctor", "--config", &file.display().to_string()], &environment);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let line = |key: &str| shown.out.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("log.level").contains("warn") && line("log.level").contains("LOG_LEVEL"), "{}", shown.out);
    assert!(line("data_dir").contains("sandpost.toml"), "{}", shown.out);
    assert!(line("shutdown_grace_ms").contains("default"), "{}", shown.out);
    assert!(!shown.out.contains("a-secret-token") && !shown.err.contains("a-secret-token"));
    let json = run(&["doctor", "--json", "--config", &file.display().to_string()], &environment);
    assert!(serde_json::from_str::<Value>(&json.out).is_ok(), "{}", json.out);
}

#[test]
fn explain_shows_what_a_plugin_asks_for() {
    let file = plugin("notification-email").display().to_string();
    let shown = run(&["explain", &file], &[]);
    assert!(shown.out.contains("publish") && shown.out.contains("notification-sent"), "{}", shown.out);
    let json = run(&["explain", &file, "--json"], &[]);
    assert!(serde_json::from_str::<Value>(&json.out).is_ok(), "{}", json.out);
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("x.wasm");
    std::fs::write(&broken, "nonsense").expect("written");
    let refused = run(&["explain", &broken.display().to_string()], &[]);
    assert_eq!(refused.code, Some(65), "{}", refused.err);
}

#[test]
fn a_component_is_built_into_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = repository().join("tests/guests/scripted").display().to_string();
    let component = guest("scripted").display().to_string();
    let out = folder.path().display().to_string();
    let built = run(&["build", &source, "--component", &component, "--out", &out], &[]);
    assert_eq!(built.code, Some(0), "{}", built.err);
    assert!(folder.path().join("scripted.wasm").is_file());
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = run(&["completions", shell], &[]);
        assert_eq!(printed.code, Some(0));
        assert!(printed.out.contains("dead-letters"), "{shell}");
    }
}

#[test]
fn the_example_has_every_key_and_starts() {
    let tokens = [("SHOP_TOKEN", "0123456789abcdef-shop"), ("OPERATIONS_TOKEN", "0123456789abcdef-operations")];
    let example = std::fs::read_to_string(repository().join("sandpost.example.toml")).expect("the example");
    // Relative paths belong to the folder that the program is started in.
    let seed = repository().join("plugins/seed.sql").display().to_string();
    let example = example.replace("plugins/seed.sql", &seed);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sandpost.toml");
    std::fs::write(&file, &example).expect("written");
    let shown = run(&["doctor", "--json", "--config", &file.display().to_string()], &tokens);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let listed: Value = serde_json::from_str(&shown.out).expect("JSON");
    let missing: Vec<&str> = listed["config"]
        .as_array()
        .expect("a list of keys")
        .iter()
        .filter(|entry| entry["origin"] == "default")
        .filter_map(|entry| entry["key"].as_str())
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "keys that the example does not show");

    let host = Host::start(Setup {
        config: example,
        whole: true,
        environment: tokens.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        plugins: ["notification-email", "transactional-templates"].map(plugin).to_vec(),
        ..Setup::default()
    });
    let bearer = ("authorization", "Bearer 0123456789abcdef-operations");
    let plugins = host.send("GET", "/v1/plugins", &[bearer], "").json();
    assert!(plugins["plugins"][0]["live"].is_object(), "{plugins}");
    assert_eq!(host.get("/healthz").status, 200);
}
