//! Traces by OTLP: a real host exports to a collector of this test, which reads the protobuf by OpenTelemetry's own messages.
//!
//! Needs the host that has export (`cargo xtask test` builds it); without it that is said in the summary. SES is this
//! repository's own, Pub/Sub is the emulator, everything else is embedded.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use sandpost_services::{checked, not_checked};
use sandpost_test_ses::Ses;
use sandpost_tests::{Host, Setup, services_program};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SUITE: &str = "traces by OTLP";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const CALLERS_SPAN: &str = "b7ad6b7169203331";

/// Sent with every export, and never to be seen anywhere else.
const TOKEN: &str = "c0llector-t0ken";

const JSON: (&str, &str) = ("content-type", "application/json");

fn program() -> Option<PathBuf> {
    let program = services_program();
    if program.is_none() {
        not_checked(SUITE, "there is no host with export; `cargo xtask test` builds it");
    }
    program
}

/// A span that came, with what came around it.
#[derive(Debug, Clone)]
struct Got {
    name: String,
    trace: String,
    id: String,
    /// Empty where it has none.
    parent: String,
    kind: i32,
    said: BTreeMap<String, String>,
    failed: bool,
    duration: Duration,
    resource: BTreeMap<String, String>,
}

impl Got {
    fn says(&self, name: &str) -> &str {
        self.said.get(name).map_or("", String::as_str)
    }
}

/// What a collector does with a request.
const TAKE: u16 = 200;
/// It reads the request and answers nothing.
const HANG: u16 = 0;

/// A collector on a free port of 127.0.0.1. Its threads end with the test's process.
struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    /// The head of each request, in lower case.
    heads: Arc<Mutex<Vec<String>>>,
    answer: Arc<AtomicU16>,
}

impl Collector {
    fn start(answer: u16) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), answer)
    }

    fn on(listener: TcpListener, answer: u16) -> Self {
        let this = Self {
            address: listener.local_addr().expect("an address"),
            got: Arc::default(),
            heads: Arc::default(),
            answer: Arc::new(AtomicU16::new(answer)),
        };
        let (got, heads, answer) = (this.got.clone(), this.heads.clone(), this.answer.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (got, heads, answer) = (got.clone(), heads.clone(), answer.clone());
                std::thread::spawn(move || serve(&connection, &got, &heads, &answer));
            }
        });
        this
    }

    fn spans(&self) -> Vec<Got> {
        self.got.lock().expect("what came").clone()
    }

    fn requests(&self) -> usize {
        self.heads.lock().expect("what came").len()
    }

    /// Waits for so many spans of a name in a trace.
    fn until(&self, host: &Host, trace: &str, name: &str, count: usize) -> Vec<Got> {
        host.eventually(&format!("{count} times `{name}` came"), || {
            let spans: Vec<Got> = self.spans().into_iter().filter(|span| span.trace == trace).collect();
            let found: Vec<Got> = spans.iter().filter(|span| span.name == name).cloned().collect();
            if found.len() >= count {
                return Ok(found);
            }
            Err(format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()))
        })
    }

    /// Waits for the span with this id in a trace.
    fn until_id(&self, host: &Host, trace: &str, id: &str) -> Got {
        host.eventually(&format!("the span `{id}` came"), || {
            let spans = self.spans();
            let found = spans.iter().find(|span| span.trace == trace && span.id == id);
            found.cloned().ok_or_else(|| format!("{spans:?}"))
        })
    }

    fn variables(&self) -> Vec<(String, String)> {
        variables(&self.address.to_string())
    }
}

fn variables(address: &str) -> Vec<(String, String)> {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{TOKEN}")),
        ("OTEL_SERVICE_NAME", "notifications".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn serve(connection: &TcpStream, got: &Mutex<Vec<Got>>, heads: &Mutex<Vec<String>>, answer: &AtomicU16) {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = String::new();
        loop {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) if head.ends_with("\r\n\r\n") => break,
                Ok(_) => {}
            }
        }
        let head = head.replace("Bearer", "bearer");
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
            .expect("a length");
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        heads.lock().expect("what came").push(head);
        let status = answer.load(Ordering::SeqCst);
        if status == HANG {
            // Until the host gives up the connection.
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).ok();
            return;
        }
        if status == TAKE {
            let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
            got.lock().expect("what came").extend(spans(&request));
        }
        let answer =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
        let mut writer = connection;
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<Got> {
    let mut all = Vec::new();
    for of_resource in &request.resource_spans {
        let resource = said(&of_resource.resource.as_ref().expect("a resource").attributes);
        for of_scope in &of_resource.scope_spans {
            assert_eq!(of_scope.scope.as_ref().expect("a scope").name, "sandpost");
            all.extend(of_scope.spans.iter().map(|span| got(span, &resource)));
        }
    }
    all
}

fn got(span: &Span, resource: &BTreeMap<String, String>) -> Got {
    assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8), "{span:?}");
    Got {
        name: span.name.clone(),
        trace: hexadecimal(&span.trace_id),
        id: hexadecimal(&span.span_id),
        parent: hexadecimal(&span.parent_span_id),
        kind: span.kind,
        said: said(&span.attributes),
        failed: span.status.as_ref().is_some_and(|status| status.code == 2),
        duration: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
        resource: resource.clone(),
    }
}

fn said(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    for KeyValue { key, value, .. } in attributes {
        let value = match value {
            Some(AnyValue { value: Some(Value::StringValue(text)) }) => text.clone(),
            Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
            other => panic!("{key} is {other:?}"),
        };
        assert!(said.insert(key.clone(), value).is_none(), "{key} is there twice");
    }
    said
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one of this name; there must be no second.
fn one<'a>(spans: &'a [Got], name: &str) -> &'a Got {
    let found: Vec<&Got> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "`{name}` among {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    found[0]
}

#[test]
fn one_trace_goes_from_the_callers_span_to_the_id_that_ses_gave_the_mail() {
    let Some(program) = program() else { return };
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let ses = io.block_on(Ses::start()).expect("SES for tests");
    let collector = Collector::start(TAKE);
    let mut setup = Setup::shipped();
    setup.program = Some(program);
    setup.config = setup.config.replace("noreply@sandpost.example", "noreply@example.com");
    setup.environment = collector.variables();
    for (name, value) in [
        ("MAIL_TRANSPORT", "ses"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_ENDPOINT_URL_SESV2", &ses.url()),
        // How much is logged has no say in what is exported.
        ("LOG_LEVEL", "info"),
    ] {
        setup.environment.push((name.to_owned(), value.to_owned()));
    }
    let mut host = Host::start(setup);
    let body = r#"{"notificationId":"n1","userId":"user_123","type":"welcome"}"#;
    let path = "/v1/topics/notification-created/messages";
    let reply = host.send("POST", path, &[JSON, ("traceparent", CALLER), ("x-request-id", "r-1")], body);
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    // Two handlers end in whatever order.
    collector.until(&host, TRACE, "process notification-created", 1);
    collector.until(&host, TRACE, "process notification-sent", 1);
    let spans: Vec<Got> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();

    let request = one(&spans, "POST /v1/topics/{topic}/messages");
    assert_eq!((request.parent.as_str(), request.kind), (CALLERS_SPAN, SpanKind::Server as i32));
    assert_eq!(request.says("http.response.status_code"), "202");
    assert_eq!(request.says("sandpost.request.id"), "r-1");
    let stored = one(&spans, "publish notification-created");
    assert_eq!((&stored.parent, stored.kind), (&request.id, SpanKind::Producer as i32));
    assert_eq!(stored.says("messaging.message.id"), id);
    assert_eq!(stored.says("messaging.destination.name"), "notification-created");
    let attempt = one(&spans, "process notification-created");
    assert_eq!((&attempt.parent, attempt.kind), (&stored.id, SpanKind::Consumer as i32));
    assert_eq!(attempt.says("messaging.message.id"), id);
    assert_eq!(attempt.says("messaging.destination.subscription.name"), "notification-email");
    assert_eq!(attempt.says("sandpost.attempt"), "1");
    assert_eq!((attempt.says("sandpost.outcome"), attempt.failed), ("ack", false));

    let mail = one(&spans, "send email");
    assert_eq!((&mail.parent, mail.kind), (&attempt.id, SpanKind::Client as i32));
    let sent = ses.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(mail.says("sandpost.email.provider_message_id"), sent[0].message_id);
    assert!(!sent[0].message_id.is_empty() && mail.duration <= attempt.duration);
    assert_eq!(one(&spans, "settle notification-created").parent, attempt.id);

    // What the plugin published goes on in the same trace, to its own handler.
    let published = one(&spans, "publish notification-sent");
    assert_eq!((&published.parent, published.kind), (&attempt.id, SpanKind::Producer as i32));
    let next = one(&spans, "process notification-sent");
    assert_eq!(next.parent, published.id);
    assert_eq!(next.says("messaging.message.id"), published.says("messaging.message.id"));
    assert_eq!(one(&spans, "settle notification-sent").parent, next.id);
    assert_eq!(spans.len(), 8, "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());

    for span in &spans {
        assert_eq!(span.resource["service.name"], "notifications");
        assert_eq!(span.resource["deployment.environment.name"], "test");
        assert!(span.resource["service.instance.id"].len() > 8);
        // Nobody's address and nothing of the message's content.
        let said = format!("{:?}", span.said);
        assert!(!said.contains("ada@") && !said.contains("Ada"), "{said}");
    }
    for head in collector.heads.lock().expect("what came").iter() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("authorization: bearer {TOKEN}\r\n")), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    }
    // Counted by the host when it has the collector's answer.
    host.eventually("eight spans are counted", || {
        let metrics = host.get("/metrics").text;
        let line = metrics.lines().find(|line| line.starts_with("sandpost_spans_exported_total "));
        if line.is_some_and(|line| line.ends_with(" 8")) { Ok(()) } else { Err(format!("{line:?}")) }
    });
    assert!(host.terminate().success());
    let log = format!("{:?}", host.log());
    assert!(!log.contains(TOKEN), "a header is in the log");
    assert!(!log.contains("otel."), "what only a trace needs is in the log");
}

#[test]
fn without_a_caller_a_trace_begins_at_the_request_and_the_ledger_names_it() {
    let Some(program) = program() else { return };
    let collector = Collector::start(TAKE);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    let host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"reject","reason":"as asked"}"#);
    host.until_step(&id, "dead-lettered");
    let trace = host.get(&format!("/v1/messages/{id}")).json()["trace_id"].as_str().expect("a trace").to_owned();
    let attempt = collector.until(&host, &trace, "process work", 1).remove(0);
    assert!(attempt.failed);
    assert_eq!((attempt.says("error.type"), attempt.says("sandpost.outcome")), ("reject", "reject"));
    let spans: Vec<Got> = collector.spans().into_iter().filter(|span| span.trace == trace).collect();
    let request = one(&spans, "POST /v1/topics/{topic}/messages");
    assert_eq!(request.parent, "");
    let stored = one(&spans, "publish work");
    assert_eq!((&stored.parent, &attempt.parent), (&request.id, &stored.id));
    assert_eq!(one(&spans, "settle work").says("sandpost.outcome"), "dead-letter");
    // All that looked at the host meanwhile began no trace.
    assert!(collector.spans().iter().all(|span| !span.name.starts_with("GET ")));
}

#[test]
fn the_trace_is_carried_over_a_restart_and_the_last_spans_are_flushed_at_the_stop() {
    let Some(program) = program() else { return };
    let collector = Collector::start(TAKE);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    // Nobody handles yet.
    setup.plugins.clear();
    let mut host = Host::start(setup);
    let reply = host.send("POST", "/v1/topics/work/messages", &[JSON, ("traceparent", CALLER)], r#"{"do":"ack"}"#);
    assert_eq!(reply.status, 202, "{reply:?}");
    assert!(host.terminate().success());
    // The process is gone: what it had to say is here, or nowhere.
    let before: Vec<Got> = collector.spans().into_iter().filter(|span| span.trace == TRACE).collect();
    assert_eq!(before.len(), 2, "{before:?}");
    let stored = one(&before, "publish work").clone();

    host.deploy(&sandpost_tests::guest("scripted"));
    host.restart();
    let attempt = collector.until(&host, TRACE, "process work", 1).remove(0);
    assert_eq!((&attempt.trace, &attempt.parent), (&stored.trace, &stored.id));
    assert_ne!(attempt.resource["service.instance.id"], stored.resource["service.instance.id"]);
    assert_eq!(collector.until(&host, TRACE, "settle work", 1)[0].parent, attempt.id);
}

#[test]
fn the_trace_goes_over_pubsub_as_it_goes_over_the_embedded_broker() {
    let Some(program) = program() else { return };
    let Some(pubsub) = sandpost_services::pubsub_emulator("traces by OTLP: over Pub/Sub") else { return };
    checked(SUITE, &pubsub);
    let collector = Collector::start(TAKE);
    let mut setup = Setup::scripted("");
    setup.config.push_str("[subscriptions.other]\ntopic = \"elsewhere\"\nplugin = \"scripted\"\n");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    for (name, value) in [
        ("PUBSUB_EMULATOR_HOST", pubsub.address().to_string()),
        ("PUBSUB_PROJECT_ID", format!("sandpost-traces-{}", std::process::id())),
    ] {
        setup.environment.push((name.to_owned(), value));
    }
    let host = Host::start(setup);
    let body = r#"{"do":"publish","topic":"elsewhere"}"#;
    host.eventually("the message is accepted", || {
        let reply = host.send("POST", "/v1/topics/work/messages", &[JSON, ("traceparent", CALLER)], body);
        if reply.status == 202 { Ok(()) } else { Err(reply.text) }
    });
    // This broker does not know a message by its key: the publish goes by the effects ledger.
    let next = collector.until(&host, TRACE, "process elsewhere", 1).remove(0);
    // By their ids: a request that was refused has left a publish in this trace too.
    let published = collector.until_id(&host, TRACE, &next.parent);
    let attempt = collector.until_id(&host, TRACE, &published.parent);
    let stored = collector.until_id(&host, TRACE, &attempt.parent);
    let names = [&published, &attempt, &stored].map(|span| span.name.as_str());
    assert_eq!(names, ["publish elsewhere", "process work", "publish work"]);
    let again = collector.spans();
    let again = again.iter().filter(|span| span.name == "publish elsewhere" && span.parent == attempt.id);
    assert_eq!(again.count(), 1, "an attempt publishes once");
    assert_eq!(published.says("messaging.message.id"), next.says("messaging.message.id"));
}

#[test]
fn each_attempt_is_a_span_of_its_own() {
    let Some(program) = program() else { return };
    let collector = Collector::start(TAKE);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    let host = Host::start(setup);
    let body = r#"{"do":"retry","reason":"as asked"}"#;
    let reply = host.send("POST", "/v1/topics/work/messages", &[JSON, ("traceparent", CALLER)], body);
    assert_eq!(reply.status, 202, "{reply:?}");
    let attempts = collector.until(&host, TRACE, "process work", 3);
    let stored = one(&collector.spans(), "publish work").id.clone();
    let mut numbers: Vec<&str> = attempts.iter().map(|attempt| attempt.says("sandpost.attempt")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["1", "2", "3"]);
    assert!(attempts.iter().all(|attempt| attempt.parent == stored && attempt.says("error.type") == "retry"));
}

#[test]
fn what_the_caller_does_not_record_is_not_exported() {
    let Some(program) = program() else { return };
    let collector = Collector::start(TAKE);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    let mut host = Host::start(setup);
    let unrecorded = format!("00-{TRACE}-{CALLERS_SPAN}-00");
    let path = "/v1/topics/work/messages";
    let reply = host.send("POST", path, &[JSON, ("traceparent", &unrecorded)], r#"{"do":"ack"}"#);
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    host.until_step(&id, "acknowledged");
    let other = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&other, "acknowledged");
    assert!(host.terminate().success());
    let spans = collector.spans();
    assert_eq!(spans.iter().filter(|span| span.name == "process work").count(), 1, "{spans:?}");
    assert!(spans.iter().all(|span| span.trace != TRACE));
}

#[test]
fn a_collector_that_is_down_costs_no_message_and_is_said_once() {
    let Some(program) = program() else { return };
    // Nobody listens there, until the end of this test.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), variables(&address.to_string()));
    let began = Instant::now();
    // Said again after a minute, which a busy machine may need here.
    let lines_max = || 1 + began.elapsed().as_secs() / 60;
    let mut host = Host::start(setup);
    let mut ids = vec![host.publish("work", r#"{"do":"ack"}"#)];
    host.eventually("failures are counted", || {
        let metrics = host.get("/metrics").text;
        let line = metrics.lines().find(|line| line.starts_with("sandpost_span_export_failures_total"));
        let failures = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_default();
        if failures >= 2.0 { Ok(()) } else { Err(format!("{line:?}")) }
    });
    let about = |host: &Host| host.log().into_iter().filter(|line| line["module"] == "traces").collect::<Vec<_>>();
    let said = host.eventually("the first failure is said", || {
        let said = about(&host);
        if said.is_empty() { Err("nothing".to_owned()) } else { Ok(said) }
    });
    assert!(said.len() as u64 <= lines_max(), "{said:?}");
    assert_eq!((&said[0]["level"], &said[0]["metadata"]["kind"]), (&"warn".into(), &"unreachable".into()));
    ids.extend((0..100).map(|_| host.publish("work", r#"{"do":"ack"}"#)));
    for id in &ids {
        host.until_step(id, "acknowledged");
    }

    // It comes back: what waited is not lost.
    let collector = Collector::on(TcpListener::bind(address).expect("the same port"), TAKE);
    host.eventually("all spans came", || {
        let count = collector.spans().iter().filter(|span| span.name == "process work").count();
        if count == ids.len() { Ok(()) } else { Err(format!("{count} of {}", ids.len())) }
    });
    let lines_max = lines_max();
    assert!(host.terminate().success());
    // Another thread reads the log, and may be behind.
    let said = host.eventually("the return and the stop are said", || {
        let log = host.log();
        let is_said = |message: &str| log.iter().any(|line| line["message"] == message);
        let whole = is_said("Traces are exported again.") && is_said("Stopped.");
        if whole { Ok(about(&host)) } else { Err("not yet".to_owned()) }
    });
    let (last, failing) = said.split_last().expect("a line");
    assert_eq!(last["message"], "Traces are exported again.");
    assert!(failing.iter().all(|line| line["level"] == "warn"), "{said:?}");
    assert!((1..=lines_max).contains(&(failing.len() as u64)), "{said:?}");
}

#[test]
fn a_collector_that_does_not_answer_holds_up_neither_messages_nor_the_stop_for_long() {
    let Some(program) = program() else { return };
    let collector = Collector::start(HANG);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    let mut host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&id, "acknowledged");
    host.eventually("a request hangs", || match collector.requests() {
        0 => Err("none came".to_owned()),
        _ => Ok(()),
    });
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&id, "acknowledged");
    let began = Instant::now();
    assert!(host.terminate().success());
    // 5 s for the last spans; the rest is what a busy machine needs to end a program.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(collector.spans().len(), 0);
}

#[test]
fn a_collector_that_refuses_is_not_asked_again_with_the_same_batch() {
    let Some(program) = program() else { return };
    let collector = Collector::start(400);
    let mut setup = Setup::scripted("");
    (setup.program, setup.environment) = (Some(program), collector.variables());
    let host = Host::start(setup);
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&id, "acknowledged");
    host.eventually("the loss is counted", || {
        let metrics = host.get("/metrics").text;
        let lost = metrics.lines().any(|line| line.starts_with("sandpost_spans_lost_total{reason=\"rejected\"}"));
        if lost { Ok(()) } else { Err(metrics) }
    });
    collector.answer.store(TAKE, Ordering::SeqCst);
    let id = host.publish("work", r#"{"do":"ack"}"#);
    host.until_step(&id, "acknowledged");
    let trace = host.get(&format!("/v1/messages/{id}")).json()["trace_id"].as_str().expect("a trace").to_owned();
    collector.until(&host, &trace, "process work", 1);
}

/// Runs the program with export to its end.
fn run(program: &PathBuf, arguments: &[&str], variables: &[(String, String)]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("SANDPOST_LISTEN", "127.0.0.1:0")
        .envs(variables.iter().cloned())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn what_is_not_supported_keeps_the_host_from_starting_and_is_named() {
    let Some(program) = program() else { return };
    let mut environment = variables("127.0.0.1:4317");
    environment.push(("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "grpc".to_owned()));
    let ended = run(&program, &["run"], &environment);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\"; supported is http/protobuf alone"), "{said}");
    assert!(!said.contains(TOKEN));
    // Switched off, nothing of it matters.
    environment.push(("OTEL_SDK_DISABLED".to_owned(), "true".to_owned()));
    let ended = run(&program, &["doctor"], &environment);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(said.contains("ok    traces: not exported: OTEL_SDK_DISABLED is true"), "{said}");
}

#[test]
fn doctor_says_what_is_in_force_and_whether_the_collector_answers() {
    let Some(program) = program() else { return };
    let collector = Collector::start(TAKE);
    let ended = run(&program, &["doctor"], &collector.variables());
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let in_force = format!(
        "traces: exported to http://{}/v1/traces by http/protobuf, as `notifications`, sampler parentbased_always_on, at \
         most 10000 ms a batch, header authorization: ***",
        collector.address
    );
    assert!(said.contains(&format!("ok    {in_force}")), "{said}");
    assert_eq!((ended.status.code(), collector.requests()), (Some(0), 1), "{said}");
    collector.answer.store(401, Ordering::SeqCst);
    let ended = run(&program, &["doctor"], &collector.variables());
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(said.contains(&format!("wrong {in_force}: the collector answered 401")), "{said}");
    assert!(!said.contains(TOKEN), "{said}");
    assert_eq!(ended.status.code(), Some(78));
    let ended = run(&program, &["doctor"], &[]);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(said.contains("ok    traces: not exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set"), "{said}");
}
