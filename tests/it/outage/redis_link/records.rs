//! Records that were damaged from outside.

use jobtrack::proto::v1::{Event, GetJobRequest, ListJobsRequest, UpdateProgressRequest, WatchJobsRequest};
use rstest::rstest;
use tonic::{Code, Status};

use crate::support::{
    Client, create, new_job, reason,
    records::key_of,
    redis::Redis,
    replicas::{read, server_on, under_lease, until_lost},
    watching::{report, watch, watch_jobs},
};

/// A way to damage a record.
#[derive(Clone, Copy)]
enum Damage {
    /// The job is not a valid message.
    Garbage,
    /// The job is a valid message, but not a job.
    NoJob,
    /// The job is missing among the fields.
    NoRecord,
    /// A document is not valid JSON.
    Document,
    /// The key is not a hash.
    NoHash,
    /// The version is invalid.
    Version,
}

impl Damage {
    async fn to(self, redis: &Redis, id: &str) {
        let key = key_of(redis, id).await;
        match self {
            Self::Garbage => redis.command(&["HSET", &key, "job", "{\"id\": \u{0}\u{7f}"]).await,
            // The state has the number 99.
            Self::NoJob => redis.command(&["HSET", &key, "job", " c"]).await,
            Self::NoRecord => redis.command(&["HDEL", &key, "job"]).await,
            Self::Document => redis.command(&["HSET", &key, "metadata", "{\"a\":"]).await,
            Self::NoHash => redis.command(&["SET", &key, "a string"]).await,
            Self::Version => redis.command(&["HSET", &key, "v", "77"]).await,
        };
    }
}

#[track_caller]
fn assert_lost(status: &Status) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::DataLoss, "JOB_CORRUPT"), "{status:?}");
}

async fn listed(client: &mut Client) -> Vec<String> {
    let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    let mut ids: Vec<_> = page.jobs.into_iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

#[rstest]
#[case::garbage(Damage::Garbage)]
#[case::no_job(Damage::NoJob)]
#[case::no_record(Damage::NoRecord)]
#[case::document(Damage::Document)]
#[case::no_hash(Damage::NoHash)]
#[case::version(Damage::Version)]
#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_is_reported_and_affects_no_other(#[case] damage: Damage) {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    for id in ["broken", "good"] {
        create(&mut client, id).await;
    }
    damage.to(&redis, "broken").await;

    let update = UpdateProgressRequest { job_id: "broken".into(), ..UpdateProgressRequest::default() };
    assert_lost(&client.update_progress(update).await.expect_err("it is not to be changed"));
    assert_eq!(report(&mut client, "good").await.revision, 2);
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    report(&mut client, "good").await;
    assert_eq!(all.expect(Event::Update).await.brief(), (Event::Update, "good", 3));
    assert_lost(&client.get_job(GetJobRequest { min_revision: None, ..read("broken") }).await.expect_err("it is lost"));
    // A list reads no documents.
    let listed_too = matches!(damage, Damage::Document);
    let expected = if listed_too { vec!["broken", "good"] } else { vec!["good"] };
    assert_eq!(listed(&mut client).await, expected);
    server.stop().await;
}

#[rstest]
#[case::garbage(Damage::Garbage)]
#[case::no_record(Damage::NoRecord)]
#[case::no_hash(Damage::NoHash)]
#[case::version(Damage::Version)]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_does_not_stop_the_sweeper(#[case] damage: Damage) {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    for id in ["broken", "good"] {
        create(&mut client, id).await;
    }
    client.update_progress(under_lease("broken", 1000)).await.expect("a report");
    damage.to(&redis, "broken").await;
    let mut stream = watch(&client, "good").await;
    stream.expect(Event::Snapshot).await;
    client.update_progress(under_lease("good", 2000)).await.expect("a report");
    assert_eq!(until_lost(&mut stream, "good").await.revision(), 3);
    server.stop().await;
}

#[rstest]
#[case::garbage(Damage::Garbage)]
#[case::no_record(Damage::NoRecord)]
#[case::no_hash(Damage::NoHash)]
#[case::version(Damage::Version)]
#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_is_not_recreated(#[case] damage: Damage) {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "broken").await;
    damage.to(&redis, "broken").await;
    let refused = client.create_job(new_job("broken")).await.expect_err("something is there");
    assert!(matches!(refused.code(), Code::DataLoss | Code::AlreadyExists), "{refused:?}");
    server.stop().await;
}
