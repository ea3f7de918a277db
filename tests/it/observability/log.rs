//! Log lines: access lines, audit lines, and data that is never logged.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    CancelJobRequest, DeleteJobRequest, GetJobRequest, GetStatsRequest, PurgeJobsRequest, WatchJobRequest,
    admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    credentials::{Folder, bearer, holder, identities},
    http::Scrape,
    new_job,
    process::{Process, command},
};

/// Starts a process that logs JSON at this level, for an administrator `ann` and a reader `ron`.
fn logging(folder: &Folder, level: &str) -> Process {
    let known = [holder("ann", "admin", &json!("*")), holder("ron", "reader", &json!("*"))];
    let file = folder.write("identities.json", &identities(&known));
    Process::start(&["--log", level, "--log-format", "json", "--auth-tokens", &file])
}

fn parse(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

async fn stop(process: Process) -> String {
    process.signal("TERM");
    tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic").1
}

#[tokio::test(flavor = "multi_thread")]
async fn at_debug_each_call_and_stream_is_one_line_with_peer_and_identity() {
    let folder = Folder::new();
    let process = logging(&folder, "debug");
    let channel = process.channel().await;
    let (mut client, mut admin) = (JobServiceClient::new(channel.clone()), AdminServiceClient::new(channel));
    client.create_job(bearer("ann", new_job("a"))).await.expect("ann may");
    client.get_job(bearer("ron", GetJobRequest { job_id: "a".into(), ..Default::default() })).await.expect("ron may");
    client.get_job(GetJobRequest { job_id: "a".into(), ..Default::default() }).await.expect_err("who is it?");
    let watched = WatchJobRequest { job_id: "a".into(), ..Default::default() };
    let mut stream = client.watch_job(bearer("ron", watched)).await.expect("ron may").into_inner();
    stream.message().await.expect("a snapshot");
    drop(stream);
    let stats = || bearer("ann", GetStatsRequest {});
    while admin.get_stats(stats()).await.expect("it answers").into_inner().watchers > 0 {}
    drop((client, admin));
    let lines = parse(&stop(process).await);
    let foreign: Vec<_> =
        lines.iter().filter(|line| !line["target"].as_str().unwrap_or_default().starts_with("jobtrack")).collect();
    assert!(foreign.is_empty(), "libraries are logged: {foreign:?}");
    let calls: Vec<_> = lines.iter().filter(|line| line["message"] == "call").collect();
    for (method, code, caller) in [
        ("CreateJob", "Ok", json!("ann")),
        ("GetJob", "Ok", json!("ron")),
        ("GetJob", "Unauthenticated", Value::Null),
        ("WatchJob", "Cancelled", json!("ron")),
    ] {
        let method = format!("jobtrack.v1.JobService/{method}");
        let of = |line: &&&Value| line["span"]["method"] == method.as_str() && line["code"] == code;
        let found: Vec<_> = calls.iter().filter(of).collect();
        let [line] = found[..] else { panic!("not one line for {method} {code}: {lines:#?}") };
        assert_eq!(line["span"].get("caller").unwrap_or(&Value::Null), &caller, "{line}");
        let peer = line["span"]["peer"].as_str().and_then(|peer| peer.parse::<SocketAddr>().ok());
        assert!(peer.is_some_and(|peer| peer.ip().is_loopback()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accountable_calls_have_an_audit_line() {
    let folder = Folder::new();
    let process = logging(&folder, "info");
    let channel = process.channel().await;
    let (mut client, mut admin) = (JobServiceClient::new(channel.clone()), AdminServiceClient::new(channel));
    for id in ["deleted", "forced", "asked"] {
        client.create_job(bearer("ann", new_job(id))).await.expect("ann may");
    }
    let delete = |id: &str| DeleteJobRequest { job_id: id.into(), force: true };
    let refused = client.delete_job(bearer("ron", delete("deleted"))).await.expect_err("ron may not");
    assert_eq!(refused.code(), Code::PermissionDenied);
    client.delete_job(bearer("ann", delete("deleted"))).await.expect("ann may");
    for (id, force) in [("forced", true), ("asked", false)] {
        let cancel = CancelJobRequest { job_id: id.into(), force, ..Default::default() };
        client.cancel_job(bearer("ann", cancel)).await.expect("ann may");
    }
    for dry_run in [true, false] {
        let purge = PurgeJobsRequest { kind: "test.work".into(), dry_run, ..Default::default() };
        admin.purge_jobs(bearer("ann", purge)).await.expect("ann may");
    }
    folder.write("identities.json", &identities(&[holder("ann", "admin", &json!("*"))]));
    process.logged(&["jobtrack::audit", "reloaded", "identities.json"]).await;
    let lines = parse(&stop(process).await);
    let audit: Vec<_> = lines.iter().filter(|line| line["target"] == "jobtrack::audit").collect();
    let messages: Vec<_> = audit.iter().map(|line| line["message"].as_str().expect("it has a message")).collect();
    let expected = ["authorization refused", "job deleted", "job cancelled by force", "jobs purged", "reloaded"];
    assert_eq!(messages, expected, "{audit:#?}");
    for (line, caller) in audit.iter().zip(["ron", "ann", "ann", "ann"]) {
        assert_eq!(line["caller"], caller, "{line}");
        assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
        assert_eq!(line["level"], "INFO", "{line}");
    }
    assert_eq!(audit[0]["method"], "jobtrack.v1.JobService/DeleteJob");
    assert_eq!((&audit[1]["job_id"], &audit[1]["force"]), (&json!("deleted"), &json!(true)));
    assert_eq!(audit[2]["job_id"], "forced");
    assert_eq!((&audit[3]["count"], &audit[3]["kind"]), (&json!(2), &json!("test.work")));
}

/// A process whose standard error is never read.
struct Unread(Child, SocketAddr, SocketAddr);

impl Unread {
    fn start() -> Self {
        let mut command = command(&["--log", "debug", "--http-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut next = |before: &str, after: &str| {
            let between = |line: String| line.split_once(before)?.1.split_once(after)?.0.parse().ok();
            lines.by_ref().map(|line| line.expect("the banner is text")).find_map(between).expect("an address")
        };
        let (address, http) = (next("listening on ", ","), next("curl http://", "/metrics"));
        Self(child, address, http)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Far longer than a process needs that does not block.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn unread_standard_error_blocks_no_call() {
    // Each call is a line: more lines than the queue holds, and than fit into a pipe.
    const CALLERS: usize = 32;
    const CALLS: usize = 300;
    let mut process = Unread::start();
    let client = JobServiceClient::connect(format!("http://{}", process.1)).await.expect("it listens");
    let calls = join_all((0..CALLERS).map(|_| {
        let mut client = client.clone();
        async move {
            for _ in 0..CALLS {
                let missing = GetJobRequest { job_id: "missing".into(), ..Default::default() };
                let status = client.get_job(missing).await.expect_err("there is no such job");
                assert_eq!(status.code(), Code::NotFound);
            }
        }
    }));
    timeout(WAIT_TIMEOUT, calls).await.expect("calls are answered");
    drop(client);
    let lost = |scrape: &Scrape| scrape.count("jobtrack_log_lines_lost_total") > 0;
    Scrape::until(process.2, "lines that were lost", lost).await;
    let id = process.0.id().to_string();
    std::process::Command::new("kill").args(["-s", "TERM", &id]).status().expect("kill can be started");
    let ended = async {
        while process.0.try_wait().expect("it can be waited for").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT_TIMEOUT, ended).await.expect("it ends");
}
