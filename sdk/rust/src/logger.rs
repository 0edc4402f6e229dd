//! The `log` crate's messages go to the host, with their key-values as fields; a panic's message goes to stderr, which
//! the host keeps with the attempt.

use crate::sys;
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use std::sync::Once;

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields(Vec::new());
        // Collecting never fails; a source of its own that does loses the rest of its fields, not the message.
        drop(record.key_values().visit(&mut fields));
        sys::log(record.level(), &record.args().to_string(), &fields.0);
    }

    fn flush(&self) {}
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

/// Sets both up, once. The macros call it first of all.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A plugin that brought a logger of its own keeps it.
        if log::set_logger(&Logger).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
        #[cfg(target_arch = "wasm32")]
        std::panic::set_hook(Box::new(print_panic));
    });
}

/// One line, without the advice on `RUST_BACKTRACE` that the standard hook gives: there is no environment.
#[cfg(target_arch = "wasm32")]
fn print_panic(info: &std::panic::PanicHookInfo<'_>) {
    use std::io::Write;

    let message = info.payload_as_str().unwrap_or("a value that is no text");
    let mut stderr = std::io::stderr();
    // Where stderr is closed there is nowhere to say so.
    drop(match info.location() {
        Some(place) => writeln!(stderr, "panicked at {}:{}: {message}", place.file(), place.line()),
        None => writeln!(stderr, "panicked: {message}"),
    });
}
