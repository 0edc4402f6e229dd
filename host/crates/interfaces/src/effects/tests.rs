//! Every state that an effect can be found in, and every way a hand-over can end, through the e-mail interface.

use super::*;
use crate::Call;
use crate::bindings::Error;
use crate::bindings::email::{Body, Envelope, Host, Mailbox, Outcome, SendError};
use crate::bindings::template::Request;
use crate::testing::{World, port_error, wait_until};
use sandpost_ports::email as port;
use std::sync::atomic::Ordering;

fn envelope() -> Envelope {
    Envelope {
        sender: None,
        to: vec![Mailbox { name: None, address: "reader@example.org".into() }],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        headers: Vec::new(),
        tags: Vec::new(),
        idempotency_key: None,
    }
}

fn welcome() -> Body {
    Body::Template(Request { name: "welcome".into(), locale: None, data: "{}".into() })
}

async fn send(call: &mut Call) -> Result<Outcome, SendError> {
    call.send(envelope(), welcome()).await.unwrap()
}

fn sent(answer: &Result<Outcome, SendError>) -> &str {
    match answer {
        Ok(Outcome::Sent(id)) => id,
        other => panic!("not sent: {other:?}"),
    }
}

fn repeated(answer: &Result<Outcome, SendError>) -> &str {
    match answer {
        Ok(Outcome::AlreadySent(id)) => id,
        other => panic!("not known as sent: {other:?}"),
    }
}

fn is_unknown(answer: &Result<Outcome, SendError>) -> bool {
    matches!(answer, Err(SendError::Host(Error::UnknownOutcome(_))))
}

/// Leaves the store as a host does that died at this point of the first attempt.
async fn crashed_at(world: &World, state: EffectState) {
    sent(&send(&mut world.call(1)).await);
    world.settled().await;
    let (key, _) = world.state.only();
    world.state.put(&key, "run-0/m/1", state);
    world.state.entries.lock().unwrap().clear();
    world.email.mails.lock().unwrap().clear();
}

#[tokio::test]
async fn fresh_is_done_and_recorded_step_by_step() {
    let world = World::new();
    assert_eq!(sent(&send(&mut world.call(1)).await), "mail-1");
    assert_eq!(world.state.only().1, EffectState::Sent("mail-1".into()));
    assert_eq!(world.state.steps(), [Step::EffectClaimed, Step::EffectSending, Step::EffectSent]);
    let entries = world.state.entries.lock().unwrap();
    let last = entries.last().unwrap();
    assert_eq!((last.attempt, last.plugin.as_ref().unwrap().as_str()), (Some(1), "mailer"));
    assert_eq!(last.detail.as_deref(), Some("email template welcome, 1 recipients: mail-1"));
}

#[tokio::test]
async fn a_second_attempt_gets_the_id_of_then_and_nothing_is_sent() {
    let world = World::new();
    sent(&send(&mut world.call(1)).await);
    assert_eq!(repeated(&send(&mut world.call(2)).await), "mail-1");
    world.settled().await;
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
    assert_eq!(world.state.steps().last(), Some(&Step::EffectRepeated));
}

#[tokio::test]
async fn crashed_at_claimed_is_done() {
    let world = World::new();
    crashed_at(&world, EffectState::Claimed).await;
    sent(&send(&mut world.call(2)).await);
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn crashed_at_sending_is_held_where_the_subscription_says_so() {
    let world = World::new();
    crashed_at(&world, EffectState::Sending).await;
    let mut call = world.call(2);
    assert!(is_unknown(&send(&mut call).await));
    assert!(call.finish().held.is_some_and(|reason| reason.contains("template welcome")));
    world.settled().await;
    assert!(world.email.mails.lock().unwrap().is_empty());
    assert_eq!(world.state.steps(), [Step::EffectUnknown]);
    assert_eq!(world.state.only().1, EffectState::Sending, "an operator still has to decide");
}

#[tokio::test]
async fn crashed_at_sending_is_sent_again_where_the_subscription_says_so() {
    let mut world = World::new();
    world.unknown_effects = UnknownEffects::SendAgain;
    crashed_at(&world, EffectState::Sending).await;
    let mut call = world.call(2);
    sent(&send(&mut call).await);
    assert_eq!(call.finish().held, None);
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
    assert!(matches!(world.state.only().1, EffectState::Sent(_)));
}

#[tokio::test]
async fn crashed_at_sending_is_repeated_under_its_key_where_the_provider_knows_keys() {
    let world = World::new();
    world.email.deduplicates.store(true, Ordering::SeqCst);
    crashed_at(&world, EffectState::Sending).await;
    let key = world.state.only().0;
    let mut call = world.call(2);
    sent(&send(&mut call).await);
    assert_eq!(call.finish().held, None);
    assert_eq!(world.email.mails.lock().unwrap()[0].key, key);
}

#[tokio::test]
async fn of_two_at_once_one_sends_and_the_other_learns_of_it() {
    let world = World::new();
    world.email.gate.forget_permits(1000);
    let (mut one, mut two) = (world.call(1), world.call(1));
    let (first, second, ()) = tokio::join!(send(&mut one), send(&mut two), async {
        wait_until(|| world.email.arrived.load(Ordering::SeqCst) == 1).await;
        world.email.gate.add_permits(2);
    });
    let (first, second) = if matches!(first, Ok(Outcome::Sent(_))) { (first, second) } else { (second, first) };
    assert_eq!(sent(&first), repeated(&second));
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_same_mail_twice_in_one_batch_goes_once() {
    let world = World::new();
    let answers = world.call(1).send_many(vec![(envelope(), welcome()), (envelope(), welcome())]).await.unwrap();
    assert_eq!(sent(&answers[0]), repeated(&answers[1]));
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_guest_that_dies_does_not_take_the_hand_over_along() {
    let world = World::new();
    world.email.gate.forget_permits(1000);
    let mut call = world.call(1);
    tokio::select! {
        answer = send(&mut call) => panic!("the gate is shut: {answer:?}"),
        () = wait_until(|| world.email.arrived.load(Ordering::SeqCst) == 1) => {}
    }
    drop(call);
    world.email.gate.add_permits(1);
    world.effects.drain().await;
    assert_eq!(world.state.only().1, EffectState::Sent("mail-1".into()));
    assert_eq!(repeated(&send(&mut world.call(2)).await), "mail-1");
}

#[tokio::test]
async fn waiting_for_another_ends_at_the_deadline_without_a_hold() {
    let world = World::new();
    world.email.gate.forget_permits(1000);
    let (mut one, mut two) = (world.call(1), world.call(1));
    tokio::select! {
        answer = send(&mut one) => panic!("the gate is shut: {answer:?}"),
        () = wait_until(|| world.email.arrived.load(Ordering::SeqCst) == 1) => {}
    }
    world.clock.advance(10_000);
    assert!(is_unknown(&send(&mut two).await));
    assert_eq!(two.finish().held, None);
    world.email.gate.add_permits(1);
    world.settled().await;
}

#[tokio::test]
async fn where_nothing_was_done_the_key_is_free_again() {
    let after_ms = Some(5);
    let refusals = [
        port::SendError::Rejected { reason: "no such domain".into(), source: None },
        port::SendError::Throttled { after_ms },
        port::SendError::Suppressed,
        port::SendError::Port(port_error(ErrorKind::Unavailable)),
    ];
    for refusal in refusals {
        let (world, text) = (World::new(), format!("{refusal:?}"));
        world.email.fails.lock().unwrap().push_back(refusal);
        let answer = send(&mut world.call(1)).await;
        let as_told = matches!(
            &answer,
            Err(SendError::Rejected(_) | SendError::Throttled(Some(5)) | SendError::Host(Error::Unavailable(_)))
                | Ok(Outcome::Suppressed)
        );
        assert!(as_told, "{text}: {answer:?}");
        assert!(world.state.effects.lock().unwrap().is_empty(), "{text}");
        sent(&send(&mut world.call(1)).await);
    }
}

#[tokio::test]
async fn a_provider_that_takes_nothing_for_now_is_reported_with_the_call() {
    let world = World::new();
    let paused = port::SendError::Paused { reason: "sending is paused".into(), after_ms: 30_000 };
    world.email.fails.lock().unwrap().push_back(paused);
    let mut call = world.call(1);
    let answer = send(&mut call).await;
    assert!(matches!(answer, Err(SendError::Throttled(Some(30_000)))), "{answer:?}");
    let postponed = call.finish().postponed;
    assert!(postponed.is_some_and(|postponed| postponed.after_ms == 30_000 && postponed.reason == "sending is paused"));
    assert!(world.state.effects.lock().unwrap().is_empty(), "nothing was sent, so the key is free");
    let mut again = world.call(1);
    sent(&send(&mut again).await);
    assert_eq!(again.finish().postponed, None);
}

#[tokio::test]
async fn an_answer_that_says_nothing_leaves_it_unknown() {
    let world = World::new();
    let lost = port::SendError::Port(port_error(ErrorKind::UnknownOutcome));
    world.email.fails.lock().unwrap().push_back(lost);
    let mut first = world.call(1);
    assert!(is_unknown(&send(&mut first).await));
    assert_eq!(first.finish().held, None, "the guest decides about this attempt");
    assert_eq!(world.state.only().1, EffectState::Sending);
    let mut second = world.call(2);
    assert!(is_unknown(&send(&mut second).await));
    assert!(second.finish().held.is_some());
    assert!(world.email.mails.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_provider_that_never_answers_is_unknown_after_the_timeout() {
    let world = World::with_timeout(Duration::from_millis(20));
    world.email.gate.forget_permits(1000);
    assert!(is_unknown(&send(&mut world.call(1)).await));
    assert_eq!(world.state.only().1, EffectState::Sending);
}

#[tokio::test]
async fn a_store_that_does_not_answer_keeps_the_mail_from_going() {
    let world = World::new();
    world.state.advance_fails.lock().unwrap().push_back(port_error(ErrorKind::UnknownOutcome));
    let answer = send(&mut world.call(1)).await;
    assert!(matches!(answer, Err(SendError::Host(Error::Unavailable(_)))), "{answer:?}");
    assert_eq!(world.email.arrived.load(Ordering::SeqCst), 0);
    sent(&send(&mut world.call(2)).await);
}

#[tokio::test]
async fn a_store_that_never_answers_holds_up_neither_key_nor_stop() {
    let world = World::with_timeout(Duration::from_millis(20));
    world.state.advance_hangs.store(true, Ordering::SeqCst);
    let answer = send(&mut world.call(1)).await;
    assert!(matches!(answer, Err(SendError::Host(Error::Unavailable(_)))), "{answer:?}");
    world.effects.drain().await;
    world.state.advance_hangs.store(false, Ordering::SeqCst);
    sent(&send(&mut world.call(2)).await);
    assert_eq!(world.email.mails.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_note_of_a_sent_mail_is_tried_again() {
    let world = World::new();
    world.email.gate.forget_permits(1000);
    let mut call = world.call(1);
    let (answer, ()) = tokio::join!(send(&mut call), async {
        wait_until(|| world.email.arrived.load(Ordering::SeqCst) == 1).await;
        world.state.advance_fails.lock().unwrap().push_back(port_error(ErrorKind::Unavailable));
        world.email.gate.add_permits(1);
    });
    sent(&answer);
    assert_eq!(world.state.only().1, EffectState::Sent("mail-1".into()));
}

#[tokio::test]
async fn keys_tell_what_the_mail_is() {
    let world = World::new();
    let key = |attempt, recipients: &[&str], what| keys::email(&world.attempt(attempt), recipients.to_vec(), what);
    let base = key(1, &["a@x.example", "b@x.example"], "template-welcome");
    assert_eq!(base, key(2, &["b@x.example", "a@x.example"], "template-welcome"), "neither attempt nor order");
    assert_ne!(base, key(1, &["a@x.example"], "template-welcome"));
    assert_ne!(base, key(1, &["a@x.example", "b@x.example"], "template-other"));
    assert_ne!(base, key(1, &["a@x.exampleb@x.example"], "template-welcome"));
    let (one, two) = ("mailer".parse().unwrap(), "other".parse().unwrap());
    assert_ne!(keys::given_email(&one, "k"), keys::given_email(&two, "k"));
    assert!(base.len() <= 512 && !base.contains('@'));
    let id = world.attempt(1).message.id.clone();
    assert!(base.starts_with(&format!("e2-{}", &id.as_str()[..13])), "messages of one time stand together");
}

#[tokio::test]
async fn a_key_of_the_plugins_own_is_one_mail_over_messages() {
    let world = World::new();
    let mut own = envelope();
    own.idempotency_key = Some("order-7".into());
    sent(&world.call(1).send(own.clone(), welcome()).await.unwrap());
    let other = world.with_another_message();
    own.to[0].address = "another@example.org".into();
    repeated(&other.call(1).send(own, welcome()).await.unwrap());
}

#[tokio::test]
async fn the_embedded_store_keeps_the_same_promises_and_an_operator_can_decide() {
    use sandpost_ports::state::Effects as _;
    let mut world = World::new();
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let store =
        sandpost_embedded_store::open(None, &sandpost_embedded_store::Config::default(), clock.clone()).unwrap();
    let store = Arc::new(store);
    let io = Handle::current();
    world.effects = Arc::new(Effects::new(store.clone(), clock, io, "run-1", Duration::from_secs(30)));
    let lost = || port::SendError::Port(port_error(ErrorKind::UnknownOutcome));

    world.email.fails.lock().unwrap().push_back(lost());
    assert!(is_unknown(&send(&mut world.call(1)).await));
    let mut held = world.call(2);
    assert!(is_unknown(&send(&mut held).await));
    assert!(held.finish().held.is_some());

    // "It was not done."
    let Attempt { message, subscription, .. } = world.attempt(3);
    assert_eq!(store.resolve_unknown(&message.id, &subscription, false).await.unwrap(), 1);
    assert_eq!(sent(&send(&mut world.call(3)).await), "mail-1");
    assert_eq!(repeated(&send(&mut world.call(4)).await), "mail-1");

    // "It was done", of another message.
    let mut world = world.with_another_message();
    world.email.fails.lock().unwrap().push_back(lost());
    assert!(is_unknown(&send(&mut world.call(1)).await));
    let Attempt { message, subscription, .. } = world.attempt(2);
    assert_eq!(store.resolve_unknown(&message.id, &subscription, true).await.unwrap(), 1);
    repeated(&send(&mut world.call(2)).await);

    // And the policy to send again, which takes the key over.
    world = world.with_another_message();
    world.unknown_effects = UnknownEffects::SendAgain;
    world.email.fails.lock().unwrap().push_back(lost());
    assert!(is_unknown(&send(&mut world.call(1)).await));
    sent(&send(&mut world.call(2)).await);
    assert_eq!(world.email.mails.lock().unwrap().len(), 2);
    world.effects.drain().await;
    store.close().await;
}
