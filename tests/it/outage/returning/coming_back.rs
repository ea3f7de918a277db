//! A replica comes back under the load that the healthy link carried, in time and bytes proportional to the number of
//! changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jobtrack::{
    proto::v1::{ListJobsRequest, View, job::State},
    store::RedisStore,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep},
};
use tonic_health::ServingStatus::Serving;

use super::{WAIT_TIMEOUT, each, ids, is_serving, stored, told};
use crate::support::{
    Client, Server,
    jobs::id as id_of,
    large_document, new_job,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{Health, degraded, try_get, whole},
    until,
    watching::{try_complete, try_report},
};

/// Delay of the link to Redis in each direction.
const FAR: Duration = Duration::from_millis(20);

/// 50 Mbit/s, in bytes a second.
const NARROW: u32 = 6_250_000;

/// Number of callers that write at a time.
const WRITERS: usize = 8;

/// Number of writes on the healthy link, to measure its rate, in an outage, and after it.
const WRITES: usize = 240;

/// Maximum number of writes after the outage until the replica is back, as a multiple of those in the outage.
const MOST_WRITES: usize = 15;

/// Size of the version of a job in an answer of Redis, in bytes: the id of its incarnation, two revisions, the id of
/// the change, and their frames.
const VERSION_BYTES: u64 = 128;

/// Pause between reads of the number of sent bytes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Flags of a replica that waits for an answer of Redis as long as a busy machine may need.
const PATIENT: [&str; 2] = ["--redis-timeout", "1s"];

/// Callers that create jobs, report on them and end them, one after the other.
struct Writers {
    tasks: JoinSet<Vec<String>>,
    count: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
}

impl Writers {
    /// Starts the callers, each of which makes a call per `pace`.
    fn start(client: &Client, name: &str, pace: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut writers = Self { tasks: JoinSet::new(), count: Arc::default(), stop };
        for writer in 0..WRITERS {
            let (client, count, stopped) = (client.clone(), writers.count.clone(), stopped.clone());
            writers.tasks.spawn(write(client, format!("{name}-{writer}"), pace, count, stopped));
        }
        writers
    }

    fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Waits until `more` calls were made, as long as some are.
    async fn make(&self, more: usize) {
        let mut last = self.count();
        let all = last + more;
        while last < all {
            last = until("callers go on", async || Some(self.count()).filter(|count| *count > last)).await;
        }
    }

    /// Lets each caller finish its job. Returns the ids of all jobs.
    async fn stop(self) -> Vec<String> {
        self.stop.send_replace(true);
        self.tasks.join_all().await.concat()
    }
}

async fn write(
    mut client: Client,
    name: String,
    pace: Duration,
    count: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
) -> Vec<String> {
    let (mut ids, mut pace) = (Vec::new(), interval(pace));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = async || {
        count.fetch_add(1, Relaxed);
        pace.tick().await;
    };
    while !*stopped.borrow() {
        let id = format!("{name}-{}", ids.len());
        client.create_job(new_job(&id)).await.expect("it can be created");
        next().await;
        try_report(&mut client, &id).await.expect("it can be reported on");
        next().await;
        try_complete(&mut client, &id, None).await.expect("it can be completed");
        next().await;
        ids.push(id);
    }
    ids
}

/// Returns the time between two calls of a writer that the healthy link carries.
async fn healthy_pace(client: &Client) -> Duration {
    let begun = Instant::now();
    let writers = Writers::start(client, "healthy", Duration::from_millis(1));
    writers.make(WRITES).await;
    let took = begun.elapsed();
    writers.stop().await;
    took * u32::try_from(WRITERS).expect("few") / u32::try_from(WRITES).expect("few")
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_comes_back_while_as_much_is_written_as_the_healthy_link_carried() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&[&["--redis-url", &relay.url()][..], &PATIENT].concat()).await;
    whole(&server).await;
    let client = server.client().await;
    relay.set_all(Link::Far(FAR));
    let pace = healthy_pace(&client).await;
    let channel = server.channel().await;
    let writers = Writers::start(&client, "w", pace);
    writers.make(WRITES).await;
    relay.set_all(Link::Cut);
    degraded(&channel).await;
    writers.make(WRITES).await;
    relay.set_all(Link::Far(FAR));
    let (back, before) = (Instant::now(), writers.count());
    while !is_serving(&channel).await {
        writers.make(1).await;
        let (made, took) = (writers.count() - before, back.elapsed());
        assert!(made < MOST_WRITES * WRITES, "not back after {took:?} and {made} writes, one in {pace:?} by each");
    }
    println!("back after {:?} and {} writes, one in {pace:?} by each", back.elapsed(), writers.count() - before);
    let mut link = Health::watch(&server, "redis").await;
    link.until(Serving).await;
    writers.make(WRITES).await;
    assert_eq!(link.unread(), Vec::<i32>::new(), "it went away again");
    let ids = writers.stop().await;
    for id in ids.iter().rev().take(WRITERS) {
        stored(&mut client.clone(), id, 3).await;
    }
    let other = Server::with(&["--redis-url", &redis.url()]).await;
    let found = each(&other.client().await, &ids, async |mut client, id| stored(&mut client, &id, 3).await).await;
    assert!(found.iter().all(|job| job.state() == State::Succeeded), "{found:?}");
    server.stop().await;
    other.stop().await;
}

/// Returns the number of bytes that Redis has sent.
async fn sent(redis: &Redis) -> u64 {
    told(redis, "stats", "total_net_output_bytes").await
}

/// Creates jobs and completes them with results of so many bytes.
async fn make_results(client: &Client, ids: &[String], bytes: usize) {
    let made = each(client, ids, async |mut client, id| {
        client.create_job(new_job(&id)).await?;
        try_complete(&mut client, &id, Some(large_document(bytes))).await
    });
    for made in made.await {
        made.expect("it can be made");
    }
}

/// Cuts the link to Redis, runs `meanwhile`, and restores the link with a narrow bandwidth. Returns the number of bytes
/// that Redis sent until the replica served, minus those that it sends at rest. Fails if that exceeds `limit`.
async fn bytes_to_come_back(
    (redis, relay, server): (&Redis, &Relay, &Server),
    limit: u64,
    meanwhile: impl Future<Output = ()>,
) -> u64 {
    whole(server).await;
    relay.set_all(Link::Cut);
    degraded(server).await;
    meanwhile.await;
    let (before, begun) = (sent(redis).await, Instant::now());
    relay.set_all(Link::Narrow(NARROW));
    let channel = server.channel().await;
    let mut looks = 1;
    while !is_serving(&channel).await {
        let so_far = sent(redis).await - before;
        assert!(so_far < 4 * limit, "{so_far} bytes, and it is not back after {:?}", begun.elapsed());
        assert!(begun.elapsed() < WAIT_TIMEOUT, "it is not back");
        looks += 1;
        sleep(POLL_INTERVAL).await;
    }
    let (took, after) = (begun.elapsed(), sent(redis).await);
    // The same time at rest, with the same number of reads of the count.
    for _ in 0..looks {
        sent(redis).await;
        sleep(POLL_INTERVAL).await;
    }
    let at_rest = sent(redis).await - after;
    let bytes = (after - before).saturating_sub(at_rest);
    println!("{bytes} bytes, and {at_rest} at rest, in {took:?}");
    assert!(bytes < limit, "{bytes} bytes were sent, where {limit} are the most that is needed");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_has_changed_is_read_when_a_replica_comes_back() {
    const HELD: usize = 2000;
    const CHANGED: usize = 40;
    const BYTES: usize = 4000;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&[&["--redis-url", &relay.url()][..], &PATIENT].concat()).await;
    let other = Server::with(&["--redis-url", &redis.url()]).await;
    let (client, elsewhere) = (server.client().await, other.client().await);
    let held = ids("held", HELD - CHANGED);
    make_results(&client, &held, BYTES).await;
    let changing = ids("changing", CHANGED);
    for made in each(&client, &changing, async |mut client, id| client.create_job(new_job(&id)).await).await {
        made.expect("it can be created");
    }
    let change = async {
        let ended = each(&elsewhere, &changing, async |mut client, id| {
            try_complete(&mut client, &id, Some(large_document(BYTES))).await
        });
        for ended in ended.await {
            ended.expect("it can be completed");
        }
    };
    // 1.5 times the necessary bytes.
    let versions = HELD as u64 * VERSION_BYTES * 3 / 2;
    bytes_to_come_back((&redis, &relay, &server), versions, async {}).await;
    let documents = (CHANGED * (BYTES + 1000)) as u64 * 3 / 2;
    bytes_to_come_back((&redis, &relay, &server), versions + documents, change).await;
    for id in [&held[..1], &changing].concat() {
        let job = stored(&mut client.clone(), &id, 2).await;
        assert_eq!(job.state(), State::Succeeded);
    }
    server.stop().await;
    other.stop().await;
}

/// Documents that a slow link can't carry together within the limit of one command are read in smaller parts.
#[tokio::test(flavor = "multi_thread")]
async fn documents_come_over_a_link_that_carries_few_at_a_time() {
    const BYTES: usize = 200_000;
    const JOBS: usize = 12;
    /// It carries half of the largest part in a second, which is the limit of a command.
    const SLOW: u32 = 1_000_000;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&[&["--redis-url", &relay.url()][..], &PATIENT].concat()).await;
    let other = Server::with(&["--redis-url", &redis.url()]).await;
    let (client, elsewhere) = (server.client().await, other.client().await);
    // Of several partitions the answers would arrive one by one.
    let all = ids("large", JOBS * 50).into_iter();
    let partition = |id: &String| (RedisStore::PARTITIONING.of)(&id_of(id));
    let large: Vec<_> = all.filter(|id| partition(id) == 0).take(JOBS).collect();
    assert_eq!(large.len(), JOBS);
    for made in each(&client, &large, async |mut client, id| client.create_job(new_job(&id)).await).await {
        made.expect("it can be created");
    }
    whole(&server).await;
    relay.set_all(Link::Cut);
    degraded(&server).await;
    for id in &large {
        try_complete(&mut elsewhere.clone(), id, Some(large_document(BYTES))).await.expect("it can be completed");
    }
    relay.set_all(Link::Narrow(SLOW));
    whole(&server).await;
    for id in &large {
        assert_eq!(try_get(&mut client.clone(), id).await.expect("it is there").state(), State::Succeeded);
    }
    server.stop().await;
    other.stop().await;
}

/// A list without results does not read them, so it succeeds over a link that could not carry them in time.
#[tokio::test(flavor = "multi_thread")]
async fn basic_list_reads_no_results() {
    const JOBS: usize = 100;
    const BYTES: usize = 20_000;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let other = Server::with(&["--redis-url", &redis.url()]).await;
    make_results(&other.client().await, &ids("large", JOBS), BYTES).await;
    other.stop().await;
    let server = Server::with(&["--redis-url", &relay.url()]).await;
    whole(&server).await;
    let mut client = server.client().await;
    relay.set_all(Link::Narrow(NARROW));
    let before = sent(&redis).await;
    let request = ListJobsRequest { page_size: 100, view: View::Basic.into(), ..ListJobsRequest::default() };
    for _ in 0..4 {
        let page = client.list_jobs(request.clone()).await.expect("the link carries it").into_inner();
        assert_eq!((page.jobs.len(), page.partial), (JOBS, false));
        assert!(page.jobs.iter().all(|job| job.state() == State::Succeeded && job.outcome.is_none()), "{page:?}");
    }
    let each = (sent(&redis).await - before) / 4;
    println!("{each} bytes for a page");
    assert!(each < (JOBS * BYTES / 10) as u64, "{each} bytes for a page");
    // The results that the list left out exist.
    let full = try_get(&mut client, "large-0").await.expect("the link carries one");
    assert!(full.outcome.is_some());
    server.stop().await;
}
