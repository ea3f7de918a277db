//! Metrics and probes, as Prometheus, Kubernetes and an operator with curl read them.

mod documented;
mod outage;
mod probes;

use jobtrack::proto::v1::{
    CancelJobRequest, CompleteJobRequest, FailJobRequest, Failure, ListJobsRequest, UpdateProgressRequest,
};
use tonic::{Code, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::support::{
    Client, Server, create,
    http::Scrape,
    new_job,
    replicas::{read, under_lease, until_lost},
    watching::watch,
};

const JOBS: &str = "jobtrack.v1.JobService";

/// Returns the number of calls of a method of `JobService` that ended with this code.
fn handled(scrape: &Scrape, kind: &str, method: &str, code: &str) -> u64 {
    scrape.of_call("grpc_server_handled_total", kind, &format!("{JOBS}/{method}"), code)
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    client.create_job(new_job("a")).await.expect_err("the id is taken");
    for _ in 0..3 {
        client.get_job(read("a")).await.expect("it is there");
    }
    client.get_job(read("b")).await.expect_err("there is no such job");
    client.list_jobs(ListJobsRequest::default()).await.expect("a page");

    let scrape = Scrape::of(server.http).await;
    for (method, code, count) in [
        ("CreateJob", "OK", 1),
        ("CreateJob", "AlreadyExists", 1),
        ("GetJob", "OK", 3),
        ("GetJob", "NotFound", 1),
        ("GetJob", "Internal", 0),
        ("ListJobs", "OK", 1),
        ("DeleteJob", "OK", 0),
    ] {
        assert_eq!(handled(&scrape, "unary", method, code), count, "{method} {code}");
    }
    let get = |metric| scrape.of_call(metric, "unary", &format!("{JOBS}/GetJob"), "");
    assert_eq!(get("grpc_server_started_total"), 4);
    assert_eq!(get("grpc_server_msg_received_total"), 4);
    assert_eq!(get("grpc_server_msg_sent_total"), 3);
    assert_eq!(get("grpc_server_handling_seconds_count"), 4);

    assert_eq!(scrape.count("jobtrack_connections"), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_counts_each_message_and_ends_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "left"] {
        create(&mut client, id).await;
    }
    let mut stream = watch(&client, "a").await;
    let mut left = watch(&client, "left").await;
    left.next().await;
    stream.next().await;
    for _ in 0..3 {
        client.update_progress(under_lease("a", 60_000)).await.expect("it is taken");
        stream.update().await;
    }
    let scrape = Scrape::of(server.http).await;
    let method = format!("{JOBS}/WatchJob");
    assert_eq!(scrape.count("jobtrack_watches"), 2);
    assert_eq!(scrape.of_call("grpc_server_started_total", "server_stream", &method, ""), 2);
    assert_eq!(handled(&scrape, "server_stream", "WatchJob", "OK"), 0, "it goes on");

    client.complete_job(CompleteJobRequest { job_id: "a".into(), ..Default::default() }).await.expect("it is taken");
    while stream.outcome().await.is_some() {}
    drop(left);
    // A scrape may fall between the two counts of one end.
    let timed = |scrape: &Scrape| scrape.of_call("grpc_server_handling_seconds_count", "server_stream", &method, "");
    let ended = |scrape: &Scrape| handled(scrape, "server_stream", "WatchJob", "Canceled") == 1 && timed(scrape) == 2;
    let scrape = Scrape::until(server.http, "the end of a stream that was left", ended).await;
    assert_eq!(handled(&scrape, "server_stream", "WatchJob", "OK"), 1);
    // Of the first stream: a snapshot, three updates and the end. Of the other one: a snapshot.
    assert_eq!(scrape.of_call("grpc_server_msg_sent_total", "server_stream", &method, ""), 6);
    server.stop().await;
}

/// Calls an unknown method.
async fn call_unknown(server: &Server, path: &'static str) -> Code {
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("it is connected");
    let codec = ProstCodec::<ListJobsRequest, ListJobsRequest>::default();
    let request = tonic::Request::new(ListJobsRequest::default());
    grpc.unary(request, PathAndQuery::from_static(path), codec).await.expect_err("nobody serves it").code()
}

#[tokio::test]
async fn unknown_methods_create_no_series() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let series = |scrape: &Scrape| scrape.text.lines().count();
    let before = series(&Scrape::of(server.http).await);
    for path in ["/jobtrack.v1.JobService/Made", "/jobtrack.v1.JobService/Up", "/another.Service/GetJob", "/x"] {
        assert_eq!(call_unknown(&server, path).await, Code::Unimplemented, "{path}");
    }
    for owner in ["one", "two"] {
        client
            .create_job(jobtrack::proto::v1::CreateJobRequest { owner: owner.into(), ..new_job(owner) })
            .await
            .expect("a job");
    }
    let scrape = Scrape::of(server.http).await;
    assert_eq!(scrape.of_call("grpc_server_handled_total", "unary", "unknown", "Unimplemented"), 4);
    assert_eq!(series(&scrape), before, "{}", scrape.text);
    server.stop().await;
}

/// Creates a job and starts it.
async fn start(client: &mut Client, id: &str) {
    create(client, id).await;
    let report = UpdateProgressRequest { job_id: id.into(), ..UpdateProgressRequest::default() };
    client.update_progress(report).await.expect("it is taken");
}

#[tokio::test]
async fn ended_jobs_are_counted_once_by_outcome() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["succeeds", "fails", "is-cancelled", "runs"] {
        start(&mut client, id).await;
    }
    create(&mut client, "waits").await;
    let again = jobtrack::proto::v1::CreateJobRequest { request_id: "once".into(), ..new_job("again") };
    for _ in 0..2 {
        client.create_job(again.clone()).await.expect("it is safe to repeat");
    }
    for _ in 0..2 {
        let done = CompleteJobRequest { job_id: "succeeds".into(), ..CompleteJobRequest::default() };
        client.complete_job(done).await.expect("it is safe to repeat");
    }
    let failure = Some(Failure { message: "broken".into(), ..Failure::default() });
    client.fail_job(FailJobRequest { job_id: "fails".into(), failure, ..Default::default() }).await.expect("it fails");
    for job_id in ["is-cancelled", "waits"] {
        let cancel = CancelJobRequest { job_id: job_id.into(), force: true, ..CancelJobRequest::default() };
        client.cancel_job(cancel).await.expect("it is cancelled");
    }

    let scrape = Scrape::of(server.http).await;
    assert_eq!(scrape.count("jobtrack_jobs_created_total"), 6);
    for (outcome, ended, worked) in [("succeeded", 1, 1), ("failed", 1, 1), ("cancelled", 2, 1)] {
        let of = |metric| scrape.count(&format!("{metric}{{outcome=\"{outcome}\"}}"));
        assert_eq!(of("jobtrack_jobs_finished_total"), ended, "{outcome}");
        // Jobs that never started have no processing time.
        assert_eq!(of("jobtrack_job_processing_seconds_count"), worked, "{outcome}");
    }
    for (state, count) in [("PENDING", 1), ("RUNNING", 1), ("SUCCEEDED", 1), ("FAILED", 1), ("CANCELLED", 2)] {
        assert_eq!(scrape.count(&format!("jobtrack_jobs{{state=\"{state}\"}}")), count, "{state}");
    }
    assert_eq!(scrape.count("jobtrack_jobs_held"), 6);
    assert_eq!(scrape.count("jobtrack_storage_mode{mode=\"memory\"}"), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_workers_and_skipped_revisions_are_counted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "lost").await;
    client.update_progress(under_lease("lost", 50)).await.expect("it is taken");
    let mut stream = watch(&client, "lost").await;
    until_lost(&mut stream, "lost").await;
    let lost = |scrape: &Scrape| scrape.count("jobtrack_workers_lost_total") == 1;
    Scrape::until(server.http, "the lost worker", lost).await;

    // Updates are delayed for a minute, and then the end comes.
    create(&mut client, "fast").await;
    let request = jobtrack::proto::v1::WatchJobRequest {
        job_id: "fast".into(),
        min_interval: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    };
    let mut stream = crate::support::watching::watch_job(&client, request).await;
    stream.next().await;
    let mut skipped = 0;
    for _ in 0..5 {
        client.update_progress(under_lease("fast", 60_000)).await.expect("it is taken");
    }
    client.complete_job(CompleteJobRequest { job_id: "fast".into(), ..Default::default() }).await.expect("it ends");
    while let Some(seen) = stream.outcome().await {
        skipped += seen.expect("it ends well").skipped;
    }
    assert!(skipped > 0, "nothing was passed over");
    let scrape = Scrape::of(server.http).await;
    assert_eq!(scrape.count("jobtrack_watch_revisions_skipped_total"), skipped.cast_unsigned());
    server.stop().await;
}
