//! Jobs as a caller sees them. Watches, errors and hostile input have files of their own.

use std::sync::Arc;

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CreateJobRequest, DeleteJobRequest, Durability, FailJobRequest, Failure, GetJobRequest,
    GetStatsRequest, Job, JobFilter, ListJobsRequest, Progress, PurgeJobsRequest, Source, StorageMode,
    UpdateProgressRequest, View, WatchJobsRequest,
    job::{Outcome, State},
};
use prost::Message;
use prost_types::Duration;
use tokio::task::JoinSet;
use tonic::{Code, codec::CompressionEncoding};

use crate::support::{
    Client, Server, create, error_info, large_document, new_job,
    raw::{Raw, frame},
    reason,
    replicas::read,
    violations,
    watching::{complete, try_complete},
};

async fn get(client: &mut Client, id: &str) -> Result<Job, tonic::Status> {
    let answer = client.get_job(GetJobRequest { job_id: id.into(), ..GetJobRequest::default() }).await?.into_inner();
    assert_eq!(answer.source(), Source::Memory);
    Ok(answer.job.expect("an answer has a job"))
}

#[tokio::test]
async fn a_job_lives_from_creation_to_deletion() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let created = create(&mut client, "a").await;
    assert_eq!((created.state(), created.revision, created.attempt), (State::Pending, 1, 0));
    assert_eq!(created.durability(), Durability::Volatile);
    assert_eq!(get(&mut client, "a").await.expect("it is there"), created);

    let progress = Some(Progress { completed: Some(1), total: Some(4), ..Progress::default() });
    let report = UpdateProgressRequest { job_id: "a".into(), progress, worker: "w".into(), ..Default::default() };
    let answer = client.update_progress(report).await.expect("a report").into_inner();
    let running = answer.job.expect("a job");
    assert!(answer.applied && running.state() == State::Running && running.worker == "w" && running.attempt == 1);
    assert_eq!(running.progress.and_then(|progress| progress.percent), Some(25.0));

    let done = try_complete(&mut client, "a", Some(large_document(3))).await.expect("it can be completed");
    assert_eq!(
        (done.state(), done.revision, &done.outcome),
        (State::Succeeded, 3, &Some(Outcome::Result(large_document(3))))
    );
    assert_eq!(complete(&mut client, "a").await, done, "again it is the stored job");
    assert_eq!(done.expire_time.map(|time| time.seconds), done.end_time.map(|time| time.seconds + 7 * 86_400));

    client.delete_job(DeleteJobRequest { job_id: "a".into(), force: false }).await.expect("it has ended");
    assert_eq!(reason(&get(&mut client, "a").await.expect_err("it is gone")), "JOB_NOT_FOUND");
    let again = create(&mut client, "a").await;
    assert!(again.revision > done.revision && again.state() == State::Pending);
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_request_makes_one_job() {
    let server = Server::start().await;
    let client = server.client().await;
    let requests = [
        CreateJobRequest { request_id: "r".into(), owner: "o".into(), ..new_job("") },
        CreateJobRequest { request_id: "r".into(), ..new_job("chosen") },
    ];
    for request in requests {
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let (mut client, request) = (client.clone(), request.clone());
            calls.spawn(async move { client.create_job(request).await.expect("it can be repeated").into_inner() });
        }
        let answers = calls.join_all().await;
        assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
        let job = answers[0].job.clone().expect("a job");
        assert!(answers.iter().all(|answer| answer.job.as_ref() == Some(&job)));

        let mut client = client.clone();
        let done = complete(&mut client, &job.id).await;
        let repeated = client.create_job(request.clone()).await.expect("whatever its state").into_inner();
        assert_eq!((repeated.created, repeated.job), (false, Some(done)));
    }
    let mut client = client.clone();
    let other = CreateJobRequest { request_id: "r".into(), owner: "p".into(), ..new_job("") };
    assert!(client.create_job(other).await.expect("another owner's request").into_inner().created);
    let taken = CreateJobRequest { request_id: "s".into(), ..new_job("chosen") };
    assert_eq!(reason(&client.create_job(taken).await.expect_err("another request's")), "JOB_EXISTS");
    server.stop().await;
}

#[tokio::test]
async fn racing_workers_lose_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    create(&mut client.clone(), "a").await;
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let mut client = client.clone();
        workers.spawn(async move {
            let mut revisions = Vec::new();
            for _ in 0..100 {
                let report = UpdateProgressRequest { job_id: "a".into(), ..Default::default() };
                let answer = client.update_progress(report).await.expect("a heartbeat").into_inner();
                assert!(answer.applied);
                revisions.push(answer.job.expect("a job").revision);
            }
            revisions
        });
    }
    let mut revisions = workers.join_all().await.concat();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=1601).collect::<Vec<_>>(), "each acknowledged change is one revision");
    server.stop().await;
}

#[tokio::test]
async fn many_jobs_are_read_at_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        create(&mut client, id).await;
    }
    let request = |ids: &[&str]| BatchGetJobsRequest {
        job_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..BatchGetJobsRequest::default()
    };
    let answer = client.batch_get_jobs(request(&["b", "x", "a", "b"])).await.expect("a batch").into_inner();
    assert_eq!(answer.jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(answer.missing_ids, ["x"]);
    let nothing = client.batch_get_jobs(request(&[])).await.expect("an empty batch").into_inner();
    assert!(nothing.jobs.is_empty() && nothing.missing_ids.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_views_and_sizes_that_clients_take() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut newest_first = Vec::new();
    for n in 0..9 {
        let metadata = Some(large_document(100));
        let owner = if n % 3 == 0 { "o" } else { "" }.to_owned();
        let job = CreateJobRequest { metadata, owner, ..new_job(&format!("j{n}")) };
        client.create_job(job).await.expect("a job");
        try_complete(&mut client, &format!("j{n}"), Some(large_document(1_000_000)))
            .await
            .expect("it can be completed");
        newest_first.insert(0, format!("j{n}"));
    }
    for (view, page_size) in [(View::Full, 0), (View::Full, 2), (View::Basic, 4), (View::Unspecified, 5000)] {
        let mut request = ListJobsRequest { page_size, view: view.into(), ..ListJobsRequest::default() };
        let mut listed = Vec::new();
        loop {
            let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
            assert!(page.encoded_len() < 4 * 1024 * 1024);
            assert_eq!((page.total_size, page.partial), (Some(9), false));
            let full = view == View::Full;
            assert!(page.jobs.iter().all(|job| job.metadata.is_some() == full && job.outcome.is_some() == full));
            listed.extend(page.jobs.into_iter().map(|job| job.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed, newest_first, "{view:?} by {page_size}");
    }
    let filter = JobFilter { owner: "o".into(), ..JobFilter::default() };
    let request = ListJobsRequest { filter: Some(filter), page_size: 2, ..ListJobsRequest::default() };
    let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
    assert_eq!((page.jobs.len(), page.total_size), (2, Some(3)));
    let other = ListJobsRequest { filter: None, page_token: page.next_page_token, ..request };
    assert_eq!(reason(&client.list_jobs(other).await.expect_err("the token is of another filter")), "INVALID_FIELD");

    let all = BatchGetJobsRequest { job_ids: newest_first, ..BatchGetJobsRequest::default() };
    let refused = client.batch_get_jobs(all).await.expect_err("it is larger than clients take");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    server.stop().await;
}

#[tokio::test]
async fn operators_count_and_purge() {
    let server = Server::start().await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    for n in 0..6 {
        let id = format!("j{n}");
        create(&mut client, &id).await;
        if n < 3 {
            complete(&mut client, &id).await;
        } else if n < 5 {
            let failure = Some(Failure::default());
            let request = FailJobRequest { job_id: id, failure, ..FailJobRequest::default() };
            client.fail_job(request).await.expect("it can fail");
        }
    }
    let mut counts = async || {
        let stats = admin.get_stats(GetStatsRequest {}).await.expect("stats").into_inner();
        assert_eq!((stats.storage_mode(), stats.version.as_str()), (StorageMode::Memory, env!("CARGO_PKG_VERSION")));
        assert!(stats.redis.is_none() && stats.cache.is_none() && stats.jobs_in_redis.is_none());
        assert!(stats.replicas.is_empty() && !stats.decisions_held_back, "in memory there are no replicas");
        let counts: Vec<_> = stats.state_counts.iter().map(|count| (count.state(), count.count)).collect();
        assert_eq!(stats.jobs_in_memory, counts.iter().map(|(_, count)| count).sum::<i64>());
        counts
    };
    let of = |pending, succeeded, failed| {
        use State::{Cancelled, Failed, Pending, Running, Succeeded};
        vec![(Pending, pending), (Running, 0), (Succeeded, succeeded), (Failed, failed), (Cancelled, 0)]
    };
    assert_eq!(counts().await, of(1, 3, 2));
    let mut admin = server.admin().await;
    let mut purge = async |request| admin.purge_jobs(request).await.expect("a purge").into_inner().purged_count;
    let hour = Some(Duration { seconds: 3600, nanos: 0 });
    assert_eq!(purge(PurgeJobsRequest { older_than: hour, ..PurgeJobsRequest::default() }).await, 0);
    assert_eq!(purge(PurgeJobsRequest { dry_run: true, ..PurgeJobsRequest::default() }).await, 5);
    assert_eq!(counts().await, of(1, 3, 2));
    let failed = PurgeJobsRequest { states: vec![State::Failed.into()], ..PurgeJobsRequest::default() };
    assert_eq!(purge(failed).await, 2);
    assert_eq!(purge(PurgeJobsRequest { kind: "other".into(), ..PurgeJobsRequest::default() }).await, 0);
    assert_eq!(purge(PurgeJobsRequest::default()).await, 3);
    assert_eq!(counts().await, of(1, 0, 0));
    server.stop().await;
}

#[tokio::test]
async fn answers_use_a_fast_compression_that_the_caller_accepts() {
    let server = Server::start().await;
    let mut plain = server.client().await;
    let raw = Raw::connect(server.address).await;
    for (id, size, is_compressed) in [("small", 10, 0), ("large", 60_000, 1), ("huge", 100_000, 0)] {
        create(&mut plain, id).await;
        try_complete(&mut plain, id, Some(large_document(size))).await.expect("it can be completed");
        let request = frame(&read(id).encode_to_vec());
        for encoding in ["gzip", "zstd"] {
            let answer = raw.send("JobService/GetJob", &[("grpc-accept-encoding", encoding)], request.clone()).await;
            assert_eq!(answer.outcome().expect("it is there")[0], is_compressed, "{id}, {encoding}");
        }
    }
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        // The limit applies to the bytes on the wire.
        let mut client = server.client().await.accept_compressed(encoding).send_compressed(encoding);
        client = client.max_decoding_message_size(200_000);
        assert_eq!(
            get(&mut client, "large").await.expect("it is there"),
            get(&mut plain, "large").await.expect("so it is")
        );
        assert_eq!(get(&mut client, "small").await.expect("it is there").id, "small");
    }
    server.stop().await;
}

#[tokio::test]
async fn number_of_fields_named_in_an_error_is_bounded() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = WatchJobsRequest { job_ids: vec!["no id".into(); 1000], ..WatchJobsRequest::default() };
    let refused = client.watch_jobs(request).await.expect_err("none of them is an id");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(error_info(&refused).metadata["violations"], "1000");
    assert_eq!(violations(&refused).len(), 20);
    assert!(refused.details().len() < 4096, "it travels in a header: clients take 8 KiB");
    server.stop().await;
}

/// A clock that stands still until it is set.
#[derive(Default)]
struct SetClock(std::sync::atomic::AtomicI64);

impl jobtrack::clock::Clock for SetClock {
    fn now(&self) -> jobtrack::domain::Timestamp {
        jobtrack::domain::Timestamp::from_micros(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}

#[tokio::test]
async fn reads_show_expiry_and_lost_leases_at_once() {
    let clock = Arc::new(SetClock::default());
    let set = |seconds: i64| clock.0.store(seconds * 1_000_000, std::sync::atomic::Ordering::Relaxed);
    set(1000);
    let server = Server::with_clock(&["--ttl-succeeded", "10s"], clock.clone()).await;
    let mut client = server.client().await;
    create(&mut client, "done").await;
    complete(&mut client, "done").await;
    let leased = CreateJobRequest { lease_timeout: Some(Duration { seconds: 5, nanos: 0 }), ..new_job("leased") };
    client.create_job(leased).await.expect("a job");
    let report = UpdateProgressRequest { job_id: "leased".into(), ..Default::default() };
    let live = client.update_progress(report).await.expect("a heartbeat").into_inner().job.expect("a job");
    assert_eq!(live.liveness(), jobtrack::proto::v1::Liveness::Live);

    set(1009);
    assert_eq!(get(&mut client, "leased").await.expect("it is there").liveness(), jobtrack::proto::v1::Liveness::Lost);
    assert_eq!(get(&mut client, "done").await.expect("it is there").state(), State::Succeeded);
    // A clock that stands still advances a microsecond with each change.
    set(1011);
    assert_eq!(get(&mut client, "done").await.expect_err("its time is over").code(), Code::NotFound);
    let again = create(&mut client, "done").await;
    assert!(again.revision > 2);
    server.stop().await;
}
