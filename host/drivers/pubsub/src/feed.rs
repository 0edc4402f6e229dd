//! Reads one subscription's stream into its queue, and opens it again whenever it ends.

use crate::admin;
use crate::connection::{Clients, Connection};
use crate::errors::{of_read, within};
use crate::queue::Arrival;
use crate::subscription::Line;
use crate::wanted::Wanted;
use crate::wire;
use google_cloud_pubsub::model::Message as Carried;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use sandpost_ports::{ErrorKind, PortError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Waits before a stream that failed is opened again.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A stream on which nothing came for so long is opened again: it may be dead without a sign.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// What acknowledges one delivery of the service; dropped, it gives the message back.
pub(crate) struct Handle(pub(crate) Handler);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// Why reading ended.
enum Ended {
    Silent,
    Failed(PortError),
}

/// Runs until the line is closed.
pub(crate) async fn feed(line: Arc<Line>, connection: Arc<Connection>, wanted: Arc<Wanted>) {
    let mut closing = line.closing();
    let mut wait = WAIT_MIN;
    loop {
        let mut back = connection.back();
        let clients = tokio::select! {
            clients = connection.clients() => clients,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        let failed = match clients {
            Ok(clients) => {
                let mut stream = open(&line, &connection, &clients);
                let mut arrived = false;
                let ended = tokio::select! {
                    ended = read(&mut stream, &line, &mut arrived) => Some(ended),
                    _ = back.changed() => Some(Ended::Silent),
                    _ = closing.wait_for(|closing| *closing) => None,
                };
                if arrived {
                    wait = WAIT_MIN;
                }
                let Some(ended) = ended else {
                    // Everything goes back to the service, and is told so before the runtime is gone.
                    let token = stream.shutdown_token();
                    line.queue().clear();
                    if timeout(connection.config.call_timeout(), token.shutdown()).await.is_err() {
                        tracing::warn!(
                            subscription = %line.name,
                            "Pub/Sub did not take back in time what was not handled; it redelivers after the ack deadline."
                        );
                    }
                    return;
                };
                drain(&mut stream, &line).await;
                line.queue().let_go_of_untried(line.clock.now_ms());
                match ended {
                    Ended::Silent => None,
                    Ended::Failed(error) => Some(error),
                }
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            let source = error.source.as_deref().map(tracing::field::display);
            tracing::warn!(
                subscription = %line.name, %error, source, wait_ms = wait.as_millis(),
                "The stream ended; it is opened again."
            );
            let mut gone = error.kind == ErrorKind::Invalid;
            line.set_fault(Some(error));
            connection.doubt();
            loop {
                if gone {
                    gone = !find_again(&line, &connection, &wanted).await;
                }
                tokio::select! {
                    () = sleep(wait) => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
                wait = (wait * 2).min(WAIT_MAX);
                if !gone {
                    break;
                }
            }
        }
    }
}

/// Whether the subscription is there, or was made again: an emulator that was started again has forgotten everything. No
/// stream is opened before it is, because one that is open does not say so until a message comes.
async fn find_again(line: &Line, connection: &Connection, wanted: &Wanted) -> bool {
    let looking = Box::pin(admin::ensure(connection, &line.name, &line.topic));
    let there = within(connection.config.call_timeout(), looking).await;
    wanted.came_to(&line.name, &there);
    if let Err(error) = &there {
        tracing::warn!(subscription = %line.name, %error, "The subscription is not there again yet.");
    }
    there.is_ok()
}

fn open(line: &Line, connection: &Connection, clients: &Clients) -> MessageStream {
    let config = &connection.config;
    clients
        .subscriber
        .subscribe(config.subscription_path(line.name.as_str()))
        .set_max_outstanding_messages(config.outstanding_messages_max)
        .set_max_outstanding_bytes(config.outstanding_bytes_max)
        .set_max_lease_extension(Duration::from_secs(config.ack_deadline_s.into()))
        // For as long as the service keeps it.
        .set_max_lease(Duration::from_secs(config.retention_s.into()))
        // A stream that is given up still takes the acknowledgements of what it brought.
        .set_shutdown_behavior(ShutdownBehavior::WaitForProcessing)
        .build()
}

async fn read(stream: &mut MessageStream, line: &Line, arrived: &mut bool) -> Ended {
    loop {
        match timeout(SILENCE_MAX, stream.next()).await {
            Ok(Some(Ok((carried, handler)))) => {
                *arrived = true;
                take_in(line, carried, handler);
            }
            Ok(Some(Err(error))) => return Ended::Failed(of_read(error)),
            Ok(None) => {
                return Ended::Failed(PortError::new(ErrorKind::Unavailable, "the service ended the stream"));
            }
            Err(_elapsed) => return Ended::Silent,
        }
    }
}

/// What came already: else it would stay leased with the stream that is given up.
async fn drain(stream: &mut MessageStream, line: &Line) {
    while let Ok(Some(Ok((carried, handler)))) = timeout(Duration::ZERO, stream.next()).await {
        take_in(line, carried, handler);
    }
}

fn take_in(line: &Line, carried: Carried, handler: Handler) {
    let now_ms = line.clock.now_ms();
    let service_id = carried.message_id.clone();
    let message = wire::decode(&line.topic, carried, now_ms);
    if message.only.as_ref().is_some_and(|only| *only != line.name) {
        // A replay for another subscription.
        handler.ack();
        return;
    }
    let delivery = handler.delivery_attempt().and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    let arrival = line.queue().arrive(&service_id, message, delivery, Handle(handler), now_ms);
    match arrival {
        Arrival::New => {
            line.set_fault(None);
            line.changed();
        }
        Arrival::Known => {}
        Arrival::Acknowledged(handle) => handle.0.ack(),
    }
}
