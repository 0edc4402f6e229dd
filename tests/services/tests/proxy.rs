//! The proxy does what each of its commands says, to what is open and to what comes.

use sandpost_services::Proxy;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Long enough to tell an answer that is held from one that comes.
const HELD: Duration = Duration::from_millis(200);

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, on threads that end with the test process.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().expect("both directions");
                drop(std::io::copy(&mut stream, &mut back));
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// Sends and reads back the same; how long it took.
fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Duration> {
    let begin = Instant::now();
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, bytes);
    Ok(begin.elapsed())
}

fn nothing_comes(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(HELD)).expect("a limit");
    let error = stream.read(&mut [0]).expect_err("nothing comes");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
}

fn is_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("not an orderly end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn passes_what_comes_and_ends_as_the_server_does() {
    let proxy = Proxy::before(echo());
    let mut stream = connect(&proxy);
    round_trip(&mut stream, b"hello").expect("an answer");
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));

    let large: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone().expect("both directions");
    let sent = large.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).expect("sent");
        writer.shutdown(std::net::Shutdown::Write).expect("said");
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an orderly end");
    sender.join().expect("sent");
    assert!(answer == large, "{} bytes came back of {}", answer.len(), large.len());
}

#[test]
fn refuses_and_takes_again_on_the_same_port() {
    let proxy = Proxy::before(echo());
    let mut open = connect(&proxy);
    round_trip(&mut open, b"a").expect("an answer");
    proxy.refuse();
    is_reset(&mut open);
    let error = TcpStream::connect(proxy.address()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(proxy.open(), 0);
    proxy.pass();
    round_trip(&mut connect(&proxy), b"b").expect("an answer");
}

#[test]
fn a_black_hole_holds_both_directions_and_gives_back_what_it_held() {
    let proxy = Proxy::before(echo());
    let mut open = connect(&proxy);
    round_trip(&mut open, b"a").expect("an answer");
    proxy.black_hole();
    open.write_all(b"held").expect("taken");
    nothing_comes(&mut open);
    let mut new = connect(&proxy);
    new.write_all(b"new").expect("taken");
    nothing_comes(&mut new);
    proxy.pass();
    let mut answer = [0; 4];
    open.read_exact(&mut answer).expect("what was held");
    assert_eq!(&answer, b"held");
    new.read_exact(&mut answer[..3]).expect("what was held");
    assert_eq!(&answer[..3], b"new");
}

#[test]
fn held_answers_belong_to_requests_that_arrived() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::before(listener.local_addr().expect("its address"));
    proxy.hold_answers();
    let mut client = connect(&proxy);
    client.write_all(b"do").expect("sent");
    let (mut server, _) = listener.accept().expect("a connection");
    let mut request = [0; 2];
    server.read_exact(&mut request).expect("the request");
    server.write_all(b"done").expect("sent");
    nothing_comes(&mut client);
    proxy.pass();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).expect("the answer");
    assert_eq!(&answer, b"done");
}

#[test]
fn delays_each_direction_until_it_is_told_otherwise() {
    let proxy = Proxy::before(echo());
    let mut stream = connect(&proxy);
    proxy.delay(HELD);
    assert!(round_trip(&mut stream, b"slow").expect("an answer") >= HELD * 2);
    proxy.delay(Duration::from_secs(3600));
    stream.write_all(b"x").expect("taken");
    nothing_comes(&mut stream);
    proxy.pass();
    stream.read_exact(&mut [0]).expect("what was held");
}

#[test]
fn trickles_so_many_bytes_at_a_time() {
    let proxy = Proxy::before(echo());
    let mut stream = connect(&proxy);
    proxy.trickle(2, Duration::from_millis(20));
    // Five pieces there; the last of the five back cannot come sooner than one pause after the last one there.
    assert!(round_trip(&mut stream, b"0123456789").expect("an answer") >= Duration::from_millis(20) * 6);
}

#[test]
fn a_cut_resets_what_is_open_and_spares_what_comes() {
    let proxy = Proxy::before(echo());
    let (mut idle, mut held) = (connect(&proxy), connect(&proxy));
    round_trip(&mut idle, b"a").expect("an answer");
    round_trip(&mut held, b"b").expect("an answer");
    proxy.black_hole();
    held.write_all(b"in the middle").expect("taken");
    proxy.cut();
    is_reset(&mut idle);
    is_reset(&mut held);
    proxy.pass();
    round_trip(&mut connect(&proxy), b"c").expect("an answer");
    assert_eq!(proxy.accepted(), 3);
}

#[test]
fn a_server_that_is_away_is_a_reset_and_a_proxy_that_is_gone_refuses() {
    // Not a port that was let go of: the system may give it to somebody else.
    let nobody = Proxy::before(echo());
    nobody.refuse();
    let proxy = Proxy::before(nobody.address());
    is_reset(&mut connect(&proxy));
    let address = proxy.address();
    drop(proxy);
    assert_eq!(TcpStream::connect(address).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
}
