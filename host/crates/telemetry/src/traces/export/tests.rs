//! The queue before the collector: full, at a stop, the waits between tries, and how often its trouble is said.

use super::*;

fn span(name: &str) -> Span {
    Span { name: name.to_owned(), ..Span::default() }
}

#[test]
fn a_full_queue_drops_what_would_go_in_and_counts_it() {
    let queue = Queue::default();
    for number in 0..QUEUE_SPANS_MAX + 3 {
        queue.push(span(&number.to_string()));
    }
    assert_eq!(queue.lost.load(Ordering::Relaxed), 3);
    let batch = queue.next_batch().unwrap();
    assert_eq!((batch.len(), &*batch[0].name), (BATCH_SPANS_MAX, "0"));
}

#[test]
fn a_stop_leaves_nothing_waiting() {
    let queue = Queue::default();
    queue.push(span("last"));
    let began = Instant::now();
    // Nobody empties it.
    queue.end(Duration::from_millis(1));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(queue.lost.load(Ordering::Relaxed), 1);
    queue.push(span("late"));
    assert_eq!(queue.lost.load(Ordering::Relaxed), 2);
    assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(1));
    assert!(queue.next_batch().is_none());
}

#[test]
fn a_wait_is_never_longer_and_at_least_half() {
    for _ in 0..100 {
        let wait = spread(Duration::from_secs(8));
        assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&wait), "{wait:?}");
    }
}

#[test]
fn a_line_comes_first_and_then_once_in_a_while() {
    let failure = Failure { kind: "unreachable", what: "refused".to_owned(), passes: true, retry_after: None };
    let mut reports = Reports::default();
    assert!(reports.due());
    reports.failed(&failure, 1);
    assert!(!reports.due());
    reports.failed(&failure, 2);
    assert_eq!(reports.lost_said, 1);
    reports.said = Instant::now().checked_sub(LINE_EVERY);
    assert!(reports.due());
    reports.taken(2);
    assert!(!reports.failing);
}
