//! Jobs of other owners are indistinguishable from missing jobs.

use std::collections::BTreeMap;

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest,
    DeleteJobRequest, Event, FailJobRequest, Failure, GetJobRequest, GetStatsRequest, Job, JobFilter, ListJobsRequest,
    ListJobsResponse, Progress, PurgeJobsRequest, StartAttemptRequest, UpdateProgressRequest, WatchJobRequest,
    WatchJobsRequest, WatchJobsResponse, job::State,
};
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};

use super::{assert_denied, until};
use crate::support::{
    Client, Server,
    credentials::{Folder, bearer, holder, identities},
    error_info, new_job,
    raw::{Call, Raw, call, frame, methods},
    reason,
    redis::Redis,
    violations,
};

/// Starts a server where Alice has two owners, Bob another one, and Nobody the jobs without an owner.
async fn server(flags: &[&str]) -> (Server, Folder) {
    let folder = Folder::new();
    let entries = [
        holder("alice", "admin", &json!(["a1", "a2"])),
        holder("alice2", "admin", &json!(["a1", "a2"])),
        holder("bob", "admin", &json!(["bob"])),
        holder("nobody", "admin", &json!([""])),
        holder("root", "admin", &json!("*")),
    ];
    let file = folder.write("identities.json", &identities(&entries));
    (Server::with(&[&["--auth-tokens", &file], flags].concat()).await, folder)
}

fn owned(id: &str, owner: &str) -> CreateJobRequest {
    CreateJobRequest { owner: owner.to_owned(), ..new_job(id) }
}

fn by_owner(owner: &str) -> JobFilter {
    JobFilter { owner: owner.to_owned(), ..JobFilter::default() }
}

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

async fn list(client: &mut Client, token: &str, request: ListJobsRequest) -> (Vec<String>, ListJobsResponse) {
    let list = client.list_jobs(bearer(token, request)).await.expect("jobs can be listed").into_inner();
    (list.jobs.iter().map(|job| job.id.clone()).collect(), list)
}

/// Checks lists, counts and pages of each caller, with any store.
async fn assert_lists_its_own(server: &Server) {
    let mut client = server.client().await;
    for (number, owner) in ["a1", "bob", "", "a2", "bob", "a1"].into_iter().enumerate() {
        let token = if owner == "bob" {
            "bob"
        } else if owner.is_empty() {
            "nobody"
        } else {
            "alice"
        };
        client.create_job(bearer(token, owned(&format!("j{number}"), owner))).await.expect("its own");
    }
    let all = ListJobsRequest::default;
    let by = |owner: &str| ListJobsRequest { filter: Some(by_owner(owner)), ..all() };
    let cases = [
        ("alice", all(), vec!["j5", "j3", "j0"], Some(3)),
        ("alice", by("a1"), vec!["j5", "j0"], Some(2)),
        ("alice", by("bob"), vec![], Some(0)),
        ("bob", all(), vec!["j4", "j1"], Some(2)),
        ("nobody", all(), vec!["j2"], Some(1)),
        ("nobody", by("a1"), vec![], Some(0)),
        ("root", all(), vec!["j5", "j4", "j3", "j2", "j1", "j0"], Some(6)),
    ];
    for (token, request, ids, total) in cases {
        let (found, answer) = list(&mut client, token, request.clone()).await;
        assert_eq!(
            (found, answer.total_size),
            (ids.into_iter().map(str::to_owned).collect(), total),
            "{token} {request:?}"
        );
    }
    let page_of = |page_token: String| ListJobsRequest { page_size: 1, page_token, ..all() };
    let (first, page) = list(&mut client, "alice", page_of(String::new())).await;
    let (second, _) = list(&mut client, "alice", page_of(page.next_page_token.clone())).await;
    assert_eq!((first, second), (vec!["j5".to_owned()], vec!["j3".to_owned()]));
    // A caller with the same rights may not use the token either.
    for other in ["alice2", "bob", "root"] {
        let request = bearer(other, page_of(page.next_page_token.clone()));
        let status = client.list_jobs(request).await.expect_err("the token is Alice's");
        assert_eq!(violations(&status).keys().collect::<Vec<_>>(), ["page_token"]);
    }
    for number in 0..6 {
        let done = CompleteJobRequest { job_id: format!("j{number}"), ..Default::default() };
        client.complete_job(bearer("root", done)).await.expect("all are root's");
    }
    let mut admin = server.admin().await;
    let purged = admin.purge_jobs(bearer("alice", PurgeJobsRequest::default())).await.expect("her own");
    assert_eq!(purged.into_inner().purged_count, 3);
    assert_eq!(list(&mut client, "root", all()).await.0, ["j4", "j2", "j1"]);
}

#[tokio::test]
async fn lists_pages_and_purges_cover_only_own_jobs() {
    let (server, _folder) = server(&[]).await;
    assert_lists_its_own(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn lists_pages_and_purges_cover_only_own_jobs_with_redis() {
    let redis = Redis::start().await;
    let (server, _folder) = server(&["--redis-url", &redis.url()]).await;
    assert_lists_its_own(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn streams_and_their_tokens_cover_only_own_jobs() {
    let (server, _folder) = server(&[]).await;
    let mut client = server.client().await;
    client.create_job(bearer("alice", owned("a", "a1"))).await.expect("her own");
    client.create_job(bearer("bob", owned("b", "bob"))).await.expect("his own");
    let scopes = [
        WatchJobsRequest::default(),
        WatchJobsRequest { job_ids: vec!["a".into(), "b".into(), "c".into()], ..Default::default() },
        WatchJobsRequest {
            filter: Some(JobFilter { states: vec![State::Pending.into()], ..Default::default() }),
            ..Default::default()
        },
    ];
    let mut streams = Vec::new();
    for scope in scopes {
        let mut stream = client.watch_jobs(bearer("alice", scope)).await.expect("a stream").into_inner();
        let snapshot = stream.message().await.expect("an event").expect("a snapshot");
        assert_eq!(snapshot.job.expect("a job").id, "a");
        let bookmark = stream.message().await.expect("an event").expect("a bookmark");
        assert_eq!(bookmark.event(), Event::Bookmark);
        streams.push((stream, bookmark.resume_token));
    }
    client.create_job(bearer("bob", owned("c", "bob"))).await.expect("his own");
    for job_id in ["b", "c"] {
        let report = UpdateProgressRequest { job_id: job_id.into(), ..Default::default() };
        client.update_progress(bearer("bob", report)).await.expect("his own");
        client
            .delete_job(bearer("bob", DeleteJobRequest { job_id: job_id.into(), force: true }))
            .await
            .expect("his own");
    }
    client.create_job(bearer("alice", owned("b", "a2"))).await.expect("Bob's is gone");
    let token = streams[0].1.clone();
    for (mut stream, _) in streams {
        // Alice's stream shows only the part of `b`'s history in which the job was hers.
        let event = stream.message().await.expect("an event");
        let Some(job) = event.and_then(|event| event.job) else { panic!("no job") };
        assert_eq!((job.id.as_str(), job.owner.as_str()), ("b", "a2"));
    }
    let resume = |resume_token: &str| WatchJobsRequest { resume_token: resume_token.to_owned(), ..Default::default() };
    let mut stream = client.watch_jobs(bearer("alice", resume(&token))).await.expect("a stream").into_inner();
    let event = stream.message().await.expect("an event").expect("an event");
    assert_eq!((event.event(), event.reset), (Event::Bookmark, false), "her own token is honoured");
    let mut stream = client.watch_jobs(bearer("alice2", resume(&token))).await.expect("a stream").into_inner();
    let event = stream.message().await.expect("an event").expect("an event");
    assert_eq!((event.event(), event.reset), (Event::Snapshot, true), "another's is not");

    let token = async |client: &mut Client, of: &str, resume_token: &str| {
        let request = WatchJobRequest { job_id: "a".into(), resume_token: resume_token.into(), ..Default::default() };
        let mut stream = client.watch_job(bearer(of, request)).await.expect("a stream").into_inner();
        stream.message().await.expect("an event").expect("an event")
    };
    let first = token(&mut client, "alice", "").await.resume_token;
    let again = token(&mut client, "alice", &first).await;
    assert_eq!((again.event(), again.reset), (Event::Bookmark, false));
    let other = token(&mut client, "root", &first).await;
    assert_eq!((other.event(), other.reset), (Event::Snapshot, true));
    server.stop().await;
}

/// The end of a page, and the existence of a next one, depend on the caller's own jobs alone.
async fn assert_pages_tell_nothing_of_others(server: &Server) {
    let mut client = server.client().await;
    let of_kind = |id: &str, owner: &str, kind: &str| CreateJobRequest { kind: kind.to_owned(), ..owned(id, owner) };
    for number in 0..2101 {
        client.create_job(bearer("bob", of_kind(&format!("b{number}"), "bob", "payroll"))).await.expect("his own");
    }
    for number in 0..10 {
        client.create_job(bearer("alice", of_kind(&format!("a{number}"), "a1", "demo"))).await.expect("her own");
    }
    for (number, kind) in ["payroll", "unheard-of"].into_iter().enumerate() {
        client.create_job(bearer("alice", of_kind(&format!("c{number}"), "a2", kind))).await.expect("her own");
        let filter = Some(JobFilter { kind: kind.to_owned(), ..JobFilter::default() });
        let request = ListJobsRequest { page_size: 1, filter, ..ListJobsRequest::default() };
        let (ids, mut page) = list(&mut client, "alice", request.clone()).await;
        assert_eq!(ids, [format!("c{number}")], "{kind}");
        while !page.next_page_token.is_empty() {
            let request = ListJobsRequest { page_token: page.next_page_token, ..request.clone() };
            let ids;
            (ids, page) = list(&mut client, "alice", request).await;
            assert!(ids.is_empty(), "{ids:?}");
            assert!(!page.next_page_token.contains(".b"), "{kind}: {}", page.next_page_token);
        }
    }
    for page_size in 1..4 {
        let request = ListJobsRequest { page_size, ..ListJobsRequest::default() };
        let (ids, page) = list(&mut client, "nobody", request).await;
        assert_eq!((ids.len(), &*page.next_page_token), (0, ""));
    }
}

#[tokio::test]
async fn pages_disclose_nothing_about_other_owners() {
    let (server, _folder) = server(&[]).await;
    assert_pages_tell_nothing_of_others(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn pages_disclose_nothing_about_other_owners_with_redis() {
    let redis = Redis::start().await;
    let (server, _folder) = server(&["--redis-url", &redis.url()]).await;
    assert_pages_tell_nothing_of_others(&server).await;
    server.stop().await;
}
