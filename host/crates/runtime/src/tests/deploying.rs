//! What a file has to pass before it serves, and what is kept of it.

use super::calls::with_wasi;
use crate::testing::*;
use crate::{Deployed, EngineConfig, Step, explain};
use sandpost_interfaces::Grants;
use sandpost_message::{Outcome, Verdict};
use sandpost_ports::plugins::Plugins;
use std::path::PathBuf;

async fn refused(bytes: Vec<u8>) -> (Step, String) {
    refused_by(&Setup::default().host(), bytes).await
}

/// Refused, and what was live goes on.
async fn refused_by(host: &Host, bytes: Vec<u8>) -> (Step, String) {
    host.deploy(versioned("guest", "0.9.0")).await.unwrap();
    let refused = host.deploy(bytes).await.unwrap_err();
    assert_eq!(host.version("guest").as_deref(), Some("0.9.0"));
    assert!(matches!(host.call("guest").await, Outcome::Verdict(Verdict::Reject { reason }) if reason == "0.9.0"));
    if let Some(plugin) = &refused.plugin {
        assert_eq!(host.info(plugin.as_str()).refused.unwrap().reason, refused.to_string());
    }
    (refused.step, refused.reason)
}

#[tokio::test]
async fn files_that_are_no_plugin_are_refused() {
    let whole = versioned("guest", "1.0.0");
    let core = wat::parse_str(handler("", ACK, "")).unwrap();
    for bytes in [Vec::new(), b"not wasm".to_vec(), whole[..whole.len() / 2].to_vec(), core] {
        let (step, reason) = refused(bytes).await;
        assert_eq!(step, Step::Manifest, "{reason}");
    }
    let (step, reason) = refused(component(&handler("", ACK, ""), "handler-plugin", &[])).await;
    assert_eq!(step, Step::Manifest);
    assert!(reason.contains("no plugin.toml"), "{reason}");
    let (step, reason) = refused(vec![0; 1024 * 1024 + 1]).await;
    assert_eq!(step, Step::Read);
    assert!(reason.contains("artifact_max_bytes"), "{reason}");
    // Bytes inside that the outline does not show, and the compiler does not take.
    let mut changed = whole.clone();
    let at = changed.windows(6).position(|bytes| bytes == b"memory").unwrap();
    changed[at - 1] = 0x7f;
    let (step, reason) = refused(changed).await;
    assert_eq!(step, Step::Compile, "{reason}");
    assert!(reason.contains("not valid"), "{reason}");
}

#[tokio::test]
async fn a_component_of_another_contract_is_refused() {
    let other = "package test:other; world other { export run: func(); }";
    let bytes = component("(module (func (export \"run\")))", "other", &[other]);
    let (step, reason) = refused(plugin("guest", "1.0.0", &bytes, "")).await;
    assert_eq!((step, reason.contains("neither `handler` nor `template`")), (Step::Contract, true), "{reason}");

    // The right name with another type.
    let other = "package sandpost:plugin@0.1.7; interface handler { handle: func(message: string) -> u32; }
                 world other { export handler; }";
    let module = "(module (memory (export \"memory\") 1)
        (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export \"sandpost:plugin/handler@0.1.7#handle\") (param i32 i32) (result i32) (i32.const 0)))";
    let (step, reason) = refused(plugin("guest", "1.0.0", &component(module, "other", &[other]), "")).await;
    assert_eq!(step, Step::Trial, "{reason}");
    assert!(reason.contains("does not start: contract"), "{reason}");
}

#[tokio::test]
async fn a_start_function_that_traps_keeps_it_from_going_live() {
    let module = handler("", ACK, "(func $start unreachable) (start $start)");
    let (step, reason) = refused(handler_plugin("guest", "1.0.0", &module, "")).await;
    assert_eq!(step, Step::Trial);
    assert!(reason.contains("does not start: trap"), "{reason}");
}

#[tokio::test]
async fn imports_are_held_against_the_request_and_the_request_against_the_grants() {
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    let (step, reason) = refused(handler_plugin("guest", "1.0.0", &module, "")).await;
    assert_eq!(step, Step::Grants);
    assert!(reason.contains("sandpost:plugin/email@0.1.0") && reason.contains("`email`"), "{reason}");

    let host = Setup::granting("guest", "publish = [\"audit.*\"]").host();
    let (step, reason) = refused_by(&host, handler_plugin("guest", "1.0.0", &module, MAIL)).await;
    assert_eq!(step, Step::Grants);
    assert!(reason.contains("send from `default`"), "{reason}");

    // Granted but not asked for: the manifest has to tell all.
    let host = Setup::granting("guest", "email = [{ from = \"default\" }]").host();
    assert_eq!(refused_by(&host, handler_plugin("guest", "1.0.0", &module, "")).await.0, Step::Grants);
    host.deploy(handler_plugin("guest", "1.0.0", &module, MAIL)).await.unwrap();
    assert_eq!(host.info("guest").live.unwrap().grants, ["email: send from `default`"]);
    assert_eq!(host.info("guest").refused, None);
}

#[tokio::test]
async fn the_network_is_offered_to_nobody() {
    let import = r#"(import "wasi:sockets/instance-network@0.2.0" "ip" (func $ip (result i32)))"#;
    let module = handler(import, &format!("(drop (call $ip)) {ACK}"), "");
    let bytes = with_wasi(&module, "wasi:sockets", "0.2.0", "instance-network { ip: func() -> u32; }", "");
    let (step, reason) = refused(bytes).await;
    assert_eq!(step, Step::Grants);
    assert!(reason.contains("no network"), "{reason}");
}

#[tokio::test]
async fn limits_over_the_ceiling_are_refused() {
    let manifest = "[limits]\nmemory_max_bytes = 99000000\n";
    let (step, reason) = refused(handler_plugin("guest", "1.0.0", &handler("", ACK, ""), manifest)).await;
    assert_eq!(step, Step::Limits);
    assert!(reason.contains("limits.memory_max_bytes = 99000000"), "{reason}");
}

#[tokio::test]
async fn samples_have_to_end_as_they_say() {
    let sample =
        |expect: &str| format!("[[samples]]\ntopic = \"orders\"\nbody = {{ id = 1 }}\nexpect = \"{expect}\"\n");
    let (body, rest) = reject("no such order");
    let rejecting = handler("", &body, &rest);
    let host = Setup::default().host();
    host.deploy(handler_plugin("other", "1.0.0", &rejecting, &sample("reject"))).await.unwrap();

    let (step, reason) = refused(handler_plugin("guest", "1.0.0", &rejecting, &sample("ack"))).await;
    assert_eq!(step, Step::Trial);
    assert_eq!(reason, "sample 1 (`orders`): expected ack, got reject: no such order");

    let trapping = handler("", "unreachable", "");
    let (_, reason) = refused(handler_plugin("guest", "1.0.0", &trapping, &sample("retry"))).await;
    assert!(reason.starts_with("sample 1 (`orders`): expected retry, but it ended with trap"), "{reason}");

    let looping = handler("", "(loop $again (br $again)) unreachable", "");
    let manifest = format!("[limits]\ncpu_max_ms = 20\ndeadline_ms = 60000\n{}", sample("ack"));
    let (_, reason) = refused(handler_plugin("guest", "1.0.0", &looping, &manifest)).await;
    assert!(reason.contains("ended with cpu"), "{reason}");

    let manifest = format!("{}[[samples.given.sql]]\nconnection = \"main\"\nscript = \"select 1\"\n", sample("ack"));
    let (_, reason) = refused(handler_plugin("guest", "1.0.0", &handler("", ACK, ""), &manifest)).await;
    assert!(reason.contains("what it is given cannot be made"), "{reason}");
}

#[tokio::test]
async fn samples_are_tried_in_their_order_and_one_at_a_time() {
    let sample = |expect: &str, more: &str| {
        format!("[[samples]]\ntopic = \"orders\"\nbody = \"\"\nexpect = \"{expect}\"\n{more}")
    };
    let unmade = "[[samples.given.sql]]\nconnection = \"main\"\nscript = \"select 1\"\n";
    let trying = |samples: &[String]| handler_plugin("guest", "1.0.0", &handler("", ACK, ""), &samples.concat());

    let (_, reason) = refused(trying(&[sample("retry", ""), sample("ack", unmade), sample("retry", "")])).await;
    assert_eq!(reason, "sample 1 (`orders`): expected retry, got ack");
    let (_, reason) = refused(trying(&[sample("ack", ""), sample("ack", ""), sample("ack", unmade)])).await;
    assert!(reason.starts_with("sample 3 (`orders`): what it is given cannot be made"), "{reason}");

    // The one place that there is, each after the other.
    let engine = EngineConfig { instances_max: 1, ..Setup::default().engine };
    let host = Setup { engine, ..Setup::default() }.host();
    host.deploy(trying(&vec![sample("ack", ""); 8])).await.unwrap();
}

#[tokio::test]
async fn samples_run_against_scratch_services() {
    // The scratch provider answers at once; the real one would hold the deployment up for ever.
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    let manifest = format!("{MAIL}[[samples]]\ntopic = \"orders\"\nbody = \"\"\n");
    let host = Setup::default().host();
    host.deploy(handler_plugin("guest", "1.0.0", &module, &manifest)).await.unwrap();
    assert_eq!(host.gate.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn templates_are_tried_in_every_locale_and_belong_to_one_plugin() {
    let host = Setup::default().host();
    host.deploy(template_plugin("mails", "1.0.0", &template("welcome", "Hello", false))).await.unwrap();
    assert_eq!(host.info("mails").live.unwrap().templates, ["welcome"]);

    let broken =
        host.deploy(template_plugin("mails", "2.0.0", &template("welcome", "no words", true))).await.unwrap_err();
    assert_eq!((broken.step, broken.reason.as_str()), (Step::Trial, "template `welcome` in `en`: no words"));
    assert_eq!(host.version("mails").as_deref(), Some("1.0.0"));

    let twice = host.deploy(template_plugin("others", "1.0.0", &template("welcome", "Hi", false))).await.unwrap_err();
    assert_eq!(twice.step, Step::Switch);
    assert!(twice.reason.contains("belongs to the live plugin `mails`"), "{}", twice.reason);
    assert!(host.registry.handler(&"mails".parse().unwrap()).is_none(), "it handles nothing");
}

fn cached(host: &Host, extension: &str) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(host.folder.path().join("artifacts")).unwrap();
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths
}

#[tokio::test]
async fn what_was_compiled_is_loaded_again_and_never_trusted_blindly() {
    let host = Setup::default().host();
    let bytes = versioned("guest", "1.0.0");
    host.deploy(bytes.clone()).await.unwrap();
    let paths = cached(&host, "cwasm");
    assert_eq!(paths.len(), 1);
    let good = std::fs::read(&paths[0]).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&paths[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let written = || std::fs::metadata(&paths[0]).unwrap().modified().unwrap();

    let Host { folder, ports, gate, .. } = host;
    let before = written();
    let host = Setup::default().host_in(folder, Some((ports, gate)));
    host.deploy(bytes.clone()).await.unwrap();
    assert_eq!(written(), before, "it was compiled again");
    assert!(matches!(host.call("guest").await, Outcome::Verdict(_)));

    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut other_length = good.clone();
    other_length[8] ^= 1;
    for broken in [flipped, other_length, good[..good.len() - 1].to_vec(), b"hello".to_vec(), Vec::new()] {
        std::fs::write(&paths[0], &broken).unwrap();
        let host = Setup::default().host_in(tempfile::tempdir_in(host.folder.path()).unwrap(), None);
        let copy = host.folder.path().join("artifacts").join(paths[0].file_name().unwrap());
        std::fs::copy(&paths[0], &copy).unwrap();
        host.deploy(bytes.clone()).await.unwrap();
        assert!(matches!(host.call("guest").await, Outcome::Verdict(_)));
        assert_ne!(std::fs::read(&copy).unwrap(), broken, "a broken file stayed");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_compiled_file_that_others_may_write_is_not_loaded() {
    use std::os::unix::fs::PermissionsExt;
    let host = Setup::default().host();
    let bytes = versioned("guest", "1.0.0");
    host.deploy(bytes.clone()).await.unwrap();
    let path = cached(&host, "cwasm").remove(0);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let Host { folder, ports, gate, .. } = host;
    let host = Setup::default().host_in(folder, Some((ports, gate)));
    host.deploy(bytes).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it was not made anew");
}

#[tokio::test]
async fn deployments_are_recorded_once_and_can_be_restored() {
    let host = Setup::default().host();
    let one = versioned("guest", "1.0.0");
    assert!(matches!(host.deploy(one.clone()).await.unwrap(), Deployed::Live(_)));
    assert!(matches!(host.deploy(one.clone()).await.unwrap(), Deployed::Unchanged(_)));
    host.deploy(versioned("guest", "2.0.0")).await.unwrap();
    let plugin = "guest".parse().unwrap();
    let history = host.ports.state.deployments(&plugin, 10).await.unwrap();
    let versions: Vec<_> = history.iter().map(|deployment| deployment.version.as_str()).collect();
    assert_eq!(versions, ["2.0.0", "1.0.0"]);

    let Host { folder, ports, gate, .. } = host;
    let host = Setup::default().host_in(folder, Some((ports, gate)));
    assert!(host.deployer.restore(&"nobody".parse().unwrap(), "test").await.is_none());
    host.deployer.restore(&plugin, "test").await.unwrap().unwrap();
    assert_eq!(host.version("guest").as_deref(), Some("2.0.0"));
    assert_eq!(host.ports.state.deployments(&plugin, 10).await.unwrap().len(), 2, "a restart is no deployment");
}

#[tokio::test]
async fn artifacts_outside_the_history_are_pruned() {
    let host = Setup::default().host();
    for number in 0..12 {
        host.deploy(versioned("guest", &format!("1.0.{number}"))).await.unwrap();
    }
    assert_eq!(cached(&host, "wasm").len(), 12);
    host.deployer.prune().await.unwrap();
    assert_eq!(cached(&host, "wasm").len(), 10);
    assert_eq!(cached(&host, "cwasm").len(), 10);
    let kept = host.deployer.artifacts().kept(&host.info("guest").live.unwrap().digest).unwrap();
    assert_eq!(kept, Some(versioned("guest", "1.0.11")));
}

#[test]
fn a_component_is_explained_without_running_it() {
    let module = handler(QUOTA, &format!("(call $quota (i32.const 4096)) {ACK}"), "");
    let manifest = format!("topics = [\"orders\"]\n{MAIL}[limits]\ncpu_max_ms = 7\n");
    let bytes = handler_plugin("guest", "1.0.0", &module, &manifest);
    let explained = explain(&bytes, None).unwrap();
    assert_eq!(explained.name.as_deref(), Some("guest"));
    assert_eq!(explained.exports, ["sandpost:plugin/handler@0.1.0"]);
    assert!(explained.imports.contains(&"sandpost:plugin/email@0.1.0".to_owned()), "{:?}", explained.imports);
    assert_eq!(explained.limits.as_ref().unwrap().cpu_max_ms, 7);
    assert_eq!((explained.grants_missing.len(), explained.problems.len()), (0, 0));
    assert_eq!(explain(&bytes, Some(&Grants::default())).unwrap().grants_missing, ["email: send from `default`"]);
    let lying = handler_plugin("guest", "1.0.0", &module, "");
    assert_eq!(explain(&lying, None).unwrap().grants_missing.len(), 1);
    let bare = component(&module, "handler-plugin", &[]);
    assert_eq!(explain(&bare, None).unwrap().problems.len(), 1);
    assert!(explain(b"no", None).is_err());

    // Names of a component that was made to be long, in the text and in number.
    let importing = |names: &[String]| {
        let imports: Vec<String> = names.iter().map(|name| format!("(import \"{name}\" (func))")).collect();
        let imports = imports.concat();
        explain(&wat::parse_str(format!("(component {imports})")).unwrap(), None)
            .map(|explained| explained.imports.len())
    };
    let name = |n: usize| format!("n{n}");
    assert_eq!(importing(&(0..1000).map(name).collect::<Vec<_>>()).unwrap(), 1000);
    let error = importing(&(0..1001).map(name).collect::<Vec<_>>()).unwrap_err();
    assert!(error.to_string().contains("more than 1000 imports and exports"), "{error}");
    let error = importing(&["n".repeat(1025)]).unwrap_err();
    assert!(error.to_string().contains("over 1024 bytes"), "{error}");
}
