//! Ordering keys.

use super::{Line, Setup, bodies};
use crate::broker::Settlement;

pub(super) async fn one_of_a_key_is_out_at_a_time_in_publish_order(setup: &Setup) {
    let line = Line::new(setup).await;
    let messages = ["a1", "b1", "a2", "a3", "b2"].map(|body| line.keyed(&body[..1], body));
    line.publish_all(messages.to_vec()).await;
    line.publish(line.message("free")).await;

    let mut out = line.collect(3).await;
    out.sort_by(|one, two| one.message.body.cmp(&two.message.body));
    assert_eq!(bodies(&out), ["a1", "b1", "free"]);
    line.stays_quiet("each key has one out").await;

    let (free, b1, a1) = (out.remove(2), out.remove(1), out.remove(0));
    line.done(free).await;
    line.done(a1).await;
    let a2 = line.next_one().await;
    assert_eq!(a2.message.body, "a2");
    line.done(b1).await;
    let b2 = line.next_one().await;
    assert_eq!(b2.message.body, "b2");
    line.done(a2).await;
    let a3 = line.next_one().await;
    assert_eq!(a3.message.body, "a3");
    line.done(b2).await;
    line.done(a3).await;
    line.stays_quiet("all were acknowledged").await;

    // A key that was empty begins anew.
    line.publish(line.keyed("a", "a4")).await;
    let a4 = line.next_one().await;
    assert_eq!(a4.message.body, "a4");
    line.done(a4).await;
}

pub(super) async fn a_back_off_holds_its_key_and_no_other(setup: &Setup) {
    // Where the back-off was over before one was taken, either key may come first. On a busy machine that is so once in a
    // while; where the key holds up the other, always.
    for _ in 0..5 {
        let line = Line::new(setup).await;
        line.publish_all(vec![line.keyed("a", "a1"), line.keyed("a", "a2")]).await;
        let a1 = line.next_one().await;
        let at_ms = line.now_ms() + 2 * setup.lease_ms;
        line.settle(a1, Settlement::RetryAt(at_ms)).await;
        line.publish(line.keyed("b", "b1")).await;
        let first = line.next_one().await;
        let other_goes_on = first.message.body == "b1";
        let a1 = if other_goes_on {
            line.done(first).await;
            line.next_one().await
        } else {
            first
        };
        assert_eq!((&a1.message.body[..], a1.attempt), (&b"a1"[..], 2));
        assert!(line.now_ms() >= at_ms);
        if !other_goes_on {
            let b1 = line.next_one().await;
            assert_eq!(b1.message.body, "b1");
            line.done(b1).await;
        }
        line.settle(a1, Settlement::HandBack(line.now_ms())).await;
        let a1 = line.next_one().await;
        assert_eq!((&a1.message.body[..], a1.attempt), (&b"a1"[..], 2), "a hand-back holds its key too");
        line.done(a1).await;
        let a2 = line.next_one().await;
        assert_eq!((&a2.message.body[..], a2.attempt), (&b"a2"[..], 1));
        line.done(a2).await;
        if other_goes_on {
            return;
        }
    }
    panic!("another key waits for the end of the back-off");
}

pub(super) async fn a_lost_lease_holds_its_key(setup: &Setup) {
    let line = Line::new(setup).await;
    line.publish_all(vec![line.keyed("a", "a1"), line.keyed("a", "a2")]).await;
    let lost = line.next_for(2, setup.lease_ms).await;
    assert_eq!(bodies(&lost), ["a1"]);
    let a1 = line.next_one().await;
    assert_eq!((&a1.message.body[..], a1.attempt), (&b"a1"[..], 2));
    line.done(a1).await;
    let a2 = line.next_one().await;
    assert_eq!(a2.message.body, "a2");
    line.done(a2).await;
}

pub(super) async fn a_freed_key_wakes_a_waiting_next(setup: &Setup) {
    let line = Line::new(setup).await;
    line.publish_all(vec![line.keyed("a", "a1"), line.keyed("a", "a2")]).await;
    let a1 = line.next_one().await;
    let settle = async {
        setup.clock.sleep_until(line.now_ms() + 20).await;
        line.done(a1).await;
    };
    let (a2, ()) = tokio::join!(line.next_one(), settle);
    assert_eq!(a2.message.body, "a2");
    line.done(a2).await;
}
