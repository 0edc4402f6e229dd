//! The interfaces as a guest meets them, over ports in memory and without wasm: grants, limits, scopes, answers.

use crate::bindings::cache::{Condition, Host as _};
use crate::bindings::documents::{FindOptions, HostCollection as _, HostCursor as _};
use crate::bindings::email::{Body, Envelope, Host as _, Mailbox, Parts, SendError};
use crate::bindings::log::{Host as _, Level};
use crate::bindings::pubsub::{Host as _, Outgoing};
use crate::bindings::sql::{HostConnection as _, HostTransaction as _};
use crate::bindings::{Error, Request, cache, config, health, templates};
use crate::testing::{World, port_error};
use crate::{Call, add_to_linker};
use bytes::Bytes;
use sandpost_message::{Fault, FaultKind, Message};
use sandpost_ports::ErrorKind;
use sandpost_ports::sql::Access;
use sandpost_ports::state::{EffectState, Step};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wasmtime::component::{Linker, Resource};

fn outgoing(body: &str) -> Outgoing {
    Outgoing {
        body: body.into(),
        content_type: None,
        attributes: Vec::new(),
        ordering_key: None,
        dedupe_key: None,
        delay: None,
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn fault(error: &wasmtime::Error) -> FaultKind {
    error.downcast_ref::<Fault>().expect("a fault").kind
}

#[test]
fn every_interface_links() {
    let mut linker: Linker<Call> = Linker::new(&wasmtime::Engine::default());
    add_to_linker(&mut linker, |call| call).unwrap();
}

#[tokio::test]
async fn one_host_call_too_many_ends_the_guest() {
    let mut world = World::new();
    world.limits.host_calls_max = 2;
    let mut call = world.call(1);
    for _ in 0..2 {
        assert_eq!(config::Host::get(&mut call, "greeting".into()).await.unwrap().as_deref(), Some("hello"));
    }
    let error = config::Host::get(&mut call, "greeting".into()).await.unwrap_err();
    assert_eq!(fault(&error), FaultKind::HostCalls);
    assert_eq!(call.finish().host_calls, 2);
}

#[tokio::test]
async fn bytes_count_on_the_way_in_and_on_the_way_out() {
    let mut world = World::new();
    world.limits.host_bytes_max = 100;
    let mut call = world.call(1);
    call.set("k".into(), vec![0; 60], None, Condition::Always).await.unwrap().unwrap();
    let error = cache::Host::get(&mut call, "k".into()).await.unwrap_err();
    assert_eq!(fault(&error), FaultKind::HostBytes);
    let error = world.call(1).set("k".into(), vec![0; 100], None, Condition::Always).await.unwrap_err();
    assert_eq!(fault(&error), FaultKind::HostBytes);
}

#[tokio::test]
async fn cache_keys_are_in_the_plugins_scope() {
    let mut world = World::new();
    world.grants.cache[0].prefix = "user:".into();
    let mut call = world.call(1);
    assert!(call.set("user:1".into(), b"x".to_vec(), None, Condition::Always).await.unwrap().unwrap());
    assert!(world.cache.0.lock().unwrap().contains_key("host:mailer:user:1"));
    assert_eq!(cache::Host::ttl(&mut call, "user:1".into()).await.unwrap().unwrap(), Some(60_000), "the default");
    for key in ["other", "", "User:1"] {
        let answer = cache::Host::get(&mut call, key.into()).await.unwrap();
        assert!(matches!(answer, Err(Error::Denied(_) | Error::Invalid(_))), "{key:?}: {answer:?}");
    }
    for prefix in ["", "user", "*"] {
        assert!(call.delete_prefix(prefix.into()).await.unwrap().is_err(), "{prefix:?}");
    }
    assert_eq!(call.delete_prefix("user:".into()).await.unwrap().unwrap(), 1);
    world.grants.cache[0].access = Access::ReadOnly;
    let mut call = world.call(1);
    assert_eq!(cache::Host::get(&mut call, "user:1".into()).await.unwrap().unwrap(), None);
    assert!(matches!(call.take("user:1".into()).await.unwrap(), Err(Error::Denied(_))));
}

#[tokio::test]
async fn without_a_scope_a_plugin_has_the_keys_of_before_and_its_grants_alone() {
    let mut world = World::new();
    world.cache_scope = String::new();
    world.grants.cache[0].prefix = "user:".into();
    let before = (Bytes::from_static(b"before"), Duration::from_mins(1));
    for key in ["host:user:1", "host:session:1"] {
        world.cache.0.lock().unwrap().insert(key.into(), before.clone());
    }
    let mut call = world.call(1);
    assert_eq!(cache::Host::get(&mut call, "user:1".into()).await.unwrap().unwrap().as_deref(), Some(&b"before"[..]));
    assert!(call.set("user:2".into(), b"x".to_vec(), None, Condition::Always).await.unwrap().unwrap());
    assert!(world.cache.0.lock().unwrap().contains_key("host:user:2"));
    // There is no scope that would keep it from others' keys: its grants do.
    let others = cache::Host::get(&mut call, "session:1".into()).await.unwrap();
    assert!(matches!(others, Err(Error::Denied(_))), "{others:?}");
    for prefix in ["", "session:", "us"] {
        assert!(call.delete_prefix(prefix.into()).await.unwrap().is_err(), "{prefix:?}");
    }
    assert_eq!(call.delete_prefix("user:".into()).await.unwrap().unwrap(), 2);
    assert_eq!(world.cache.0.lock().unwrap().keys().collect::<Vec<_>>(), ["host:session:1"]);
}

#[tokio::test]
async fn what_one_cache_call_may_carry_is_bounded() {
    let mut world = World::new();
    (world.limits.cache_keys_max, world.limits.cache_value_max_bytes) = (2, 4);
    let mut call = world.call(1);
    let keys = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    assert!(matches!(call.get_many(keys).await.unwrap(), Err(Error::Exceeded(_))));
    let answer = call.set("a".into(), vec![0; 5], None, Condition::Always).await.unwrap();
    assert!(matches!(answer, Err(Error::Exceeded(_))));
}

#[tokio::test]
async fn without_a_grant_there_is_nothing() {
    let mut world = World::new();
    world.grants = crate::Grants::default();
    let mut call = world.call(1);
    assert!(matches!(call.publish("audit".into(), outgoing("1")).await.unwrap(), Err(Error::Denied(_))));
    assert!(matches!(call.quota().await.unwrap(), Err(Error::Denied(_))));
    assert!(matches!(
        crate::bindings::sql::HostConnection::open(&mut call, "main".into()).await.unwrap(),
        Err(Error::Denied(_))
    ));
    let opened = crate::bindings::documents::HostCollection::open(&mut call, "main".into(), "a".into()).await.unwrap();
    assert!(matches!(opened, Err(Error::Denied(_))));
    assert!(health::Host::connections(&mut call).await.unwrap().is_empty());
    let request = Request { name: "welcome".into(), locale: None, data: "{}".into() };
    assert!(templates::Host::render(&mut call, request).await.unwrap().is_err());
    let answers = call.publish_many("audit".into(), vec![outgoing("1"), outgoing("2")]).await.unwrap();
    assert!(answers.len() == 2 && answers.iter().all(|answer| matches!(answer, Err(Error::Denied(_)))));
    assert!(world.broker.messages.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_second_attempt_publishes_nothing_twice_whoever_deduplicates() {
    for deduplicates in [true, false] {
        let world = World::new();
        world.broker.deduplicates.store(deduplicates, Ordering::SeqCst);
        let mut first = world.call(1);
        let one = first.publish("audit".into(), outgoing("1")).await.unwrap().unwrap();
        let two = first.publish_many("audit".into(), vec![outgoing("2"), outgoing("3")]).await.unwrap();
        let mut second = world.call(2);
        assert_eq!(second.publish("audit".into(), outgoing("1")).await.unwrap().unwrap(), one);
        let again = second.publish_many("audit".into(), vec![outgoing("2"), outgoing("3")]).await.unwrap();
        assert!(two.iter().zip(&again).all(|(one, other)| one.as_ref().unwrap() == other.as_ref().unwrap()));
        world.settled().await;
        assert_eq!(world.broker.messages.lock().unwrap().len(), 3, "deduplicates: {deduplicates}");
        assert_eq!(world.state.steps().iter().filter(|step| **step == Step::EffectRepeated).count(), 3);
    }
}

#[tokio::test]
async fn a_failed_publish_that_is_tried_again_keeps_its_key() {
    for deduplicates in [true, false] {
        let world = World::new();
        world.broker.deduplicates.store(deduplicates, Ordering::SeqCst);
        world.broker.fails.lock().unwrap().push_back(port_error(ErrorKind::Unavailable));
        let mut first = world.call(1);
        let failed = first.publish("audit".into(), outgoing("1")).await.unwrap();
        assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
        let id = first.publish("audit".into(), outgoing("1")).await.unwrap().unwrap();
        assert_eq!(world.call(2).publish("audit".into(), outgoing("1")).await.unwrap().unwrap(), id);
        assert_eq!(world.broker.messages.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_follows_a_failed_publish_does_not_go_under_its_key() {
    for deduplicates in [true, false] {
        let world = World::new();
        world.broker.deduplicates.store(deduplicates, Ordering::SeqCst);
        world.broker.fails.lock().unwrap().push_back(port_error(ErrorKind::Unavailable));
        let mut first = world.call(1);
        assert!(first.publish("events".into(), outgoing("one")).await.unwrap().is_err());
        first.publish("events".into(), outgoing("two")).await.unwrap().unwrap();
        let mut second = world.call(2);
        for body in ["one", "two"] {
            second.publish("events".into(), outgoing(body)).await.unwrap().unwrap();
        }
        let stored = world.broker.messages.lock().unwrap();
        let bodies: Vec<_> = stored.iter().map(|message| &message.body[..]).collect();
        assert_eq!(bodies, [b"two", b"one"], "the broker deduplicates: {deduplicates}");
    }
}

#[tokio::test]
async fn a_published_message_goes_on_in_the_trace_and_waits_as_asked() {
    let world = World::new();
    let message = Outgoing { delay: Some(500), attributes: vec![("a".into(), "b".into())], ..outgoing("1") };
    world.call(1).publish("audit".into(), message).await.unwrap().unwrap();
    let stored = world.broker.messages.lock().unwrap()[0].clone();
    assert_eq!(stored.trace.trace_id(), world.attempt(1).message.trace.trace_id());
    assert_ne!(stored.trace, world.attempt(1).message.trace);
    assert_eq!((stored.published_at_ms, stored.not_before_ms), (1_000_000, 1_000_500));
}

#[tokio::test]
async fn one_bad_message_does_not_keep_the_others_from_going() {
    let world = World::new();
    let bad = Outgoing { ordering_key: Some(String::new()), ..outgoing("2") };
    let answers = world.call(1).publish_many("audit".into(), vec![outgoing("1"), bad, outgoing("3")]).await.unwrap();
    assert!(answers[0].is_ok() && matches!(answers[1], Err(Error::Invalid(_))) && answers[2].is_ok());
    let too_many = vec![outgoing("x"); 100];
    let answers = world.call(1).publish_many("audit".into(), [too_many, vec![outgoing("y")]].concat()).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Exceeded(_)))));
}

#[tokio::test]
async fn messages_that_handlers_published_follow_each_other_so_far_and_no_further() {
    for deduplicates in [true, false] {
        let mut world = World::new();
        world.limits.hops_max = 2;
        world.broker.deduplicates.store(deduplicates, Ordering::SeqCst);
        let mut attempt = world.attempt(1);
        for hops in [1, 2] {
            world.call_with(Some(attempt.clone())).publish("audit".into(), outgoing("on")).await.unwrap().unwrap();
            let published = world.broker.messages.lock().unwrap().last().unwrap().clone();
            assert_eq!(published.hops, hops);
            attempt.message = Arc::new(published);
        }
        let mut call = world.call_with(Some(attempt.clone()));
        let answer = call.publish("audit".into(), outgoing("on")).await.unwrap();
        assert!(matches!(&answer, Err(Error::Exceeded(why)) if why.contains("hops_max")), "{answer:?}");
        let answers = call.publish_many("audit".into(), vec![outgoing("1"), outgoing("2")]).await.unwrap();
        assert!(answers.len() == 2 && answers.iter().all(|answer| matches!(answer, Err(Error::Exceeded(_)))));
        assert_eq!(world.broker.messages.lock().unwrap().len(), 2, "deduplicates: {deduplicates}");
        // As far as can be counted, and no bound from there on.
        attempt.message = Arc::new(Message { hops: u8::MAX, ..(*attempt.message).clone() });
        world.limits.hops_max = 255;
        let answer = world.call_with(Some(attempt.clone())).publish("audit".into(), outgoing("on")).await.unwrap();
        assert!(matches!(answer, Err(Error::Exceeded(_))), "{answer:?}");
        world.limits.hops_max = 256;
        world.call_with(Some(attempt)).publish("audit".into(), outgoing("on")).await.unwrap().unwrap();
        assert_eq!(world.broker.messages.lock().unwrap().last().unwrap().hops, u8::MAX);
    }
}

#[tokio::test]
async fn whoever_publishes_one_by_one_without_end_is_paced() {
    let world = World::new();
    let mut call = world.call(1);
    for _ in 0..4 {
        call.publish("audit".into(), outgoing("1")).await.unwrap().unwrap();
    }
    let stored = || world.broker.messages.lock().unwrap().len();
    {
        let next = call.publish("audit".into(), outgoing("2"));
        tokio::pin!(next);
        for now_ms in 0..20 {
            // Until nothing can move but the clock.
            for _ in 0..100 {
                tokio::select! {
                    biased;
                    _ = &mut next => panic!("it was stored after {now_ms} ms"),
                    () = tokio::task::yield_now() => {}
                }
            }
            world.clock.advance(1);
        }
        assert_eq!(stored(), 4);
        next.await.unwrap().unwrap();
    }
    let (many, ()) = tokio::join!(call.publish_many("audit".into(), vec![outgoing("3"), outgoing("4")]), async {
        tokio::task::yield_now().await;
        world.clock.advance(20);
    });
    assert!(many.unwrap().iter().all(Result::is_ok));
    assert_eq!(stored(), 7, "many at once wait once");
}

#[tokio::test]
async fn outside_of_a_message_effects_go_straight() {
    let world = World::new();
    let mut call = world.call_with(None);
    call.publish("audit".into(), outgoing("1")).await.unwrap().unwrap();
    call.publish("audit".into(), outgoing("1")).await.unwrap().unwrap();
    assert_eq!(world.broker.messages.lock().unwrap().len(), 2);
    assert!(world.state.effects.lock().unwrap().is_empty());
}

fn letter(sender: Option<&str>, subject: &str) -> (Envelope, Body) {
    let mailbox = |address: &str| Mailbox { name: None, address: address.into() };
    let envelope = Envelope {
        sender: sender.map(mailbox),
        to: vec![mailbox("reader@example.org")],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        headers: Vec::new(),
        tags: Vec::new(),
        idempotency_key: None,
    };
    let parts = Parts { subject: subject.into(), html: None, text: Some("Hello".into()), attachments: Vec::new() };
    (envelope, Body::Parts(parts))
}

#[tokio::test]
async fn mail_goes_from_granted_senders_alone() {
    let world = World::new();
    for (sender, allowed) in [
        (None, true),
        (Some("team@example.com"), true),
        (Some("team@EXAMPLE.com"), true),
        (Some("team@example.org"), false),
        (Some("team@sub.example.com"), false),
        (Some("\"x@evil.example\"@example.com"), false),
        (Some("team@example.com\r\nBcc: x@evil.example"), false),
    ] {
        let (envelope, body) = letter(sender, &format!("{sender:?}").escape_debug().to_string());
        let answer = world.call(1).send(envelope, body).await.unwrap();
        assert_eq!(answer.is_ok(), allowed, "{sender:?}: {answer:?}");
    }
    let senders: Vec<_> = world.email.mails.lock().unwrap().iter().map(|mail| mail.sender.address.clone()).collect();
    assert_eq!(senders, ["noreply@example.com", "team@example.com", "team@example.com"]);
}

#[tokio::test]
async fn a_mail_that_cannot_be_is_rejected_and_leaves_no_key() {
    let world = World::new();
    let (envelope, body) = letter(None, "a\r\nBcc: x@evil.example");
    let answer = world.call(1).send(envelope, body).await.unwrap();
    assert!(matches!(answer, Err(SendError::Rejected(_))), "{answer:?}");
    let (envelope, _) = letter(None, "");
    let request = Request { name: "nothing".into(), locale: None, data: "{}".into() };
    let answer = world.call(1).send(envelope, Body::Template(request)).await.unwrap();
    assert!(matches!(answer, Err(SendError::Render(_))), "{answer:?}");
    assert!(world.state.effects.lock().unwrap().is_empty());
}

#[tokio::test]
async fn many_mails_are_answered_in_order_and_counted() {
    let mut world = World::new();
    world.limits.emails_max = 3;
    let mut call = world.call(1);
    let batch: Vec<_> = ["1", "\n", "3"].iter().map(|subject| letter(None, subject)).collect();
    let answers = call.send_many(batch).await.unwrap();
    assert!(answers[0].is_ok() && matches!(answers[1], Err(SendError::Rejected(_))) && answers[2].is_ok());
    let (envelope, body) = letter(None, "4");
    let answer = call.send(envelope, body).await.unwrap();
    assert!(matches!(answer, Err(SendError::Host(Error::Exceeded(_)))), "{answer:?}");
    assert!(world.state.effects.lock().unwrap().values().all(|(_, state)| matches!(state, EffectState::Sent(_))));
}

/// A thread that composes a hundred such mails in one go would have no time for anybody else's message.
#[tokio::test]
async fn mails_that_take_long_to_refuse_give_the_thread_away() {
    let world = World::new();
    let mut call = world.call(1);
    // Inlined it is larger than a mail may be, which is known once it is inlined.
    let rule = format!("p{{--long:{}}}", "x".repeat(9_000));
    let html = format!("<style>{rule}</style>{}", "<p>x</p>".repeat(500));
    let batch: Vec<_> = (0..9)
        .map(|_| {
            let (envelope, body) = letter(None, "long");
            let Body::Parts(parts) = body else { panic!("a letter has parts") };
            (envelope, Body::Parts(Parts { html: Some(html.clone()), ..parts }))
        })
        .collect();
    let mut sending = Box::pin(call.send_many(batch));
    let mut polls = 0;
    let answers = std::future::poll_fn(|context| {
        polls += 1;
        sending.as_mut().poll(context)
    })
    .await
    .unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Err(SendError::Rejected(_)))), "{:?}", answers[0]);
    assert!(polls >= 3, "{polls} polls for 9 mails: at most three in each");
}

#[tokio::test]
async fn sql_runs_by_grant_and_within_what_is_left_of_the_call() {
    let mut world = World::new();
    world.grants.sql[0].access = Access::ReadOnly;
    let mut call = world.call(1);
    let connection = crate::bindings::sql::HostConnection::open(&mut call, "main".into()).await.unwrap().unwrap();
    crate::bindings::sql::HostConnection::query(&mut call, again(&connection), "select 1".into(), Vec::new())
        .await
        .unwrap()
        .unwrap();
    world.clock.advance(9_000);
    let failed =
        crate::bindings::sql::HostConnection::query(&mut call, again(&connection), "fail".into(), Vec::new()).await;
    let Err(Error::Other(text)) = failed.unwrap() else { panic!("it failed otherwise") };
    assert_eq!(text, "connection `main`: as told", "nothing of the source");
    let asked = world.sql.asked.lock().unwrap();
    assert_eq!(
        asked.iter().map(|(access, limits)| (*access, limits.timeout_ms)).collect::<Vec<_>>(),
        [(Access::ReadOnly, 5_000), (Access::ReadOnly, 1_000)]
    );
}

#[test]
fn what_a_call_leaves_open_is_rolled_back_inside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, call) = runtime.block_on(async {
        let world = World::new();
        let mut call = world.call(1);
        let connection = crate::bindings::sql::HostConnection::open(&mut call, "main".into()).await.unwrap().unwrap();
        call.begin(again(&connection)).await.unwrap().unwrap();
        let done = call.begin(again(&connection)).await.unwrap().unwrap();
        call.commit(done).await.unwrap().unwrap();
        (world, call)
    });
    // On a thread without a runtime, as a guest's can be.
    assert_eq!(world.sql.open.load(Ordering::SeqCst), 1);
    assert_eq!(call.finish().open_transactions, 1);
    assert_eq!(world.sql.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_open_at_once_is_bounded() {
    let mut world = World::new();
    world.limits.resources_max = 2;
    let mut call = world.call(1);
    let connection = crate::bindings::sql::HostConnection::open(&mut call, "main".into()).await.unwrap().unwrap();
    call.begin(again(&connection)).await.unwrap().unwrap();
    let answer = call.begin(again(&connection)).await.unwrap();
    assert!(matches!(answer, Err(Error::Exceeded(_))), "{answer:?}");
    assert_eq!(world.sql.open.load(Ordering::SeqCst), 1, "the third was given back");
}

#[tokio::test]
async fn documents_are_read_and_written_by_grant() {
    let mut world = World::new();
    world.grants.documents[0].access = Access::ReadOnly;
    (world.limits.document_depth_max, world.limits.find_max) = (4, 50);
    let mut call = world.call(1);
    let options = || FindOptions { projection: None, sort: None, skip: 0, limit: None };
    let open = crate::bindings::documents::HostCollection::open(&mut call, "main".into(), "notes".into());
    let notes = open.await.unwrap().unwrap();
    let cursor = call.find(again(&notes), "{}".into(), options()).await.unwrap().unwrap();
    assert!(call.next(cursor).await.unwrap().unwrap().is_empty());
    assert_eq!(world.documents.finds.lock().unwrap()[0].limit, Some(50), "a find has a limit");
    let too_many = FindOptions { limit: Some(51), ..options() };
    assert!(matches!(call.find(again(&notes), "{}".into(), too_many).await.unwrap(), Err(Error::Exceeded(_))));
    assert!(matches!(call.insert_one(again(&notes), "{}".into()).await.unwrap(), Err(Error::Denied(_))));
    for (filter, what) in [("[]", "no object"), ("{", "no JSON"), ("{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", "too deep")] {
        let answer = call.count(again(&notes), filter.into()).await.unwrap();
        assert!(matches!(answer, Err(Error::Invalid(_))), "{what}: {answer:?}");
    }
    assert!(matches!(call.count(again(&notes), "{\"$where\":\"1\"}".into()).await.unwrap(), Err(Error::Denied(_))));
    for stage in ["{\"$out\":\"other\"}", "{\"\\u0024lookup\":{\"from\":\"other\"}}"] {
        let answer = call.aggregate(again(&notes), vec![stage.into()]).await.unwrap();
        assert!(matches!(answer, Err(Error::Denied(_))), "{stage}");
    }
    for name in ["", "system.users", "a$b", "../x"] {
        let answer = crate::bindings::documents::HostCollection::open(&mut call, "main".into(), name.into()).await;
        assert!(matches!(answer.unwrap(), Err(Error::Invalid(_))), "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_ends_at_the_limit_and_the_call_goes_on() {
    let mut world = World::new();
    world.limits.log_max_bytes = 100;
    let mut call = world.call(1);
    for _ in 0..10 {
        call.log(Level::Info, "x".repeat(30), Vec::new()).await.unwrap();
    }
    assert!(call.budget.log_dropped && call.budget.log_bytes <= 100);
    assert_eq!(health::Host::connections(&mut call).await.unwrap().len(), 2);
}
