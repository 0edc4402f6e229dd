//! `Idempotency-Key`: replay, mismatch, in flight, resumed, abandoned; and work that outlives its caller.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test fails by panicking")]

mod support;

use sandpost_ports::ErrorKind;
use std::sync::Arc;
use support::World;
use tokio::sync::Notify;

const KEY: &str = "idempotency-key: k-1";
const BATCH: &str = "{\"messages\":[{\"body\":1},{\"body\":2}]}";

#[tokio::test]
async fn the_same_request_gets_the_first_answer_again() {
    let world = World::open();
    let first = world.publish(&[KEY], "{}").await;
    let again = world.publish(&["idempotency-key: \"k-1\"", "traceparent: other"], "{}").await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!((first.text(), first.header("location")), (again.text(), again.header("location")));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(world.stored().len(), 1);

    let path = "/v1/topics/orders/messages:batch";
    let (first, again) = (
        world.post(path, &["idempotency-key: k-2"], BATCH).await,
        world.post(path, &["idempotency-key: k-2"], BATCH).await,
    );
    assert_eq!((first.text(), again.header("idempotency-replayed")), (again.text(), "true"));
    assert_eq!(world.stored().len(), 3);

    world.clock.advance(24 * 60 * 60 * 1000);
    assert_eq!(world.publish(&[KEY], "{}").await.header("idempotency-replayed"), "");
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let world = World::open();
    world.publish(&[KEY], "{}").await;
    let others: [(&[&str], &str); 3] =
        [(&[KEY], "{ }"), (&[KEY, "content-type: text/json"], "{}"), (&[KEY, "sandpost-delay-ms: 1"], "{}")];
    for (headers, body) in others {
        let answer = world.publish(headers, body).await;
        answer.is_problem(422, "idempotency-mismatch", "a new request needs a new `Idempotency-Key`");
    }
    let batch = world.post("/v1/topics/orders/messages:batch", &[KEY], BATCH).await;
    assert_eq!(batch.status, 422);
}

#[tokio::test]
async fn callers_do_not_meet_under_one_key() {
    let world = World::guarded();
    for role in ["publisher", "operator"] {
        let token = format!("authorization: Bearer {}", support::secret(role));
        let answer = world.publish(&[KEY, &token], "{}").await;
        assert_eq!((answer.status.as_u16(), answer.header("idempotency-replayed")), (202, ""));
    }
    assert_eq!(world.stored().len(), 2);
}

#[tokio::test]
async fn a_first_request_at_work_is_a_conflict_and_its_work_outlives_its_caller() {
    let world = Arc::new(World::open());
    let hold = Arc::new(Notify::new());
    *world.broker.hold.lock().unwrap() = Some(hold.clone());
    let first = tokio::spawn({
        let world = world.clone();
        async move { world.publish(&[KEY], "{}").await }
    });
    world.broker.entered.notified().await;
    let second = world.publish(&[KEY], "{}").await;
    second.is_problem(409, "idempotency-in-flight", "try again later with the same key to get its answer");
    assert_eq!(second.header("retry-after"), "60");

    // The caller goes; what it began is done all the same.
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    *world.broker.hold.lock().unwrap() = None;
    hold.notify_one();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let answer = world.publish(&[KEY], "{}").await;
        if answer.status == 202 {
            assert_eq!(answer.header("idempotency-replayed"), "true");
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{}", answer.text());
        tokio::task::yield_now().await;
    }
    assert_eq!(world.stored().len(), 1);
}

#[tokio::test]
async fn what_a_dead_host_began_is_done_by_its_plan() {
    let world = World::open();
    *world.state.forgetful.lock().unwrap() = true;
    let first = world.publish(&[KEY], "{}").await;
    assert_eq!(first.status, 202);
    *world.state.forgetful.lock().unwrap() = false;
    assert_eq!(world.publish(&[KEY], "{}").await.status, 409);
    world.clock.advance(60_000);
    let resumed = world.publish(&[KEY], "{}").await;
    assert_eq!((resumed.status.as_u16(), resumed.text()), (202, first.text()));
    assert_eq!(world.stored().len(), 1);
    assert_eq!(world.publish(&[KEY], "{}").await.header("idempotency-replayed"), "true");

    // Nothing stored before the host died: then the ids are those of the plan.
    let path = "/v1/topics/orders/messages:batch";
    *world.broker.fail.lock().unwrap() = Some(ErrorKind::UnknownOutcome);
    assert_eq!(world.post(path, &["idempotency-key: b"], BATCH).await.status, 503);
    *world.broker.fail.lock().unwrap() = None;
    assert_eq!(world.post(path, &["idempotency-key: b"], BATCH).await.status, 409);
    let plan = world.state.requests.lock().unwrap()["local/orders/b"].0.plan.clone();
    world.clock.advance(60_000);
    let resumed = world.post(path, &["idempotency-key: b"], BATCH).await;
    let planned: Vec<String> = serde_json::from_slice(&plan).unwrap();
    let ids: Vec<String> = world.stored()[1..].iter().map(|message| message.id.to_string()).collect();
    assert_eq!((resumed.status.as_u16(), ids), (202, planned));
}

#[tokio::test]
async fn a_failure_that_stored_nothing_forgets_the_key() {
    let world = World::open();
    *world.broker.fail.lock().unwrap() = Some(ErrorKind::Unavailable);
    assert_eq!(world.publish(&[KEY], "{}").await.status, 503);
    *world.broker.fail.lock().unwrap() = None;
    let answer = world.publish(&[KEY], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("idempotency-replayed")), (202, ""));
    assert_eq!(world.post("/v1/topics/nobody/messages", &[KEY], "{}").await.status, 404);
    assert_eq!(world.state.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_cannot_be_asked_for_stores_nothing() {
    let world = World::open();
    assert_eq!(world.publish(&[KEY], "{}").await.status, 202);
    for kind in [ErrorKind::Unavailable, ErrorKind::UnknownOutcome, ErrorKind::Exceeded, ErrorKind::Other] {
        *world.state.away.lock().unwrap() = Some(kind);
        for headers in [[KEY], ["idempotency-key: new"]] {
            let answer = world.publish(&headers, "{}").await;
            let detail = "nothing was stored by this request; try again later with the same key";
            answer.is_problem(503, "idempotency-unavailable", detail);
            assert_eq!(answer.header("retry-after"), "1");
            assert!(!answer.text().contains("10.0.0.1"));
        }
    }
    assert_eq!(world.stored().len(), 1);
    // Who sent no key asked for no such promise.
    assert_eq!(world.publish(&[], "{}").await.status, 202);
    *world.state.away.lock().unwrap() = None;
    assert_eq!(world.publish(&[KEY], "{}").await.header("idempotency-replayed"), "true");
    assert_eq!(world.stored().len(), 2);
}
