//! Seeds, many of them.
//!
//! - `cargo test -p sandpost-simulation`: the short run, [`SEEDS`] seeds and every crash point of [`CRASHED`] small ones.
//! - `SANDPOST_LONG=1`: a million seeds. `SANDPOST_SEEDS=N`: as many as that. `SANDPOST_FIRST=N`: from that one on.
//! - `SANDPOST_SEED=N cargo test -p sandpost-simulation -- --nocapture one_seed`: replays one, with its trace;
//!   `SANDPOST_CRASH_AT=K` beside it replays crash point K of a small one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a run of seeds says what it tried")]

use sandpost_simulation::{Options, Report, Tally, run};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds of a short run.
const SEEDS: u64 = 2_000;

/// Seeds of a long one.
const SEEDS_LONG: u64 = 1_000_000;

/// Seeds that are run twice.
const TWICE: u64 = 40;

/// Seeds whose every crash point is tried.
const CRASHED: u64 = 5;

/// No seed takes this long; one that does hangs outside of virtual time.
const SEED_MAX: Duration = Duration::from_mins(2);

/// Failures that are shown.
const SHOWN: usize = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number; it is `{text}`")))
}

fn ask(seed: u64, options: Options) -> Report {
    let caught = catch_unwind(AssertUnwindSafe(|| run(seed, options)));
    caught.unwrap_or_else(|_| panic!("seed {seed}: a panic, see above; replay it with SANDPOST_SEED={seed}"))
}

#[test]
fn one_seed() {
    let Some(seed) = number("SANDPOST_SEED") else { return };
    let report = ask(seed, Options { print: true, only_crash_at: number("SANDPOST_CRASH_AT") });
    println!("{report:#?}");
    assert!(report.broken.is_empty(), "seed {seed}: {:#?}", report.broken);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..TWICE {
        let (one, other) = (ask(seed, Options::default()), ask(seed, Options::default()));
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn every_crash_point_of_small_runs() {
    let seeds = number("SANDPOST_CRASHED").unwrap_or(CRASHED);
    let mut points = 0;
    for seed in 0..seeds {
        let calm = Options { only_crash_at: Some(0), ..Options::default() };
        let whole = ask(seed, calm);
        assert!(whole.broken.is_empty(), "seed {seed}, without a crash: {:#?}", whole.broken);
        for at in 1..=whole.events {
            let report = ask(seed, Options { only_crash_at: Some(at), ..calm });
            assert!(
                report.broken.is_empty(),
                "seed {seed}, crashed at {at} of {}: {:#?}\nreplay it: SANDPOST_SEED={seed} SANDPOST_CRASH_AT={at}",
                whole.events,
                report.broken
            );
            points += 1;
        }
    }
    println!("{points} crash points of {seeds} seeds");
}

#[test]
fn seeds_without_end() {
    let long = std::env::var_os("SANDPOST_LONG").is_some();
    let count = number("SANDPOST_SEEDS").unwrap_or(if long { SEEDS_LONG } else { SEEDS });
    let first = number("SANDPOST_FIRST").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::<String>::new()));
    let (sum, over, since) = (Mutex::new(Tally::default()), AtomicBool::new(false), Instant::now());
    // What each thread is at, and since when, in milliseconds of this test.
    let at_work: Vec<(AtomicU64, AtomicU64)> = (0..threads).map(|_| Default::default()).collect();

    std::thread::scope(|scope| {
        let workers: Vec<_> = at_work
            .iter()
            .map(|(seed_at, since_at)| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::SeqCst);
                        if seed >= first + count || failed.lock().unwrap().len() >= SHOWN {
                            break;
                        }
                        seed_at.store(seed, Ordering::SeqCst);
                        since_at.store(elapsed_ms(since), Ordering::SeqCst);
                        match catch_unwind(AssertUnwindSafe(|| run(seed, Options::default()))) {
                            Ok(report) => {
                                add(&mut sum.lock().unwrap(), report.tally);
                                if !report.broken.is_empty() {
                                    failed.lock().unwrap().push(format!("seed {seed}: {:#?}", report.broken));
                                }
                            }
                            Err(_) => failed.lock().unwrap().push(format!("seed {seed}: a panic, see above")),
                        }
                    }
                    since_at.store(u64::MAX, Ordering::SeqCst);
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for (seed, begun_ms) in &at_work {
                    let spent_ms = elapsed_ms(since).saturating_sub(begun_ms.load(Ordering::SeqCst));
                    if Duration::from_millis(spent_ms) > SEED_MAX {
                        println!("seed {} hangs", seed.load(Ordering::SeqCst));
                        std::process::abort();
                    }
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        over.store(true, Ordering::SeqCst);
    });

    let failed = failed.into_inner().unwrap();
    println!("{count} seeds from {first} in {:.1} s: {:?}", since.elapsed().as_secs_f64(), sum.into_inner().unwrap());
    assert!(failed.is_empty(), "{}\nreplay one with SANDPOST_SEED=N", failed.join("\n"));
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn add(sum: &mut Tally, one: Tally) {
    sum.stored += one.stored;
    sum.attempts += one.attempts;
    sum.dead += one.dead;
    sum.mails += one.mails;
    sum.lives += one.lives;
    sum.unknown += one.unknown;
}
