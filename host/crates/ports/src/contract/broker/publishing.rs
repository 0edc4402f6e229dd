//! From publish to the subscriptions: where a message goes, when, and as what.

use super::{Line, Setup};
use crate::ErrorKind;
use crate::broker::{Backlog, Settlement};
use crate::contract::random_name;
use sandpost_message::{Message, TraceParent, limits};

pub(super) async fn each_subscription_gets_its_own(setup: &Setup) {
    let one = Line::new(setup).await;
    let two = Line::on(setup, one.topic.clone()).await;
    one.publish(one.message("both")).await;
    let (mine, yours) = (one.next_one().await, two.next_one().await);
    assert_eq!(mine.message, yours.message);
    one.done(mine).await;
    one.stays_quiet("it was acknowledged here").await;
    let at_ms = two.now_ms();
    two.settle(yours, Settlement::RetryAt(at_ms)).await;
    let again = two.next_one().await;
    assert_eq!((again.attempt, &again.message.body[..]), (2, &b"both"[..]));
    two.done(again).await;
}

pub(super) async fn a_later_subscription_starts_empty(setup: &Setup) {
    let one = Line::new(setup).await;
    one.publish(one.message("before")).await;
    let two = Line::on(setup, one.topic.clone()).await;
    two.publish(two.message("after")).await;
    let after = two.next_one().await;
    assert_eq!(after.message.body, "after");
    two.done(after).await;
    for delivery in one.collect(2).await {
        one.done(delivery).await;
    }
    // Opened again it is the same one.
    two.publish(two.message("last")).await;
    let again = setup.broker.subscribe(&two.name, &two.topic).await.unwrap();
    let last = two.within("a delivery", again.next(1, two.long_ms())).await.unwrap().remove(0);
    assert_eq!(last.message.body, "last");
    again.settle(last.receipt, Settlement::Done).await.unwrap();
}

pub(super) async fn only_goes_to_one(setup: &Setup) {
    let one = Line::new(setup).await;
    let two = Line::on(setup, one.topic.clone()).await;
    one.publish(Message { only: Some(two.name.clone()), ..one.message("yours") }).await;
    let delivery = two.next_one().await;
    assert_eq!(delivery.message.only.as_ref(), Some(&two.name));
    two.done(delivery).await;
    one.stays_quiet("it was for the other one").await;

    let stranger = random_name("subscription").parse().unwrap();
    let message = Message { only: Some(stranger), ..one.message("nobody's") };
    let refused = setup.broker.publish(vec![message]).await.remove(0).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused}");
}

pub(super) async fn a_replay_is_delivered_afresh(setup: &Setup) {
    let line = Line::new(setup).await;
    let other = Line::on(setup, line.topic.clone()).await;
    let message = Message { dedupe_key: Some(random_name("key")), ..line.message("replayed") };
    line.publish(message.clone()).await;
    let first = line.next_one().await;
    let at_ms = line.now_ms();
    line.settle(first, Settlement::RetryAt(at_ms)).await;
    let second = line.next_one().await;
    line.done(second).await;
    // The other subscription still has it, under the same id; the replay has a dedupe key of its own.
    let replay = Message { only: Some(line.name.clone()), dedupe_key: Some(random_name("replay")), ..message };
    let published = line.publish(replay.clone()).await;
    assert!(!published.duplicate, "a replay is not a duplicate");
    if setup.broker.deduplicates() {
        // Whoever replayed was cut off before it knew, and replays again.
        assert!(line.publish(replay.clone()).await.duplicate, "one replay is delivered once");
    }
    let delivery = line.next_one().await;
    assert_eq!((delivery.attempt, &*delivery.message), (1, &replay));
    line.done(delivery).await;
    let delivery = other.next_one().await;
    assert_eq!(delivery.attempt, 1);
    other.done(delivery).await;
    other.stays_quiet("the replay was not for this one").await;
}

pub(super) async fn a_topic_without_subscriptions_is_refused(setup: &Setup) {
    let line = Line::new(setup).await;
    let nowhere = random_name("topic").parse().unwrap();
    let batch = vec![line.message("first"), Message::new(nowhere, "lost", line.now_ms()), line.message("third")];
    let ids: Vec<_> = batch.iter().map(|message| message.id.clone()).collect();
    let answers = setup.broker.publish(batch).await;
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].as_ref().unwrap().id, ids[0]);
    assert_eq!(answers[1].as_ref().unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(answers[2].as_ref().unwrap().id, ids[2]);
    for delivery in line.collect(2).await {
        assert!(["first", "third"].contains(&std::str::from_utf8(&delivery.message.body).unwrap()));
        line.done(delivery).await;
    }
    assert!(setup.broker.publish(Vec::new()).await.is_empty());
}

pub(super) async fn a_name_is_bound_to_one_topic(setup: &Setup) {
    let line = Line::new(setup).await;
    let elsewhere = random_name("topic").parse().unwrap();
    let refused = setup.broker.subscribe(&line.name, &elsewhere).await.err().expect("the name is taken");
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    let lost = Message::new(elsewhere, "nobody's", line.now_ms());
    let refused = setup.broker.publish(vec![lost]).await.remove(0).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid, "what was refused listens to nothing: {refused}");
}

pub(super) async fn a_known_dedupe_key_stores_nothing(setup: &Setup) {
    if !setup.broker.deduplicates() {
        return;
    }
    let line = Line::new(setup).await;
    let key = random_name("key");
    let keyed = |body: &str| Message { dedupe_key: Some(key.clone()), ..line.message(body) };
    let first = line.publish(keyed("first")).await;
    assert!(!first.duplicate);
    let second = line.publish(keyed("second")).await;
    assert_eq!((second.duplicate, &second.id), (true, &first.id));
    let delivery = line.next_one().await;
    assert_eq!(delivery.message.body, "first");
    line.done(delivery).await;
    // Known beyond the acknowledgement, and within one batch.
    let answers = setup.broker.publish(vec![keyed("third"), line.message("other"), keyed("fourth")]).await;
    let duplicates: Vec<bool> = answers.iter().map(|answer| answer.as_ref().unwrap().duplicate).collect();
    assert_eq!(duplicates, [true, false, true]);
    let delivery = line.next_one().await;
    assert_eq!(delivery.message.body, "other");
    line.done(delivery).await;
    line.stays_quiet("the others were duplicates").await;

    let elsewhere = Line::new(setup).await;
    let published = elsewhere.publish(Message { dedupe_key: Some(key), ..elsewhere.message("elsewhere") }).await;
    assert!(!published.duplicate, "a key belongs to its topic");
    let delivery = elsewhere.next_one().await;
    elsewhere.done(delivery).await;
}

pub(super) async fn nothing_comes_before_its_time(setup: &Setup) {
    // Where both were due before one was taken, either may come first. On a busy machine that is so once in a while; where
    // one waits for the other, always.
    for _ in 0..5 {
        let line = Line::new(setup).await;
        let at_ms = line.now_ms() + 2 * setup.lease_ms;
        line.publish(Message { not_before_ms: at_ms, ..line.message("later") }).await;
        line.publish(line.message("now")).await;
        let first = line.next_one().await;
        let at_once = first.message.body == "now";
        let later = if at_once {
            line.done(first).await;
            line.next_one().await
        } else {
            first
        };
        assert!(line.now_ms() >= at_ms, "it came {} ms too early", at_ms - line.now_ms());
        assert_eq!(later.message.body, "later");
        assert_eq!((later.attempt, later.message.not_before_ms), (1, at_ms));
        line.done(later).await;
        if at_once {
            return;
        }
        let now = line.next_one().await;
        assert_eq!(now.message.body, "now");
        line.done(now).await;
    }
    panic!("what is due at once waits for what is due later");
}

pub(super) async fn a_message_arrives_as_it_was_published(setup: &Setup) {
    let line = Line::new(setup).await;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let text = |text: &str| text.to_owned();
    let attributes = |count: usize| (0..count).map(|n| (format!("key-{n}"), format!("värde \u{1f4ee} {n}"))).collect();
    let messages = [
        Message { body: every_byte.into(), content_type: text("application/octet-stream"), ..line.message("") },
        Message { body: Vec::new().into(), content_type: text("text/plain; charset=\"utf-8\""), ..line.message("") },
        Message { attributes: attributes(limits::ATTRIBUTES_MAX), ..line.message("{\"a\": [1, 2]}") },
        Message { attributes: vec![(text("z"), String::new()), (text("a"), text("\n\t\"\\'"))], ..line.message("x") },
        Message { ordering_key: Some(text("clé / ключ \u{0}")), hops: u8::MAX, ..line.message("ordered") },
        Message { hops: 7, ..line.message("a plugin's") },
        Message { dedupe_key: Some(random_name("dedupe")), ..line.message("once") },
        Message { body: vec![b'x'; 1024 * 1024].into(), trace: TraceParent::new().child(), ..line.message("") },
    ];
    for message in messages {
        line.publish(message.clone()).await;
        for attempt in 1..=2 {
            let delivery = line.next_one().await;
            assert_eq!(delivery.attempt, attempt);
            // Not by `assert_eq`: a megabyte helps nobody.
            assert!(*delivery.message == message, "changed on attempt {attempt}: {:?}", delivery.message.content_type);
            let again = if attempt == 1 { Settlement::RetryAt(line.now_ms()) } else { Settlement::Done };
            line.settle(delivery, again).await;
        }
    }
}

pub(super) async fn a_backlog_is_counted(setup: &Setup) {
    let line = Line::new(setup).await;
    match setup.broker.backlog(&line.name).await {
        Ok(backlog) => assert_eq!(backlog, Backlog::default()),
        Err(error) if error.kind == ErrorKind::Unsupported => return,
        Err(error) => panic!("{error}"),
    }
    let at_ms = line.now_ms() + 100 * line.long_ms();
    let first = line.message("free");
    line.publish_all(vec![
        first.clone(),
        line.keyed("a", "a1"),
        line.keyed("a", "a2"),
        line.keyed("a", "a3"),
        Message { not_before_ms: at_ms, ..line.message("later") },
    ])
    .await;
    let oldest_published_at_ms = Some(first.published_at_ms);
    let backlog = setup.broker.backlog(&line.name).await.unwrap();
    assert_eq!(backlog, Backlog { ready: 2, in_flight: 0, held: 3, oldest_published_at_ms });

    let mut out = line.collect(2).await;
    let backlog = setup.broker.backlog(&line.name).await.unwrap();
    assert_eq!(backlog, Backlog { ready: 0, in_flight: 2, held: 3, oldest_published_at_ms });

    out.sort_by_key(|delivery| delivery.message.ordering_key.is_some());
    let (a1, free) = (out.remove(1), out.remove(0));
    line.settle(free, Settlement::RetryAt(at_ms)).await;
    line.done(a1).await;
    let backlog = setup.broker.backlog(&line.name).await.unwrap();
    assert_eq!(backlog, Backlog { ready: 1, in_flight: 0, held: 3, oldest_published_at_ms });

    let stranger = random_name("subscription").parse().unwrap();
    assert_eq!(setup.broker.backlog(&stranger).await.unwrap_err().kind, ErrorKind::Invalid);
}
