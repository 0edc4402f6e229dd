//! Every hostile guest: how it is made, and how it has to end. A text in `tests/hostile/` without a row here fails a
//! test, and so does a row without a text (`every_guest_has_a_row_and_every_row_a_guest`).

use sandpost_tests::component::{Workshop, World, with_instances, with_manifest};
use sandpost_tests::repository;
use std::path::PathBuf;

/// What a guest may compute.
pub(crate) const CPU_MAX_MS: u64 = 100;
/// What memory a guest may have.
pub(crate) const MEMORY_MAX_BYTES: u64 = 16 << 20;

/// What `probe-topics` names that can be a topic, beside those of guests. Each has a subscription: else a publish that nobody
/// stopped would be refused because nobody listens, which looks the same to the guest. The first is the one that is granted.
pub(crate) const PROBED_TOPICS: &[&str] = &["orders-own", "Orders-Own", "orders-own.", "orders-other"];

/// How a guest has to end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// Its attempt is a fault of this kind whose detail has this part.
    Fault(&'static str, &'static str),
    /// It rejects, and the reason has this part.
    Rejects(&'static str),
    /// It acknowledges: what it tried did it no good.
    Acknowledges,
    /// It never serves: refused at this step, with a reason that has this part.
    Refused(&'static str, &'static str),
    /// It has no end of its own; what bounds it has a test of its own.
    Endless,
}

/// One guest.
pub(crate) struct Guest {
    /// Its own, its plugin's, its topic's and its subscription's.
    pub(crate) name: &'static str,
    /// The text that it is made of, in `tests/hostile/`.
    pub(crate) source: &'static str,
    pub(crate) end: End,
    /// Wall clock of one call. Long, for a machine that does other things too: what ends by computing, or at once, has to be
    /// named for that all the same.
    pub(crate) deadline_ms: u64,
    /// What the operator gives, as lines of TOML.
    pub(crate) given: &'static str,
    world: World,
    asked: &'static str,
    limits: &'static str,
    more: &'static str,
    names: &'static [&'static str],
    make: fn(&[u8], &str) -> Vec<u8>,
}

impl Guest {
    fn new(name: &'static str, end: End) -> Self {
        Self {
            name,
            source: name,
            end,
            deadline_ms: 20_000,
            given: "",
            world: World::Handler,
            asked: "",
            limits: "",
            more: "",
            names: &[],
            make: |component, manifest| with_manifest(component, manifest),
        }
    }

    fn of(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    fn deadline_ms(self, deadline_ms: u64) -> Self {
        Self { deadline_ms, ..self }
    }

    fn world(self, world: World) -> Self {
        Self { world, ..self }
    }

    /// Asks for these grants and gets them.
    fn granted(self, grants: &'static str) -> Self {
        Self { asked: grants, given: grants, ..self }
    }

    /// Asks for these grants and gets none.
    fn asking(self, asked: &'static str) -> Self {
        Self { asked, ..self }
    }

    /// Limits in place of its own, with the header of their table.
    pub fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// More of the manifest, at its end.
    fn more(self, more: &'static str) -> Self {
        Self { more, ..self }
    }

    fn names(self, names: &'static [&'static str]) -> Self {
        Self { names, ..self }
    }

    /// How the file is made of the component and the manifest, where it is not simply both.
    fn made(self, make: fn(&[u8], &str) -> Vec<u8>) -> Self {
        Self { make, ..self }
    }

    /// Whether it goes live.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self.end, End::Refused(..))
    }

    /// The plugin's file.
    pub(crate) fn file(&self, workshop: &Workshop) -> Vec<u8> {
        let component = workshop.component(&source(self.source), self.world, self.names);
        (self.make)(&component, &self.manifest())
    }

    fn manifest(&self) -> String {
        let Self { name, deadline_ms, asked, limits, more, .. } = self;
        format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\n[grants]\n{asked}\n[limits]\ndeadline_ms = {deadline_ms}\n\
             cpu_max_ms = {CPU_MAX_MS}\nmemory_max_bytes = {MEMORY_MAX_BYTES}\n{limits}\n{more}\n"
        )
    }
}

/// Where the texts are.
pub(crate) fn folder() -> PathBuf {
    repository().join("tests/hostile")
}

/// A guest's text.
pub(crate) fn source(name: &str) -> String {
    let path = folder().join(format!("{name}.wat"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of them.
pub(crate) fn guests() -> Vec<Guest> {
    let mut guests = running();
    guests.extend(probes());
    guests.extend(refused());
    guests
}

/// The probes with the one name that each was granted: what a name that gets through looks like.
pub(crate) fn granted_probes() -> Vec<Guest> {
    let with = |guest: Guest| {
        let names: &[&str] = match guest.name {
            "probe-topics" => &["orders-own"],
            "probe-cache-keys" => &["own/x"],
            "probe-cache-prefixes" => &["own/"],
            "probe-sql" => &["main"],
            "probe-collections" => &["own"],
            "probe-senders" => &["own@example.com"],
            other => panic!("{other} has no name that is granted"),
        };
        Guest { end: End::Rejects(names[0]), names, ..guest }
    };
    probes().into_iter().map(with).collect()
}

fn running() -> Vec<Guest> {
    use End::{Acknowledges, Endless, Fault, Rejects};
    let cpu = Fault("cpu", "cpu_max_ms");
    let late = Fault("deadline", "deadline_ms");
    let memory = Fault("memory", "memory_max_bytes");
    vec![
        Guest::new("endless-loop", cpu),
        Guest::new("loop-in-realloc", cpu),
        Guest::new("loop-in-first-realloc", cpu),
        Guest::new("loop-in-post-return", cpu),
        Guest::new("realloc-out-of-bounds", Fault("contract", "realloc return: beyond end of memory")),
        Guest::new("endless-recursion-in-realloc", Fault("trap", "stack")),
        Guest::new("endless-allocation", memory),
        Guest::new("touched-allocation", memory),
        Guest::new("table-growth", Fault("memory", "table_elements_max")),
        Guest::new("deep-recursion", Fault("trap", "stack")),
        Guest::new("stack-overflow", Fault("trap", "stack")),
        Guest::new("trap", Fault("trap", "unreachable")),
        Guest::new("trap-out-of-bounds", Fault("trap", "out of bounds")),
        Guest::new("trap-in-division", Fault("trap", "divide by zero")),
        Guest::new("exit", Fault("exit", "status 0")),
        Guest::new("huge-result", Fault("contract", "reason_max_bytes")),
        Guest::new("boundless-result", Fault("contract", "string pointer/length out of bounds of memory")),
        Guest::new("huge-argument", Fault("host-bytes", "too much data is being copied"))
            .limits("[limits.call]\nhost_bytes_max = 1048576"),
        Guest::new("huge-list", Fault("host-bytes", "too much data is being copied"))
            .limits("[limits.call]\nhost_bytes_max = 1048576"),
        Guest::new("invalid-utf8-result", Fault("contract", "utf-8")),
        Guest::new("invalid-utf8-argument", Fault("contract", "utf-8")),
        Guest::new("invalid-variant", Fault("contract", "unexpected discriminant: 77")),
        Guest::new("host-call-flood", Fault("host-calls", "host_calls_max")),
        Guest::new("log-flood", Acknowledges),
        Guest::new("stderr-flood", cpu),
        Guest::new("slow-drip", late).deadline_ms(300),
        Guest::new("sleep-past-deadline", late).deadline_ms(300),
        Guest::new("timer-hoard", Fault("contract", "resource table has no free keys")),
        Guest::new("no-folder", Rejects("no folder is there")),
        Guest::new("forged-folder", Fault("contract", "unknown handle index 1")),
        Guest::new("publish-flood", Rejects("at most 100")).granted("publish = [\"quiet\"]"),
        Guest::new("publish-to-itself", Endless).granted("publish = [\"publish-to-itself\"]"),
    ]
}

fn probes() -> Vec<Guest> {
    use End::Acknowledges;
    vec![
        Guest::new("probe-topics", Acknowledges).granted("publish = [\"orders-own\"]").names(&[
            "",
            "..",
            "../orders-own",
            "orders-own/..",
            "*",
            "orders-*",
            "orders-own*",
            "orders-ow?",
            "Orders-Own",
            "оrders-own",
            "orders‐own",
            "orders-own ",
            " orders-own",
            "orders-own\0",
            "orders-own\n",
            "orders-own.",
            "orders-own\u{200b}",
            "%6frders-own",
            "orders-other",
            "quiet",
            "steady",
            "probe-topics",
        ]),
        Guest::new("probe-cache-keys", Acknowledges)
            .granted("cache = [{ prefix = \"own/\", access = \"read-write\" }]")
            .names(&[
                "",
                "..",
                "../own/x",
                "/own/x",
                "own",
                "Own/x",
                "OWN/x",
                "оwn/x",
                "own\u{200b}/x",
                "own\0/x",
                "*",
                "o*",
                " own/x",
                "last",
                "steady:last",
                "../steady:last",
                "\0steady:last",
                "own\\/x",
                "%6fwn/x",
            ]),
        Guest::new("probe-cache-prefixes", Acknowledges)
            .granted("cache = [{ prefix = \"own/\", access = \"read-write\" }]")
            .names(&["", "o", "own", "*", "..", "../", "/", "\0", "оwn/", "Own/", "steady:", " own/"]),
        Guest::new("probe-sql", Acknowledges)
            .granted("sql = [{ connection = \"main\", access = \"read-only\" }]")
            .names(&[
                "",
                "..",
                "../main",
                "Main",
                "MAIN",
                "mаin",
                "main ",
                " main",
                "main\0",
                "main;",
                "*",
                "ma*",
                "second",
                "main/../second",
                "file:main",
            ]),
        Guest::new("probe-collections", Acknowledges)
            .granted("documents = [{ connection = \"main\", collection = \"own\", access = \"read-only\" }]")
            .names(&[
                "",
                "..",
                "own.",
                ".own",
                "Own",
                "оwn",
                "own ",
                "own\0",
                "own*",
                "*",
                "owns",
                "system.users",
                "$cmd",
                "own/../other",
                "own\u{200b}",
                "main.own",
            ]),
        Guest::new("probe-senders", Acknowledges).granted("email = [{ from = \"own@example.com\" }]").names(&[
            "",
            "..",
            "*",
            "*@example.com",
            "default",
            "own",
            "own@",
            "@example.com",
            "Own@example.com",
            "own@example.com ",
            "own@example.com.evil.example",
            "own@еxample.com",
            "оwn@example.com",
            "own@example.com\0",
            "own@example.com\r\nBcc: eve@example.com",
            "own@example.com,eve@example.com",
            "own@example.com <eve@example.com>",
            "<own@example.com>",
            "eve@example.com",
            "own+tag@example.com",
        ]),
    ]
}

fn refused() -> Vec<Guest> {
    let end = End::Refused;
    let ungranted = |name, section| Guest::new(name, end("grants", section));
    let tame =
        |name, end| Guest::new(name, end).of("tame").granted("cache = [{ prefix = \"\", access = \"read-write\" }]");
    vec![
        ungranted("import-cache", "needs a grant in `cache`"),
        ungranted("import-pubsub", "needs a grant in `publish`"),
        ungranted("import-email", "needs a grant in `email`"),
        ungranted("import-sql", "needs a grant in `sql`"),
        ungranted("import-documents", "needs a grant in `documents`"),
        ungranted("import-templates", "needs a grant in `templates`"),
        ungranted("import-health", "needs a grant in `health`"),
        ungranted("import-sockets", "plugins have no network"),
        ungranted("import-http", "plugins have no network"),
        ungranted("import-unknown", "unknown package"),
        ungranted("asks-for-every-key", "cache: read and write all keys")
            .of("import-cache")
            .asking("cache = [{ prefix = \"\", access = \"read-write\" }]"),
        ungranted("asks-for-every-topic", "publish: to `*`").of("import-pubsub").asking("publish = [\"*\"]"),
        Guest::new("wrong-world", end("contract", "exports neither")).world(World::Other),
        Guest::new("wrong-version", end("contract", "no exported instance named `sandpost:plugin/handler@0.1.0`"))
            .world(World::Later),
        Guest::new("wrong-types", end("trial", "contract: expected")).world(World::Impostor),
        Guest::new("missing-export", end("contract", "exports neither")).world(World::Nothing),
        Guest::new("start-loops", end("trial", "cpu_max_ms")),
        Guest::new("start-traps", end("trial", "unreachable")),
        Guest::new("start-allocates", end("trial", "memory_max_bytes")),
        Guest::new("born-large", end("trial", "memory_max_bytes")),
        Guest::new("many-instances", end("compile", "maximum of 64"))
            .of("trap")
            .made(|component, manifest| with_manifest(&with_instances(component, "(func)", 200), manifest)),
        Guest::new("many-memories", end("compile", "linear memories"))
            .of("trap")
            .made(|component, manifest| with_manifest(&with_instances(component, "(memory 1)", 40), manifest)),
        tame("truncated-early", end("manifest", "unexpected end-of-file"))
            .made(|component, manifest| cut(component, manifest, 1, 10)),
        tame("truncated-in-the-middle", end("manifest", "unexpected end-of-file"))
            .made(|component, manifest| cut(component, manifest, 1, 2)),
        tame("truncated-late", end("manifest", "unexpected end-of-file"))
            .made(|component, manifest| cut(component, manifest, 99, 100)),
        tame("empty-file", end("manifest", "the file is empty")).made(|_, _| Vec::new()),
        tame("not-wasm", end("manifest", "it does not begin as WebAssembly does"))
            .made(|_, _| b"#!/bin/sh\nrm -rf /\n".to_vec()),
        tame("core-module", end("manifest", "core module")).made(|_, _| b"\0asm\x01\0\0\0".to_vec()),
        tame("noise-inside", end("manifest", "malformed section id")).made(|component, manifest| {
            let mut file = with_manifest(component, manifest);
            let at = file.len() / 3;
            file[at..at + 64].fill(0xff);
            file
        }),
        tame("no-manifest", end("manifest", "carries no plugin.toml")).made(|component, _| component.to_vec()),
        tame("manifest-twice", end("manifest", "carries two manifests"))
            .made(|component, manifest| with_manifest(&with_manifest(component, manifest), manifest)),
        tame("manifest-no-text", end("manifest", "UTF-8"))
            .made(|component, _| with_manifest(component, b"name = \"\xff\"")),
        tame("manifest-no-toml", end("manifest", "line 1: key with no value"))
            .made(|component, _| with_manifest(component, "name: yaml")),
        tame("manifest-huge", end("manifest", "bytes"))
            .made(|component, manifest| with_manifest(component, format!("{manifest}#{}", "x".repeat(300_000)))),
        tame("lies-about-its-name", end("read", "already"))
            .made(|component, manifest| with_manifest(component, manifest.replace("lies-about-its-name", "steady"))),
        tame("lies-about-its-limits", end("limits", "the operator's ceiling is")).deadline_ms(86_400_000),
        tame("lies-about-its-keys", end("manifest", "did you mean")).more("[[sampels]]\ntopic = \"abc\""),
        Guest::new("lies-about-its-samples", end("trial", "expected ack"))
            .of("trap")
            .more("[[samples]]\ntopic = \"orders\"\nbody = \"{}\"\nexpect = \"ack\""),
        Guest::new("sample-that-loops", end("trial", "cpu_max_ms"))
            .of("endless-loop")
            .more("[[samples]]\ntopic = \"orders\"\nbody = \"{}\"\nexpect = \"retry\""),
    ]
}

/// The first `share` of `whole` parts of a good file.
fn cut(component: &[u8], manifest: &str, share: usize, whole: usize) -> Vec<u8> {
    let file = with_manifest(component, manifest);
    file[..file.len() * share / whole].to_vec()
}
