//! The calls, jobs and fields that a watch token allows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    CompleteJobRequest, CreateJobRequest, CreateWatchTokenRequest, Event, GetJobRequest, JobFilter, View,
    WatchJobRequest, WatchJobsRequest,
};
use prost::Message;
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tonic::{Code, Status};

use super::{
    assert_denied, assert_unauthenticated, create, entries, get, get_view, issue, next, owned, read, request, server,
    server_with, token_for, watch, watch_jobs,
};
use crate::support::{
    Client, Server,
    credentials::{Folder, bearer, holder, identities},
    error_info, new_job,
    process::Process,
    raw::{Raw, assert_invalid, frame, methods},
    reason,
    watching::millis,
};

/// Calls that a token allows.
const ALLOWED: [&str; 3] = ["JobService/GetJob", "JobService/WatchJob", "JobService/WatchJobs"];

/// Makes a call of a method with a token.
async fn call_with(raw: &Raw, token: &str, method: &str, message: &[u8]) -> Status {
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str()), ("grpc-timeout", "500m")];
    raw.send(method, &headers, frame(message)).await.status.expect("a status")
}

#[tokio::test]
async fn holder_follows_its_jobs_and_does_nothing_else() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b", "other"]).await;
    let raw = Raw::connect(server.address).await;
    // A token of an admin allows no more than one of another caller.
    for token in
        [token_for(&mut client, &["a", "b"]).await, issue(&mut client, "root", request(&["a", "b"])).await.token]
    {
        let mut allowed = 0;
        for method in [false, true].into_iter().flat_map(methods) {
            // A request that names a job of the token in the field in which most requests name a job.
            let message = GetJobRequest { job_id: "a".to_owned(), ..GetJobRequest::default() }.encode_to_vec();
            let status = call_with(&raw, &token, &method, &message).await;
            if ALLOWED.contains(&method.as_str()) {
                allowed += 1;
                assert!(matches!(status.code(), Code::Ok | Code::DeadlineExceeded), "{method}: {status:?}");
            } else {
                assert_denied(&status, ("credentials", "identity"));
            }
        }
        assert_eq!(allowed, ALLOWED.len());
        for (method, message) in [
            ("JobService/GetJob", read("other").encode_to_vec()),
            ("JobService/GetJob", GetJobRequest { min_revision: Some(9), ..read("other") }.encode_to_vec()),
            ("JobService/WatchJob", WatchJobRequest { job_id: "other".into(), ..Default::default() }.encode_to_vec()),
            (
                "JobService/WatchJobs",
                WatchJobsRequest { job_ids: vec!["a".into(), "other".into()], ..Default::default() }.encode_to_vec(),
            ),
        ] {
            assert_denied(&call_with(&raw, &token, method, &message).await, ("job_id", "other"));
        }
        // The answer does not show whether the other job exists.
        assert_denied(&get(&mut client, &token, "absent").await.expect_err("another job"), ("job_id", "absent"));
        assert_eq!(get(&mut client, &token, "b").await.expect("its job").id, "b");
    }
    server.stop().await;
}

#[tokio::test]
async fn reflection_refuses_a_watch_token() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let raw = Raw::connect(server.address).await;
    let header = format!("Bearer {token}");
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let (response, mut body) = raw.open_at(&path, &[("authorization", &header)]).await;
        _ = body.send_data(frame(b"").into(), true);
        let status = crate::support::raw::answer(response).await.status.expect("a status");
        assert_denied(&status, ("credentials", "identity"));
    }
    server.stop().await;
}

#[tokio::test]
async fn stream_of_jobs_shows_those_of_the_token_only() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b", "other"]).await;
    let token = token_for(&mut client, &["a", "b", "a"]).await;
    let everything: &[&str] = &[];
    for (asked, shown) in [(everything, vec!["a", "b"]), (&["b"], vec!["b"]), (&["a", "b"], vec!["a", "b"])] {
        let mut stream = watch_jobs(&mut client, &token, asked).await.expect("a stream");
        for id in shown {
            let event = next(&mut stream).await.expect("a snapshot");
            assert_eq!((event.event(), event.job.expect("a job").id.as_str()), (Event::Snapshot, id), "{asked:?}");
        }
        assert_eq!(next(&mut stream).await.expect("a bookmark").event(), Event::Bookmark);
        // Of the changes, only those of the token's jobs arrive.
        let before = get(&mut client, &token, "b").await.expect("its job").revision;
        for id in ["other", "b"] {
            let report = jobtrack::proto::v1::UpdateProgressRequest { job_id: id.to_owned(), ..Default::default() };
            client.update_progress(bearer("alice", report)).await.expect("her job");
        }
        let job = next(&mut stream).await.expect("an update").job.expect("a job");
        assert_eq!((job.id.as_str(), job.revision), ("b", before + 1));
    }
    let filter = Some(JobFilter { kind: "other.kind".to_owned(), ..JobFilter::default() });
    let filtered = WatchJobsRequest { filter, ..WatchJobsRequest::default() };
    let mut stream = client.watch_jobs(bearer(&token, filtered)).await.expect("a stream").into_inner();
    assert_eq!(next(&mut stream).await.expect("a bookmark").event(), Event::Bookmark);
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn token_has_a_path_and_an_end() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b:c", "d"]).await;
    let hour = 3600;
    let cases = [
        (vec!["a"], None, hour, "/v1/jobs/a/events"),
        (vec!["b:c"], millis(1500), 2, "/v1/jobs/b:c/events"),
        (vec!["a", "a"], millis(7 * 24 * 3_600_000), 7 * 24 * hour, "/v1/jobs/a/events"),
        (vec!["d", "a", "b:c"], None, hour, "/v1/events?id=d&id=a&id=b:c"),
    ];
    for (ids, ttl, seconds, path) in cases {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        let answer = issue(&mut client, "alice", CreateWatchTokenRequest { ttl, ..request(&ids) }).await;
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        assert_eq!(answer.path, path);
        assert_eq!(answer.token.split('.').count(), 3, "a compact JWT");
        let end = answer.expire_time.expect("an end").seconds;
        let bounds = [begun, ended + Duration::from_secs(1)].map(|time| time.as_secs().cast_signed() + seconds);
        assert!((bounds[0]..=bounds[1]).contains(&end), "{end} {bounds:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn invalid_request_is_refused_by_its_fields() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let ids: Vec<_> = (0..101).map(|number| format!("job-{number}")).collect();
    let many: Vec<_> = ids.iter().map(String::as_str).collect();
    let with = |ttl, view| CreateWatchTokenRequest { ttl, view, ..request(&["a"]) };
    let cases: [(CreateWatchTokenRequest, &[&str]); 8] = [
        (request(&[]), &["job_ids"]),
        (request(&many), &["job_ids"]),
        (request(&["a", "not an id"]), &["job_ids[1]"]),
        (with(millis(0), 0), &["ttl"]),
        (with(millis(-1000), 0), &["ttl"]),
        (with(millis(7 * 24 * 3_600_000 + 1), 0), &["ttl"]),
        (with(None, 3), &["view"]),
        (CreateWatchTokenRequest { ttl: millis(0), view: 9, ..request(&["é"]) }, &["job_ids[0]", "ttl", "view"]),
    ];
    for (request, fields) in cases {
        let what = format!("{request:?}");
        let status = client.create_watch_token(bearer("alice", request)).await.expect_err("it is invalid");
        assert_invalid(&status, fields, &what);
    }
    // A hundred ids of the maximum length do not fit into a header.
    let long: Vec<_> = (0..100).map(|number| format!("{number:0128}")).collect();
    for id in &long {
        create(&mut client, &[id]).await;
    }
    let long: Vec<_> = long.iter().map(String::as_str).collect();
    let status = client.create_watch_token(bearer("alice", request(&long))).await.expect_err("it is too long");
    assert_invalid(&status, &["job_ids"], "a token that is too long");
    let token = token_for(&mut client, &long[..30]).await;
    get(&mut client, &token, long[29]).await.expect("its job");
    server.stop().await;
}

/// Jobs of others can't be shared, and the answer does not show whether they exist.
#[tokio::test]
async fn maker_shares_its_own_jobs_only() {
    let (server, _folder) = server_with(&entries(), &[]).await;
    let mut client = server.client().await;
    create(&mut client, &["alices"]).await;
    client.create_job(bearer("bob", owned("theirs", "bob"))).await.expect("Bob's own");
    client.create_job(bearer("root", new_job("nobodys"))).await.expect("an admin's");
    let cases: [(&str, &[&str], Option<&str>); 9] = [
        ("alice", &["alices"], None),
        ("alice", &["theirs"], Some("theirs")),
        ("alice", &["absent"], Some("absent")),
        ("alice", &["alices", "theirs"], Some("theirs")),
        ("alice", &["nobodys"], Some("nobodys")),
        ("bob", &["theirs"], None),
        ("bob", &["alices"], Some("alices")),
        ("root", &["alices", "theirs", "nobodys"], None),
        ("root", &["absent"], Some("absent")),
    ];
    for (maker, ids, missing) in cases {
        let outcome = client.create_watch_token(bearer(maker, request(ids))).await;
        let Some(missing) = missing else {
            let token = outcome.expect("its own").into_inner().token;
            for id in ids {
                assert_eq!(get(&mut client, &token, id).await.expect("its own").id, *id);
            }
            continue;
        };
        let status = outcome.expect_err("not its own");
        assert_eq!(status.code(), Code::NotFound, "{maker} {ids:?}");
        let info = error_info(&status);
        assert_eq!((info.reason.as_str(), info.metadata["job_id"].as_str()), ("JOB_NOT_FOUND", missing));
    }
    let status = client.create_watch_token(request(&["alices"])).await.expect_err("nobody");
    assert_unauthenticated(&status, "MISSING");
    server.stop().await;
}

fn with_documents(id: &str) -> CreateJobRequest {
    let text = Value { kind: Some(Kind::StringValue("secret".to_owned())) };
    CreateJobRequest { metadata: Some(Struct { fields: [("k".to_owned(), text)].into() }.into()), ..owned(id, "a1") }
}

#[tokio::test]
async fn token_of_the_basic_view_shows_no_documents() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    client.create_job(bearer("alice", with_documents("a"))).await.expect("it is not there yet");
    for (maximum, shows) in [(View::Unspecified, false), (View::Basic, false), (View::Full, true)] {
        let request = CreateWatchTokenRequest { view: maximum.into(), ..request(&["a"]) };
        let token = issue(&mut client, "alice", request).await.token;
        for asked in [View::Unspecified, View::Basic, View::Full] {
            let expected = shows && asked != View::Basic;
            let what = format!("a token of {maximum:?} and a request for {asked:?}");
            let job = get_view(&mut client, &token, "a", asked).await.expect("its job");
            assert_eq!(job.metadata.is_some(), expected, "GetJob: {what}");
            let one = WatchJobRequest { job_id: "a".to_owned(), view: asked.into(), ..WatchJobRequest::default() };
            let mut one = client.watch_job(bearer(&token, one)).await.expect("a stream").into_inner();
            let job = next(&mut one).await.expect("a snapshot").job.expect("a job");
            assert_eq!(job.metadata.is_some(), expected, "WatchJob: {what}");
            let all = WatchJobsRequest { view: asked.into(), ..WatchJobsRequest::default() };
            let mut all = client.watch_jobs(bearer(&token, all)).await.expect("a stream").into_inner();
            let job = next(&mut all).await.expect("a snapshot").job.expect("a job");
            assert_eq!(job.metadata.is_some(), expected, "WatchJobs: {what}");
        }
    }
    server.stop().await;
}

/// The streams of all tokens of a maker count together, and apart from those of the maker.
#[tokio::test]
async fn watches_of_tokens_count_apart_from_those_of_their_maker() {
    let (server, _folder) = server_with(&entries(), &["--max-watches-per-identity", "2"]).await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b", "c"]).await;
    let tokens = [token_for(&mut client, &["a", "b", "c"]).await, token_for(&mut client, &["a"]).await];
    let mut first = watch(&mut client, &tokens[0], "a").await.expect("there is room");
    next(&mut first).await.expect("a snapshot");
    // Without ids, a stream counts once for each job of the token.
    for ids in [&[][..], &["a", "b"]] {
        let status = watch_jobs(&mut client, &tokens[0], ids).await.expect_err("no room");
        assert_eq!(reason(&status), "TOO_MANY_WATCHES");
    }
    let second = watch(&mut client, &tokens[1], "a").await.expect("there is room");
    for token in &tokens {
        assert_eq!(reason(&watch(&mut client, token, "a").await.expect_err("no room")), "TOO_MANY_WATCHES");
    }
    let own = [(); 2].map(|()| client.clone());
    let own = join_all(own.map(async |mut client| watch(&mut client, "alice", "a").await.expect("her own"))).await;
    assert_eq!(reason(&watch(&mut client, "alice", "a").await.expect_err("no room")), "TOO_MANY_WATCHES");
    drop((first, second, own));
    server.stop().await;
}

/// A link that was passed on too widely must not keep its maker from working.
#[tokio::test]
async fn calls_with_a_token_do_not_use_up_those_of_its_maker() {
    let (server, _folder) = server_with(&entries(), &["--max-calls-per-second", "20"]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let mut answered = 0;
    let refused = loop {
        match get(&mut client, &token, "a").await {
            Ok(_) => answered += 1,
            Err(status) => break status,
        }
        assert!(answered < 10_000, "nothing is refused");
    };
    assert_eq!(reason(&refused), "RATE_LIMITED");
    get(&mut client, "alice", "a").await.expect("she has calls of her own");
    server.stop().await;
}

/// Without authentication a token restricts its holder, and nobody else.
#[tokio::test]
async fn without_authentication_a_token_restricts_its_holder() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "other"] {
        crate::support::create(&mut client, id).await;
    }
    let answer = client.create_watch_token(request(&["a"])).await.expect("a token").into_inner();
    let token = answer.token;
    assert_eq!(get(&mut client, &token, "a").await.expect("its job").id, "a");
    assert_denied(&get(&mut client, &token, "other").await.expect_err("another job"), ("job_id", "other"));
    let end = CompleteJobRequest { job_id: "a".to_owned(), ..CompleteJobRequest::default() };
    let status = client.complete_job(bearer(&token, end)).await.expect_err("it only reads");
    assert_denied(&status, ("credentials", "identity"));
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let status = get(&mut client, &format!("{message}.AAAA"), "a").await.expect_err("it is forged");
    assert_unauthenticated(&status, "INVALID");
    // Other credentials mean nothing, as before.
    assert_eq!(get(&mut client, "anything", "other").await.expect("full access").id, "other");
    server.stop().await;
}

/// A token of a server without authentication is worth nothing where callers must authenticate, and the reverse.
#[tokio::test]
async fn token_of_another_configuration_is_refused() {
    let folder = Folder::new();
    let key = folder.write("key", &"k".repeat(32));
    let open = Server::with(&["--token-key-file", &key]).await;
    let (closed, _folder) = server_with(&entries(), &["--token-key-file", &key]).await;
    let (mut of_open, mut of_closed) = (open.client().await, closed.client().await);
    crate::support::create(&mut of_open, "a").await;
    create(&mut of_closed, &["a"]).await;
    let token = of_open.create_watch_token(request(&["a"])).await.expect("a token").into_inner().token;
    assert_unauthenticated(&get(&mut of_closed, &token, "a").await.expect_err("nobody made it"), "INVALID");
    let token = token_for(&mut of_closed, &["a"]).await;
    assert_unauthenticated(&get(&mut of_open, &token, "a").await.expect_err("nobody made it"), "INVALID");
    open.stop().await;
    closed.stop().await;
}

#[tokio::test]
async fn creation_and_refusal_of_a_token_are_in_the_audit_log() {
    let folder = Folder::new();
    let entries = [holder("alice", "reporter", &json!("*"))];
    let file = folder.write("identities.json", &identities(&entries));
    let process = Process::start(&["--auth-tokens", &file]);
    let mut client: Client = process.client().await;
    for id in ["a", "b"] {
        client.create_job(bearer("alice", new_job(id))).await.expect("it is not there yet");
    }
    let token = issue(&mut client, "alice", request(&["a", "b"])).await.token;
    process.logged(&["jobtrack::audit", "watch token created", "job_id=a", "jobs=2", "caller=\"alice\""]).await;
    client.create_watch_token(bearer(&token, request(&["a"]))).await.expect_err("it only reads");
    let line = process.logged(&["authorization refused", "CreateWatchToken"]).await;
    assert!(line.contains("caller=\"watch token of alice\""), "{line}");
    assert!(!process.log().contains(&token), "the token is not in the log");
}
