//! Calls of every method about the job of another owner.

use std::collections::BTreeMap;

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest,
    CreateWatchTokenRequest, DeleteJobRequest, Event, FailJobRequest, Failure, GetJobRequest, GetStatsRequest, Job,
    ListJobsRequest, Progress, PurgeJobsRequest, StartAttemptRequest, UpdateProgressRequest, WatchJobRequest,
    WatchJobsRequest, WatchJobsResponse, job::State,
};
use prost::Message;
use tonic::{Code, Status};

use super::{super::assert_denied, by_owner, server};
use crate::support::{
    Client, Server,
    credentials::bearer,
    error_info, new_job, owned,
    raw::{Call, Raw, call, frame, methods},
    reason,
    redis::Redis,
    until,
};

/// Returns calls of every method about the job `id`, made by a caller that does not own the job. `token` is a resume
/// token of its owner.
fn calls(id: &str, token: &str) -> Vec<Call> {
    let job_id = || id.to_owned();
    let resume_token = token.to_owned();
    let progress = Some(Progress { percent: Some(50.0), ..Progress::default() });
    let failure = Some(Failure::default());
    vec![
        call("JobService/GetJob", &GetJobRequest { job_id: job_id(), ..GetJobRequest::default() }),
        call(
            "JobService/GetJob",
            &GetJobRequest { job_id: job_id(), min_revision: Some(1000), ..GetJobRequest::default() },
        ),
        call(
            "JobService/BatchGetJobs",
            &BatchGetJobsRequest { job_ids: vec![job_id(), "mine".into(), job_id()], ..BatchGetJobsRequest::default() },
        ),
        call("JobService/UpdateProgress", &UpdateProgressRequest { job_id: job_id(), progress, ..Default::default() }),
        call(
            "JobService/UpdateProgress",
            &UpdateProgressRequest {
                job_id: job_id(),
                attempt: Some(1),
                expected_revision: Some(1),
                ..Default::default()
            },
        ),
        call("JobService/StartAttempt", &StartAttemptRequest { job_id: job_id(), ..Default::default() }),
        call(
            "JobService/StartAttempt",
            &StartAttemptRequest { job_id: job_id(), takeover: true, request_id: "r".into(), ..Default::default() },
        ),
        call(
            "JobService/UpdateProgress",
            &UpdateProgressRequest { job_id: job_id(), claim: "c".into(), ..Default::default() },
        ),
        call("JobService/CompleteJob", &CompleteJobRequest { job_id: job_id(), ..Default::default() }),
        call(
            "JobService/FailJob",
            &FailJobRequest { job_id: job_id(), failure: failure.clone(), retry: true, ..Default::default() },
        ),
        call("JobService/FailJob", &FailJobRequest { job_id: job_id(), failure, ..Default::default() }),
        call("JobService/CancelJob", &CancelJobRequest { job_id: job_id(), force: true, ..Default::default() }),
        call("JobService/ConfirmCancel", &ConfirmCancelRequest { job_id: job_id(), ..Default::default() }),
        call("JobService/DeleteJob", &DeleteJobRequest { job_id: job_id(), force: true }),
        call("JobService/DeleteJob", &DeleteJobRequest { job_id: job_id(), force: false }),
        call("JobService/WatchJob", &WatchJobRequest { job_id: job_id(), ..Default::default() }),
        call("JobService/WatchJob", &WatchJobRequest { job_id: job_id(), resume_token, ..Default::default() }),
        call("JobService/WatchJobs", &WatchJobsRequest { job_ids: vec![job_id()], ..Default::default() }),
        call("JobService/CreateWatchToken", &CreateWatchTokenRequest { job_ids: vec![job_id()], ..Default::default() }),
        call(
            "JobService/CreateWatchToken",
            &CreateWatchTokenRequest { job_ids: vec!["mine".into(), job_id()], ..Default::default() },
        ),
    ]
}

/// Returns calls that name no job: only the owner in them refers to one.
fn broad_calls(owner: &str) -> Vec<Call> {
    let owner = || owner.to_owned();
    vec![
        call("JobService/ListJobs", &ListJobsRequest { filter: Some(by_owner(&owner())), ..Default::default() }),
        call("JobService/WatchJobs", &WatchJobsRequest { filter: Some(by_owner(&owner())), ..Default::default() }),
        call("JobService/CreateJob", &owned("new", &owner())),
        call("AdminService/PurgeJobs", &PurgeJobsRequest { owner: owner(), ..Default::default() }),
        call("AdminService/PurgeJobs", &PurgeJobsRequest { owner: owner(), dry_run: true, ..Default::default() }),
        call("AdminService/GetStats", &GetStatsRequest {}),
    ]
}

/// Returns everything that Alice receives, with `name` replaced by `NAME`.
async fn answer(raw: &Raw, call: &Call, name: &str) -> (Vec<u8>, Vec<u8>) {
    // The deadline ends streams that stay open.
    let headers = [("authorization", "Bearer alice"), ("grpc-timeout", "300m")];
    let headers = if call.method.ends_with("WatchJobs") { &headers[..] } else { &headers[..1] };
    let answer = raw.send(call.method, headers, frame(&call.message)).await;
    let status = answer.status.expect("a status");
    let metadata: BTreeMap<_, _> = error_metadata(&status);
    let told = format!("{:?} {:?} {} {metadata:?} ", answer.http, status.code(), status.message());
    let told = [told.as_bytes(), status.details()].concat();
    let body = if status.code() == Code::DeadlineExceeded {
        // Each stream has different tokens.
        let mut event = WatchJobsResponse::decode(&answer.body[5..]).expect("one event");
        assert_eq!(event.event(), Event::Bookmark);
        event.resume_token.clear();
        event.encode_to_vec()
    } else {
        answer.body.to_vec()
    };
    let named = |bytes: Vec<u8>| replace(&bytes, name.as_bytes(), b"NAME");
    (named(told), named(body))
}

/// Returns the other headers and trailers of the answer.
fn error_metadata(status: &Status) -> BTreeMap<String, String> {
    let headers = status.metadata().clone().into_headers();
    let kept = headers.iter().filter(|(name, _)| *name != "date" && *name != "content-length");
    kept.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect()
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// Fails unless each call about Bob's job, in each of these states, has the same answer for Alice as one about a
/// missing job.
async fn assert_reads_as_missing(server: &Server, states: &[State], code: Code) {
    let raw = Raw::connect(server.address).await;
    let mut client = server.client().await;
    let mut seen = std::collections::BTreeSet::new();
    for state in states {
        // Names of one length have encodings of one length.
        let (theirs, absent) = (format!("theirs-{state:?}"), format!("absent-{state:?}"));
        let before = of_bob(&mut client, &theirs).await;
        let token = token(&mut client, &theirs).await;
        for (about_theirs, about_absent) in
            calls(&theirs, &token).iter().zip(&calls(&absent, &token.replace(&theirs, &absent)))
        {
            let told = answer(&raw, about_theirs, &theirs).await;
            assert_eq!(told, answer(&raw, about_absent, &absent).await, "{} of a {state:?}", about_theirs.method);
            seen.insert(about_theirs.method);
        }
        let read = call("JobService/GetJob", &GetJobRequest { job_id: theirs.clone(), ..GetJobRequest::default() });
        let headers = [("authorization", "Bearer alice")];
        let told = raw.send(read.method, &headers, frame(&read.message)).await.status.expect("a status");
        assert_eq!(told.code(), code, "{told:?}");
        assert_eq!(of_bob(&mut client, &theirs).await, before, "nothing was changed");
    }
    for (of_bob, of_none) in broad_calls("bob").iter().zip(&broad_calls("nix")) {
        assert_eq!(answer(&raw, of_bob, "bob").await, answer(&raw, of_none, "nix").await, "{}", of_bob.method);
        seen.insert(of_bob.method);
    }
    let every: Vec<_> = [false, true].into_iter().flat_map(methods).collect();
    assert_eq!(
        seen.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>(),
        every.into_iter().collect()
    );
}

/// Returns Bob's job as Bob sees it.
async fn of_bob(client: &mut Client, id: &str) -> Option<Job> {
    let request = GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() };
    client.get_job(bearer("bob", request)).await.ok().and_then(|answer| answer.into_inner().job)
}

/// Returns a token of Bob's stream of the job.
async fn token(client: &mut Client, id: &str) -> String {
    let request = WatchJobRequest { job_id: id.to_owned(), ..WatchJobRequest::default() };
    let Ok(stream) = client.watch_job(bearer("bob", request)).await else { return String::new() };
    stream.into_inner().message().await.expect("an event").expect("an event").resume_token
}

const STATES: [State; 4] = [State::Pending, State::Running, State::Succeeded, State::Unspecified];

/// Creates one job of Alice's, and one of Bob's in each state; `Unspecified` is deleted.
async fn populate(server: &Server) {
    let mut client = server.client().await;
    client.create_job(bearer("alice", owned("mine", "a1"))).await.expect("Alice's own");
    for state in STATES {
        let job_id = format!("theirs-{state:?}");
        client.create_job(bearer("bob", owned(&job_id, "bob"))).await.expect("Bob's own");
        let report = UpdateProgressRequest { job_id: job_id.clone(), ..Default::default() };
        if state != State::Pending {
            client.update_progress(bearer("bob", report)).await.expect("Bob's own");
        }
        if state == State::Succeeded {
            let done = CompleteJobRequest { job_id: job_id.clone(), ..Default::default() };
            client.complete_job(bearer("bob", done)).await.expect("Bob's own");
        }
        if state == State::Unspecified {
            client.delete_job(bearer("bob", DeleteJobRequest { job_id, force: true })).await.expect("Bob's own");
        }
    }
}

#[tokio::test]
async fn jobs_of_other_owners_read_as_missing_in_memory() {
    let (server, _folder) = server(&[]).await;
    populate(&server).await;
    assert_reads_as_missing(&server, &STATES, Code::NotFound).await;
    server.stop().await;
}

#[tokio::test]
async fn jobs_of_other_owners_read_as_missing_with_redis_and_in_an_outage() {
    let mut redis = Redis::start().await;
    let (server, _folder) = server(&["--redis-url", &redis.url()]).await;
    populate(&server).await;
    assert_reads_as_missing(&server, &STATES, Code::NotFound).await;
    redis.kill();
    let mut client = server.client().await;
    until("the server has seen it", async || {
        let read = GetJobRequest { job_id: "mine".into(), ..GetJobRequest::default() };
        let job = client.get_job(bearer("alice", read)).await.expect("it is held").into_inner().job.expect("a job");
        (job.durability() == jobtrack::proto::v1::Durability::Volatile).then_some(())
    })
    .await;
    assert_reads_as_missing(&server, &STATES, Code::Unavailable).await;
    server.stop().await;
}

#[tokio::test]
async fn taken_id_discloses_nothing_else_about_its_job() {
    let (server, _folder) = server(&[]).await;
    populate(&server).await;
    let mut client = server.client().await;
    for state in STATES {
        let id = format!("theirs-{state:?}");
        let outcome = client.create_job(bearer("alice", owned(&id, "a1"))).await;
        if state == State::Unspecified {
            outcome.expect("it was deleted");
            continue;
        }
        let info = error_info(&outcome.expect_err("it is taken"));
        assert_eq!((info.reason.as_str(), info.metadata), ("JOB_EXISTS", [("job_id".to_owned(), id)].into()));
    }
    let request = |owner| CreateJobRequest { request_id: "r".into(), ..owned("same", owner) };
    client.create_job(bearer("bob", request("bob"))).await.expect("Bob's own");
    let status = client.create_job(bearer("alice", request("a1"))).await.expect_err("it is not the same request");
    assert_eq!(reason(&status), "JOB_EXISTS");
    let status = client.create_job(bearer("alice", owned("new", "bob"))).await.expect_err("not hers to create");
    assert_denied(&status, ("owner", "bob"));
    assert_denied(&client.create_job(bearer("alice", new_job("new"))).await.expect_err("nobody's"), ("owner", ""));
    server.stop().await;
}
