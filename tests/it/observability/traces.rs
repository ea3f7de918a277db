//! Traces, as a real OTLP receiver gets them, and trace ids in log lines.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{CompleteJobRequest, WatchJobRequest};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::{net::TcpListener, time::timeout};
use tonic::Request;

use crate::support::{
    create, new_job,
    otlp::{Receiver, attribute},
    process::{Process, command},
    records::key_of,
    redis::Redis,
    replicas::{read, server_on},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Returns a request in the caller's trace.
fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", header.parse().expect("a valid value"));
    request
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the binary, which sends spans to `receiver` every 50 ms.
fn tracing_to(receiver: SocketAddr, flags: &[&str]) -> Command {
    let mut command = command(flags);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{receiver}"));
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
    command
}

fn named(name: &str) -> impl Fn(&Span) -> bool {
    move |span| span.name == name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_commands_arrive_in_the_callers_trace() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let process = Process::run(tracing_to(receiver.address, &["--redis-url", &redis.url()]));
    let mut client = process.client().await;
    client.create_job(traced(new_job("seen"), "01")).await.expect("a job");

    let span = receiver.until("the call", named("jobtrack.v1.JobService/CreateJob")).await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(span.kind, SpanKind::Server as i32);
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "jobtrack.v1.JobService"),
        ("rpc.method", "CreateJob"),
        ("rpc.grpc.status_code", "0"),
        ("job_id", "seen"),
    ] {
        assert_eq!(attribute(&span.attributes, key).as_deref(), Some(value), "{key} of {span:?}");
    }
    assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");

    let of_call = |child: &Span| child.parent_span_id == span.span_id;
    let write = receiver.until("the command", of_call).await;
    assert_eq!((write.name.as_str(), write.kind), ("write", SpanKind::Client as i32));
    assert_eq!(attribute(&write.attributes, "db.system").as_deref(), Some("redis"));
    assert_eq!(hex(&write.trace_id), TRACE);

    let resource = receiver.batches()[0].resource_spans[0].resource.clone().expect("a resource").attributes;
    assert_eq!(attribute(&resource, "service.name").as_deref(), Some("jobtrack"));
    assert_eq!(attribute(&resource, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));

    // An error of the caller is no fault of the server.
    client.get_job(traced(read("missing"), "01")).await.expect_err("there is none");
    let missing = receiver.until("the failure", named("jobtrack.v1.JobService/GetJob")).await;
    assert_eq!(attribute(&missing.attributes, "rpc.grpc.status_code").as_deref(), Some("5"));
    assert!(missing.status.is_none_or(|status| status.code != StatusCode::Error as i32));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_span_from_its_beginning_to_its_end() {
    let receiver = Receiver::start().await;
    let mut command = tracing_to(receiver.address, &[]);
    command.env("OTEL_SERVICE_NAME", "tracker-of-media");
    let process = Process::run(command);
    let mut client = process.client().await;
    create(&mut client, "a").await;
    let request = WatchJobRequest { job_id: "a".into(), ..WatchJobRequest::default() };
    let mut watch = client.watch_job(traced(request, "01")).await.expect("it can be watched").into_inner();
    watch.message().await.expect("a snapshot");
    let update = CompleteJobRequest { job_id: "a".into(), ..CompleteJobRequest::default() };
    client.complete_job(update).await.expect("it ends");
    let completion = receiver.until("the call", named("jobtrack.v1.JobService/CompleteJob")).await;
    assert_ne!(hex(&completion.trace_id), TRACE, "its caller named none");
    while watch.message().await.expect("it ends well").is_some() {}
    let span = receiver.until("the stream", named("jobtrack.v1.JobService/WatchJob")).await;
    assert_eq!(hex(&span.trace_id), TRACE);
    assert!(span.end_time_unix_nano >= completion.end_time_unix_nano, "it ended before the job");
    let resource = receiver.batches()[0].resource_spans[0].resource.clone().expect("a resource").attributes;
    assert_eq!(attribute(&resource, "service.name").as_deref(), Some("tracker-of-media"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unsampled_trace_of_a_caller_is_respected() {
    let receiver = Receiver::start().await;
    let process = Process::run(tracing_to(receiver.address, &[]));
    let mut client = process.client().await;
    client.create_job(traced(new_job("unsampled"), "00")).await.expect("a job");
    client.create_job(traced(new_job("sampled"), "01")).await.expect("a job");
    let is_it = |span: &Span| attribute(&span.attributes, "job_id").as_deref() == Some("sampled");
    receiver.until("the second call", is_it).await;
    assert_eq!(receiver.spans().len(), 1, "{:?}", receiver.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_at_the_end() {
    let receiver = Receiver::start().await;
    let mut command = tracing_to(receiver.address, &[]);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let process = Process::run(command);
    create(&mut process.client().await, "last").await;
    process.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    assert_eq!(status.code(), Some(0), "{log}");
    receiver.until("the call", named("jobtrack.v1.JobService/CreateJob")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_receiver_causes_one_warning() {
    // The receiver accepts connections and closes them.
    let away = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let process = Process::run(tracing_to(away.local_addr().expect("it is bound"), &[]));
    let mut client = process.client().await;
    for attempt in 0..5 {
        create(&mut client, &attempt.to_string()).await;
        let tried = timeout(Duration::from_secs(20), away.accept()).await;
        drop(tried.expect("it is tried again").expect("a connection"));
    }
    process.signal("TERM");
    let begun = Instant::now();
    let (status, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches("OTLP").count(), 1, "{log}");
}

#[test]
fn invalid_address_is_reported_without_showing_it() {
    let mut command = command(&["--listen", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:s3cret@not a host");
    let output = command.output().expect("it can be started");
    let text = String::from_utf8(output.stderr).expect("errors are text");
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !text.contains("s3cret"), "{text}");
}

/// Runs without any receiver, and without access lines.
#[tokio::test(flavor = "multi_thread")]
async fn lines_within_a_call_name_the_callers_trace() {
    let redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url(), "--log-format", "json"]);
    let mut client = process.client().await;
    let other = server_on(&redis).await;
    create(&mut other.client().await, "b").await;
    other.stop().await;
    let key = key_of(&redis, "b").await;
    redis.command(&["SET", &key, "no hash"]).await;
    client.get_job(traced(read("b"), "00")).await.expect_err("it can't be read");
    client.get_job(read("b")).await.expect_err("it can't be read");
    process.signal("TERM");
    let (_, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let warnings: Vec<_> =
        lines.filter(|line| line["message"].as_str().is_some_and(|it| it.contains("can't be read"))).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert_eq!(warnings[0]["span"]["trace_id"], TRACE, "{log}");
    assert!(warnings[1]["span"].is_null(), "{log}");
}
