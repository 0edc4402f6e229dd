//! Disks that are full, fail, are read-only, or were torn in their last write: an error, and never a 202 that is not true.
//!
//! Real failures of a real program: a small tmpfs that is filled or mounted read-only, an ext4 that turns read-only after an
//! error of its own (both need the right to mount; where that is missing the summary says what was not checked),
//! `RLIMIT_FSIZE` lowered under the running host (needs nothing), and a write-ahead log whose end is cut off or garbled. What
//! was answered with 202 is handled in each of them once the disk works.
//!
//! `SANDPOST_LONG=1` makes it 100 torn writes instead of 8; `SANDPOST_SEED` repeats them.
//!
//! Not here: a disk that says it has written what it has not. Nothing above it can notice that.

use sandpost_services::not_checked;
use sandpost_tests::{Dice, Host, Reply, Setup, guest};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for the store, its log, the other databases and a compiled plugin, and little more.
const DISK: &str = "size=32m";

/// Nobody handles yet: what is accepted waits on disk.
fn waiting(data_dir: Option<&Path>) -> Setup {
    let mut setup = Setup::scripted("");
    setup.plugins.clear();
    if let Some(folder) = data_dir {
        setup.environment.push(("SANDPOST_DATA_DIR".into(), folder.display().to_string()));
    }
    setup
}

/// One message of about this size.
fn publish(host: &Host, bytes: usize) -> Reply {
    let body = json!({ "do": "ack", "pad": "x".repeat(bytes) }).to_string();
    host.post("/v1/topics/work/messages", &body)
}

/// The id of an accepted message; where it was refused, it was refused as the API has it.
fn accepted(reply: &Reply) -> Option<String> {
    if reply.status == 202 {
        return Some(reply.json()["id"].as_str().expect("an id").to_owned());
    }
    let known = [(429, "limit-reached"), (503, "unavailable"), (503, "outcome-unknown"), (504, "timeout")];
    let (status, code) = reply.problem();
    assert!(known.contains(&(status, code.as_str())), "{reply:?}");
    let seconds = reply.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(status == 504 || seconds.is_some_and(|seconds| seconds > 0), "no Retry-After: {reply:?}");
    None
}

/// Puts the handler there, and sees that everything that was accepted is acknowledged.
fn all_acknowledged(host: &Host, ids: &[String]) {
    host.deploy(&guest("scripted"));
    for id in ids {
        host.until_step(id, "acknowledged");
    }
}

fn accepts_again(host: &Host) -> String {
    host.eventually("it accepts again", || accepted(&publish(host, 10)).ok_or_else(|| "refused".to_owned()))
}

/// A file system of its own; unmounted when the test ends.
struct Disk {
    /// Where it is mounted, and beside that the file that it is in, where it is in one.
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    /// A tmpfs; none where this user may not mount.
    fn new(unchecked: &str) -> Option<Self> {
        let disk = Self::unmounted();
        if disk.mount(&["-t", "tmpfs", "-o", DISK, "none"]) {
            return Some(disk);
        }
        not_checked(&format!("disks: {unchecked}"), "mounting is not permitted here");
        None
    }

    /// An ext4 that can be made to fail; none where this user may not mount, or there is no ext4.
    fn of_ext4(unchecked: &str) -> Option<Self> {
        let disk = Self::unmounted();
        let image = std::fs::File::create(disk.image()).expect("a file for the disk");
        image.set_len(64 << 20).expect("a disk of 64 MiB");
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()).status();
        if made.is_ok_and(|status| status.success()) && disk.mount_image() && disk.trigger().is_some() {
            return Some(disk);
        }
        not_checked(&format!("disks: {unchecked}"), "there is no ext4, or mounting one is not permitted here");
        None
    }

    fn unmounted() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mounted");
        std::fs::create_dir(&path).expect("a folder to mount on");
        Self { folder, path }
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        let run = Command::new("mount").args(arguments).arg(&self.path).output();
        run.is_ok_and(|run| run.status.success())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount_image(&self) -> bool {
        self.mount(&["-t", "ext4", "-o", "loop,errors=remount-ro", &self.image().display().to_string()])
    }

    /// What the system has to test with how it takes an error of this ext4.
    fn trigger(&self) -> Option<std::fs::File> {
        let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
        let path = self.path.display().to_string();
        let device = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&*path))?.split(' ').next()?;
        let name = Path::new(device).file_name()?;
        OpenOptions::new().write(true).open(Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error")).ok()
    }

    /// From now on it is read-only, also for whoever has files open.
    fn fail(&self) {
        self.trigger().and_then(|mut trigger| trigger.write_all(b"1").ok()).expect("the error is made");
    }

    /// As an operator does it, once nobody has files open.
    fn repair(&self) {
        let unmounted = Command::new("umount").arg(&self.path).status().expect("umount runs");
        assert!(unmounted.success(), "nobody uses the disk any more");
        let status = Command::new("fsck.ext4").arg("-fp").arg(self.image()).output().expect("fsck.ext4 runs").status;
        // 1 is "errors corrected".
        assert!(status.code().is_some_and(|code| code <= 1), "{status}");
        assert!(self.mount_image());
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file");
        let mut chunk = 1 << 20;
        // Smaller and smaller, so that no page is left.
        while chunk >= 1 {
            if file.write_all(&vec![0; chunk]).is_err() {
                chunk /= 2;
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast is removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}

#[test]
fn a_full_disk_is_an_error_until_there_is_room_again() {
    let Some(disk) = Disk::new("a file system without room") else { return };
    let mut host = Host::start(waiting(Some(disk.path())));
    let mut ids: Vec<String> = (0..20).filter_map(|_| accepted(&publish(&host, 10))).collect();
    assert_eq!(ids.len(), 20);

    disk.fill();
    let mut refused = 0;
    for _ in 0..2_000 {
        match accepted(&publish(&host, 20_000)) {
            Some(id) => ids.push(id),
            None => refused += 1,
        }
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "the disk was never full");
    let healthy = host.get("/healthz").status;
    assert_eq!(healthy, 200, "a full disk is no reason to be restarted");

    disk.empty();
    ids.push(accepts_again(&host));

    // Once more, and killed with the disk full: what was accepted is there when it starts again.
    disk.fill();
    ids.extend((0..20).filter_map(|_| accepted(&publish(&host, 20_000))));
    host.kill();
    if let Err((status, log)) = host.try_restart() {
        // It may find no room to begin its run; then it says so.
        assert_eq!(status.code(), Some(69), "{log}");
        assert!(log.contains("full"), "{log}");
    } else {
        host.kill();
    }
    disk.empty();
    host.restart();
    ids.push(accepts_again(&host));
    all_acknowledged(&host, &ids);
}

/// The largest file that the process may write, from now on.
fn limit_files(host: &Host, bytes: &str) {
    let pid = host.pid().to_string();
    let run = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).output();
    let run = run.expect("prlimit of util-linux runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_disk_that_fails_every_write_is_an_error_until_it_works_again() {
    let mut setup = waiting(None);
    // The signal that comes with a write beyond the limit would end the process; a failing disk sends none.
    setup.wrapper = vec!["env".to_owned(), "--ignore-signal=XFSZ".to_owned()];
    let mut host = Host::start(setup);
    let mut ids: Vec<String> = (0..20).filter_map(|_| accepted(&publish(&host, 10))).collect();
    assert_eq!(ids.len(), 20);
    for _ in 0..3 {
        limit_files(&host, "1");
        for size in [10, 10, 20_000, 10] {
            let reply = publish(&host, size);
            assert_eq!(accepted(&reply), None, "nothing can be written, and yet: {reply:?}");
        }
        let batch = json!({ "messages": [{ "body": { "do": "ack" } }, { "body": { "do": "ack" } }] }).to_string();
        assert_eq!(accepted(&host.post("/v1/topics/work/messages:batch", &batch)), None);
        limit_files(&host, "unlimited");
        ids.push(accepts_again(&host));
    }
    limit_files(&host, "1");
    assert_eq!(accepted(&publish(&host, 10)), None);
    host.kill();
    host.restart();
    all_acknowledged(&host, &ids);
}

#[test]
fn a_bound_on_disk_is_an_error_until_messages_are_handled() {
    let mut setup = waiting(None);
    setup.config.push_str("[broker.embedded]\ndisk_max_bytes = 2097152\n[email]\nfrom = \"a@sandpost.example\"\n");
    let mut host = Host::start(setup);
    // At the bound the ledger gives way before a settlement does; a mail says that its message was handled.
    let publish = |host: &Host| {
        let body = json!({ "do": "mail", "to": "a@example.com", "then": "ok", "pad": "x".repeat(50_000) });
        host.post("/v1/topics/work/messages", &body.to_string())
    };
    let mut ids = BTreeSet::new();
    let refused = loop {
        let reply = publish(&host);
        match accepted(&reply) {
            Some(id) => assert!(ids.insert(id)),
            None => break reply,
        }
        assert!(ids.len() < 100, "the bound is two MiB");
    };
    assert_eq!(refused.problem(), (429, "limit-reached".to_owned()));
    assert!(ids.len() > 20, "seven eighths are there to be used, not {} messages", ids.len());
    host.kill();
    host.restart();
    assert_eq!(accepted(&publish(&host)), None, "a restart makes no room");
    host.deploy(&guest("scripted"));
    host.eventually("every accepted message has sent its mail", || {
        let mails = host.get("/v1/mailbox?limit=500").json();
        let mails = mails["mails"].as_array().cloned().unwrap_or_default();
        let sent: BTreeSet<String> =
            mails.iter().filter_map(|mail| mail["message_id"].as_str().map(str::to_owned)).collect();
        if sent == ids && mails.len() == ids.len() { Ok(()) } else { Err(format!("{} of {}", mails.len(), ids.len())) }
    });
    accepts_again(&host);
}

#[test]
fn a_read_only_disk_refuses_to_start_and_loses_nothing() {
    let Some(disk) = Disk::new("a file system that is mounted read-only") else { return };
    let mut host = Host::start(waiting(Some(disk.path())));
    let ids: Vec<String> = (0..20).filter_map(|_| accepted(&publish(&host, 10))).collect();
    host.kill();
    assert!(disk.mount(&["-o", "remount,ro"]));
    let (status, log) = host.try_restart().expect_err("there is nowhere to keep what would be accepted");
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains("failed to open the store") && log.contains("store.sqlite"), "{log}");
    assert!(disk.mount(&["-o", "remount,rw"]));
    host.restart();
    all_acknowledged(&host, &ids);
}

#[test]
fn a_disk_that_turns_read_only_under_the_host_is_an_error_and_loses_nothing() {
    let Some(disk) = Disk::of_ext4("a file system that turns read-only under the running host") else { return };
    let mut host = Host::start(waiting(Some(disk.path())));
    let mut ids: Vec<String> = (0..20).filter_map(|_| accepted(&publish(&host, 10))).collect();
    assert_eq!(ids.len(), 20);
    disk.fail();
    for size in [10, 10, 20_000, 10] {
        let reply = publish(&host, size);
        assert_eq!(accepted(&reply), None, "nothing can be written, and yet: {reply:?}");
    }
    assert_eq!(host.get("/healthz").status, 200, "a restart would not help");
    // Such a file system is not written to again before it was unmounted, and that takes the host's end.
    host.kill();
    let (status, log) = host.try_restart().expect_err("there is nowhere to keep what would be accepted");
    assert_eq!(status.code(), Some(69), "{log}");
    disk.repair();
    host.restart();
    ids.push(accepts_again(&host));
    all_acknowledged(&host, &ids);
}

/// The store's files, and the log that the last writes are in.
fn store_files(host: &Host) -> [PathBuf; 2] {
    ["store.sqlite", "store.sqlite-wal"].map(|name| host.folder().join("data").join(name))
}

/// How the tail of a file comes out of a power cut.
fn tear(dice: &mut Dice, path: &Path, from: u64) {
    let mut file = OpenOptions::new().write(true).open(path).expect("the log");
    let length = file.metadata().expect("a length").len();
    let at = from + dice.below(length - from);
    let noise =
        |dice: &mut Dice, count: u64| -> Vec<u8> { (0..count).map(|_| dice.throw().to_le_bytes()[0]).collect() };
    file.seek(SeekFrom::Start(at)).expect("a place in the log");
    match dice.below(4) {
        0 => file.set_len(at).expect("cut off"),
        // The length was written, the data was not.
        1 => file.write_all(&vec![0; usize::try_from(length - at).expect("it fits")]).expect("zeroed"),
        2 => file.write_all(&noise(dice, length - at)).expect("garbled"),
        _ => {
            let count = 1 + dice.below(512).min(length - at - 1);
            file.write_all(&noise(dice, count)).expect("a sector garbled");
        }
    }
}

#[test]
fn a_torn_last_write_takes_nothing_with_it() {
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    let tears = if std::env::var_os("SANDPOST_LONG").is_some_and(|value| value == "1") { 100 } else { 8 };
    println!("seed {seed}");
    let mut host = Host::start(waiting(None));
    let ids: Vec<String> = (0..20).filter_map(|_| accepted(&publish(&host, 500))).collect();
    assert_eq!(ids.len(), 20);
    let [store, log] = store_files(&host);
    let durable = std::fs::metadata(&log).expect("the log").len();
    // Stands for the write that the power cut came into: nobody may count on it, whole or in part.
    let last = accepted(&publish(&host, 30_000)).expect("the disk is well");
    host.kill();
    let files = [&store, &log].map(|path| std::fs::read(path).expect("the file is read"));
    assert!(files[1].len() as u64 > durable + 30_000, "the last message is in the log's end");
    host.deploy(&guest("scripted"));
    let mut kept = 0;
    for _ in 0..tears {
        for (path, bytes) in [&store, &log].into_iter().zip(&files) {
            std::fs::write(path, bytes).expect("the file is put back");
        }
        std::fs::remove_file(host.folder().join("data/store.sqlite-shm")).ok();
        tear(&mut dice, &log, durable);
        host.try_restart().unwrap_or_else(|(status, said)| panic!("{status} with seed {seed}: {said}"));
        for id in &ids {
            let steps = host.until_step(id, "acknowledged");
            assert_eq!(steps.iter().filter(|step| *step == "accepted").count(), 1, "seed {seed}: {steps:?}");
        }
        // There as a whole, or not at all; its ledger is a write of its own.
        if host.get(&format!("/v1/messages/{last}")).status == 200 {
            host.until_step(&last, "acknowledged");
            kept += 1;
        }
        host.kill();
    }
    println!("{tears} torn writes with seed {seed}: the one before survived {kept} times, all earlier ones always");
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let mut host = Host::start(waiting(None));
    assert!(accepted(&publish(&host, 10)).is_some());
    assert!(host.terminate().success());
    let [store, _] = store_files(&host);
    let whole = std::fs::read(&store).expect("the store");
    let mut damaged = whole.clone();
    damaged[..64].fill(0xa5);
    for (what, bytes) in
        [("its head is garbled", damaged.as_slice()), ("half of it is gone", &whole[..whole.len() / 2])]
    {
        std::fs::write(&store, bytes).expect("the store is damaged");
        let (status, log) = host.try_restart().expect_err(what);
        assert_eq!(status.code(), Some(69), "{what}: {log}");
        assert!(log.contains("store.sqlite"), "{what}: {log}");
        assert!(std::fs::read(&store).expect("the store") == bytes, "{what}: the file was written to");
    }
}
