//! Time in the Lua scripts: the records of beats, and the conditions of a time-driven decision. The tests write the
//! past into Redis instead of waiting for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jobtrack::{
    clock::{SteeredClock, SystemClock},
    domain::{Change, Job, JobId, NewJob, Timestamp},
    proto::v1::{Durability, GetJobRequest, GetStatsRequest},
    store::{
        CommitEvent, Decided, Decision, JobStore, Listener, Presence, PrimaryStore, RedisStore, Replaced,
        redis::{Options, Target},
    },
};
use redis::{FromRedisValue, from_redis_value};
use rstest::rstest;
use tokio::time::sleep;
use tonic_health::ServingStatus::{NotServing, Serving};
use uuid::Uuid;

use crate::support::{
    Server, create,
    jobs::{apply, at, cancel, heartbeat, id, make, plain, success},
    records::key_of,
    redis::{Redis, shared_redis},
    relay::{Link, Relay},
    replicas::{Health, in_time, server_on},
    watching::{self, report},
};

/// The partition of the job.
pub const PARTITION: usize = 3;

/// The promised time of return. A final decision waits for two beats longer.
const REPLICA_GRACE: Duration = Duration::from_secs(60);

/// Time that Redis has for an answer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than any wait.
const HOUR: i64 = 3600;

struct Deaf;

impl Listener for Deaf {
    fn on_commit(&self, _: CommitEvent) {}
}

/// A store whose replica sends beats only on demand.
pub struct Bench {
    pub redis: &'static Redis,
    pub prefix: String,
    pub store: RedisStore,
    pub presence: Arc<Presence>,
}

impl Bench {
    /// Starts a store that serves, in a separate part of the shared Redis.
    pub async fn start() -> Self {
        Self::on(shared_redis().await).await
    }

    /// Starts a store that serves, on this Redis.
    pub async fn on(redis: &'static Redis) -> Self {
        let prefix = Uuid::new_v4().simple().to_string();
        let (store, presence) = open(&redis.url(), &prefix, COMMAND_TIMEOUT).await;
        Self { redis, prefix, store, presence }
    }

    /// The store of another replica on the same data.
    pub async fn another(&self) -> RedisStore {
        open(&self.redis.url(), &self.prefix, COMMAND_TIMEOUT).await.0
    }

    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        from_redis_value(self.redis.command(words).await).expect("an answer of this type")
    }

    /// Returns the time on the clock of Redis, in microseconds.
    pub async fn now(&self) -> i64 {
        let (seconds, micros): (i64, i64) = self.ask(&["TIME"]).await;
        seconds * 1_000_000 + micros
    }

    pub fn beat_key(&self) -> String {
        format!("{}s:{{{PARTITION}}}:beat", self.prefix)
    }

    fn job_key(&self, job: &Job) -> String {
        format!("{}:{{{PARTITION}}}:{}", self.prefix, job.id)
    }

    /// Writes the time this many seconds ago into a field.
    pub async fn set_ago(&self, key: &str, field: &str, seconds: i64) {
        let moment = self.now().await - seconds * 1_000_000;
        let _: i64 = self.ask(&["HSET", key, field, &moment.to_string()]).await;
    }

    pub async fn beat(&self) -> Beat {
        let begun = self.now().await;
        self.store.beat(PARTITION).await.expect("Redis answers");
        let ended = self.now().await;
        Beat { fields: self.ask(&["HGETALL", &self.beat_key()]).await, begun, ended }
    }

    /// Stores a running job with a lease.
    pub async fn run(&self, lease: Duration, fail_when_lost: bool) -> Job {
        let new = NewJob { lease_timeout: lease, fail_when_lost, ..plain() };
        let made = make(id_of_partition().as_str(), 0, new);
        self.put(&made, None).await;
        let running = apply(&made, &heartbeat(), 1);
        self.put(&running, Some(&made)).await
    }

    pub async fn put(&self, job: &Job, previous: Option<&Job>) -> Job {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("Redis answers") {
            Replaced::Stored(stored) => Job::clone(&stored.job),
            Replaced::Conflict(there) => panic!("a conflict with {there:?}"),
        }
    }

    /// Makes the store decide that the worker of `job` is lost.
    async fn lose_worker(&self, job: &Job) -> Decided {
        let lost = apply(job, &Change::LoseWorker, 2);
        let deadline = job.silence_deadline().expect("it runs under a lease");
        let decision = Decision { deadline, is_reverted: !job.lease.fail_when_lost, is_due: true, now: at(2) };
        self.store.decide(Arc::new(lost), job, decision).await.expect("Redis answers")
    }
}

/// Opens the store of a replica that serves.
pub async fn open(url: &str, prefix: &str, timeout: Duration) -> (RedisStore, Arc<Presence>) {
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let options = Options {
        target: Target::parse(url).expect("a valid address"),
        pool_size: 2,
        timeout,
        key_prefix: format!("{prefix}:"),
        replica_grace: REPLICA_GRACE,
    };
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    let store = RedisStore::open(options, Arc::new(Deaf), clock, presence.clone()).await.expect("Redis is usable");
    presence.set_serving(PARTITION, true);
    (store, presence)
}

pub fn ids_of_partition() -> impl Iterator<Item = JobId> {
    let ids = (0..).map(|number| id(&format!("j{number}")));
    ids.filter(|id| (RedisStore::PARTITIONING.of)(id) == PARTITION)
}

pub fn id_of_partition() -> JobId {
    ids_of_partition().next().expect("one of many")
}

/// The records of a beat, and the times of its request and answer.
pub struct Beat {
    pub fields: HashMap<String, String>,
    begun: i64,
    ended: i64,
}

impl Beat {
    fn time(&self, field: &str) -> Option<i64> {
        self.fields.get(field).map(|time| time.parse().expect("a time"))
    }

    /// Returns whether a field was set to the present.
    fn is_now(&self, field: &str) -> bool {
        self.time(field).is_some_and(|time| (self.begun..=self.ended).contains(&time))
    }

    fn heard_since(&self) -> i64 {
        self.time("heard_since").expect("every beat notes it")
    }

    /// The name of the replica's mark, and its time.
    fn mark(&self) -> Option<(&str, i64)> {
        let name = self.fields.keys().find(|field| field.starts_with("mark:"))?;
        Some((name, self.time(name).expect("it is there")))
    }
}

/// Times in seconds before the present; negative times are in the future.
#[derive(Clone, Copy, Debug)]
struct Past {
    heard: i64,
    heard_since: i64,
    last: i64,
    mark: Option<i64>,
}

/// No report of a worker for long, although it could have reported.
const SILENT: Past = Past { heard: HOUR, heard_since: HOUR, last: 0, mark: None };

/// A decision about a job with a lease of this many seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    /// The job fails.
    Final(u64),
    /// The worker counts as lost until it reports again.
    Lost(u64),
}

#[rstest]
#[case::lease_is_over(Due::Final(30), SILENT, true)]
#[case::lease_is_just_over(Due::Final(30), Past { heard: 40, ..SILENT }, true)]
#[case::heard_within_the_lease(Due::Final(30), Past { heard: 20, ..SILENT }, false)]
#[case::heard_in_the_future(Due::Final(30), Past { heard: -HOUR, ..SILENT }, false)]
#[case::hears_within_the_lease(Due::Final(30), Past { heard_since: 20, ..SILENT }, false)]
#[case::hears_within_the_bound(Due::Final(30), Past { heard_since: 40, ..SILENT }, false)]
#[case::hears_longer_than_the_bound(Due::Final(30), Past { heard_since: 70, ..SILENT }, true)]
#[case::nobody_serves(Due::Final(30), Past { last: 10, ..SILENT }, false)]
#[case::beat_of_the_future(Due::Final(30), Past { last: -HOUR, ..SILENT }, false)]
#[case::one_is_away_since_the_lease_ran(Due::Final(30), Past { heard: 40, mark: Some(20), ..SILENT }, false)]
#[case::all_is_there_since_the_lease_was_over(Due::Final(30), Past { heard: 40, mark: Some(2), ..SILENT }, true)]
#[case::one_is_away_for_longer_than_promised(Due::Final(30), Past { heard: 200, mark: Some(190), ..SILENT }, true)]
#[case::mark_of_the_future(Due::Final(30), Past { mark: Some(-HOUR), ..SILENT }, false)]
#[case::short_lease(Due::Final(1), Past { heard: 2, ..SILENT }, false)]
#[case::short_lease_and_some_beats(Due::Final(1), Past { heard: 7, ..SILENT }, true)]
#[case::loss_in_the_lease(Due::Lost(30), Past { heard: 20, ..SILENT }, false)]
#[case::loss_that_could_not_be_heard(Due::Lost(30), Past { heard_since: 20, ..SILENT }, false)]
#[case::loss_where_nobody_serves(Due::Lost(30), Past { last: 10, ..SILENT }, false)]
#[case::loss_does_not_wait_for_the_bound(Due::Lost(30), Past { heard_since: 40, ..SILENT }, true)]
#[case::loss_does_not_wait_for_replicas(Due::Lost(30), Past { heard: 40, mark: Some(20), ..SILENT }, true)]
#[case::loss_does_not_wait_for_a_mark_of_the_future(Due::Lost(30), Past { mark: Some(-HOUR), ..SILENT }, true)]
#[tokio::test]
async fn decision_waits_until_no_report_can_be_missing(#[case] due: Due, #[case] past: Past, #[case] taken: bool) {
    let bench = Bench::start().await;
    let (Due::Final(lease) | Due::Lost(lease)) = due;
    let job = bench.run(Duration::from_secs(lease), due == Due::Final(lease)).await;
    let (beat, record) = (bench.beat_key(), bench.job_key(&job));
    bench.set_ago(&record, "heard", past.heard).await;
    bench.set_ago(&beat, "heard_since", past.heard_since).await;
    if let Some(mark) = past.mark {
        bench.set_ago(&beat, "mark:another", mark).await;
    }
    bench.set_ago(&beat, "last", past.last).await;
    match bench.lose_worker(&job).await {
        Decided::Stored(stored) => assert!(taken, "{due:?}, {past:?}: it comes too early: {stored:?}"),
        Decided::Deferred => assert!(!taken, "{due:?}, {past:?}: it does not come"),
        Decided::Conflict => panic!("{due:?}, {past:?}: nobody else changes the job"),
    }
    let there = bench.store.get(&job.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!(there.version.revision, job.version.revision + i64::from(taken), "{due:?}, {past:?}");
    let now = Timestamp::from_micros(bench.now().await);
    assert!(there.heard.is_some_and(|heard| heard <= now), "a moment of the future stays: {there:?}");
}

/// A lease runs from the last report, and from no other change.
#[tokio::test]
async fn report_is_heard_when_it_is_stored_and_other_changes_are_not() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(30), true).await;
    let before = Timestamp::from_micros(bench.now().await);
    assert!(running.heard.is_some_and(|heard| heard <= before), "{running:?}");
    let reported = bench.put(&apply(&running, &heartbeat(), 2), Some(&running)).await;
    let after = Timestamp::from_micros(bench.now().await);
    assert!(reported.heard.is_some_and(|heard| (before..=after).contains(&heard)), "{reported:?}");
    let asked = bench.put(&apply(&reported, &cancel(false), 3), Some(&reported)).await;
    assert_eq!(asked.heard, reported.heard, "nobody reported");
    for job in [&reported, &asked] {
        assert_eq!(job.since, running.since, "the id is taken since its creation");
    }
    let there = bench.store.get(&asked.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!((there.heard, there.since), (asked.heard, asked.since));
}

/// The times of a job that Redis has lost are restored: an incarnation that took the id in the meantime came later.
#[tokio::test]
async fn job_that_is_put_back_has_the_id_since_it_had_it_first() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(30), true).await;
    let ended = bench.put(&apply(&running, &success(), 2), Some(&running)).await;
    assert!(ended.since.is_some() && ended.durable_time.is_some(), "{ended:?}");
    let _: i64 = bench.ask(&["DEL", &bench.job_key(&ended)]).await;
    let back = bench.put(&ended, None).await;
    assert_eq!((back.since, back.durable_time), (ended.since, ended.durable_time));
    let there = bench.store.get(&ended.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!((there.since, there.durable_time), (ended.since, ended.durable_time));
}

/// A report at a replica that was cut off loses to a later change elsewhere. Its worker was alive nevertheless, and the
/// lease runs from when Redis learns of the report.
#[rstest]
#[case::redis_has_the_higher_revision(true)]
#[case::both_have_the_same_revision(false)]
#[tokio::test(flavor = "multi_thread")]
async fn report_that_loses_a_merge_counts_as_heard(#[case] is_higher: bool) {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (cut_off, serving) = (Server::with(&["--redis-url", &relay.url()]).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (cut_off.client().await, serving.client().await);
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let key = key_of(&redis, "a").await;
    let heard = async || from_redis_value::<i64>(redis.command(&["HGET", &key, "heard"]).await).expect("a time");

    relay.set_all(Link::Cut);
    Health::watch(&cut_off, "redis").await.until(NotServing).await;
    // With a higher revision in Redis, only the report of the worker is recorded.
    if is_higher {
        report(&mut elsewhere, "a").await;
    }
    let reported = report(&mut client, "a").await;
    assert_eq!(reported.durability(), Durability::Volatile, "{reported:?}");
    let asked = watching::cancel(&mut elsewhere, "a", false).await;
    let before = heard().await;
    relay.set_all(Link::Pass);
    Health::watch(&cut_off, "redis").await.until(Serving).await;
    let request =
        GetJobRequest { job_id: "a".to_owned(), min_revision: Some(asked.revision), ..GetJobRequest::default() };
    let mut admin = cut_off.admin().await;
    let is_clean = async {
        while admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner().dirty_jobs > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("a merge", is_clean).await;
    let there = client.get_job(request).await.expect("it is there").into_inner().job.expect("a job");
    assert!(there.cancel.is_some() && there.worker == asked.worker, "the later change stands: {there:?}");
    assert!(heard().await > before, "the report was not heard");
    cut_off.stop().await;
    serving.stop().await;
}

#[rstest]
#[case::is_final(true)]
#[case::is_a_loss(false)]
#[tokio::test]
async fn decision_about_another_version_is_a_conflict(#[case] fail_when_lost: bool) {
    let bench = Bench::start().await;
    let job = bench.run(Duration::from_secs(1), fail_when_lost).await;
    let ended = bench.put(&apply(&job, &success(), 2), Some(&job)).await;
    let (beat, record) = (bench.beat_key(), bench.job_key(&job));
    bench.set_ago(&record, "heard", HOUR).await;
    bench.set_ago(&beat, "heard_since", HOUR).await;
    bench.set_ago(&beat, "last", 0).await;
    let decided = bench.lose_worker(&job).await;
    assert!(matches!(decided, Decided::Conflict), "{decided:?}");
    let there = bench.store.get(&job.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!(there.version, ended.version);
}

/// A condition that the next beat finds.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    AnotherServerProcess,
    OldBeat,
    NoBeat,
    BeatOfTheFuture,
    HearsSinceTheFuture,
}

/// Time in which no worker could report does not count, and a restart may have lost reports.
#[rstest]
#[case::nothing(Found::Nothing, false, false)]
#[case::restart(Found::AnotherServerProcess, true, true)]
#[case::silence(Found::OldBeat, true, false)]
#[case::loss_of_the_last_beat(Found::NoBeat, true, false)]
#[case::clock_set_back(Found::BeatOfTheFuture, true, false)]
#[case::clock_set_back_since(Found::HearsSinceTheFuture, true, false)]
#[tokio::test]
async fn beat_notes_since_when_workers_are_heard(#[case] found: Found, #[case] anew: bool, #[case] is_loss: bool) {
    let bench = Bench::start().await;
    let key = bench.beat_key();
    let before = bench.beat().await;
    let history = bench.store.history(PARTITION);
    match found {
        Found::Nothing => {}
        Found::AnotherServerProcess => _ = bench.ask::<i64>(&["HSET", &key, "run", "another"]).await,
        Found::OldBeat => bench.set_ago(&key, "last", 10).await,
        Found::NoBeat => _ = bench.ask::<i64>(&["HDEL", &key, "last"]).await,
        Found::BeatOfTheFuture => bench.set_ago(&key, "last", -HOUR).await,
        Found::HearsSinceTheFuture => bench.set_ago(&key, "heard_since", -HOUR).await,
    }
    let after = bench.beat().await;
    if anew {
        assert!(after.is_now("heard_since"), "{found:?}: {:?}", after.fields);
    } else {
        assert_eq!(after.heard_since(), before.heard_since(), "{found:?}");
    }
    assert_eq!(bench.presence.heard_since(PARTITION).as_micros(), after.heard_since(), "{found:?}");
    assert!(after.is_now("last"), "{found:?}: {:?}", after.fields);
    assert_eq!(after.fields["lineage"] != before.fields["lineage"], is_loss, "{found:?}");
    assert_eq!(after.fields["run"], before.fields["run"], "{found:?}");
    let is_continued = history.is_continued_by(&bench.store.history(PARTITION));
    assert_eq!(is_continued, !is_loss, "{found:?}");
}

/// A replica that does not serve receives no reports.
#[tokio::test]
async fn beat_of_a_replica_that_does_not_serve_is_no_sign_that_workers_are_heard() {
    let bench = Bench::start().await;
    bench.beat().await;
    bench.presence.set_serving(PARTITION, false);
    bench.set_ago(&bench.beat_key(), "last", 2).await;
    let silent = bench.beat().await;
    assert!(!silent.is_now("last"), "{:?}", silent.fields);
    bench.presence.set_serving(PARTITION, true);
    assert!(bench.beat().await.is_now("last"));
}

/// The mark of a replica is the time up to which Redis has everything that the replica acknowledged. A beat can't vouch
/// for its own time: Redis may lack a change that is acknowledged during the beat.
#[tokio::test]
async fn mark_is_the_time_of_the_last_beat_before_anything_was_dirty() {
    let bench = Bench::start().await;
    let first = bench.beat().await;
    let second = bench.beat().await;
    let (_, mark) = second.mark().expect("it serves");
    assert!((first.begun..=first.ended).contains(&mark), "{:?}", second.fields);

    bench.presence.begin_dirty(PARTITION);
    bench.presence.set_dirty_jobs(PARTITION, 1);
    bench.beat().await;
    let (_, dirty) = bench.beat().await.mark().expect("it serves");
    assert!((second.begun..=second.ended).contains(&dirty), "{mark}, {dirty}");
    bench.presence.set_dirty_jobs(PARTITION, 0);
    let (_, clean) = bench.beat().await.mark().expect("it serves");
    assert!(clean > dirty);

    bench.presence.set_serving(PARTITION, false);
    bench.beat().await;
    let (_, away) = bench.beat().await.mark().expect("it stays for as long as the bound");
    assert_eq!(away, clean, "a replica that does not serve says that Redis has all that it acknowledged");
}

/// Marks that arrive out of order, or after the clock was set back, do not lower the correct one.
#[tokio::test]
async fn mark_is_only_raised_and_never_in_the_future() {
    let bench = Bench::start().await;
    bench.beat().await;
    let key = bench.beat_key();
    let beat = bench.beat().await;
    let name = beat.mark().expect("it serves").0.to_owned();

    bench.set_ago(&key, &name, 0).await;
    let raised: i64 = bench.ask(&["HGET", &key, &name]).await;
    assert_eq!(bench.beat().await.mark(), Some((&*name, raised)), "the mark is lowered");

    bench.set_ago(&key, &name, -HOUR).await;
    let (_, mark) = (bench.beat().await.mark()).map(|(name, mark)| (name.to_owned(), mark)).expect("it serves");
    assert!(mark <= bench.now().await, "a mark of the future stays");

    // The clock of Redis was set back since the last beat.
    bench.presence.beat_answered(PARTITION, Timestamp::from_micros(bench.now().await + HOUR * 1_000_000), at(0));
    let (_, mark) = bench.beat().await.mark().expect("it is there");
    assert!(mark <= bench.now().await, "a mark of the future is noted");
}

/// Decisions do not wait for a replica that stopped with everything stored; they wait for a while for one that
/// disappeared.
#[tokio::test]
async fn marks_of_replicas_that_stopped_or_are_long_gone_are_removed() {
    let bench = Bench::start().await;
    bench.beat().await;
    bench.set_ago(&bench.beat_key(), "mark:gone", HOUR).await;
    bench.set_ago(&bench.beat_key(), "mark:late", 30).await;
    let beat = bench.beat().await;
    assert!(!beat.fields.contains_key("mark:gone") && beat.fields.contains_key("mark:late"), "{:?}", beat.fields);
    let _: i64 = bench.ask(&["HDEL", &bench.beat_key(), "mark:late"]).await;
    assert!(bench.beat().await.mark().is_some());
    bench.presence.set_serving(PARTITION, false);
    bench.store.leave(PARTITION).await.expect("Redis answers");
    assert_eq!(bench.beat().await.mark(), None);
}

/// A replica is registered as long as it sends beats, even while it does not serve, and for a while after its last
/// beat.
#[tokio::test]
async fn replicas_that_stopped_or_are_long_gone_are_not_registered() {
    let bench = Bench::start().await;
    let registered = |beat: &Beat| -> Vec<String> {
        let mut names: Vec<_> = beat.fields.keys().filter_map(|name| name.strip_prefix("about:")).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    };
    bench.presence.set_serving(PARTITION, false);
    assert!(registered(&bench.beat().await).is_empty(), "it does not serve yet");
    bench.presence.set_serving(PARTITION, true);
    let own = registered(&bench.beat().await);
    assert_eq!(own.len(), 1);
    for (name, ago) in [("gone", HOUR), ("future", -HOUR), ("late", 30), (&own[0], HOUR)] {
        let about = format!("{} 1 9.9.9", bench.now().await - ago * 1_000_000);
        let _: i64 = bench.ask(&["HSET", &bench.beat_key(), &format!("about:{name}"), &about]).await;
    }
    bench.presence.set_serving(PARTITION, false);
    let mut expected = vec!["late".to_owned(), own[0].clone()];
    expected.sort_unstable();
    assert_eq!(registered(&bench.beat().await), expected);
    bench.store.leave(PARTITION).await.expect("Redis answers");
    assert_eq!(registered(&bench.beat().await), ["late"]);
}

/// A loss that one replica notices is known to all others.
#[tokio::test(flavor = "multi_thread")]
async fn count_of_commits_that_has_fallen_begins_another_lineage() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    create(&mut server.client().await, "a").await;
    let key = key_of(&redis, "a").await;
    let partition = key.split(':').nth(1).expect("a partition");
    let beat = format!("jobs:{partition}:beat");
    let lineage =
        async || from_redis_value::<Option<String>>(redis.command(&["HGET", &beat, "lineage"]).await).expect("a name");
    let before = lineage().await;
    assert!(before.is_some(), "the replica serves, so it has beaten");
    // All commits were received when the counter is lower than that.
    let is_told = async {
        while lineage().await == before {
            redis.command(&["SET", &format!("jobs:{partition}:commits"), "0"]).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("another lineage", is_told).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    server.stop().await;
}

/// A caller may ask whether a worker is lost without delaying the decision.
#[tokio::test]
async fn decision_that_is_only_asked_for_postpones_nothing() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(60), false).await;
    bench.beat().await;
    let key = format!("{}s:{{{PARTITION}}}:lease", bench.prefix);
    let score = async || bench.ask::<String>(&["ZSCORE", &key, running.id.as_str()]).await;
    let before = score().await;
    let lost = Arc::new(apply(&running, &Change::LoseWorker, 2));
    let deadline = running.silence_deadline().expect("it runs under a lease");
    for (is_due, stays) in [(false, true), (true, false)] {
        let decision = Decision { deadline, is_reverted: false, is_due, now: at(2) };
        let decided = bench.store.decide(lost.clone(), &running, decision).await.expect("Redis answers");
        assert!(matches!(decided, Decided::Deferred), "{decided:?}");
        assert_eq!(score().await == before, stays);
    }
}
