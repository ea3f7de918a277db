//! Redis fails over or moves slots under load: the results of the calls, the time until writes are durable again on
//! every replica, and the fate of every acknowledged write.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ::redis::{Value, from_redis_value};
use futures_util::future::join_all;
use jobtrack::proto::v1::{
    Durability, GetJobRequest, GetStatsRequest, Job, ListJobsRequest, Progress, UpdateProgressRequest, job::State,
    reconciled_job::Outcome,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::support::{
    Admin, Client, Server, create, new_job,
    pace::{Pace, scaled},
    reason,
    records::{PARTITIONS, partition},
    redis::{Cluster, Sentinel},
    watching::{Seen, Watch, complete, report, watch},
};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time from an election until writes succeed.
const SOON: Duration = Duration::from_secs(2);

/// Maximum duration of a call, whatever happens to Redis.
const CALL: Duration = Duration::from_secs(1);

/// Maximum time until a watcher on one replica receives a change by another.
const NOTIFICATION_MAX: Duration = Duration::from_millis(500);

/// Pause of a caller between two calls.
const PACE: Duration = Duration::from_millis(5);

/// Two servers that share a Redis.
struct Replicas {
    a: Server,
    b: Server,
}

impl Replicas {
    async fn start(url: &str) -> Self {
        Self::with(&["--redis-url", url]).await
    }

    /// Starts servers with a long timeout, for tests that do not measure how soon a call fails.
    async fn start_patient(url: &str) -> Self {
        Self::with(&["--redis-url", url, "--redis-timeout", "2s"]).await
    }

    async fn with(flags: &[&str]) -> Self {
        Self { a: Server::with(flags).await, b: Server::with(flags).await }
    }

    async fn stop(self) {
        tokio::join!(self.a.stop(), self.b.stop());
    }
}

/// Returns `count` ids of one partition.
fn ids_of(wanted: usize, count: usize) -> Vec<String> {
    (0..).map(|number| format!("job-{number}")).filter(|id| partition(id) == wanted).take(count).collect()
}

/// Returns `count` ids of every partition.
fn ids(count: usize) -> Vec<String> {
    (0..PARTITIONS).flat_map(|partition| ids_of(partition, count)).collect()
}

/// A call and its result.
struct Call {
    begun: Instant,
    ended: Instant,
    /// Index of the server.
    server: usize,
    heard: Heard,
}

/// The result of a call. Each report has a unique number, which the job keeps as its progress.
enum Heard {
    Stored { revision: i64, number: i64, durable: bool },
    Read { revision: i64, number: i64, durable: bool },
    Failed(Status),
}

impl Call {
    /// Returns the revision that was stored, in Redis or only in this process.
    fn stored(&self) -> Option<i64> {
        match self.heard {
            Heard::Stored { revision, .. } => Some(revision),
            _ => None,
        }
    }

    /// Returns the revision that was stored in Redis.
    fn durable(&self) -> Option<i64> {
        match self.heard {
            Heard::Stored { revision, durable: true, .. } => Some(revision),
            _ => None,
        }
    }

    /// Returns whether it was answered from memory, because Redis was unavailable.
    fn is_volatile(&self) -> bool {
        matches!(self.heard, Heard::Stored { durable: false, .. } | Heard::Read { durable: false, .. })
    }

    fn failure(&self) -> Option<&Status> {
        match &self.heard {
            Heard::Failed(status) => Some(status),
            _ => None,
        }
    }

    /// Returns whether this answer from Redis shows that an `earlier` write is lost: the job's only writer sees
    /// revisions and numbers rise.
    fn disproves(&self, earlier: &Self) -> bool {
        let Heard::Stored { revision: before, number: number_before, .. } = earlier.heard else { return false };
        match self.heard {
            Heard::Stored { revision, durable: true, .. } => revision <= before,
            Heard::Read { revision, number, durable: true } => revision < before || number < number_before,
            _ => false,
        }
    }
}

/// One caller for each job, which reports on it through two servers in turn. After an error it reads the job before it
/// continues.
struct Load {
    stop: CancellationToken,
    callers: Vec<Caller>,
    reported: JoinHandle<BTreeMap<String, &'static str>>,
    clients: [Client; 2],
}

struct Caller {
    id: String,
    /// Start time of the last two consecutive reports that were stored in Redis, one through each server.
    good: watch::Receiver<Instant>,
    running: JoinHandle<Vec<Call>>,
}

impl Load {
    /// Creates jobs and starts to report on them.
    async fn start(servers: [&Server; 2], ids: &[String]) -> Self {
        let stop = CancellationToken::new();
        let clients = [servers[0].client().await, servers[1].client().await];
        let mut callers = Vec::new();
        for id in ids {
            create(&mut clients[0].clone(), id).await;
            let (told, good) = watch::channel(Instant::now());
            let running = tokio::spawn(call(clients.clone(), id.clone(), told, stop.clone()));
            callers.push(Caller { id: id.clone(), good, running });
        }
        let reported = tokio::spawn(follow_reports([servers[0].admin().await, servers[1].admin().await], stop.clone()));
        let load = Self { stop, callers, reported, clients };
        load.good_since(Instant::now()).await;
        load
    }

    /// Waits until every caller has reports stored in Redis, through both servers, that it began after `time`.
    async fn good_since(&self, time: Instant) {
        let all = self.callers.iter().map(|caller| async {
            let mut good = caller.good.clone();
            let reached = timeout(WAIT_TIMEOUT, good.wait_for(|begun| *begun > time)).await;
            reached.err().map(|_| &caller.id)
        });
        let bad: Vec<_> = join_all(all).await.into_iter().flatten().collect();
        assert!(bad.is_empty(), "writes are not good again within {WAIT_TIMEOUT:?} for {} jobs: {bad:?}", bad.len());
    }

    /// Stops the callers. Returns all calls.
    async fn stop(self) -> Record {
        self.stop.cancel();
        let mut calls = BTreeMap::new();
        let mut last = BTreeMap::new();
        for caller in self.callers {
            let made = caller.running.await.expect("a caller ends without a panic");
            let acknowledged = made.iter().rev().find_map(Call::stored);
            let job = get_at_least(&mut self.clients[0].clone(), &caller.id, acknowledged).await;
            last.insert(caller.id.clone(), job);
            calls.insert(caller.id, made);
        }
        let reported = self.reported.await.expect("the reported can be read");
        Record { calls, last, reported, pace: Pace::measure().await }
    }
}

/// Reads the reports of reconciliations until it is stopped, and once more. Returns the jobs with a change that
/// conflicted or was dropped.
async fn follow_reports(mut admins: [Admin; 2], stop: CancellationToken) -> BTreeMap<String, &'static str> {
    let mut told = BTreeMap::new();
    loop {
        let is_last = stop.is_cancelled();
        for admin in &mut admins {
            let stats = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
            for job in stats.last_reconciliation.into_iter().flat_map(|reported| reported.jobs) {
                match job.outcome() {
                    Outcome::Conflicted => _ = told.insert(job.job_id, "conflicted"),
                    Outcome::Dropped => _ = told.insert(job.job_id, "dropped"),
                    _ => {}
                }
            }
        }
        if is_last {
            return told;
        }
        sleep(PACE * 4).await;
    }
}

async fn call(clients: [Client; 2], id: String, good: watch::Sender<Instant>, stop: CancellationToken) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for number in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let server = usize::from(number % 2 == 0);
        let client = &mut clients[server].clone();
        let failed = calls.last().is_some_and(|call| call.failure().is_some());
        let begun = Instant::now();
        let outcome = if failed { read(client, &id).await } else { write(client, &id, number).await };
        let heard = outcome.unwrap_or_else(Heard::Failed);
        calls.push(Call { begun, ended: Instant::now(), server, heard });
        if let [.., one, other] = &calls[..]
            && one.durable().is_some()
            && other.durable().is_some()
        {
            good.send_replace(one.begun);
        }
        sleep(PACE).await;
    }
    calls
}

async fn write(client: &mut Client, id: &str, number: i64) -> Result<Heard, Status> {
    let request = UpdateProgressRequest {
        job_id: id.to_owned(),
        progress: Some(Progress { completed: Some(number), ..Progress::default() }),
        sequence: Some(number),
        ..UpdateProgressRequest::default()
    };
    let answer = client.update_progress(request).await?.into_inner();
    assert!(answer.applied, "a report with a higher sequence was ignored: {:?}", answer.job);
    let job = answer.job.expect("a job");
    Ok(Heard::Stored { revision: job.revision, number, durable: job.durability() == Durability::Durable })
}

async fn read(client: &mut Client, id: &str) -> Result<Heard, Status> {
    let job = get(client, id).await?;
    let durable = job.durability() == Durability::Durable;
    Ok(Heard::Read { revision: job.revision, number: number_of(&job), durable })
}

/// Returns the number of the last report that a job contains.
fn number_of(job: &Job) -> i64 {
    job.progress.as_ref().and_then(|progress| progress.completed).unwrap_or_default()
}

async fn get(client: &mut Client, id: &str) -> Result<Job, Status> {
    let answer = client.get_job(GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() }).await?;
    Ok(answer.into_inner().job.expect("a job"))
}

/// Returns the current job, at least at the revision of its last change, which another server may have made just now;
/// without that bound if that change is lost.
async fn get_at_least(client: &mut Client, id: &str, min_revision: Option<i64>) -> Job {
    match client.get_job(GetJobRequest { job_id: id.to_owned(), min_revision, ..GetJobRequest::default() }).await {
        Ok(answer) => answer.into_inner().job.expect("a job"),
        Err(status) if status.code() == Code::Unavailable => get(client, id).await.expect("it can be read"),
        Err(status) => panic!("{status:?}"),
    }
}

/// All calls and their results.
struct Record {
    /// The calls on each job, in order.
    calls: BTreeMap<String, Vec<Call>>,
    /// Each job after the calls.
    last: BTreeMap<String, Job>,
    /// The jobs with a change that the reports name as conflicted or dropped.
    reported: BTreeMap<String, &'static str>,
    /// The pace of the machine after the calls.
    pace: Pace,
}

impl Record {
    /// Returns the part about these jobs.
    fn split(self, ids: &BTreeSet<String>) -> (Self, Self) {
        let (these, others) = self.calls.into_iter().partition(|(id, _)| ids.contains(id));
        let part = |calls| Self { calls, last: self.last.clone(), reported: self.reported.clone(), pace: self.pace };
        (part(these), part(others))
    }

    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.values().flatten()
    }

    /// Returns the number of calls that were answered from memory, or failed.
    fn disturbed(&self) -> usize {
        self.calls().filter(|call| call.is_volatile() || call.failure().is_some()).count()
    }

    /// Fails if a call failed: both servers have all jobs in memory. Prints the durations of calls.
    fn assert_none_failed(&self, what: &str) {
        let mut failures: BTreeMap<String, usize> = BTreeMap::new();
        for status in self.calls().filter_map(Call::failure) {
            *failures.entry(format!("{:?} {}", status.code(), reason(status))).or_default() += 1;
        }
        let longest = self.calls().map(|call| call.ended - call.begun).max().unwrap_or_default();
        let volatile = self.calls().filter(|call| call.is_volatile()).count();
        let count = self.calls().count();
        println!("{what}: {count} calls, {volatile} volatile, the longest took {longest:?}, failures: {failures:?}");
        assert!(failures.is_empty(), "{what}: {failures:?}");
        assert!(longest < self.pace.scale(CALL), "{what}: a call took {longest:?}");
    }

    /// Accounts for every acknowledged write: the last version contains it, or a report names the job. Prints the time
    /// until writes were durable again.
    fn account(&self, what: &str, killed: Instant, elected: Instant) {
        let soon = self.pace.scale(SOON);
        let mut lost = Vec::new();
        let mut good_again = Vec::new();
        for (id, calls) in &self.calls {
            let stands = &self.last[id];
            let newest = calls.iter().rfind(|call| call.stored().is_some()).expect("a report was stored");
            let Heard::Stored { revision, number, .. } = newest.heard else { unreachable!("it was stored") };
            if stands.revision < revision || number_of(stands) < number {
                lost.push((id, newest));
            }
            // Writes that are acknowledged before the fault, or after writes are durable again, are never lost.
            let settled = |call: &Call| call.ended < killed || call.begun > elected + soon;
            for (index, call) in calls.iter().enumerate().filter(|(_, call)| call.durable().is_some()) {
                let later = calls[index + 1..].iter().find(|later| later.disproves(call));
                if later.is_some_and(|later| settled(call) || later.begun > elected + soon) {
                    lost.push((id, call));
                }
            }
            assert_rises(id, calls.iter().filter(|call| call.ended < killed));
            assert_rises(id, calls.iter().filter(|call| call.begun > elected + soon));
            for server in 0..2 {
                let good = |call: &&Call| call.server == server && call.durable().is_some() && call.ended > elected;
                // The last volatile answer shows that Redis became unavailable again.
                let volatile = calls.iter().rposition(|call| call.server == server && call.is_volatile());
                let first = calls[volatile.map_or(0, |index| index + 1)..].iter().find(good);
                let first = first.unwrap_or_else(|| panic!("no write of {id} is durable after the election"));
                good_again.push((first.ended - elected, id, server));
            }
        }
        let acknowledged = self.calls().filter(|call| call.stored().is_some()).count();
        let volatile = self.calls().filter(|call| call.is_volatile()).count();
        let good = good_again.iter().max().expect("there are jobs");
        let unsaid: Vec<_> = lost.iter().filter(|(id, _)| !self.reported.contains_key(*id)).collect();
        println!(
            "{what}: elected {:?} after the fault; durable again at most {:?} after the election ({}, server {}); of \
             {acknowledged} acknowledged writes, {volatile} of them volatile, {} gave way, {} of them unsaid; the \
             reported names {} jobs",
            elected - killed,
            good.0,
            good.1,
            good.2,
            lost.len(),
            unsaid.len(),
            self.reported.len(),
        );
        let unsaid: Vec<_> = unsaid.iter().map(|(id, call)| (id, call.stored(), self.last[*id].revision)).collect();
        assert!(unsaid.is_empty(), "{what}: writes are lost that the reported does not name: {unsaid:?}");
        assert!(good.0 < soon, "{what}: writes of {} are durable only {:?} after the election", good.1, good.0);
    }
}

/// Fails unless these calls, all of them durable, have revisions that rise by one.
fn assert_rises<'a>(id: &str, calls: impl Iterator<Item = &'a Call>) {
    let revisions: Vec<_> = calls.filter_map(Call::durable).collect();
    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{id}: {revisions:?}");
}

/// Opens watches of jobs on `server`.
async fn watches(server: &Server, ids: &[String]) -> Vec<Watch> {
    let client = server.client().await;
    join_all(ids.iter().map(|id| watch(&client, id))).await
}

/// Reads streams to their ends in the background: the client library gives up on a stream that is not read for long.
fn follow(watches: Vec<Watch>) -> Vec<JoinHandle<Vec<Seen>>> {
    watches.into_iter().map(|mut watch| tokio::spawn(async move { watch.rest().await })).collect()
}

/// Completes jobs through `server`. Fails unless the watchers receive each end at the acknowledged revision.
async fn complete_all(server: &Server, watches: Vec<JoinHandle<Vec<Seen>>>, ids: &[String]) {
    let mut client = server.client().await;
    for (id, watch) in ids.iter().zip(watches) {
        let before = get(&mut client, id).await.expect("it is there");
        let done = complete(&mut client, id).await;
        assert!(done.revision > before.revision);
        let events = watch.await.expect("the stream ends");
        let last = events.last().expect("an event");
        assert_eq!((last.revision(), last.state()), (done.revision, State::Succeeded), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_under_sentinels_is_killed() {
    let mut sentinel = Sentinel::start().await;
    let replicas = Replicas::start(&sentinel.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    sentinel.in_sync().await;

    sentinel.kill_master().await;
    let killed = Instant::now();
    let elected = sentinel.elected().await;
    load.good_since(elected).await;
    load.good_since(Instant::now()).await;
    let record = load.stop().await;

    record.assert_none_failed("killed master");
    assert!(record.disturbed() > 0, "nobody noticed");
    record.account("killed master", killed, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_sentinels_change_the_master() {
    let sentinel = Sentinel::start().await;
    let replicas = Replicas::start(&sentinel.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    sentinel.in_sync().await;

    let begun = Instant::now();
    let elected = sentinel.failover().await;
    load.good_since(elected).await;
    // Only now has the former master become a replica.
    sentinel.in_sync().await;
    println!("the old master is a replica {:?} after the election", elected.elapsed());
    load.good_since(Instant::now()).await;
    let record = load.stop().await;

    record.assert_none_failed("changed master");
    record.account("changed master", begun, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}

/// The fault of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its connections are closed, and new ones are refused.
    Killed,
    /// It answers nothing. Its connections stay open, and new ones can be opened.
    Stopped,
}

/// Removes the master of some jobs of a cluster under load, while the other masters continue to serve. Returns the
/// record of the other jobs, and the times of the fault and of the election.
async fn lose_a_master(what: &str, fate: Fate, flags: &[&str]) -> (Record, Instant, Instant) {
    let mut cluster = Cluster::with(Duration::from_secs(1), flags).await;
    let replicas = Replicas::start(&cluster.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    let slot = cluster.slot("{5}").await;
    let port = cluster.master_of_slot(slot).await.port;
    let mut orphans = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let slot = cluster.slot(&format!("{{{partition}}}")).await;
        if cluster.master_of_slot(slot).await.port == port {
            orphans.extend(ids_of(partition, 2));
        }
    }
    assert!(!orphans.is_empty() && orphans.len() < ids.len(), "{orphans:?}");
    println!("{what}: {} of {} jobs are in the slots of the master that is lost", orphans.len(), ids.len());

    match fate {
        Fate::Killed => cluster.kill_master_of_slot(slot).await,
        Fate::Stopped => cluster.master_of_slot(slot).await.signal("STOP"),
    }
    let killed = Instant::now();
    let elected = cluster.elected().await;
    load.good_since(elected).await;
    load.good_since(Instant::now()).await;
    let (orphaned, others) = load.stop().await.split(&orphans);

    orphaned.assert_none_failed(what);
    assert!(orphaned.disturbed() > 0, "nobody noticed");
    orphaned.account(what, killed, elected);
    let others_are = format!("{what}, jobs elsewhere");
    others.assert_none_failed(&others_are);
    others.account(&others_are, killed, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
    (others, killed, elected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_of_a_cluster_is_killed() {
    lose_a_master("killed node", Fate::Killed, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_of_a_cluster_falls_silent() {
    lose_a_master("silent node", Fate::Stopped, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_does_not_concern_jobs_elsewhere() {
    assert_jobs_elsewhere_go_on("killed node of a partial cluster", Fate::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_does_not_concern_jobs_elsewhere() {
    assert_jobs_elsewhere_go_on("silent node of a partial cluster", Fate::Stopped).await;
}

async fn assert_jobs_elsewhere_go_on(what: &str, fate: Fate) {
    let flags = ["--cluster-require-full-coverage", "no"];
    let (others, killed, elected) = lose_a_master(what, fate, &flags).await;
    let since_kill = |time: Instant| time.saturating_duration_since(killed);
    let in_gap: Vec<_> = others.calls().filter(|call| call.ended > killed && call.begun < elected).collect();
    let volatile: Vec<_> = in_gap.iter().filter(|call| call.is_volatile()).collect();
    let first = volatile.iter().map(|call| since_kill(call.begun)).min();
    let last = volatile.iter().map(|call| since_kill(call.ended)).max();
    let mut slow: Vec<_> = in_gap.iter().map(|call| (call.ended - call.begun, since_kill(call.begun))).collect();
    slow.sort_by_key(|&(took, _)| Reverse(took));
    slow.truncate(5);
    println!(
        "{what}, elsewhere, in the {:?} of the gap: {} calls, {} volatile, from {first:?} to {last:?} after the kill; \
         the longest (took, begun after the kill): {slow:?}",
        elected - killed,
        in_gap.len(),
        volatile.len(),
    );
    // While the client reads the slot map, which a silent node delays, all its commands wait.
    let longest = slow.first().map_or(Duration::ZERO, |(took, _)| *took);
    assert!(longest < others.pace.scale(SOON / 4), "{fate:?}: a call elsewhere took {longest:?}");
}

/// Reads and lists until it is stopped. Returns the errors.
async fn look(mut client: Client, id: String, stop: CancellationToken) -> (usize, Vec<Status>) {
    let (mut count, mut errors) = (0, Vec::new());
    while !stop.is_cancelled() {
        count += 2;
        errors.extend(get(&mut client, &id).await.err());
        errors.extend(client.list_jobs(ListJobsRequest::default()).await.err());
        sleep(PACE).await;
    }
    (count, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_and_no_caller_notices() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start_patient(&cluster.url()).await;
    let ids = [ids_of(3, 8), ids_of(4, 1)].concat();
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    let stop = CancellationToken::new();
    let looking = tokio::spawn(look(replicas.b.client().await, ids[0].clone(), stop.clone()));
    let slot = cluster.slot("{3}").await;
    let from = cluster.master_of_slot(slot).await.port;

    let begun = Instant::now();
    for _ in 0..2 {
        cluster.begin_migration(slot).await;
        load.good_since(Instant::now()).await;
        println!("begun after {:?}", begun.elapsed());
        cluster.migrate_keys(slot).await;
        println!("moved after {:?}", begun.elapsed());
        load.good_since(Instant::now()).await;
        cluster.finish_migration(slot).await;
        println!("finished after {:?}", begun.elapsed());
        load.good_since(Instant::now()).await;
    }
    println!("the slot is moved from {from} to {}", cluster.master_of_slot(slot).await.port);
    stop.cancel();
    let (looks, errors) = looking.await.expect("it ends without a panic");
    let record = load.stop().await;

    for call in record.calls().filter(|call| call.failure().is_some()) {
        println!("{:?} after the begin, for {:?}: failed", call.begun - begun, call.ended - call.begun);
    }
    println!("{looks} looks, {} failed: {:?}", errors.len(), errors.first());
    record.assert_none_failed("moved slot");
    assert_eq!(record.disturbed(), 0, "callers noticed");
    assert_eq!(errors.len(), 0, "readers noticed");
    for (id, calls) in &record.calls {
        let revisions: Vec<_> = calls.iter().filter_map(Call::stored).collect();
        assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{id}: {revisions:?}");
    }
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_created_and_end_while_their_slot_moves() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start(&cluster.url()).await;
    let slot = cluster.slot("{3}").await;
    let mut ids = ids_of(3, 400);
    let late = ids.split_off(398);
    let mut client = replicas.a.client().await;
    create(&mut client, &ids[0]).await;
    let (told, mut made) = watch::channel(0);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let making = tokio::spawn(async move {
        let mut calls = Vec::new();
        for id in &ids[1..] {
            if stopped.is_cancelled() {
                break;
            }
            loop {
                let begun = Instant::now();
                let outcome = client.create_job(new_job(id)).await.err();
                let failed = outcome.is_some();
                calls.push((begun, begun.elapsed(), outcome));
                if !failed {
                    break;
                }
                sleep(PACE).await;
            }
            report(&mut client, id).await;
            complete(&mut client, id).await;
            told.send_modify(|made| *made += 1);
            sleep(PACE).await;
        }
        calls
    });
    made.wait_for(|made| *made > 5).await.expect("it goes on");
    let begun = Instant::now();
    cluster.begin_migration(slot).await;
    println!("begun after {:?}", begun.elapsed());
    let mut other = replicas.b.client().await;
    let outcome = other.create_job(new_job(&late[0])).await.map_or_else(|error| error.code(), |_| Code::Ok);
    println!("a creation while no key is moved yet: {outcome:?}");
    cluster.migrate_keys(slot).await;
    println!("moved after {:?}", begun.elapsed());
    let outcome = other.create_job(new_job(&late[1])).await.map_or_else(|error| error.code(), |_| Code::Ok);
    println!("a creation while all keys are moved: {outcome:?}");
    cluster.finish_migration(slot).await;
    let finished = Instant::now();
    println!("finished after {:?}", begun.elapsed());
    let so_far = *made.borrow();
    let more = timeout(WAIT_TIMEOUT, made.wait_for(|made| *made > so_far + 5)).await;
    more.expect("jobs can be created again").expect("it goes on");
    stop.cancel();
    let calls = making.await.expect("no call but the creation fails");
    let failed: Vec<_> = calls.iter().filter_map(|(at, took, error)| Some((*at, *took, error.as_ref()?))).collect();
    println!("of {} creations {} failed", calls.len(), failed.len());
    for (at, took, error) in &failed {
        println!("{:?} after the begin, for {took:?}: {:?} {}", *at - begun, error.code(), reason(error));
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert!(*at < finished, "it fails {:?} after the slot was moved", *at - finished);
    }
    replicas.stop().await;
}

#[tokio::test]
async fn updates_of_all_nodes_reach_watchers_on_another_replica() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start(&cluster.url()).await;
    let mut client = replicas.a.client().await;
    let ids = ids(1);
    for id in &ids {
        create(&mut client, id).await;
    }
    let mut watches = watches(&replicas.b, &ids).await;
    let mut longest = Duration::ZERO;
    for (id, watch) in ids.iter().zip(&mut watches) {
        assert_eq!(watch.next().await.revision(), 1);
        for _ in 0..3 {
            let revision = report(&mut client, id).await.revision;
            let stored = Instant::now();
            watch.until(|seen| seen.revision() >= revision).await;
            longest = longest.max(stored.elapsed());
        }
    }
    println!("updates reach the other replica within {longest:?}");
    assert!(longest < scaled(NOTIFICATION_MAX).await, "a hint was not heard: {longest:?}");
    complete_all(&replicas.a, follow(watches), &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_lose_nothing_when_the_node_of_their_subscription_is_killed() {
    let mut cluster = Cluster::with(Duration::from_secs(1), &["--cluster-require-full-coverage", "no"]).await;
    let replicas = Replicas::start(&cluster.url()).await;
    let ids = ids(1);
    let load = Load::start([&replicas.a, &replicas.a], &ids).await;
    let mut watches = watches(&replicas.b, &ids).await;
    until_subscribed(&cluster).await;
    let (slot, orphans) = subscribed(&cluster).await;
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = get(&mut replicas.a.client().await, id).await.expect("it is there").revision;
        watch.until(|seen| seen.revision() > revision).await;
    }

    cluster.kill_master_of_slot(slot).await;
    let killed = Instant::now();
    let mut client = replicas.a.client().await;
    // Changes on the other nodes are not received while the servers run without the cluster.
    for (id, watch) in ids.iter().zip(&mut watches).filter(|(id, _)| !orphans.contains(&partition(id))) {
        let revision = get(&mut client, id).await.expect("its node serves on").revision;
        watch.until(|seen| seen.revision() > revision).await;
    }
    let heard = killed.elapsed();
    println!("jobs elsewhere are heard of {heard:?} after the kill");
    let elected = cluster.elected().await;
    println!("elected {:?} after the kill", elected - killed);
    load.good_since(elected).await;
    load.stop().await.assert_none_failed("killed node of the subscription");
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = get(&mut client, id).await.expect("it is there").revision;
        watch.until(|seen| seen.revision() >= revision).await;
    }
    println!("all has been heard of {:?} after the election", elected.elapsed());
    until_subscribed(&cluster).await;
    println!("subscribed again {:?} after the election", elected.elapsed());
    let mut longest = Duration::ZERO;
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = report(&mut client, id).await.revision;
        let stored = Instant::now();
        watch.until(|seen| seen.revision() >= revision).await;
        longest = longest.max(stored.elapsed());
    }
    println!("updates reach the other replica within {longest:?}");
    assert!(longest < scaled(NOTIFICATION_MAX).await, "a hint was not heard: {longest:?}");
    complete_all(&replicas.a, follow(watches), &ids).await;
    replicas.stop().await;
    assert!(heard < (elected - killed) + scaled(SOON).await, "jobs elsewhere were not heard of for {heard:?}");
}

/// Waits until both servers have their subscription.
async fn until_subscribed(cluster: &Cluster) {
    let subscribed = timeout(WAIT_TIMEOUT, async {
        loop {
            let lists = cluster.command_on_all(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            if lists.into_iter().map(lines).sum::<usize>() >= 2 {
                return;
            }
            sleep(PACE).await;
        }
    });
    subscribed.await.expect("they subscribe");
}

/// Returns a slot of the master that has subscriptions, and all partitions of this master.
async fn subscribed(cluster: &Cluster) -> (u16, BTreeSet<usize>) {
    let mut masters: BTreeMap<u16, (u16, BTreeSet<usize>)> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let slot = cluster.slot(&format!("{{{partition}}}")).await;
        let master = cluster.master_of_slot(slot).await;
        if lines(master.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await) == 2 {
            masters.entry(master.port).or_insert((slot, BTreeSet::new())).1.insert(partition);
        }
    }
    masters.into_values().next().expect("both have subscribed to one master")
}

fn lines(text: Value) -> usize {
    from_redis_value::<String>(text).expect("text").lines().count()
}
