//! Spans: from the message's own trace through the attempt to its settlement.

use crate::world::{World, one, orders, stop};
use sandpost_message::{TraceParent, Verdict};
use std::fmt;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Id, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// What was opened: its name, its parent's name, its trace.
type Opened = Arc<Mutex<Vec<(String, Option<String>, Option<String>)>>>;

struct Watcher(Opened);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Watcher {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut trace = Trace::default();
        attributes.record(&mut trace);
        let span = context.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name().to_owned());
        self.0.lock().unwrap().push((span.name().to_owned(), parent, trace.0));
    }
}

#[derive(Default)]
struct Trace(Option<String>);

impl Visit for Trace {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "trace_id" {
            self.0 = Some(value.to_owned());
        }
    }
}

#[tokio::test]
async fn an_attempt_goes_on_in_the_trace_of_its_message_and_holds_its_settlement() {
    let opened = Opened::default();
    let _watched = tracing::subscriber::set_default(tracing_subscriber::registry().with(Watcher(opened.clone())));
    let world = World::new();
    world.answer("orders", |_| {
        // Whatever a handler opens belongs to the attempt.
        tracing::info_span!("handler").in_scope(|| Verdict::Ack.into())
    });
    let running = world.start(one("orders", orders())).await;
    let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    world.publish_with("orders", |message| message.trace = trace).await;
    world.until_empty().await;
    stop(running).await;

    let seen = opened.lock().unwrap().clone();
    let inside = |name: &str| (name.to_owned(), Some("attempt".to_owned()), None);
    let attempt = ("attempt".to_owned(), None, Some("0af7651916cd43dd8448eb211c80319c".to_owned()));
    assert_eq!(seen, [attempt, inside("handler"), inside("settle")]);
}
