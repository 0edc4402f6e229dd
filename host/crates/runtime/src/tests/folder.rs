//! The folder: files that come, change, break and go.

use crate::testing::*;
use crate::{Folder, FolderConfig};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

struct Watched {
    host: Host,
    plugins: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

async fn open(host: &Host, plugins: &Path) -> Folder {
    // Without the periodic look: what is seen is seen by events.
    let config = FolderConfig { path: plugins.to_owned(), settle_ms: 20, rescan_ms: 3_600_000 };
    Folder::open(config, Arc::clone(&host.deployer)).await.unwrap()
}

impl Watched {
    async fn start(host: Host, plugins: tempfile::TempDir) -> Self {
        let folder = open(&host, plugins.path()).await;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(folder.watch(async move { drop(stopped.await) }));
        Self { host, plugins, stop: Some(stop), task: Some(task) }
    }

    /// As tools replace a file: written beside it, then renamed.
    fn replace(&self, name: &str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new_in(self.plugins.path()).unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.persist(self.plugins.path().join(name)).unwrap();
    }

    async fn serves(&self, plugin: &str, version: Option<&str>) {
        eventually(&format!("{plugin} at {version:?}"), || self.host.version(plugin).as_deref() == version).await;
    }

    async fn refuses(&self, plugin: &str, part: &str) {
        let name = plugin.parse().unwrap();
        eventually(&format!("{plugin} refused: {part}"), || {
            use sandpost_ports::plugins::Plugins;
            let mut infos = self.host.registry.list().into_iter();
            let refused = infos.find(|info| info.name == name).and_then(|info| info.refused);
            refused.is_some_and(|refused| refused.reason.contains(part))
        })
        .await;
    }

    async fn end(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, self.task.take().unwrap()).await.unwrap().unwrap();
    }
}

/// A file that is renamed into its place does not wait; one that is written there does.
#[tokio::test]
async fn what_was_renamed_into_its_place_is_judged_at_once() {
    let host = Setup::default().host();
    let plugins = tempfile::tempdir().unwrap();
    // So long that only a file that need not settle is live before the test gives up.
    let config = FolderConfig { path: plugins.path().to_owned(), settle_ms: 3_600_000, rescan_ms: 3_600_000 };
    let folder = Folder::open(config, Arc::clone(&host.deployer)).await.unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(folder.watch(async move { drop(stopped.await) }));
    let watched = Watched { host, plugins, stop: Some(stop), task: Some(task) };
    watched.replace("guest.wasm", &versioned("guest", "1.0.0"));
    watched.serves("guest", Some("1.0.0")).await;
    watched.end().await;
}

#[tokio::test]
async fn files_are_deployed_as_they_come_change_and_go() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::write(plugins.path().join("guest.wasm"), versioned("guest", "1.0.0")).unwrap();
    std::fs::write(plugins.path().join("notes.txt"), "no plugin").unwrap();
    let watched = Watched::start(Setup::default().host(), plugins).await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.0.0"), "what is there is live at once");

    watched.replace("guest.wasm", &versioned("guest", "1.1.0"));
    watched.serves("guest", Some("1.1.0")).await;
    std::fs::write(watched.plugins.path().join("guest.wasm"), versioned("guest", "1.2.0")).unwrap();
    watched.serves("guest", Some("1.2.0")).await;
    watched.replace("second.wasm", &versioned("second", "1.0.0"));
    watched.serves("second", Some("1.0.0")).await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.2.0"));

    std::fs::remove_file(watched.plugins.path().join("guest.wasm")).unwrap();
    watched.serves("guest", None).await;
    assert_eq!(watched.host.version("second").as_deref(), Some("1.0.0"));
    watched.end().await;
}

#[tokio::test]
async fn a_broken_file_never_serves_and_a_mended_one_does() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::write(plugins.path().join("guest.wasm"), versioned("guest", "1.0.0")).unwrap();
    let watched = Watched::start(Setup::default().host(), plugins).await;
    let next = versioned("guest", "2.0.0");
    std::fs::write(watched.plugins.path().join("guest.wasm"), &next[..next.len() - 10]).unwrap();
    watched.refuses("guest", "manifest").await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.0.0"));
    // The rest of it comes.
    std::fs::write(watched.plugins.path().join("guest.wasm"), &next).unwrap();
    watched.serves("guest", Some("2.0.0")).await;
    assert_eq!(watched.host.info("guest").refused, None);
    watched.end().await;
}

#[tokio::test]
async fn two_files_are_not_one_plugin() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::write(plugins.path().join("guest.wasm"), versioned("guest", "1.0.0")).unwrap();
    let watched = Watched::start(Setup::default().host(), plugins).await;
    watched.replace("copy.wasm", &versioned("guest", "2.0.0"));
    watched.refuses("copy", "already").await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.0.0"));
    std::fs::remove_file(watched.plugins.path().join("copy.wasm")).unwrap();
    eventually("the refusal goes with its file", || {
        use sandpost_ports::plugins::Plugins;
        watched.host.registry.list().len() == 1
    })
    .await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.0.0"));
    watched.end().await;
}

/// Needs template `welcome` in its sample.
fn rendering() -> Vec<u8> {
    let import = r#"(import "sandpost:plugin/templates@0.1.0" "render"
        (func $render (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    let body = format!(
        "(call $render (i32.const 2048) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 2060) (i32.const 2) (i32.const 4096))
         (if (i32.load8_u (i32.const 4096)) (then unreachable)) {ACK}"
    );
    let rest = format!("{}{}", data(2048, "welcome"), data(2060, "{}"));
    let manifest = "[grants]\ntemplates = true\n[[samples]]\ntopic = \"orders\"\nbody = \"\"\n";
    handler_plugin("a-handler", "1.0.0", &handler(import, &body, &rest), manifest)
}

#[tokio::test]
async fn templates_go_live_before_the_handlers_that_render_them() {
    let plugins = tempfile::tempdir().unwrap();
    std::fs::write(plugins.path().join("a-handler.wasm"), rendering()).unwrap();
    let mails = template_plugin("mails", "1.0.0", &template("welcome", "Hello", false));
    std::fs::write(plugins.path().join("mails.wasm"), &mails).unwrap();
    let host = Setup::default().host();
    drop(open(&host, plugins.path()).await);
    assert_eq!(host.version("a-handler").as_deref(), Some("1.0.0"));

    // The other way round, while it runs: the handler is tried again once the template is there.
    std::fs::remove_file(plugins.path().join("mails.wasm")).unwrap();
    let watched = Watched::start(Setup::default().host(), plugins).await;
    watched.refuses("a-handler", "trial").await;
    watched.replace("mails.wasm", &mails);
    watched.serves("a-handler", Some("1.0.0")).await;
    watched.end().await;
}

#[tokio::test]
async fn a_broken_file_at_start_falls_back_to_what_served_last() {
    let plugins = tempfile::tempdir().unwrap();
    let path = plugins.path().join("guest.wasm");
    std::fs::write(&path, versioned("guest", "1.0.0")).unwrap();
    let host = Setup::default().host();
    drop(open(&host, plugins.path()).await);

    std::fs::write(&path, b"half a fi").unwrap();
    let Host { folder, ports, gate, .. } = host;
    let watched = Watched::start(Setup::default().host_in(folder, Some((ports, gate))), plugins).await;
    assert_eq!(watched.host.version("guest").as_deref(), Some("1.0.0"));
    assert!(watched.host.info("guest").refused.is_some(), "the list says that the file is broken");
    watched.replace("guest.wasm", &versioned("guest", "1.0.1"));
    watched.serves("guest", Some("1.0.1")).await;
    watched.end().await;
}
