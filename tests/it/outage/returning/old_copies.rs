//! Redis comes back with an old copy of its data, long after an outage. One replica makes more commits than were lost
//! before another one asks, which then can't notice the loss by itself.

use std::time::Duration;

use jobtrack::proto::v1::{Durability, Job, job::State, reconciled_job::Outcome};
use rstest::rstest;

use super::{each, ids, outcomes, stored};
use crate::support::{
    Client, create, large_document, new_job,
    process::{Process, command},
    redis::Redis,
    relay::{Link, Relay},
    replicas::{degraded, stats, try_get, whole},
    skewed::SharedClock,
    until,
    watching::{try_complete, try_report},
};

/// The jobs that only one replica knows, and their states.
const LATE: [(&str, State); 4] = [
    ("pending", State::Pending),
    ("running", State::Running),
    ("ended", State::Succeeded),
    ("restored-as-pending", State::Succeeded),
];

/// Number of jobs, large enough for every partition to contain several, in all likelihood.
const MANY: usize = 200;

struct World {
    clock: SharedClock,
    redis: Redis,
    relay: Relay,
    /// The replica that has the lost jobs, and returns late.
    holder: Process,
    first: Process,
}

impl World {
    async fn start() -> Self {
        let clock = SharedClock::new();
        let redis = Redis::within(&clock.environment(), &["--appendonly", "yes"]).await;
        let relay = Relay::to(redis.port).await;
        let start = |url: String| {
            let mut command = command(&["--redis-url", &url]);
            command.envs(clock.environment());
            Process::run(command)
        };
        let (holder, first) = (start(relay.url()), start(redis.url()));
        for process in [&holder, &first] {
            whole(process).await;
        }
        Self { clock, redis, relay, holder, first }
    }

    /// Makes Redis unavailable for this time, and restarts it with the copy. The holder can't reach it yet.
    async fn lose(&mut self, time: Duration) {
        self.redis.kill();
        for process in [&self.holder, &self.first] {
            degraded(process).await;
        }
        self.relay.set_all(Link::Cut);
        self.clock.set_ahead(time);
        self.redis.restart_from_aside().await;
        whole(&self.first).await;
    }
}

/// Creates the jobs of [`LATE`], except the last one, after the copy was made. Returns all as they are then.
async fn make_late(client: &mut Client) -> Vec<Job> {
    for (id, state) in LATE {
        if id != "restored-as-pending" {
            create(client, id).await;
        }
        if state != State::Pending {
            try_report(client, id).await.expect("it can be reported on");
        }
        if state == State::Succeeded {
            try_complete(client, id, Some(large_document(10))).await.expect("it can be completed");
        }
    }
    let mut jobs = Vec::new();
    for (id, state) in LATE {
        let job = try_get(client, id).await.expect("it is there");
        assert_eq!((job.state(), job.durability()), (state, Durability::Durable));
        jobs.push(job);
    }
    jobs
}

async fn make_many(client: &Client) {
    let ids = ids("new", MANY);
    let made = each(client, &ids, async |mut client, id| client.create_job(new_job(&id)).await);
    for made in made.await {
        made.expect("it can be created");
    }
}

#[rstest]
#[case::not_for_long(Duration::from_secs(10))]
#[case::longer_than_ten_minutes(Duration::from_secs(610))]
#[case::longer_than_a_tombstone_lives(Duration::from_secs(25 * 3600))]
#[tokio::test(flavor = "multi_thread")]
async fn holder_that_comes_back_last_puts_back_what_an_old_copy_lacks(#[case] away: Duration) {
    let mut world = World::start().await;
    let (mut client, mut elsewhere) = (world.holder.client().await, world.first.client().await);
    create(&mut client, "restored-as-pending").await;
    world.redis.save_aside();
    let late = make_late(&mut client).await;
    world.lose(away).await;
    // From now on no count of commits reveals the loss.
    make_many(&world.first.client().await).await;

    world.relay.set_all(Link::Pass);
    until("the holder is back", async || {
        let stats = stats(&mut world.holder.admin().await).await;
        (stats.redis.is_some_and(|redis| redis.reachable) && stats.dirty_jobs == 0).then_some(())
    })
    .await;
    whole(&world.holder).await;
    let holder_stats = stats(&mut world.holder.admin().await).await;
    for job in &late {
        assert!(!outcomes(&holder_stats, &job.id).contains(&Outcome::Dropped), "{} is dropped", job.id);
    }
    let content = |job: &Job| {
        let job = job.clone();
        (job.state, job.create_time, job.attempt, job.outcome, job.revision)
    };
    for job in &late {
        for client in [&mut client, &mut elsewhere] {
            let there = stored(client, &job.id, job.revision).await;
            assert_eq!(content(&there), content(job), "{}", job.id);
        }
    }
    world.holder.signal("TERM");
    let (_, log) = world.holder.wait();
    assert!(!log.contains("panicked") && !log.contains("a job is dropped"), "{log}");
}
