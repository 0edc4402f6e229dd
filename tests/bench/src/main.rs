//! `cargo xtask bench`: how fast the real program is, each figure beside a floor measured in the same run.
//!
//! (a) one call, (b) published to acknowledged, (c) the notification chain, (d) swaps, (e) start and memory, (f) long
//! backlogs and many plugins, (g) on real services, side by side with the worker in Node that teams write today. What the
//! figures mean and what they came to is in `docs/performance.md`.
//!
//! Invariants
//! - The program is the release build, started as anybody starts it, on a folder of its own; loopback alone is used.
//! - Nothing is installed: what is missing is named, and its figure is left out.
//! - It fails where something does not work, not where a target is missed.

mod bullmq;
mod call;
mod delivery;
mod floors;
mod host;
mod http;
mod machine;
mod real;
mod report;
mod side_by_side;
mod sink;
mod start;
mod swap;
mod work;
mod worker;

use host::Built;
use report::{Report, progress};
use std::path::PathBuf;
use std::process::ExitCode;

/// The program's own: (a) runs its runtime in this process, and the floor beside it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Usage: cargo xtask bench [--json] [--only PARTS] [--messages N] [--notifications N] [--backlog N] [--plugins N]

  --json             the figures as JSON on standard output instead of a table
  --only PARTS       some of abcdefg, as `--only bc`; b and the floors bring BullMQ along where it is there, g the Node worker
  --messages N       messages by batch in (b), default 100000
  --notifications N  notifications in (c), and on each side of (g), default 10000
  --backlog N        messages of the backlog in (f), default 100000; 10000000 takes some 10 GB of disk
  --plugins N        plugins in (e) and (f), default 100; up to 1000
";

/// Notifications of each measurement in (f), at most.
const NOTIFICATIONS_F: usize = 5_000;

struct Asked {
    built: Built,
    json: bool,
    parts: String,
    messages: usize,
    notifications: usize,
    backlog: usize,
    plugins: usize,
}

fn main() -> ExitCode {
    match asked() {
        Ok(asked) => {
            run(&asked);
            ExitCode::SUCCESS
        }
        Err(words) => {
            progress(&words);
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked {
        built: Built {
            program: PathBuf::new(),
            services_program: None,
            plugins: PathBuf::new(),
            guests: PathBuf::new(),
        },
        json: false,
        parts: "abcdefg".to_owned(),
        messages: 100_000,
        notifications: 10_000,
        backlog: 100_000,
        plugins: 100,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--json" {
            asked.json = true;
            continue;
        }
        let value = words.next().ok_or_else(|| HELP.to_owned())?;
        let count = || value.parse::<usize>().ok().filter(|count| *count > 0).ok_or_else(|| HELP.to_owned());
        match word.as_str() {
            "--program" => asked.built.program = value.into(),
            "--services-program" => asked.built.services_program = Some(value.into()),
            "--built-plugins" => asked.built.plugins = value.into(),
            "--guests" => asked.built.guests = value.into(),
            "--only" => asked.parts = value,
            "--messages" => asked.messages = count()?,
            "--notifications" => asked.notifications = count()?,
            "--backlog" => asked.backlog = count()?,
            "--plugins" => asked.plugins = count()?.min(1000),
            _ => return Err(HELP.to_owned()),
        }
    }
    let Built { program, services_program, plugins, guests } = &asked.built;
    for path in [program, plugins, guests].into_iter().chain(services_program) {
        if !path.exists() {
            return Err(format!("`{}` is missing; `cargo xtask bench` builds it\n\n{HELP}", path.display()));
        }
    }
    Ok(asked)
}

fn run(asked: &Asked) {
    let Asked { built, parts, .. } = asked;
    let folder = tempfile::tempdir().expect("a folder");
    let mut report = Report { machine: machine::describe(folder.path()), figures: Vec::new(), left_out: Vec::new() };
    let wants = |part: char| parts.contains(part);
    let under = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    };
    if wants('a') {
        progress("(a) one call");
        call::measure(built, &mut report);
    }
    let floors = (wants('b') || wants('c')).then(|| {
        progress("floors");
        let body = delivery::plain_body();
        let floors = floors::measure(&under("floors"), body.as_bytes(), delivery::BATCH, delivery::CONNECTIONS);
        progress(&format!("   {floors:?}"));
        floors
    });
    if let Some(floors) = floors.filter(|_| wants('b')) {
        let bullmq = bullmq::measure(&under("redis")).map_err(|why| report.left_out.push(why)).ok();
        if let Some(jobs) = bullmq {
            report.figure('b', "BullMQ, concurrency 50, Redis without persistence: added to done", jobs, "1/s");
        }
        progress("(b) published to acknowledged");
        delivery::publish(built, &under("publish"), &floors, bullmq, asked.messages, &mut report);
    }
    if let Some(floors) = floors.filter(|_| wants('c')) {
        progress("(c) the notification chain");
        delivery::chain(built, &under("chain"), &floors, asked.notifications, &mut report);
    }
    if wants('d') {
        progress("(d) swap");
        swap::measure(built, &under("swap"), &mut report);
    }
    if wants('e') {
        progress("(e) start and memory, (f) many plugins");
        let (messages, notifications) = (asked.messages.min(50_000), asked.notifications.min(NOTIFICATIONS_F));
        start::measure(built, &under("start"), asked.plugins, messages, notifications, &mut report);
    }
    if wants('f') {
        progress("(f) a long backlog");
        let notifications = asked.notifications.min(NOTIFICATIONS_F);
        delivery::backlog(built, &under("backlog"), asked.backlog, notifications, &mut report);
    }
    if wants('g') {
        progress("(g) side by side on real services");
        side_by_side::measure(built, &under("side-by-side"), asked.notifications, &mut report);
    }
    report.machine["load_1_min_at_end"] = machine::load().into();
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("figures are JSON"));
    } else {
        println!("{}", report.table());
    }
}
