//! The binary as an operator meets it: flags, banner, exit codes, signals, log lines.

use std::time::Duration;

use futures_util::future::try_join_all;
use jobtrack::proto::v1::{
    GetJobRequest, GetStatsRequest, UpdateProgressRequest, WatchJobRequest, admin_service_client::AdminServiceClient,
    job_service_client::JobServiceClient,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use crate::support::{
    Client, create,
    credentials::{Authority, Folder},
    process::{Process, command, output},
    reason,
    replicas::in_time,
};

async fn channel(process: &Process) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", process.address)).expect("an address is a URI");
    endpoint.connect().await.expect("it listens")
}

async fn connect(process: &Process) -> Client {
    JobServiceClient::new(channel(process).await)
}

#[track_caller]
fn fails(flags: &[&str], code: i32, words: &[&str]) {
    let output = output(flags);
    let text = String::from_utf8(output.stderr).expect("errors are text");
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_bad_flag_is_refused_with_code_2() {
    fails(&["--no-such-flag"], 2, &["--no-such-flag", "--help"]);
    fails(&["--ttl-failed", "soon"], 2, &["--ttl-failed", "7d"]);
    fails(&["--ttl-failed", "9999d"], 2, &["3650 days"]);
    fails(&["--max-memory-jobs", "0"], 2, &["whole number"]);
    fails(&["--log-format", "xml"], 2, &["human", "json"]);
    fails(&["serve", "--log-format", "xml"], 2, &["human", "json"]);
    fails(&["health", "--listen", "x"], 2, &["--listen"]);
    fails(&["--listen", "nonsense"], 2, &["nonsense", "--listen"]);
    fails(&["--log", "jobtrack=loud"], 2, &["--log"]);
}

#[tokio::test]
async fn start_failure_is_one_line_with_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    fails(&["--listen", &address], 1, &[&address, "in use", "--listen"]);
    let text = String::from_utf8(output(&["--listen", &address]).stderr).expect("errors are text");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn insecure_configuration_is_rejected_with_remedies() {
    fails(&["--listen", "0.0.0.0:0", "--http-listen", "off"], 1, &["--tls-cert", "--tls-key", "--insecure"]);
    fails(&["--listen", "[::]:0", "--http-listen", "off"], 1, &["--insecure"]);
    fails(&["--tls-cert", "cert.pem"], 2, &["--tls-key"]);
    fails(&["--tls-client-ca", "ca.pem"], 2, &["--tls-cert"]);
    let mutual = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-auth", "required"];
    fails(&mutual, 2, &["--tls-client-ca"]);
    let clients = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "ca.pem"];
    fails(&clients, 2, &["--auth-tokens"]);
    let folder = Folder::new();
    let (own, other) = (Authority::new().server(), Authority::new().server());
    let (cert, key) = (folder.write("cert.pem", &own.pem), folder.write("key.pem", &own.key));
    let serve = ["--listen", "127.0.0.1:0", "--http-listen", "off"];
    let with = |cert: &str, key: &str, words: &[&str]| {
        fails(&[&serve[..], &["--tls-cert", cert, "--tls-key", key]].concat(), 1, words);
    };
    with(&folder.path("absent.pem"), &key, &["absent.pem", "can't be read"]);
    with(&key, &key, &["certificate is not PEM"]);
    with(&cert, &cert, &["key is not"]);
    with(&cert, &folder.write("other.pem", &other.key), &["does not belong to the certificate"]);
}

#[test]
fn help_names_an_example_call_flags_variables_and_subcommands() {
    let help = String::from_utf8(output(&["--help"]).stdout).expect("help is text");
    for word in ["grpcurl", "--listen", "JOBTRACK_LISTEN", "127.0.0.1:50051", "--ttl-succeeded", "serve", "health"] {
        assert!(help.contains(word), "{word:?} is missing in {help}");
    }
}

#[tokio::test]
async fn banner_has_the_address_and_an_example_call() {
    let process = Process::start(&[]);
    let address = process.address.to_string();
    let first = format!("jobtrack {} listening on {address}, storage: memory\n", env!("CARGO_PKG_VERSION"));
    assert!(process.banner.starts_with(&first), "{:?}", process.banner);
    for word in
        [format!("grpcurl -plaintext -d '{{\"kind\":\"demo\"}}' {address} "), format!("curl http://{address}/v1/jobs ")]
    {
        assert!(process.banner.contains(&word), "{word:?} is missing in {:?}", process.banner);
    }
    create(&mut connect(&process).await, "a").await;
}

#[tokio::test]
async fn serving_beyond_loopback_requires_tls_or_the_insecure_flag() {
    for value in ["1", "true"] {
        let mut insecure = command(&["--http-listen", "off"]);
        insecure.env("JOBTRACK_INSECURE", value);
        let process = Process::run_on(insecure, "0.0.0.0:0");
        assert!(process.banner.contains("grpcurl -plaintext"), "{:?}", process.banner);
        assert!(process.address.ip().is_unspecified());
    }
    let folder = Folder::new();
    let authority = Authority::new();
    let own = authority.server();
    let (cert, key) = (folder.write("cert.pem", &own.pem), folder.write("key.pem", &own.key));
    let tls = command(&["--http-listen", "off", "--tls-cert", &cert, "--tls-key", &key]);
    let process = Process::run_on(tls, "0.0.0.0:0");
    assert!(process.banner.contains("https://") && !process.banner.contains("plaintext"), "{:?}", process.banner);
    let address = format!("localhost:{}", process.address.port());
    let probe = |authority: &str| output(&["health", "--addr", &address, "--tls-ca", authority]).status.code();
    assert_eq!(probe(&folder.write("ca.pem", &authority.pem())), Some(0));
    assert_eq!(probe(&folder.write("other.pem", &Authority::new().pem())), Some(1));
    fails(&["health", "--addr", &address], 1, &["does not report its health"]);
    fails(&["health", "--addr", &address, "--tls-ca", &key], 1, &["not PEM certificates"]);
}

#[tokio::test]
async fn health_probe_has_an_exit_code_for_each_status() {
    let process = Process::start(&[]);
    let address = process.address.to_string();
    assert_eq!(output(&["health", "--addr", &address]).status.code(), Some(0));
    let without_http = ["health", "--http", "--http-addr", "off", "--addr", &address];
    assert_eq!(output(&without_http).status.code(), Some(0));
    drop(process);
    fails(&["health", "--addr", &address], 1, &[&address]);
    fails(&["health", "--addr", "nonsense"], 2, &["nonsense"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_with_code_0() {
    for signal in ["TERM", "INT"] {
        let process = Process::start(&[]);
        let mut client = connect(&process).await;
        create(&mut client, "a").await;
        let mut watch = watch(&mut client, "a").await;
        watch.message().await.expect("a snapshot").expect("a snapshot");
        process.signal(signal);
        let end = watch.message().await.expect_err("the stream ends with an error");
        assert_eq!((end.code(), reason(&end).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
        let (status, log) = process.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("draining") && log.contains("stopped") && !log.contains("cutting off"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_logged_at_debug_level() {
    let process = Process::start(&["--log", "jobtrack=debug", "--log-format", "json"]);
    let mut client = connect(&process).await;
    create(&mut client, "seen").await;
    let missing = GetJobRequest { job_id: "missing".into(), ..GetJobRequest::default() };
    client.get_job(missing).await.expect_err("there is no such job");
    drop(watch(&mut client, "seen").await);
    let mut admin = AdminServiceClient::new(channel(&process).await);
    while admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner().watchers > 0 {}
    process.signal("TERM");
    let (_, log) = process.wait();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect();
    let calls: Vec<_> = lines.iter().filter(|line| line["message"] == "call").collect();
    let find = |method: &str| {
        let method = format!("jobtrack.v1.JobService/{method}");
        let call = calls.iter().find(|call| call["span"]["method"] == method.as_str());
        call.unwrap_or_else(|| panic!("no line for {method} in {log}"))
    };
    for (method, code, job) in
        [("CreateJob", "Ok", "seen"), ("GetJob", "NotFound", "missing"), ("WatchJob", "Cancelled", "seen")]
    {
        let call = find(method);
        assert_eq!((&call["code"], &call["span"]["job_id"]), (&code.into(), &job.into()), "{call}");
        assert!(call["duration"].is_string(), "{call}");
    }
}

async fn watch(client: &mut Client, job_id: &str) -> Streaming<jobtrack::proto::v1::WatchJobResponse> {
    let request = WatchJobRequest { job_id: job_id.into(), ..WatchJobRequest::default() };
    client.watch_job(request).await.expect("the job can be watched").into_inner()
}

/// Opens 10,000 idle watches on twenty connections. Prints the cost of each; an update reaches every watch, and
/// draining ends all.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watches_receive_an_update_and_the_drain() {
    const CONNECTIONS: usize = 20;
    const WATCHES: usize = 500;
    let process = Process::start(&[]);
    let mut client = connect(&process).await;
    create(&mut client, "a").await;
    let before = process.resident();

    let mut watches = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = connect(&process).await;
        for _ in 0..WATCHES {
            let mut watch = watch(&mut client, "a").await;
            watch.message().await.expect("a snapshot").expect("a snapshot");
            watches.push(watch);
        }
    }
    let each = (process.resident() - before) / watches.len() as u64;
    println!("{} idle watches: {each} bytes each", watches.len());

    let request = UpdateProgressRequest { job_id: "a".into(), ..UpdateProgressRequest::default() };
    client.update_progress(request).await.expect("the job can be changed");
    for watch in &mut watches {
        // On a busy machine a watch may have been idle for long enough to send a bookmark.
        let update = async { while watch.message().await.expect("an update").expect("an update").job.is_none() {} };
        timeout(Duration::from_secs(30), update).await.expect("every watch hears of it");
    }
    process.signal("TERM");
    for watch in &mut watches {
        let end = timeout(Duration::from_secs(30), watch.message()).await.expect("every watch ends");
        assert_eq!(reason(&end.expect_err("an error ends it")), "SERVER_DRAINING");
    }
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("cutting off"), "nothing had to be cut off: {log}");
}

/// Many clients come back at once, and the server does not accept them yet.
#[tokio::test(flavor = "multi_thread")]
async fn thousand_connections_wait_to_be_accepted() {
    let process = Process::start(&[]);
    process.signal("STOP");
    let connect = || TcpStream::connect(process.address);
    let open = in_time("a thousand connections", try_join_all((0..1000).map(|_| connect()))).await;
    process.signal("CONT");
    create(&mut process.client().await, "a").await;
    drop(open.expect("none is refused"));
}
