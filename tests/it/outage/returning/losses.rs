//! Redis loses jobs that a replica has in memory: the replica answers from memory, and restores them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use jobtrack::proto::v1::{Durability, GetStatsRequest, ListJobsRequest, job::State, reconciled_job::Outcome};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_health::ServingStatus::NotServing;

use super::{each, ids, ids_in, stored};
use crate::support::{
    Client, Server, create, new_job,
    records::{ask, key_of, record_key},
    redis::Redis,
    relay::{Link, Relay},
    replicas::{Health, try_get, whole},
    until,
    watching::{report, try_complete, try_report},
};

/// Number of jobs of each replica.
const HELD: usize = 100;

/// Number of times that Redis is emptied.
const TIMES: usize = 5;

/// Number of callers that read and report meanwhile, at each replica.
const CALLERS: usize = 4;

async fn make(client: &Client, ids: &[String]) {
    for made in each(client, ids, async |mut client, id| client.create_job(new_job(&id)).await).await {
        made.expect("it can be created");
    }
}

/// Calls a replica for jobs in its memory, which must be found whatever Redis has. Returns the number of calls, and
/// their errors.
async fn call(mut client: Client, ids: Vec<String>, stop: Arc<AtomicBool>) -> (usize, Vec<Status>) {
    let (mut count, mut errors) = (0, Vec::new());
    for id in ids.iter().cycle() {
        if stop.load(Relaxed) {
            break;
        }
        errors.extend(try_get(&mut client, id).await.err());
        errors.extend(try_report(&mut client, id).await.err());
        count += 2;
    }
    (count, errors)
}

/// Empties Redis repeatedly, under calls for the jobs that it had.
async fn empty_under_load(redis: &Redis, servers: &[(Server, Vec<String>)]) -> (usize, Vec<Status>) {
    let (mut callers, stop) = (JoinSet::new(), Arc::<AtomicBool>::default());
    for (server, ids) in servers {
        let client = server.client().await;
        for ids in ids.chunks(ids.len() / CALLERS) {
            callers.spawn(call(client.clone(), ids.to_vec(), stop.clone()));
        }
    }
    for time in 1..=TIMES {
        redis.command(&["FLUSHALL"]).await;
        let what = format!("all are back after {time} times");
        until(&what, async || (ids_in(redis).await.len() == HELD * servers.len()).then_some(())).await;
    }
    stop.store(true, Relaxed);
    let all = callers.join_all().await;
    (all.iter().map(|(count, _)| count).sum(), all.into_iter().flat_map(|(_, errors)| errors).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_never_denies_a_job_that_redis_has_lost() {
    let redis = Redis::start().await;
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let server = Server::with(&["--redis-url", &redis.url()]).await;
        let ids = ids(name, HELD);
        make(&server.client().await, &ids).await;
        servers.push((server, ids));
    }
    let (count, errors) = empty_under_load(&redis, &servers).await;
    println!("{count} calls, {} answered in error", errors.len());
    let first = errors.first();
    assert!(first.is_none(), "{} of {count} calls were answered in error, one with {first:?}", errors.len());
    let third = Server::with(&["--redis-url", &redis.url()]).await;
    for (server, ids) in &servers {
        let mut client = server.client().await;
        let mut revisions = Vec::new();
        for id in ids {
            revisions.push((id, stored(&mut client, id, 1).await.revision));
        }
        let mut elsewhere = third.client().await;
        for (id, revision) in revisions {
            assert_eq!(stored(&mut elsewhere, id, revision).await.revision, revision, "{id}");
        }
    }
}

/// The loss of a single record changes no count or history.
#[tokio::test(flavor = "multi_thread")]
async fn holder_puts_back_a_record_that_was_removed() {
    let redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    let mut client = server.client().await;
    for id in ["read", "reported", "ended"] {
        create(&mut client, id).await;
    }
    try_complete(&mut client, "ended", None).await.expect("it can be completed");
    whole(&server).await;
    for id in ["read", "reported", "ended"] {
        redis.command(&["DEL", &key_of(&redis, id).await]).await;
    }

    let reported = try_report(&mut client, "reported").await.expect("the job is held");
    assert_eq!(reported.revision, 2, "{reported:?}");
    // A durable answer implies that the record exists.
    let there = ids_in(&redis).await.iter().any(|id| id == "reported");
    assert!(there || reported.durability() == Durability::Volatile, "{reported:?}");
    for id in ["read", "ended"] {
        let what = format!("{id} is put back");
        until(&what, async || {
            try_get(&mut client, id).await.unwrap_or_else(|status| panic!("{id}: {status:?}"));
            let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
            let listed = page.jobs.iter().any(|job| job.id == id);
            (listed && ids_in(&redis).await.iter().any(|there| there == id)).then_some(())
        })
        .await;
    }
    stored(&mut client, "reported", 2).await;
    let other = Server::with(&["--redis-url", &redis.url()]).await;
    let mut elsewhere = other.client().await;
    for (id, revision, state) in
        [("read", 1, State::Pending), ("reported", 2, State::Running), ("ended", 2, State::Succeeded)]
    {
        assert_eq!(stored(&mut elsewhere, id, revision).await.state(), state, "{id}");
    }
    server.stop().await;
    other.stop().await;
}

/// No caller asks for the job itself.
#[tokio::test(flavor = "multi_thread")]
async fn holder_puts_back_a_record_that_a_list_misses() {
    let redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    let mut client = server.client().await;
    whole(&server).await;
    create(&mut client, "a").await;
    redis.command(&["DEL", &key_of(&redis, "a").await]).await;
    client.list_jobs(ListJobsRequest::default()).await.expect("a page");
    until("it is put back", async || ids_in(&redis).await.contains(&"a".to_owned()).then_some(())).await;
    server.stop().await;
}

/// Redis loses a record while one replica is cut off; that replica puts its older version back and goes on from there.
/// A report that the other replica had stored before is not among the ancestors of what follows, whatever the revision,
/// and is not discarded silently.
#[tokio::test(flavor = "multi_thread")]
async fn report_that_redis_lost_is_not_taken_for_an_ancestor_of_later_ones() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let older = Server::with(&["--redis-url", &relay.url()]).await;
    let newer = Server::with(&["--redis-url", &redis.url()]).await;
    let (mut at_older, mut at_newer) = (older.client().await, newer.client().await);
    create(&mut at_older, "a").await;
    whole(&older).await;
    whole(&newer).await;
    relay.set_all(Link::Cut);
    Health::watch(&older, "redis").await.until(NotServing).await;
    assert_eq!(report(&mut at_newer, "a").await.revision, 2);
    redis.command(&["DEL", &record_key("a")]).await;
    relay.set_all(Link::Pass);

    stored(&mut at_older, "a", 1).await;
    for revision in 2..=3 {
        let job = report(&mut at_older, "a").await;
        assert_eq!((job.revision, job.durability()), (revision, Durability::Durable));
    }
    let mut admin = newer.admin().await;
    until("the discarded report is reported", async || {
        try_get(&mut at_newer, "a").await.expect("it is held");
        let stats = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
        let jobs = stats.last_reconciliation.into_iter().flat_map(|summary| summary.jobs);
        jobs.into_iter().any(|job| job.job_id == "a" && job.outcome() == Outcome::Conflicted).then_some(())
    })
    .await;
    stored(&mut at_newer, "a", 3).await;
    older.stop().await;
    newer.stop().await;
}

/// Returns the lineage, the id, the base and the parent of the branch of `a`.
async fn branch(redis: &Redis) -> [String; 4] {
    let text: String = ask(redis, &["HGET", &record_key("a"), "branch"]).await;
    let parts: Vec<_> = text.split(' ').map(str::to_owned).collect();
    parts.try_into().unwrap_or_else(|parts| panic!("{parts:?}"))
}

/// A record stays in its branch until Redis may have lost data.
#[tokio::test(flavor = "multi_thread")]
async fn branch_of_a_record_ends_where_data_may_have_been_lost() {
    let mut redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    whole(&server).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let first = branch(&redis).await;
    assert_eq!(first[2..], ["1", "0"]);
    report(&mut client, "a").await;
    assert_eq!(branch(&redis).await, first);

    redis.restart().await;
    whole(&server).await;
    until("a report is stored", async || {
        (report(&mut client, "a").await.durability() == Durability::Durable).then_some(())
    })
    .await;
    let [lineage, id, base, parent] = branch(&redis).await;
    assert!(lineage != first[0] && id != first[1], "{lineage} {id} and {first:?}");
    assert_eq!((base.as_str(), &parent), ("2", &first[1]));

    redis.command(&["DEL", &record_key("a")]).await;
    let there = report(&mut client, "a").await.revision - 1;
    stored(&mut client, "a", there + 1).await;
    let put_back = branch(&redis).await;
    assert_eq!((&put_back[0], &put_back[2], &put_back[3]), (&lineage, &there.to_string(), &id));
    assert_ne!(put_back[1], id);
    report(&mut client, "a").await;
    assert_eq!(branch(&redis).await, put_back);
    server.stop().await;
}
