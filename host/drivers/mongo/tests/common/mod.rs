//! A MongoDB server that says what a test tells it to: hello, authentication's first step and the wire are its own, every
//! other answer comes from the test.
//!
//! It is for what a real server does only in a failover or by chance: errors with their labels, answers that do not come,
//! connections that break between two commands.

#![allow(dead_code, reason = "each test binary uses its part")]

use bson::{Bson, Document, doc};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const OP_MSG: i32 = 2013;
const OP_QUERY: i32 = 2004;
const OP_REPLY: i32 = 1;

/// What the server does with one command.
pub(crate) enum Answer {
    /// Says this; `ok: 1` is added where it has no `ok`.
    Say(Document),
    /// Never answers, and keeps the connection.
    Nothing,
    /// Closes the connection.
    Close,
}

/// What the server says it is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// No replica set: no retryable writes.
    Standalone,
    /// The primary of a set of one: retryable writes.
    Primary,
}

type Script = dyn Fn(&Document, usize) -> Answer + Send + Sync;

/// The server. Ends with the test's runtime.
pub(crate) struct Scripted {
    address: SocketAddr,
    role: Role,
    seen: Arc<Mutex<Vec<Document>>>,
}

impl Scripted {
    /// Listens, and answers every command but the handshake by the script: the command, and how many commands of its name
    /// came before.
    pub(crate) async fn start(role: Role, script: impl Fn(&Document, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Document>>>::default();
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let connections = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    stream,
                    address,
                    role,
                    script: Arc::clone(&script),
                    seen: Arc::clone(&log),
                    number: connections.fetch_add(1, Ordering::Relaxed),
                };
                tokio::spawn(connection.serve());
            }
        });
        Self { address, role, seen }
    }

    pub(crate) fn url(&self) -> String {
        let options = if self.role == Role::Primary { "?replicaSet=rs" } else { "" };
        format!("mongodb://{}/db{options}", self.address)
    }

    pub(crate) fn url_with_login(&self) -> String {
        format!("mongodb://user:hunter2@{}/db?authMechanism=SCRAM-SHA-256", self.address)
    }

    /// The commands of this name so far, with their documents inside.
    pub(crate) fn seen(&self, name: &str) -> Vec<Document> {
        self.seen.lock().unwrap().iter().filter(|command| command_name(command) == name).cloned().collect()
    }
}

struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    role: Role,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Document>>>,
    number: usize,
}

impl Connection {
    async fn serve(mut self) {
        while let Ok((request, command)) = self.read().await {
            let name = command_name(&command).to_owned();
            let answer = match name.as_str() {
                "hello" | "isMaster" | "ismaster" => Answer::Say(self.hello()),
                "endSessions" => Answer::Say(doc! {}),
                _ => {
                    let before = {
                        let mut seen = self.seen.lock().unwrap();
                        let before = seen.iter().filter(|command| command_name(command) == name).count();
                        seen.push(command.clone());
                        before
                    };
                    (self.script)(&command, before)
                }
            };
            match answer {
                Answer::Say(document) => {
                    if self.write(request, document).await.is_err() {
                        return;
                    }
                }
                Answer::Nothing => {}
                Answer::Close => return,
            }
        }
    }

    fn hello(&self) -> Document {
        let mut hello = doc! {
            "isWritablePrimary": true,
            "ismaster": true,
            "helloOk": true,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": bson::DateTime::now(),
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": i32::try_from(self.number).unwrap(),
            "saslSupportedMechs": ["SCRAM-SHA-256"],
            "readOnly": false,
        };
        if self.role == Role::Primary {
            let me = self.address.to_string();
            hello.extend(doc! {
                "setName": "rs", "setVersion": 1, "hosts": [me.clone()], "me": me.clone(), "primary": me,
            });
        }
        hello
    }

    /// One message: its number and its command.
    async fn read(&mut self) -> std::io::Result<(Request, Document)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).await?;
        let field = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; usize::try_from(field(0)).unwrap() - 16];
        self.stream.read_exact(&mut body).await?;
        let request = Request { id: field(4), opcode: field(12) };
        Ok((request, if request.opcode == OP_QUERY { read_query(&body) } else { read_message(&body) }))
    }

    async fn write(&mut self, request: Request, mut document: Document) -> std::io::Result<()> {
        if !document.contains_key("ok") {
            document.insert("ok", 1.0);
        }
        let document = document.to_vec().unwrap();
        let (opcode, before) = if request.opcode == OP_QUERY {
            let mut before = vec![0; 16];
            before.extend(1_i32.to_le_bytes());
            (OP_REPLY, before)
        } else {
            (OP_MSG, vec![0; 5])
        };
        let length = i32::try_from(16 + before.len() + document.len()).unwrap();
        let mut message = Vec::new();
        for field in [length, 0, request.id, opcode] {
            message.extend(field.to_le_bytes());
        }
        message.extend(before);
        message.extend(document);
        self.stream.write_all(&message).await
    }
}

#[derive(Clone, Copy)]
struct Request {
    id: i32,
    opcode: i32,
}

/// Flags, then sections: the command, and lists of documents that belong into it.
fn read_message(body: &[u8]) -> Document {
    let (mut command, mut lists) = (Document::new(), Vec::new());
    let mut rest = &body[4..];
    while let Some((kind, section)) = rest.split_first() {
        let length = usize::try_from(i32::from_le_bytes(section[..4].try_into().unwrap())).unwrap();
        if *kind == 0 {
            command = Document::from_reader(&section[..length]).unwrap();
        } else {
            let name_end = 4 + section[4..].iter().position(|byte| *byte == 0).unwrap();
            let name = String::from_utf8(section[4..name_end].to_vec()).unwrap();
            let mut documents = Vec::new();
            let mut at = name_end + 1;
            while at < length {
                let document = Document::from_reader(&section[at..length]).unwrap();
                at += document.to_vec().unwrap().len();
                documents.push(Bson::Document(document));
            }
            lists.push((name, documents));
        }
        rest = &section[length..];
    }
    for (name, documents) in lists {
        command.insert(name, documents);
    }
    command
}

/// Flags, the collection's name, two numbers, then the command.
fn read_query(body: &[u8]) -> Document {
    let name_end = 4 + body[4..].iter().position(|byte| *byte == 0).unwrap();
    Document::from_reader(&body[name_end + 9..]).unwrap()
}

fn command_name(command: &Document) -> &str {
    command.keys().next().map_or("", String::as_str)
}

/// What a server says that refuses a command.
pub(crate) fn refusal(code: i32, name: &str, text: &str, labels: &[&str]) -> Answer {
    let labels: Vec<&str> = labels.to_vec();
    Answer::Say(doc! {"ok": 0.0, "code": code, "codeName": name, "errmsg": text, "errorLabels": labels})
}

/// Asks until it is so, or panics.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
