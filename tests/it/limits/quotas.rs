//! Quotas, for each caller and for all together: the rejected call, its error, and the end of the rejection.

use std::time::Duration;

use jobtrack::proto::v1::{CompleteJobRequest, CreateJobRequest, DeleteJobRequest, WatchJobRequest, WatchJobsRequest};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::support::{
    Client, Server, create,
    credentials::{Folder, bearer, holder, identities},
    error_info,
    http::Scrape,
    new_job,
    process::{self, Process},
    redis::shared_redis,
    replicas::{in_time, read},
};

/// Fails unless the call was rejected for this limit, with a time to retry after, which is returned.
#[track_caller]
fn assert_limited(status: &Status, reason: &str, name: &str, most: usize) -> Duration {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, reason), "{status:?}");
    assert_eq!((&*info.metadata["name"], &*info.metadata["limit"]), (name, &*most.to_string()), "{status:?}");
    let retry = status.get_details_retry_info().expect("when to try again");
    retry.retry_delay.expect("how long")
}

/// Returns a watch of `id` with `token`.
fn watch(token: &str, id: &str) -> Request<WatchJobRequest> {
    bearer(token, WatchJobRequest { job_id: id.to_owned(), ..Default::default() })
}

/// Returns the number of rejections for a limit, from the metrics.
async fn refusals(server: &Server, name: &str) -> u64 {
    Scrape::of(server.http).await.count(&format!("jobtrack_limited_total{{limit=\"{name}\"}}"))
}

/// Starts a server with these flags and the callers `one` and `other`.
async fn with_two(flags: &[&str]) -> (Server, Folder) {
    let folder = Folder::new();
    let everybody = json!("*");
    let file = identities(&[holder("one", "reporter", &everybody), holder("other", "reporter", &everybody)]);
    let file = folder.write("identities.json", &file);
    (Server::with(&[flags, &["--auth-tokens", &file]].concat()).await, folder)
}

#[tokio::test]
async fn calls_a_second_are_limited_for_each_caller() {
    let (server, _folder) = with_two(&["--max-calls-per-second", "20"]).await;
    let mut client = server.client().await;
    client.create_job(bearer("other", new_job("a"))).await.expect("it is not there yet");
    let mut taken = 0;
    let refused = loop {
        match client.get_job(bearer("one", read("a"))).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
        assert!(taken < 10_000, "nothing is refused");
    };
    assert!(taken >= 20, "{taken} at once");
    let wait = assert_limited(&refused, "RATE_LIMITED", "max-calls-per-second", 20);
    client.get_job(bearer("other", read("a"))).await.expect("another caller has calls of its own");
    assert!(wait <= Duration::from_millis(50), "{wait:?}: 20 a second");
    sleep(wait).await;
    client.get_job(bearer("one", read("a"))).await.expect("it has passed");
    assert!(refusals(&server, "max-calls-per-second").await >= 1);
    server.stop().await;
}

/// Opens watches until one is rejected, and checks that one more is accepted after the end of another.
async fn assert_watches(
    client: &mut Client,
    token: &str,
    reason: (&str, usize),
) -> Vec<tonic::Streaming<jobtrack::proto::v1::WatchJobResponse>> {
    let (name, most) = reason;
    let mut open = Vec::new();
    for _ in 0..most {
        open.push(client.watch_job(watch(token, "a")).await.expect("it may be open").into_inner());
    }
    let refused = client.watch_job(watch(token, "a")).await.expect_err("one more");
    assert_limited(&refused, "TOO_MANY_WATCHES", name, most);
    let many = bearer(token, WatchJobsRequest::default());
    let refused = client.watch_jobs(many).await.expect_err("one more, of many jobs");
    assert_limited(&refused, "TOO_MANY_WATCHES", name, most);
    open.pop();
    let again = async {
        loop {
            if let Ok(stream) = client.watch_job(watch(token, "a")).await {
                return stream.into_inner();
            }
        }
    };
    open.push(in_time("a place that has become free", again).await);
    open
}

#[tokio::test]
async fn open_watches_are_limited_in_all() {
    let (server, _folder) = with_two(&["--max-watches", "3"]).await;
    let mut client = server.client().await;
    client.create_job(bearer("one", new_job("a"))).await.expect("it is not there yet");
    let open = assert_watches(&mut client, "one", ("max-watches", 3)).await;
    let refused = server.client().await.watch_job(watch("other", "a")).await.expect_err("others count too");
    assert_limited(&refused, "TOO_MANY_WATCHES", "max-watches", 3);
    drop(open);
    let ids = |count: usize| (0..count).map(|number| number.to_string()).collect();
    let many = |count| bearer("one", WatchJobsRequest { job_ids: ids(count), ..Default::default() });
    let refused = client.watch_jobs(many(4)).await.expect_err("each id counts");
    assert_limited(&refused, "TOO_MANY_WATCHES", "max-watches", 3);
    let three = async { while client.watch_jobs(many(3)).await.is_err() {} };
    in_time("room for three", three).await;
    server.stop().await;
}

#[tokio::test]
async fn open_watches_are_limited_for_each_caller() {
    let (server, _folder) = with_two(&["--max-watches-per-identity", "3"]).await;
    let mut client = server.client().await;
    client.create_job(bearer("one", new_job("a"))).await.expect("it is not there yet");
    let open = assert_watches(&mut client, "one", ("max-watches-per-identity", 3)).await;
    let refused = server.client().await.watch_job(watch("one", "a")).await.expect_err("on any connection");
    assert_limited(&refused, "TOO_MANY_WATCHES", "max-watches-per-identity", 3);
    client.watch_job(watch("other", "a")).await.expect("another caller has watches of its own");
    assert!(refusals(&server, "max-watches-per-identity").await >= 3);
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn open_watches_are_limited_on_each_connection() {
    let (server, _folder) = with_two(&["--max-watches-per-connection", "3"]).await;
    let mut client = server.client().await;
    client.create_job(bearer("one", new_job("a"))).await.expect("it is not there yet");
    let open = assert_watches(&mut client, "one", ("max-watches-per-connection", 3)).await;
    client.watch_job(watch("other", "a")).await.expect_err("whoever calls");
    server.client().await.watch_job(watch("one", "a")).await.expect("another connection has watches of its own");
    drop(open);
    server.stop().await;
}

/// Returns a job of `owner`, created with `request_id`.
fn owned(owner: &str, request_id: &str) -> CreateJobRequest {
    CreateJobRequest { owner: owner.into(), request_id: request_id.into(), ..new_job("") }
}

async fn jobs_of_each_owner_are_limited(server: Server) {
    let mut client = server.client().await;
    let owner = format!("owner-{}", uuid::Uuid::new_v4());
    let mut first = None;
    for request_id in ["1", "2", "3"] {
        let made = client.create_job(owned(&owner, request_id)).await.expect("there is room").into_inner();
        first = first.or(made.job);
    }
    let refused = client.create_job(owned(&owner, "4")).await.expect_err("there are three");
    assert_limited(&refused, "TOO_MANY_JOBS", "max-jobs-per-owner", 3);
    let again = client.create_job(owned(&owner, "1")).await.expect("it asks for no other job").into_inner();
    let first = first.expect("it was created");
    assert_eq!((again.created, again.job.expect("the job").id), (false, first.id.clone()));
    client.create_job(owned(&format!("{owner}-other"), "1")).await.expect("another owner has jobs of its own");
    // The expired jobs of others do not affect the count.
    for number in 0..20 {
        let job_id = format!("{owner}-{number}");
        let retention = Some(prost_types::Duration { seconds: 0, nanos: 1000 });
        client.create_job(CreateJobRequest { retention, ..new_job(&job_id) }).await.expect("it has no owner");
        client.complete_job(CompleteJobRequest { job_id, ..Default::default() }).await.expect("it ends");
        client.create_job(owned(&owner, "4")).await.expect_err("there are three still");
    }
    client.delete_job(DeleteJobRequest { job_id: first.id, force: true }).await.expect("it can be deleted");
    client.create_job(owned(&owner, "4")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn jobs_of_each_owner_are_limited_in_memory() {
    jobs_of_each_owner_are_limited(Server::with(&["--max-jobs-per-owner", "3"]).await).await;
}

#[tokio::test]
async fn jobs_of_each_owner_are_limited_in_redis() {
    let url = shared_redis().await.url();
    jobs_of_each_owner_are_limited(Server::with(&["--max-jobs-per-owner", "3", "--redis-url", &url]).await).await;
}

#[tokio::test]
async fn open_connections_are_limited() {
    let server = Server::with(&["--max-connections", "2"]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    // A connection without a call is closed to make room.
    let mut second = server.client().await;
    second.get_job(read("a")).await.expect("there is room for two");
    let mut third = TcpStream::connect(server.address).await.expect("the server listens");
    let closed = in_time("the end of a connection too many", third.read(&mut [0; 16])).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    client.get_job(read("a")).await.expect("the others go on");
    drop(second);
    let again = async {
        loop {
            if let Ok(channel) = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address))
                .expect("an address is a URI")
                .connect()
                .await
                && Client::new(channel).get_job(read("a")).await.is_ok()
            {
                return;
            }
        }
    };
    in_time("a place that has become free", again).await;
    assert!(refusals(&server, "max-connections").await >= 1);
    server.stop().await;
}

/// Connections that send nothing, or no credentials, keep no other caller out.
#[tokio::test]
async fn silent_peers_keep_nobody_out() {
    let server = Server::with(&["--max-connections", "20"]).await;
    let mut known = server.client().await;
    create(&mut known, "a").await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(server.address).await.expect("the server listens"));
    }
    server.client().await.get_job(read("a")).await.expect("one of the silent has given way");
    known.get_job(read("a")).await.expect("who has called stays");
    assert!(refusals(&server, "max-connections").await >= 20);
    server.stop().await;
}

#[tokio::test]
async fn connections_without_credentials_are_limited_apart() {
    let (server, _folder) = with_two(&["--max-unauthenticated-connections", "5"]).await;
    let mut known = server.client().await;
    known.create_job(bearer("one", new_job("a"))).await.expect("it is not there yet");
    let mut strangers = Vec::new();
    for _ in 0..10 {
        let mut stranger = HealthClient::new(server.channel().await);
        stranger.check(HealthCheckRequest::default()).await.expect("health answers everybody");
        strangers.push(stranger);
    }
    assert!(refusals(&server, "max-unauthenticated-connections").await >= 5);
    let few = |scrape: &Scrape| scrape.count("jobtrack_connections") <= 6;
    Scrape::until(server.http, "the end of those that came first", few).await;
    known.get_job(bearer("one", read("a"))).await.expect("who is known stays");
    server.client().await.get_job(bearer("other", read("a"))).await.expect("another is let in");
    server.stop().await;
}

#[tokio::test]
async fn watches_of_health_are_limited_and_counted() {
    let server = Server::with(&["--max-health-watches", "20"]).await;
    let mut open = Vec::new();
    for (most, limit) in [(16, 16), (4, 20)] {
        let mut health = HealthClient::new(server.channel().await);
        for _ in 0..most {
            open.push(health.watch(HealthCheckRequest::default()).await.expect("it may be open"));
        }
        let refused = health.watch(HealthCheckRequest::default()).await.expect_err("one more");
        assert_limited(&refused, "TOO_MANY_WATCHES", "max-health-watches", limit);
        health.check(HealthCheckRequest::default()).await.expect("checks are not limited");
    }
    assert_eq!(Scrape::of(server.http).await.count("jobtrack_health_watches"), 20);
    drop(open);
    let none = |scrape: &Scrape| scrape.count("jobtrack_health_watches") == 0;
    Scrape::until(server.http, "the end of all watches of health", none).await;
    server.stop().await;
}

/// An invalid request does not count.
#[tokio::test]
async fn invalid_watch_does_not_count() {
    let server = Server::with(&["--max-watches", "1"]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let _open = client.watch_job(watch("", "a")).await.expect("it may be open");
    let invalid = client.watch_job(watch("", "{}")).await.expect_err("it names no job");
    assert_eq!(invalid.code(), Code::InvalidArgument);
    let invalid = WatchJobsRequest { job_ids: vec!["{}".to_owned()], ..Default::default() };
    assert_eq!(client.watch_jobs(invalid).await.expect_err("it names no job").code(), Code::InvalidArgument);
    assert_eq!(refusals(&server, "max-watches").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn failed_authentications_are_limited_and_logged() {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("one", "reporter", &json!("*"))]));
    let server = Process::start(&["--auth-tokens", &file]);
    let mut known = server.client().await;
    known.create_job(bearer("one", new_job("a"))).await.expect("it is not there yet");
    let mut guesses = 0;
    let refused = loop {
        let refused = known.get_job(bearer("guess", read("a"))).await.expect_err("nobody is called so");
        if refused.code() != Code::Unauthenticated {
            break refused;
        }
        guesses += 1;
        assert!(guesses < 100_000, "nothing is limited");
    };
    assert!(guesses >= 100, "{guesses} at once");
    assert_limited(&refused, "RATE_LIMITED", "max-auth-failures-per-second", 10);
    known.get_job(bearer("one", read("a"))).await.expect("who is known is not limited");
    // The connection carries no other call that identifies the caller.
    let mut stranger = server.client().await;
    let gone = async {
        while stranger.get_job(bearer("guess", read("a"))).await.is_err_and(|end| end.code() != Code::ResourceExhausted)
        {
        }
    };
    in_time("a refusal for the limit", gone).await;
    server.signal("TERM");
    let (_, log) = server.wait();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("authentication failed")).collect();
    assert!((1..=3).contains(&lines.len()), "{log}");
    for part in ["WARN", "peer=127.0.0.1:", "problem=\"INVALID\"", "JobService/GetJob"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

/// Starts the binary with these soft and hard limits of open files.
fn with_files(soft: u32, hard: u32) -> Process {
    let binary = process::command(&[]);
    let mut command = std::process::Command::new("/bin/sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(binary.get_program()).args(["--http-listen", "127.0.0.1:0"]);
    Process::run(command)
}

#[tokio::test]
async fn limit_of_open_files_is_raised_to_the_hard_limit() {
    let server = with_files(100, 1000);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    assert_eq!(line.split_whitespace().filter(|word| *word == "1000").count(), 2, "{line}");
}

// The clients answer the drain while the end of the server is awaited.
#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_files_for_others() {
    let server = with_files(300, 300);
    let http = server.http();
    let mut known = server.client().await;
    create(&mut known, "a").await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(server.address).await.expect("the system takes it"));
    }
    server.client().await.get_job(read("a")).await.expect("one of the silent has given way");
    let (status, _) = crate::support::http::get(http, "/livez").await;
    assert_eq!(status, 200);
    assert!(server.files() < 300 - 32, "{} files are open", server.files());
    known.get_job(read("a")).await.expect("who has called stays");
    server.signal("TERM");
    let (_, log) = server.wait();
    assert!(
        log.contains("the limit on open files is low") && log.contains("maximum number of connections open"),
        "{log}"
    );
    assert!(!log.contains("connection not accepted"), "{log}");
}

/// Without a limit there is no bookkeeping.
#[tokio::test]
async fn zero_is_no_limit() {
    let flags = ["--max-calls-per-second", "0", "--max-watches", "0", "--max-jobs-per-owner", "0"];
    let server = Server::with(&flags).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let request = WatchJobRequest { job_id: "a".into(), ..Default::default() };
        open.push(client.watch_job(request).await.expect("it may be open"));
    }
    drop(open);
    server.stop().await;
}
