//! The ends of watch tokens, and of the streams that began with them.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    CreateWatchTokenRequest, DeleteJobRequest, Event, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    assert_unauthenticated, create, entries, error, get, issue, next, owned, request, server, server_with, token_for,
    until, watch, watch_jobs,
};
use crate::support::{
    Client,
    credentials::{Folder, bearer, holder, identities},
    reason,
    replicas::in_time,
    watching::millis,
};

#[tokio::test]
async fn expired_token_ends_its_streams_and_says_so() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b"]).await;
    let brief = CreateWatchTokenRequest { ttl: millis(1000), ..request(&["a", "b"]) };
    let answer = issue(&mut client, "alice", brief).await;
    let longer = token_for(&mut client, &["a"]).await;
    let mut one = watch(&mut client, &answer.token, "a").await.expect("a stream");
    let mut many = watch_jobs(&mut client, &answer.token, &[]).await.expect("a stream");
    let mut kept = watch(&mut client, &longer, "a").await.expect("a stream");
    assert_unauthenticated(&error(&mut one).await, "ENDED");
    assert_unauthenticated(&error(&mut many).await, "ENDED");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let end = answer.expire_time.expect("an end").seconds;
    // The timer of the runtime may fire a millisecond early.
    assert!(now.as_millis() + 100 >= u128::from(end.cast_unsigned()) * 1000, "not before its time");
    let status = until("it has expired", async || get(&mut client, &answer.token, "a").await.err()).await;
    assert_unauthenticated(&status, "EXPIRED");
    assert!(status.message().contains("expired"), "{status:?}");
    // A forged token is not told that it has expired.
    let (message, _) = answer.token.rsplit_once('.').expect("three parts");
    let status = get(&mut client, &format!("{message}.AAAA"), "a").await.expect_err("it is forged");
    assert_unauthenticated(&status, "INVALID");
    get(&mut client, &longer, "a").await.expect("another token goes on");
    next(&mut kept).await.expect("another stream goes on");
    drop(kept);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_a_token_ends_after_the_last_of_many_removals() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    let ids = ["a", "b", "c", "d", "e"];
    for _ in 0..20 {
        create(&mut client, &ids).await;
        let token = token_for(&mut client, &ids).await;
        let mut many = watch_jobs(&mut client, &token, &[]).await.expect("a stream");
        while next(&mut many).await.expect("an event").event() != Event::Bookmark {}
        join_all(ids.map(|id| {
            let mut client = client.clone();
            async move { delete(&mut client, id).await }
        }))
        .await;
        for _ in ids {
            assert_eq!(next(&mut many).await.expect("each removal").event(), Event::Removed);
        }
        assert!(in_time("the end", many.message()).await.expect("no error").is_none());
    }
    server.stop().await;
}

async fn delete(client: &mut Client, id: &str) {
    let request = DeleteJobRequest { job_id: id.to_owned(), force: true };
    client.delete_job(bearer("alice", request)).await.expect("her job");
}

async fn report(client: &mut Client, id: &str) {
    let request = UpdateProgressRequest { job_id: id.to_owned(), ..UpdateProgressRequest::default() };
    client.update_progress(bearer("alice", request)).await.expect("her job");
}

/// Checks that a token for the job `a` ends with it, with any store, though another job gets the id.
pub async fn assert_ends_with_its_job(client: &mut Client) {
    create(client, &["a", "b"]).await;
    let token = token_for(client, &["a", "b"]).await;
    let mut one = watch(client, &token, "a").await.expect("a stream");
    let resume_token = next(&mut one).await.expect("a snapshot").resume_token;
    let mut many = watch_jobs(client, &token, &[]).await.expect("a stream");
    let many_token = loop {
        let event = next(&mut many).await.expect("an event");
        if event.event() == Event::Bookmark {
            break event.resume_token;
        }
    };
    delete(client, "a").await;
    let removed = loop {
        let event = next(&mut one).await.expect("the removal");
        if event.event() != Event::Bookmark {
            break event;
        }
    };
    assert_eq!(removed.event(), Event::Removed);
    assert!(in_time("the end", one.message()).await.expect("it ends well").is_none());
    let status = get(client, &token, "a").await.expect_err("it was deleted");
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));

    create(client, &["a"]).await;
    let fresh = token_for(client, &["a"]).await;
    assert_eq!(get(client, &fresh, "a").await.expect("the new job").id, "a");
    let status = get(client, &token, "a").await.expect_err("the token is for the first job");
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
    for resume_token in [String::new(), resume_token] {
        let request = WatchJobRequest { job_id: "a".to_owned(), resume_token, ..WatchJobRequest::default() };
        let status = client.watch_job(bearer(&token, request)).await.expect_err("the token is for the first job");
        assert_eq!((status.code(), reason(&status)), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
    }
    report(client, "a").await;
    report(client, "b").await;
    // Only the removal of the first job and the change of the other one arrive.
    let mut seen = Vec::new();
    while !seen.contains(&(Event::Update, "b".to_owned())) {
        let event = next(&mut many).await.expect("an event");
        let kind = event.event();
        seen.extend(event.job.map(|job| (kind, job.id)));
    }
    assert_eq!(seen, [(Event::Removed, "a".to_owned()), (Event::Update, "b".to_owned())]);
    for resume_token in [String::new(), many_token] {
        let request = WatchJobsRequest { resume_token, ..WatchJobsRequest::default() };
        let mut stream = client.watch_jobs(bearer(&token, request)).await.expect("a stream").into_inner();
        while {
            let event = next(&mut stream).await.expect("an event");
            let is_removed = event.event() == Event::Removed;
            let id = event.job.map_or_else(String::new, |job| job.id);
            assert!(id != "a" || is_removed, "the new job is not shown");
            id != "b"
        } {}
    }
}

#[tokio::test]
async fn stream_of_jobs_ends_when_the_last_of_them_is_removed() {
    let (server, _folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b", "c"]).await;
    let token = token_for(&mut client, &["a", "b"]).await;
    let (mut both, mut one) = (
        watch_jobs(&mut client, &token, &[]).await.expect("a stream"),
        watch_jobs(&mut client, &token, &["a"]).await.expect("a stream"),
    );
    let mut of_alice = watch_jobs(&mut client, "alice", &["a", "b"]).await.expect("a stream");
    delete(&mut client, "a").await;
    create(&mut client, &["a"]).await;
    delete(&mut client, "b").await;
    for (stream, removed) in [(&mut both, vec!["a", "b"]), (&mut one, vec!["a"])] {
        let rest = async {
            let mut seen = Vec::new();
            while let Some(event) = stream.message().await.expect("it ends well") {
                if event.event() == Event::Removed {
                    seen.push(event.job.expect("a job").id);
                }
            }
            seen
        };
        assert_eq!(in_time("the end", rest).await, removed);
    }
    // A stream that begins later ends as soon as it is clear that there is nothing to wait for.
    let mut late = watch_jobs(&mut client, &token, &[]).await.expect("a stream");
    assert_eq!(next(&mut late).await.expect("a bookmark").event(), Event::Bookmark);
    assert!(in_time("the end", late.message()).await.expect("it ends well").is_none());
    // That of an identity waits for ids to be used again.
    let mut seen = Vec::new();
    while seen.last() != Some(&(Event::Removed, "b".to_owned())) {
        let event = next(&mut of_alice).await.expect("an event");
        let kind = event.event();
        seen.extend(event.job.map(|job| (kind, job.id)));
    }
    create(&mut client, &["b"]).await;
    while next(&mut of_alice).await.expect("it goes on").job.is_none_or(|job| job.id != "b") {}
    drop(of_alice);
    server.stop().await;
}

#[tokio::test]
async fn token_ends_with_its_job_though_the_id_is_used_again() {
    let (server, _folder) = server().await;
    assert_ends_with_its_job(&mut server.client().await).await;
    server.stop().await;
}

#[tokio::test]
async fn token_ends_with_the_identity_of_its_maker() {
    let (server, folder) = server().await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let of_root = issue(&mut client, "root", request(&["a"])).await.token;
    let mut stream = watch(&mut client, &token, "a").await.expect("a stream");
    let mut kept = watch(&mut client, &of_root, "a").await.expect("a stream");
    next(&mut kept).await.expect("a snapshot");
    folder.write("identities.json", &identities(&entries()[1..]));
    assert_unauthenticated(&error(&mut stream).await, "ENDED");
    assert_unauthenticated(&get(&mut client, &token, "a").await.expect_err("its maker is gone"), "INVALID");
    let report = UpdateProgressRequest { job_id: "a".to_owned(), ..UpdateProgressRequest::default() };
    client.update_progress(bearer("root", report)).await.expect("an admin's");
    while next(&mut kept).await.expect("another maker's stream goes on").event() != Event::Update {}
    // With the identity, the token is valid again.
    folder.write("identities.json", &identities(&entries()));
    until("the identity is back", async || get(&mut client, &token, "a").await.ok()).await;
    drop(kept);
    server.stop().await;
}

/// Returns an entry of Alice with another bearer token.
fn alice(bearer: &str, role: &str, owners: &Value) -> Value {
    let mut entry = holder(bearer, role, owners);
    entry["name"] = json!("alice");
    entry
}

#[tokio::test]
async fn token_outlives_the_bearer_token_of_its_maker() {
    let entry = |bearer: &str| alice(bearer, "reporter", &json!(["a1"]));
    let (server, folder) = server_with(&[entry("alice")], &[]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let mut stream = watch(&mut client, &token, "a").await.expect("a stream");
    next(&mut stream).await.expect("a snapshot");
    // As docs/security.md describes the replacement of a token.
    folder.write("identities.json", &identities(&[entry("alice"), entry("new")]));
    until("the new one is valid", async || get(&mut client, "new", "a").await.ok()).await;
    folder.write("identities.json", &identities(&[entry("new")]));
    until("the old one is not valid", async || get(&mut client, "alice", "a").await.err()).await;
    get(&mut client, &token, "a").await.expect("the identity is the same");
    let report = UpdateProgressRequest { job_id: "a".to_owned(), ..UpdateProgressRequest::default() };
    client.update_progress(bearer("new", report)).await.expect("a reporter");
    while next(&mut stream).await.expect("the stream goes on").event() != Event::Update {}
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn token_shrinks_with_the_rights_of_its_maker() {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&entries()));
    let server = crate::support::Server::with(&["--auth-tokens", &file]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    client.create_job(bearer("alice", owned("b", "a2"))).await.expect("hers");
    let token = token_for(&mut client, &["a", "b"]).await;
    let mut one = watch(&mut client, &token, "a").await.expect("a stream");
    let mut many = watch_jobs(&mut client, &token, &[]).await.expect("a stream");
    let mut fewer = entries();
    fewer[0] = holder("alice", "reader", &json!(["a2"]));
    folder.write("identities.json", &identities(&fewer));
    assert_unauthenticated(&error(&mut one).await, "ENDED");
    assert_unauthenticated(&error(&mut many).await, "ENDED");
    let status = get(&mut client, &token, "a").await.expect_err("not hers any more");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(watch(&mut client, &token, "a").await.expect_err("not hers any more").code(), Code::NotFound);
    get(&mut client, &token, "b").await.expect("still hers");
    let mut many = watch_jobs(&mut client, &token, &[]).await.expect("a stream");
    assert_eq!(next(&mut many).await.expect("a snapshot").job.expect("a job").id, "b");
    assert_eq!(next(&mut many).await.expect("a bookmark").event(), Event::Bookmark);
    drop(many);
    server.stop().await;
}
