//! What the tests of this driver share: a relay that answers as it is told.

#![allow(dead_code, reason = "each test binary uses its part")]

use sandpost_ports::contract::email::sample;
use sandpost_ports::email::{Mail, SendError};
use sandpost_ports::{ErrorKind, PortError, Secret};
use sandpost_smtp::Config;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(crate) const SENDER: &str = "no-reply@example.com";
pub(crate) const RECIPIENT: &str = "ana@example.com";

/// Of a relay at this address, with short times.
pub(crate) fn config(url: &str) -> Config {
    Config {
        url: Some(Secret::new(url)),
        connect_timeout_ms: 500,
        command_timeout_ms: 500,
        send_timeout_ms: 1_500,
        connection_wait_ms: 500,
        pause_ms: 300,
        ..Config::default()
    }
}

pub(crate) fn mail() -> Mail {
    sample(SENDER, RECIPIENT)
}

/// The kind of an error that is not about the mail.
pub(crate) fn kind(answer: &Result<String, SendError>) -> Option<ErrorKind> {
    match answer {
        Err(SendError::Port(PortError { kind, .. })) => Some(*kind),
        _ => None,
    }
}

/// A mail as the relay has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) content: String,
}

/// What to do at the next command with this verb (`CONTENT` for the end of a mail), once.
#[derive(Debug, Clone)]
pub(crate) enum Do {
    /// Answers with this line.
    Say(&'static str),
    /// Closes the connection without a word.
    Close,
    /// Takes the mail, then closes the connection without a word.
    TakeAndClose,
    /// Never answers.
    Hang,
}

/// A relay that takes everything unless told otherwise.
pub(crate) struct Scripted {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    orders: Mutex<HashMap<&'static str, Do>>,
    taken: Mutex<Vec<Taken>>,
    heard: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    open_most: AtomicUsize,
    /// Offered where set.
    login: bool,
    tls: Option<(Tls, TlsAcceptor)>,
}

/// How the relay encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Wrapped,
    Starttls,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        Self::with(State::default()).await
    }

    pub(crate) async fn with_login() -> Self {
        Self::with(State { login: true, ..State::default() }).await
    }

    /// With a certificate for `localhost`, and the authority's own as PEM.
    pub(crate) async fn with_tls(tls: Tls) -> (Self, String) {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let relay =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![relay.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let tls = Some((tls, TlsAcceptor::from(Arc::new(config))));
        (Self::with(State { login: true, tls, ..State::default() }).await, authority_pem)
    }

    async fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn next(&self, verb: &'static str, order: Do) {
        self.state.orders.lock().unwrap().insert(verb, order);
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.state.taken.lock().unwrap().clone()
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.state.heard.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn open_most(&self) -> usize {
        self.state.open_most.load(Ordering::SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        state.connections.fetch_add(1, Ordering::SeqCst);
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.open_most.fetch_max(open, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // Ends with an error when the client leaves.
            drop(begin(stream, &state).await);
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn begin(stream: TcpStream, state: &State) -> std::io::Result<()> {
    match &state.tls {
        Some((Tls::Wrapped, acceptor)) => talk(acceptor.accept(stream).await?, state, true).await.map(drop),
        Some((Tls::Starttls, acceptor)) => match talk(stream, state, false).await? {
            Some(stream) => talk(acceptor.accept(stream).await?, state, true).await.map(drop),
            None => Ok(()),
        },
        None => talk(stream, state, false).await.map(drop),
    }
}

/// The dialogue; the stream back where the client wants to encrypt it.
async fn talk<S>(stream: S, state: &State, encrypted: bool) -> std::io::Result<Option<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offers_tls = !encrypted && matches!(state.tls, Some((Tls::Starttls, _)));
    let mut stream = BufReader::new(stream);
    // After STARTTLS there is no second greeting.
    if !(encrypted && matches!(state.tls, Some((Tls::Starttls, _)))) {
        stream.write_all(b"220 scripted ESMTP\r\n").await?;
    }
    let mut mail = Taken { from: String::new(), to: Vec::new(), content: String::new() };
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let command = line.trim_end().to_owned();
        state.heard.lock().unwrap().push(command.clone());
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let order = state.orders.lock().unwrap().remove(verb.as_str());
        let argument =
            command.split_once(['<']).and_then(|(_, rest)| rest.split_once('>')).map(|(one, _)| one.to_owned());
        let usual = match verb.as_str() {
            "EHLO" if offers_tls => "250-scripted\r\n250-STARTTLS\r\n250 8BITMIME",
            "STARTTLS" => "220 go on",
            "EHLO" if state.login => "250-scripted\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME",
            "EHLO" => "250-scripted\r\n250 8BITMIME",
            "AUTH" => "235 2.7.0 welcome",
            "DATA" => "354 go on",
            "QUIT" => "221 bye",
            _ => "250 2.0.0 ok",
        };
        match order {
            Some(Do::Say(said)) => {
                stream.write_all(format!("{said}\r\n").as_bytes()).await?;
                continue;
            }
            Some(Do::Close | Do::TakeAndClose) => return Ok(None),
            Some(Do::Hang) => std::future::pending().await,
            None => {}
        }
        match verb.as_str() {
            "MAIL" => mail = Taken { from: argument.unwrap_or_default(), to: Vec::new(), content: String::new() },
            "RCPT" => mail.to.extend(argument),
            _ => {}
        }
        stream.write_all(format!("{usual}\r\n").as_bytes()).await?;
        if verb == "DATA" {
            loop {
                line.clear();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(None);
                }
                if line == ".\r\n" {
                    break;
                }
                mail.content.push_str(line.strip_prefix('.').unwrap_or(&line));
            }
            let order = state.orders.lock().unwrap().remove("CONTENT");
            if !matches!(order, Some(Do::Say(_) | Do::Close)) {
                state.taken.lock().unwrap().push(mail.clone());
            }
            match order {
                Some(Do::Say(said)) => stream.write_all(format!("{said}\r\n").as_bytes()).await?,
                Some(Do::Close | Do::TakeAndClose) => return Ok(None),
                Some(Do::Hang) => std::future::pending().await,
                None => {
                    let number = state.taken.lock().unwrap().len();
                    stream.write_all(format!("250 2.0.0 Ok: queued as Q{number}\r\n").as_bytes()).await?;
                }
            }
        }
        if verb == "STARTTLS" {
            return Ok(Some(stream.into_inner()));
        }
        if verb == "QUIT" {
            return Ok(None);
        }
    }
}
