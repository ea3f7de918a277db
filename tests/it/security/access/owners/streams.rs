//! Streams and their tokens.

use jobtrack::proto::v1::{
    DeleteJobRequest, Event, JobFilter, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest, job::State,
};

use super::server;
use crate::support::{Client, credentials::bearer, owned};

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
