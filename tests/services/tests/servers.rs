//! Each server of the harness: it starts, answers, comes back on its port with what it stored, and is gone afterwards.

use sandpost_services::{PASSWORD, Server};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// What holds of every server that this harness starts.
fn keeps_its_word(server: Server) {
    if !server.can_restart() {
        return;
    }
    let address = server.address();
    assert!(address.ip().is_loopback());
    assert!(server.url().contains(&address.to_string()));
    assert!(server.version().starts_with(|letter: char| letter.is_ascii_digit()), "{}", server.version());
    let first = server.pid().expect("it runs");

    server.stop();
    assert_eq!(server.pid(), None);
    assert!(is_gone(first), "stopped, but process {first} is there");
    assert!(TcpStream::connect(address).is_err(), "stopped, but something answers");

    server.start();
    let second = server.pid().expect("it runs");
    assert_ne!(first, second);
    assert_eq!(server.address(), address);
    drop(TcpStream::connect(address).expect("it answers again"));

    server.kill();
    assert!(is_gone(second), "killed, but process {second} is there");
    server.kill();
    server.start();
    server.start();
    let third = server.pid().expect("it runs");
    drop(server);
    assert!(is_gone(third), "dropped, but process {third} is there");
    assert!(TcpStream::connect(address).is_err(), "dropped, but something answers");
}

fn is_gone(pid: u32) -> bool {
    !Path::new("/proc").join(pid.to_string()).exists()
}

fn redis(server: &Server, command: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut answer = [0; 1024];
    stream.write_all(format!("AUTH {PASSWORD}\r\n").as_bytes()).expect("sent");
    let length = stream.read(&mut answer).expect("an answer");
    assert_eq!(&answer[..length], b"+OK\r\n");
    stream.write_all(format!("{command}\r\n").as_bytes()).expect("sent");
    let length = stream.read(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn redis_keeps_what_it_acknowledged_over_a_kill() {
    let Some(server) = sandpost_services::redis() else { return };
    if server.can_restart() {
        assert_eq!(redis(&server, "SET kept yes"), "+OK\r\n");
        server.kill();
        server.start();
        assert_eq!(redis(&server, "GET kept"), "$3\r\nyes\r\n");
    }
    keeps_its_word(server);
}

#[test]
fn a_redis_cluster_has_all_slots_also_after_a_restart() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    if server.can_restart() {
        server.kill();
        server.start();
        assert!(redis(&server, "CLUSTER INFO").contains("cluster_slots_assigned:16384"));
        assert!(redis(&server, "MSET a 1 b 2").starts_with("-CROSSSLOT"));
    }
    keeps_its_word(server);
}

#[test]
fn mariadb_serves_and_comes_back() {
    let Some(server) = sandpost_services::mariadb() else { return };
    keeps_its_word(server);
}

#[test]
fn postgres_serves_and_comes_back() {
    let Some(server) = sandpost_services::postgres() else { return };
    keeps_its_word(server);
}

#[test]
fn pubsub_serves_and_comes_back() {
    let Some(server) = sandpost_services::pubsub() else { return };
    assert_eq!(server.url(), server.address().to_string());
    keeps_its_word(server);
}

#[test]
fn pstest_serves_and_comes_back() {
    let Some(server) = sandpost_services::pstest() else { return };
    keeps_its_word(server);
}

#[test]
fn mongo_serves_and_comes_back() {
    let Some(server) = sandpost_services::mongo() else { return };
    keeps_its_word(server);
}

#[test]
fn nx_27017_serves_and_comes_back() {
    let Some(server) = sandpost_services::nx_27017() else { return };
    keeps_its_word(server);
}

#[test]
fn moto_serves_and_comes_back() {
    let Some(server) = sandpost_services::moto() else { return };
    keeps_its_word(server);
}

/// One dialogue: each line is sent after the answer to the one before; the answers' codes.
fn smtp(server: &Server, lines: &[&str]) -> Vec<String> {
    let stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut writer = stream.try_clone().expect("both directions");
    let mut answers = std::io::BufReader::new(stream);
    let mut code = || {
        let mut line = String::new();
        // All but the last line of an answer have a hyphen after the code.
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut answers, &mut line).expect("an answer") > 0, "the server left");
        }
        line[..3].to_owned()
    };
    let mut codes = vec![code()];
    for line in lines {
        writer.write_all(format!("{line}\r\n").as_bytes()).expect("sent");
        codes.push(code());
    }
    codes
}

#[test]
fn smtp_delivers_into_its_folder_and_answers_as_recipients_ask() {
    let Some(server) = sandpost_services::smtp() else { return };
    if server.can_restart() {
        let mail = "Subject: one\r\n\r\nbody\r\n.";
        let good =
            ["EHLO test", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "RCPT TO:<c@c.test>", "DATA", mail, "QUIT"];
        assert_eq!(smtp(&server, &good), ["220", "250", "250", "250", "250", "354", "250", "221"]);
        let mails = server.mails();
        assert_eq!(mails.len(), 1);
        for part in
            ["X-Envelope-From: a@a.test", "X-Envelope-To: b@b.test", "X-Envelope-To: c@c.test", "Subject: one", "body"]
        {
            assert!(mails[0].contains(part), "{part} is not in {}", mails[0]);
        }

        let refused = [
            "EHLO test",
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<answer-452@b.test>",
            "RCPT TO:<data-554@b.test>",
            "DATA",
            mail,
        ];
        assert_eq!(smtp(&server, &refused), ["220", "250", "250", "452", "250", "354", "554"]);
        // sandpost and its password, then sandpost with another: the three parts of PLAIN in base64.
        let known = ["EHLO test", "AUTH PLAIN AHNhbmRwb3N0AHNhbmRwb3N0"];
        assert_eq!(smtp(&server, &known), ["220", "250", "235"]);
        let wrong = ["EHLO test", "AUTH PLAIN AHNhbmRwb3N0AHdyb25n"];
        assert_eq!(smtp(&server, &wrong), ["220", "250", "535"]);
        assert_eq!(smtp(&server, &["EHLO test", "STARTTLS"]), ["220", "250", "220"]);

        server.kill();
        server.start();
        assert_eq!(server.mails().len(), 1);
        let authority = std::fs::read_to_string(server.authority().expect("it has TLS")).expect("its certificate");
        assert!(authority.starts_with("-----BEGIN CERTIFICATE-----"));
    }
    keeps_its_word(server);
}

/// The first message of a client that speaks TLS 1.2.
fn client_hello() -> Vec<u8> {
    let mut hello = b"\x03\x03".to_vec();
    hello.extend_from_slice(&[7; 32]);
    // No session; ECDHE with ECDSA or RSA and AES-128-GCM; no compression.
    hello.extend_from_slice(b"\0\0\x04\xc0\x2b\xc0\x2f\x01\0");
    // Two extensions: the groups x25519 and P-256; signatures by ECDSA P-256 or RSA with SHA-256.
    hello.extend_from_slice(b"\0\x16\0\x0a\0\x06\0\x04\0\x1d\0\x17\0\x0d\0\x08\0\x06\x04\x03\x08\x04\x04\x01");
    let length = u16::try_from(hello.len()).expect("short");
    let mut record = b"\x16\x03\x01".to_vec();
    record.extend_from_slice(&(length + 4).to_be_bytes());
    record.extend_from_slice(b"\x01\0");
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&hello);
    record
}

#[test]
fn smtps_begins_with_tls() {
    let Some(server) = sandpost_services::smtps() else { return };
    if server.can_restart() {
        let mut stream = TcpStream::connect(server.address()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.write_all(&client_hello()).expect("sent");
        // Its greeting is a handshake record (22).
        let mut kind = [0];
        stream.read_exact(&mut kind).expect("an answer");
        assert_eq!(kind, [22]);
    }
    keeps_its_word(server);
}

#[test]
fn an_address_changes_its_parts_and_nothing_else() {
    let Some(server) = sandpost_services::redis() else { return };
    if server.can_restart() {
        let port = server.address().port();
        assert_eq!(server.url(), format!("redis://:sandpost@127.0.0.1:{port}"));
        assert_eq!(server.url_with_wrong_password(), format!("redis://:wrong@127.0.0.1:{port}"));
        assert_eq!(server.url_at("127.0.0.1:7".parse().expect("an address")), "redis://:sandpost@127.0.0.1:7");
    }
}

/// The one of these tests that only works as a child of another: it holds a server until it is killed.
const HOLDS_A_SERVER: &str = "SANDPOST_TEST_HOLDS_A_SERVER";

#[test]
fn a_server_ends_with_a_test_process_that_is_killed() {
    if std::env::var_os(HOLDS_A_SERVER).is_some() {
        if let Some(server) = sandpost_services::redis() {
            println!("server {}", server.pid().expect("it runs"));
            std::thread::sleep(Duration::from_secs(60));
        }
        println!("server none");
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_server_ends_with_a_test_process_that_is_killed", "--nocapture"])
        .env(HOLDS_A_SERVER, "1")
        .env_remove("SANDPOST_TEST_REDIS_URL")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a child");
    let output = std::io::BufReader::new(child.stdout.take().expect("its output"));
    let line = std::io::BufRead::lines(output)
        .map_while(Result::ok)
        .find_map(|line| line.split_once("server ").map(|(_, pid)| pid.to_owned()))
        .expect("the child says what it started");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let Ok(pid) = line.parse() else { return };
    let deadline = Instant::now() + PATIENCE;
    while !is_gone(pid) {
        assert!(Instant::now() < deadline, "server {pid} outlives the test process");
        std::thread::sleep(Duration::from_millis(20));
    }
}
