//! Seeds, many of them.
//!
//! - `cargo test -p sandpost-simulation`: the short run, [`SEEDS`] seeds and every crash point of [`CRASHED`] small ones.
//! - `SANDPOST_LONG=1`: a million seeds. `SANDPOST_SEEDS=N`: as many as that. `SANDPOST_FIRST=N`: from that one on.
//! - `SANDPOST_SEED=N cargo test -p sandpost-simulation -- --nocapture one_seed`: replays one, with its trace;
//!   `SANDPOST_CRASH_AT=K` beside it replays crash point K of a small one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a run of seeds says what it tried")]

use sandpost_simulation::{Options, Report, Tally, run};
use std::collections::HashMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread::ThreadId;
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

/// What a thread is at: a seed, how it is run, and since when.
type AtWork = (u64, Options, Instant);

/// What each thread is at. Watched from the first use on.
static AT_WORK: LazyLock<Mutex<HashMap<ThreadId, AtWork>>> = LazyLock::new(|| {
    std::thread::spawn(watch);
    Mutex::default()
});

/// Ends the process where a seed hangs, since nothing else would. The seed's number goes to the descriptor itself: what a test
/// prints is kept by its harness, and is gone with the process.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(50));
        for (seed, options, since) in AT_WORK.lock().unwrap().values() {
            if since.elapsed() > SEED_MAX {
                let crash = options.only_crash_at.map(|at| format!(" SANDPOST_CRASH_AT={at}")).unwrap_or_default();
                writeln!(std::io::stderr(), "seed {seed} hangs; replay it with SANDPOST_SEED={seed}{crash}").ok();
                std::process::abort();
            }
        }
    }
}

/// Runs a seed under watch; none where it panics.
fn watched(seed: u64, options: Options) -> Option<Report> {
    let thread = std::thread::current().id();
    AT_WORK.lock().unwrap().insert(thread, (seed, options, Instant::now()));
    let caught = catch_unwind(AssertUnwindSafe(|| run(seed, options)));
    AT_WORK.lock().unwrap().remove(&thread);
    caught.ok()
}

fn ask(seed: u64, options: Options) -> Report {
    watched(seed, options)
        .unwrap_or_else(|| panic!("seed {seed}: a panic, see above; replay it with SANDPOST_SEED={seed}"))
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
    let (sum, since) = (Mutex::new(Tally::default()), Instant::now());

    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count || failed.lock().unwrap().len() >= SHOWN {
                        break;
                    }
                    match watched(seed, Options::default()) {
                        Some(report) => {
                            add(&mut sum.lock().unwrap(), report.tally);
                            if !report.broken.is_empty() {
                                failed.lock().unwrap().push(format!("seed {seed}: {:#?}", report.broken));
                            }
                        }
                        None => failed.lock().unwrap().push(format!("seed {seed}: a panic, see above")),
                    }
                }
            });
        }
    });

    let failed = failed.into_inner().unwrap();
    println!("{count} seeds from {first} in {:.1} s: {:?}", since.elapsed().as_secs_f64(), sum.into_inner().unwrap());
    assert!(failed.is_empty(), "{}\nreplay one with SANDPOST_SEED=N", failed.join("\n"));
}

fn add(sum: &mut Tally, one: Tally) {
    sum.stored += one.stored;
    sum.attempts += one.attempts;
    sum.dead += one.dead;
    sum.mails += one.mails;
    sum.lives += one.lives;
    sum.unknown += one.unknown;
}
