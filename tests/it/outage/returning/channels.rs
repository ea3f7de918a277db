//! Trackers that share a Redis, separated by database or by prefix, do not affect each other.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Durability, WatchJobsRequest};
use rstest::rstest;
use tokio::{task::JoinSet, time::sleep};
use tonic_health::ServingStatus::Serving;

use crate::support::{
    Client, Server, new_job,
    redis::Redis,
    replicas::{Health, stats, try_get},
    watching::{try_complete, try_report, watch_jobs},
};

/// Duration of the writes: several times as long as it takes to notice lost notifications.
const TIME: Duration = Duration::from_secs(8);

/// Number of writers of each tracker.
const WRITERS: usize = 4;

/// Creates jobs, reports on them and ends them, with pauses. Returns their number. Each change must be in Redis.
async fn write(mut client: Client, name: String) -> usize {
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < TIME {
        let id = format!("{name}-{count}");
        let made = client.create_job(new_job(&id)).await.expect("it can be created").into_inner().job.expect("a job");
        let reported = try_report(&mut client, &id).await.expect("it can be reported on");
        let ended = try_complete(&mut client, &id, None).await.expect("it can be completed");
        for job in [made, reported, ended] {
            assert_eq!(job.durability(), Durability::Durable, "{job:?}");
        }
        count += 1;
        // Trackers that received each other's notifications would do so without load, too.
        sleep(Duration::from_millis(50)).await;
    }
    count
}

#[rstest]
#[case::by_database(["/0", "/1"], ["job:", "job:"])]
#[case::by_prefix(["", ""], ["job:", "other:"])]
#[tokio::test(flavor = "multi_thread")]
async fn trackers_on_one_redis_are_isolated(#[case] databases: [&str; 2], #[case] prefixes: [&str; 2]) {
    let redis = Redis::start().await;
    let mut servers = Vec::new();
    for (database, prefix) in databases.iter().zip(prefixes) {
        let url = format!("{}{database}", redis.url());
        // A busy machine must not make Redis seem unavailable.
        let flags = ["--redis-url", &url, "--key-prefix", prefix, "--redis-timeout", "4s"];
        servers.push(Server::with(&flags).await);
    }
    let mut links = Vec::new();
    for server in &servers {
        let mut link = Health::watch(server, "redis").await;
        link.until(Serving).await;
        links.push(link);
    }
    let mut streams = Vec::new();
    let mut writers = JoinSet::new();
    for (tracker, server) in servers.iter().enumerate() {
        let client = server.client().await;
        let mut stream = watch_jobs(&client, WatchJobsRequest::default()).await;
        stream.until_bookmark().await;
        streams.push(stream);
        for writer in 0..WRITERS {
            writers.spawn(write(client.clone(), format!("{tracker}-{writer}")));
        }
    }
    let written: usize = writers.join_all().await.into_iter().sum();
    println!("{written} jobs");
    for (tracker, server) in servers.iter().enumerate() {
        assert_eq!(links[tracker].unread(), Vec::<i32>::new(), "tracker {tracker} took Redis for away");
        let (mut client, other) = (server.client().await, format!("{}-0-0", 1 - tracker));
        try_get(&mut client, &other).await.expect_err("it is another tracker's");
        let stats = stats(&mut server.admin().await).await;
        let reconciled = stats.last_reconciliation.map_or(0, |last| last.merged_count + last.conflicted_count);
        assert_eq!((stats.dirty_jobs, reconciled), (0, 0), "of tracker {tracker}");
        client.create_job(new_job("last")).await.expect("it can be created");
        let seen = streams[tracker].until_job("last").await;
        let foreign = seen.iter().find(|seen| seen.id().starts_with(&other[..2]));
        assert_eq!(foreign, None, "tracker {tracker} is told of another's job");
        assert!(seen.iter().all(|seen| !seen.reset), "the stream of tracker {tracker} was begun anew");
    }
}
