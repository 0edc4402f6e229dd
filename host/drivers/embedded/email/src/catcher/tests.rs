//! The contract in memory and on disk, and what only the catcher promises.

use super::*;
use sandpost_ports::clock::{ManualClock, SystemClock};
use sandpost_ports::contract::email::{check_mailbox, sample};
use std::path::Path;
use std::process::{Command, Stdio};

/// Set for the process that [`kill_nine_loses_nothing_that_was_answered`] starts from this test binary.
const CHILD_FILE: &str = "SANDPOST_TEST_CATCHER_FILE";

fn mail() -> Mail {
    sample("no-reply@example.com", "ana@example.com")
}

/// Keeps all: how many are sent until something happens is up to the machine.
fn at(path: &Path) -> Config {
    Config { path: Some(path.to_owned()), mails_max: u32::MAX, keys_max: u32::MAX, ..Config::default() }
}

fn system(config: Config) -> Catcher {
    open(config, Arc::new(SystemClock)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_contract_in_memory() {
    let catcher = system(Config::default());
    check_mailbox(Arc::new(catcher.clone()), Arc::new(catcher)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_contract_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let catcher = system(at(&folder.path().join("not/yet/there/mails.db")));
    check_mailbox(Arc::new(catcher.clone()), Arc::new(catcher)).await;
}

#[tokio::test]
async fn mails_ids_and_keys_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mails.db");
    let (first, second) = (mail(), mail());
    let catcher = system(at(&file));
    let id = catcher.send(&first).await.unwrap();
    let before = catcher.list(None, 10).await.unwrap();
    drop(catcher);

    let catcher = system(at(&file));
    assert_eq!(catcher.list(None, 10).await.unwrap(), before);
    assert_eq!(catcher.send(&first).await.unwrap(), id);
    assert_ne!(catcher.send(&second).await.unwrap(), id);
    assert_eq!(catcher.list(None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_oldest_make_room_and_their_keys_stay() {
    let catcher = system(Config { mails_max: 3, ..Config::default() });
    let mails: Vec<Mail> = (0..10).map(|_| mail()).collect();
    let mut ids = Vec::new();
    for mail in &mails {
        ids.push(catcher.send(mail).await.unwrap());
    }
    let kept: Vec<u64> = catcher.list(None, 100).await.unwrap().iter().map(|caught| caught.number).collect();
    assert_eq!(kept, [10, 9, 8]);
    assert_eq!(catcher.get(7).await.unwrap(), None);
    assert_eq!(catcher.send(&mails[0]).await.unwrap(), ids[0], "a dropped mail was sent again");
    assert_eq!(catcher.latest().await.unwrap().unwrap().number, 10);
}

#[tokio::test]
async fn bytes_are_bounded_and_the_newest_stays_however_large() {
    let catcher = system(Config { mails_max_bytes: 10_000, ..Config::default() });
    let of = |size: usize| Mail { mime: vec![b'x'; size].into(), ..mail() };
    for _ in 0..5 {
        catcher.send(&of(3_000)).await.unwrap();
    }
    let kept: Vec<u64> = catcher.list(None, 100).await.unwrap().iter().map(|caught| caught.number).collect();
    assert_eq!(kept, [5, 4], "three of 3 000 with their JSON are over 10 000");
    catcher.send(&of(50_000)).await.unwrap();
    let kept: Vec<u64> = catcher.list(None, 100).await.unwrap().iter().map(|caught| caught.number).collect();
    assert_eq!(kept, [6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mails_that_come_together_are_each_there_once_and_one_refused_fails_no_other() {
    // A sample has three recipients: a hundred of them fit, and one has four.
    let catcher = system(Config { per_day: Some(301), ..Config::default() });
    let twice = mail();
    let mut four = mail();
    four.to.push(four.to[0].clone());
    let mails: Vec<Mail> = (0..99).map(|_| mail()).chain([twice.clone(), twice, four]).collect();
    let sending = mails.iter().map(|mail| {
        let (catcher, mail) = (catcher.clone(), mail.clone());
        tokio::spawn(async move { catcher.send(&mail).await })
    });
    let mut outcomes = Vec::new();
    for sent in sending.collect::<Vec<_>>() {
        outcomes.push(sent.await.unwrap());
    }
    let four = outcomes.pop().unwrap();
    let ids: Vec<String> = outcomes.into_iter().filter_map(Result::ok).collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    // Where the one with four came before the last it was taken, and one of the others was not.
    assert!(four.is_ok() || (ids.len() == 101 && ids[99] == ids[100]), "{} of 101 sent", ids.len());
    assert_eq!(catcher.list(None, 500).await.unwrap().len(), distinct.len() + usize::from(four.is_ok()));
}

#[tokio::test]
async fn keys_are_bounded() {
    let catcher = system(Config { keys_max: 5, ..Config::default() });
    let first = mail();
    let id = catcher.send(&first).await.unwrap();
    for _ in 0..5 {
        catcher.send(&mail()).await.unwrap();
    }
    assert_ne!(catcher.send(&first).await.unwrap(), id);
}

#[tokio::test]
async fn a_rate_is_enforced_and_says_when_to_come_back() {
    let clock = ManualClock::at(DAY_MS * 10);
    // A sample has three recipients.
    let catcher = open(Config { per_second: Some(6), ..Config::default() }, Arc::new(clock.clone())).unwrap();
    let first = mail();
    let id = catcher.send(&first).await.unwrap();
    clock.advance(400);
    catcher.send(&mail()).await.unwrap();
    clock.advance(100);
    let refused = mail();
    match catcher.send(&refused).await {
        Err(SendError::Throttled { after_ms: Some(after_ms) }) => assert_eq!(after_ms, 500),
        other => panic!("{other:?}"),
    }
    assert_eq!(catcher.send(&first).await.unwrap(), id, "what was sent before is not sending");
    assert_eq!(catcher.list(None, 10).await.unwrap().len(), 2);
    clock.advance(499);
    assert!(matches!(catcher.send(&refused).await, Err(SendError::Throttled { .. })));
    clock.advance(1);
    catcher.send(&refused).await.unwrap();
}

#[tokio::test]
async fn a_day_is_24_hours_and_the_quota_counts_recipients() {
    let clock = ManualClock::at(DAY_MS * 10);
    let catcher = open(Config { per_day: Some(7), ..Config::default() }, Arc::new(clock.clone())).unwrap();
    catcher.send(&mail()).await.unwrap();
    clock.advance(1_000);
    catcher.send(&mail()).await.unwrap();
    let quota = catcher.quota().await.unwrap();
    assert_eq!(quota, SendingQuota { per_day: 7.0, sent_today: 6.0, per_second: UNLIMITED_PER_SECOND });
    assert!(matches!(
        catcher.send(&mail()).await,
        Err(SendError::Throttled { after_ms: Some(after_ms) }) if after_ms == DAY_MS - 1_000
    ));
    clock.advance(DAY_MS - 1_000);
    catcher.send(&mail()).await.unwrap();
    assert!((catcher.quota().await.unwrap().sent_today - 6.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn more_recipients_than_the_limit_are_throttled_not_stuck() {
    let catcher = system(Config { per_second: Some(2), ..Config::default() });
    assert!(matches!(catcher.send(&mail()).await, Err(SendError::Throttled { after_ms: Some(SECOND_MS) })));
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mails.db");
    std::fs::write(&file, "not a database, but long enough to be looked at as one".repeat(100)).unwrap();
    assert!(matches!(open(at(&file), Arc::new(SystemClock)), Err(OpenError::Sqlite(_))));
    let newer = folder.path().join("newer.db");
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
    assert!(matches!(open(at(&newer), Arc::new(SystemClock)), Err(OpenError::Newer { .. })));
    let zero = Config { mails_max: 0, ..Config::default() };
    assert!(matches!(open(zero, Arc::new(SystemClock)), Err(OpenError::Zero("mails_max"))));
}

#[tokio::test]
async fn a_locked_file_is_not_healthy_and_then_is_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mails.db");
    let catcher = system(at(&file));
    catcher.inner.desk.lock().unwrap().connection.busy_timeout(Duration::ZERO).unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert_eq!(catcher.check().await.unwrap_err().kind, ErrorKind::Unavailable);
    match catcher.send(&mail()).await {
        Err(SendError::Port(error)) => assert_eq!(error.kind, ErrorKind::Unavailable),
        unexpected => panic!("{unexpected:?}"),
    }
    other.execute_batch("ROLLBACK").unwrap();
    catcher.check().await.unwrap();
    catcher.send(&mail()).await.unwrap();
}

#[test]
fn unknown_keys_are_refused() {
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    assert!(serde_json::from_str::<Config>("{\"mails\": 1}").is_err());
}

/// Not a test of its own: sends until it is killed, and says each id once it has it.
#[tokio::test]
async fn child_sends_until_it_is_killed() {
    use std::io::Write as _;
    let Some(file) = std::env::var_os(CHILD_FILE) else { return };
    let catcher = system(at(Path::new(&file)));
    let mut out = std::io::stdout();
    loop {
        let mail = mail();
        let id = catcher.send(&mail).await.unwrap();
        writeln!(out, "sent {} {id}", mail.key).unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn kill_nine_loses_nothing_that_was_answered() {
    use std::io::{BufRead as _, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mails.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "catcher::tests::child_sends_until_it_is_killed", "--nocapture"])
        .env(CHILD_FILE, &file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while answered.len() < 30 {
        let line = lines.next().expect("the child ended by itself").unwrap();
        if let Some((key, id)) = line.split_once("sent ").and_then(|(_, rest)| rest.split_once(' ')) {
            answered.push((key.to_owned(), id.to_owned()));
        }
    }
    // SIGKILL on Unix, in the middle of whatever it does.
    child.kill().unwrap();
    child.wait().unwrap();

    let catcher = system(at(&file));
    let newest = catcher.list(None, 500).await.unwrap();
    for (key, id) in answered {
        let number = id.strip_prefix("catcher-").unwrap().parse().unwrap();
        let caught = catcher.get(number).await.unwrap().expect("an answered mail is lost");
        assert_eq!((&caught.mail.key, caught.number), (&key, number));
        assert!(!caught.mail.mime.is_empty());
        assert_eq!(catcher.send(&Mail { key, ..mail() }).await.unwrap(), id);
    }
    assert!(newest.iter().all(|caught| !caught.mail.mime.is_empty()), "nor is one there by half");
}
