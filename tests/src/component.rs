//! Plugins of a few lines of WebAssembly text, made while the test runs: what no compiler would write.
//!
//! A text is one core module. `;; @answers` stands for its memory and the functions `$ack` and `$reject`, `;; @heap` for a
//! `cabi_realloc` that never gives anything back, `;; @names` for a table of texts to try (see [`Workshop::component`]).
//!
//! Memory by address: 1024 the answer, 2048 the guest's own texts, 4096 answers of the host, 8192 the table of names, 12288
//! arguments, 16384 the names, 65536 space, 131072 the heap.

use std::fmt::Write as _;
use std::path::PathBuf;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

const ANSWERS: &str = r#"
  (memory (export "memory") 4)
  (func $ack (result i32) (i32.store8 (i32.const 1024) (i32.const 0)) (i32.const 1024))
  (func $reject (param $at i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
    (i32.store (i32.const 1040) (local.get $at)) (i32.store (i32.const 1044) (local.get $length))
    (i32.const 1024))"#;

const HEAP: &str = r#"
  (global $heap (mut i32) (i32.const 131072))
  (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))"#;

/// The custom section that holds a manifest.
const SECTION: &str = "sandpost:plugin";
/// What every component begins with.
const HEADER_BYTES: usize = 8;

/// The parts of WASI and of other packages that guests import, as far as they import them.
const FOREIGN: &[&str] = &[
    "package wasi:io@0.2.0;
     interface error { resource error; }
     interface poll { resource pollable { block: func(); } }
     interface streams {
         use error.{error};
         variant stream-error { last-operation-failed(error), closed }
         resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
     }",
    "package wasi:clocks@0.2.0;
     interface monotonic-clock {
         use wasi:io/poll@0.2.0.{pollable};
         subscribe-duration: func(when: u64) -> pollable;
     }",
    "package wasi:cli@0.2.0;
     interface exit { exit: func(status: result); }
     interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }",
    "package wasi:filesystem@0.2.0;
     interface types { resource descriptor { is-same-object: func(other: borrow<descriptor>) -> bool; } }
     interface preopens {
         use types.{descriptor};
         get-directories: func() -> list<tuple<descriptor, string>>;
     }",
    "package wasi:sockets@0.2.0;
     interface network { resource network; }
     interface instance-network { use network.{network}; instance-network: func() -> network; }",
    "package wasi:http@0.2.0; interface outgoing-handler { handle: func(); }",
    "package acme:secrets@1.0.0; interface vault { open: func(); }",
    "package acme:worker@0.1.0; interface handler { handle: func(); }",
    "package sandpost:plugin@9.0.0; interface handler { handle: func(); }",
    "package test:worlds;
     interface odd { handle: func(message: u32) -> u32; }
     world handler {
         include sandpost:plugin/handler-plugin@0.1.0;
         import wasi:io/streams@0.2.0; import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;
         import wasi:cli/exit@0.2.0; import wasi:cli/stderr@0.2.0;
         import wasi:filesystem/types@0.2.0; import wasi:filesystem/preopens@0.2.0;
         import wasi:sockets/instance-network@0.2.0; import wasi:http/outgoing-handler@0.2.0;
         import acme:secrets/vault@1.0.0;
     }
     world other { export acme:worker/handler@0.1.0; }
     world later { export sandpost:plugin/handler@9.0.0; }
     world nothing {}",
];

/// Another package under the name of the contract.
const IMPOSTOR: &str = "package sandpost:plugin@0.1.0;
    interface handler { handle: func(message: u32) -> u32; }
    world impostor { export handler; }";

/// Which outside a component has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// A handler, with whatever a guest here imports.
    Handler,
    /// A component for some other host.
    Other,
    /// The contract of a version that does not exist.
    Later,
    /// No exports.
    Nothing,
    /// The contract's names with other types.
    Impostor,
}

/// Makes components; reads the contract once.
pub struct Workshop {
    contract: Resolve,
    package: wit_parser::PackageId,
    impostor: Resolve,
    impostor_package: wit_parser::PackageId,
}

impl Default for Workshop {
    fn default() -> Self {
        let mut contract = Resolve::default();
        contract.push_dir(crate::repository().join("wit")).expect("the contract");
        let mut package = None;
        for (number, text) in FOREIGN.iter().enumerate() {
            package = Some(contract.push_str(PathBuf::from(format!("{number}.wit")), text).expect("a package"));
        }
        let mut impostor = Resolve::default();
        let impostor_package = impostor.push_str("impostor.wit", IMPOSTOR).expect("a package");
        Self { contract, package: package.expect("the worlds"), impostor, impostor_package }
    }
}

impl Workshop {
    /// The component of a text.
    pub fn component(&self, text: &str, world: World, names: &[&str]) -> Vec<u8> {
        let text =
            text.replace(";; @answers", ANSWERS).replace(";; @heap", HEAP).replace(";; @names", &table_of(names));
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
        let (resolve, package) = match world {
            World::Impostor => (&self.impostor, self.impostor_package),
            _ => (&self.contract, self.package),
        };
        let name = match world {
            World::Handler => "handler",
            World::Other => "other",
            World::Later => "later",
            World::Nothing => "nothing",
            World::Impostor => "impostor",
        };
        let world = resolve.select_world(&[package], Some(name)).expect("a world");
        wit_component::embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).expect("metadata");
        ComponentEncoder::default().module(&module).expect("a module").validate(true).encode().expect("a component")
    }
}

/// The component with a manifest behind it; behind one that it has already, where it has one.
pub fn with_manifest(component: &[u8], manifest: impl AsRef<[u8]>) -> Vec<u8> {
    let manifest = manifest.as_ref();
    let mut section = Vec::new();
    leb128(&mut section, SECTION.len());
    section.extend_from_slice(SECTION.as_bytes());
    section.extend_from_slice(manifest);
    let mut plugin = component.to_vec();
    plugin.push(0);
    leb128(&mut plugin, section.len());
    plugin.extend_from_slice(&section);
    plugin
}

/// The component with a module's text in it, instantiated so many times beside its own.
pub fn with_instances(component: &[u8], module: &str, count: usize) -> Vec<u8> {
    // Its first module has a name for the component's own, which keeps the numbers right; only what follows is taken.
    let mut text = format!("(component (core module) (core module $more {module})");
    for _ in 0..count {
        text.push_str("(core instance (instantiate $more))");
    }
    text.push(')');
    let sections = wat::parse_str(&text).expect("a component");
    let mut at = HEADER_BYTES + 1;
    let mut size = 0_usize;
    for shift in (0..).step_by(7) {
        let byte = sections[at];
        at += 1;
        size |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    [component, &sections[at + size..]].concat()
}

/// Names as a table of addresses and lengths that ends with a zero.
fn table_of(names: &[&str]) -> String {
    let mut table = Vec::new();
    let mut texts = Vec::new();
    for name in names {
        let at = u32::try_from(16_384 + texts.len()).expect("names fit");
        table.extend_from_slice(&at.to_le_bytes());
        table.extend_from_slice(&u32::try_from(name.len()).expect("a name fits").to_le_bytes());
        texts.extend_from_slice(name.as_bytes());
    }
    let quoted = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:02x}").expect("a string takes everything");
            text
        })
    };
    format!("(data (i32.const 8192) \"{}\") (data (i32.const 16384) \"{}\")", quoted(&table), quoted(&texts))
}

fn leb128(into: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            into.push(low);
            return;
        }
        into.push(low | 0x80);
    }
}
