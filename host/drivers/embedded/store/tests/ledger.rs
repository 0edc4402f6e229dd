//! The ledger against a model that is a list: any sequence of records, in commands of one transaction or of several, of
//! forgetting and of restarts leaves each message the history that the list has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sandpost_embedded_store::{Config, Store, open};
use sandpost_message::MessageId;
use sandpost_ports::clock::ManualClock;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use std::path::Path;
use std::sync::Arc;

/// Of one second, of its edges and of another time, of no time, and no UUIDs at all.
const IDS: [&str; 9] = [
    "00000000-0000-7000-8000-000000000001",
    "018f0000-0000-7000-8000-000000000001",
    "018f0000-0000-7000-8000-000000000002",
    "018f0000-0200-7000-8000-000000000001",
    "018f0000-03e8-7000-8000-ffffffffffff",
    "018f0000-03e9-7000-8000-000000000000",
    "ffffffff-ffff-4fff-bfff-ffffffffffff",
    "018F0000-0000-7000-8000-000000000001",
    "17",
];
const TRACES: [&str; 4] = ["0af7651916cd43dd8448eb211c80319c", "ffffffffffffffffffffffffffffffff", "", "a trace"];
const STEPS: [Step; 3] = [Step::Accepted, Step::RetryPlanned, Step::EffectSent];
/// Times of steps are below.
const END_MS: u64 = 12;

#[derive(Debug, Clone)]
enum Op {
    /// Commands that are asked for at once.
    Record(Vec<LedgerEntry>, Vec<LedgerEntry>),
    Forget {
        before_ms: u64,
        max: usize,
    },
    Reopen,
}

fn entry() -> impl Strategy<Value = LedgerEntry> {
    let usual_trace = prop_oneof![6 => Just(0), 1 => 0..TRACES.len()];
    // More than a segment takes, now and then.
    let detail = prop_oneof![6 => Just(None), 2 => (0..9_usize).prop_map(Some), 1 => Just(Some(9_000))];
    (0..IDS.len(), usual_trace, 0..STEPS.len(), 0..END_MS, prop::option::of(1..3_u32), detail).prop_map(
        |(id, trace, step, at_ms, attempt, detail)| LedgerEntry {
            message_id: IDS[id].parse().unwrap(),
            at_ms,
            step: STEPS[step],
            subscription: attempt.map(|_| "orders-handler".parse().unwrap()),
            attempt,
            plugin: attempt.map(|attempt| format!("plugin-{attempt}").parse().unwrap()),
            version: None,
            digest: None,
            trace_id: TRACES[trace].to_owned(),
            detail: detail.map(|length| "\"ü".repeat(length)),
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let entries = || prop::collection::vec(entry(), 0..30);
    let op = prop_oneof![
        6 => (entries(), entries()).prop_map(|(one, other)| Op::Record(one, other)),
        3 => (0..=END_MS, 1..40_usize).prop_map(|(before_ms, max)| Op::Forget { before_ms, max }),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..16)
}

fn at(path: &Path) -> Store {
    open(Some(path), &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap()
}

/// Whether the few are among the many, in their order.
fn is_among(few: &[LedgerEntry], many: &[LedgerEntry]) -> bool {
    let mut many = many.iter();
    few.iter().all(|one| many.any(|other| other == one))
}

async fn run(ops: Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut store = at(&path);
    let mut model: Vec<LedgerEntry> = Vec::new();
    for op in ops {
        let mut forgotten = None;
        match op {
            Op::Record(one, other) => {
                model.extend(one.iter().chain(&other).cloned());
                let (one, other) = tokio::join!(biased; store.record(one), store.record(other));
                one.unwrap();
                other.unwrap();
            }
            Op::Forget { before_ms, max } => {
                let old = model.iter().filter(|entry| entry.at_ms < before_ms).count();
                let count = store.forget_before(before_ms, max).await.unwrap();
                assert_eq!(count, u64::try_from(old.min(max)).unwrap(), "{old} were old");
                forgotten = Some((before_ms, old.min(max)));
            }
            Op::Reopen => {
                store.close().await;
                store = at(&path);
            }
        }
        let mut left = Vec::new();
        for id in IDS {
            let id: MessageId = id.parse().unwrap();
            let history = store.history(&id).await.unwrap();
            let expected: Vec<_> = model.iter().filter(|entry| entry.message_id == id).cloned().collect();
            match forgotten {
                None => assert_eq!(history, expected),
                // Which of the old ones went first is the store's to choose.
                Some((before_ms, _)) => {
                    let young: Vec<_> = expected.iter().filter(|entry| entry.at_ms >= before_ms).cloned().collect();
                    assert!(is_among(&history, &expected) && is_among(&young, &history), "{history:?}, {expected:?}");
                }
            }
            left.extend(history);
        }
        assert_eq!(left.len() + forgotten.map_or(0, |(_, count)| count), model.len());
        model = left;
    }
    let old = u64::try_from(model.len()).unwrap();
    assert_eq!(store.forget_before(END_MS, usize::MAX).await.unwrap(), old, "what is left is all that is left");
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_says_what_the_list_says(ops in ops()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(ops));
    }
}
