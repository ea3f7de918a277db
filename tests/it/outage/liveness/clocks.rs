//! Wall clocks that are stepped by an hour, of a replica, of the only process and of Redis: no job changes its state,
//! its presence, its position in a list or its liveness.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{CreateJobRequest, ListJobsRequest, Liveness, job::State};
use rstest::rstest;
use tokio::time::sleep;

use super::{
    Client, LEASE, LONG_GRACE, REDIS_FLAGS, Rule, assert_alive, complete_all,
    dead::{FAILED_WITHIN, until_failed},
    flags,
    onlooker::Onlooker,
    workers::Workers,
};
use crate::support::{
    faketime::WallClock,
    process::Process,
    redis::Redis,
    replicas::{degraded, whole},
    watching::{make, report},
};

const HOUR: i64 = 3600;

/// Time for which a clock stays wrong, and then right: longer than a lease.
const WRONG_FOR: Duration = Duration::from_secs(4);

/// Time between two steps of a clock that jumps to and fro.
const JUMP: Duration = Duration::from_millis(500);

/// Interval between reads of the lists.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Time between two creations whose order must be clear.
const CREATION_GAP: Duration = Duration::from_millis(500);

/// Flags that keep finished jobs for much longer than a test takes, and for much less than an hour.
const KEPT: [&str; 2] = ["--ttl-succeeded", "10m"];

/// A job in a list.
type Listed = (String, State, Liveness);

/// Jobs of all kinds at some replicas, and the lists that must show them.
struct Scene {
    clients: Vec<Client>,
    /// The workers that report at each replica.
    workers: Vec<Workers>,
    onlookers: Vec<Onlooker>,
    /// The jobs as lists must show them, newest first.
    expected: Vec<Listed>,
}

impl Scene {
    /// Creates jobs that have not begun, that have ended, and that are worked on, at each replica.
    async fn start(replicas: &[&Process]) -> Self {
        let (mut clients, mut workers, mut onlookers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, replica) in replicas.iter().enumerate() {
            let mut client = replica.client().await;
            Rule::Lease.create(&mut client, &format!("pending-{number}"), 3).await;
            let ended = Rule::Lease.create(&mut client, &format!("ended-{number}"), 4).await;
            complete_all(&mut client, &ended).await;
            let live = Rule::Lease.create(&mut client, &format!("live-{number}"), 5).await;
            workers.push(Workers::start(&client, &live).await);
            clients.push(client);
        }
        for client in &clients {
            onlookers.push(Onlooker::start(client).await);
        }
        let (expected, _) = list(&mut clients[0]).await;
        assert_eq!(expected.len(), replicas.len() * 12, "{expected:?}");
        let mut scene = Self { clients, workers, onlookers, expected };
        scene.look().await;
        scene
    }

    /// Fails unless every replica lists the jobs as expected. While Redis is unavailable, each replica knows only the
    /// jobs in its memory, and receives only the reports sent to it.
    async fn look(&mut self) {
        for (client, workers) in self.clients.iter_mut().zip(&self.workers) {
            let (listed, partial) = list(client).await;
            let own: Vec<_> = workers.worked().into_iter().map(|worked| worked.id).collect();
            let is_listed =
                |id: &String| !partial || own.contains(id) || listed.iter().any(|(listed, ..)| listed == id);
            let expected = self.expected.iter().filter(|(id, ..)| is_listed(id)).cloned().collect();
            let blur = |mut job: Listed| {
                if partial && !own.contains(&job.0) {
                    job.2 = Liveness::Unspecified;
                }
                job
            };
            let blur_all = |jobs: Vec<Listed>| jobs.into_iter().map(blur).collect::<Vec<_>>();
            let (listed, expected) = (blur_all(listed.clone()), blur_all(expected));
            assert_eq!(listed, expected, "partial: {partial}");
        }
    }

    /// Checks the lists repeatedly for this time.
    async fn look_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look().await;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Creates a job at each replica, each of which is the newest.
    async fn create_newest(&mut self, name: &str) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            // Two replicas never agree on the time to the microsecond.
            sleep(CREATION_GAP).await;
            let id = format!("{name}-{number}");
            make(client, Rule::Lease.job(&id)).await;
            self.expected.insert(0, (id, State::Pending, Liveness::Unspecified));
        }
    }

    /// Steps a clock there and back, slowly and then to and fro.
    async fn step(&mut self, clock: &WallClock, off: i64, new_jobs: bool) {
        let steps = [(off, WRONG_FOR), (0, WRONG_FOR), (off, JUMP), (0, JUMP), (off, JUMP)];
        for (number, (off, time)) in steps.into_iter().enumerate() {
            clock.set_off(off);
            if new_jobs {
                self.create_newest(&format!("new-{number}")).await;
            }
            self.look_for(time).await;
        }
    }

    /// Fails if a report was refused, or a job was seen to be harmed.
    async fn assert_unharmed(mut self) {
        for workers in &self.workers {
            workers.go_on().await;
            workers.assert_none_refused();
        }
        self.look().await;
        for onlooker in self.onlookers {
            onlooker.assert_no_job_ended_by_time().await;
        }
    }
}

/// Returns all jobs as a replica lists them, and whether it says that the list is partial.
async fn list(client: &mut Client) -> (Vec<Listed>, bool) {
    let request = ListJobsRequest { page_size: 1000, ..ListJobsRequest::default() };
    let page = client.list_jobs(request).await.expect("jobs can be listed").into_inner();
    assert_eq!(page.next_page_token, "", "all fit in a page");
    let jobs = page.jobs.iter().map(|job| (job.id.clone(), job.state(), job.liveness()));
    (jobs.collect(), page.partial)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn stepped_clock_of_a_replica_changes_no_job(
    #[values(HOUR, -HOUR)] off: i64,
    #[values(false, true)] redis_is_unavailable: bool,
) {
    let clock = WallClock::new();
    let mut redis = Redis::with(&REDIS_FLAGS).await;
    let url = redis.url();
    let flags = flags(&url, LONG_GRACE, &KEPT);
    let replicas = [Process::start(&flags), Process::by_clock(&clock, &flags)];
    let mut scene = Scene::start(&[&replicas[0], &replicas[1]]).await;
    if redis_is_unavailable {
        redis.kill();
        for replica in &replicas {
            degraded(replica).await;
        }
    }
    scene.step(&clock, off, true).await;
    if redis_is_unavailable {
        redis.restart().await;
        for replica in &replicas {
            whole(replica).await;
        }
    }
    scene.assert_unharmed().await;
}

/// In memory mode there is no other clock. The failure of a job whose worker is dead is neither early nor late.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn stepped_clock_of_the_only_process_changes_no_job(#[values(HOUR, -HOUR)] off: i64) {
    let clock = WallClock::new();
    let process = Process::by_clock(&clock, &KEPT);
    let mut scene = Scene::start(&[&process]).await;
    scene.step(&clock, off, true).await;
    scene.assert_unharmed().await;

    clock.set_off(0);
    let mut client = process.client().await;
    let failing = Rule::Lease.create(&mut client, "failing", 3).await;
    make(&mut client, CreateJobRequest { fail_when_lost: false, ..Rule::Lease.job("lasting") }).await;
    let reported = Instant::now();
    for id in failing.iter().map(String::as_str).chain(["lasting"]) {
        report(&mut client, id).await;
    }
    clock.set_off(off);
    until_failed(&mut client, &failing, reported, LEASE + FAILED_WITHIN).await;
    let job = super::read(&mut client, "lasting", 1).await;
    assert_eq!((job.state(), job.liveness()), (State::Running, Liveness::Lost), "its lease is over, too: {job:?}");
}

/// Decisions may be late, but never wrong.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn stepped_clock_of_redis_changes_no_job(#[values(HOUR, -HOUR)] off: i64) {
    let clock = WallClock::new();
    let redis = Redis::with_clock(&clock, &REDIS_FLAGS).await;
    let url = redis.url();
    let flags = flags(&url, LONG_GRACE, &KEPT);
    let replicas = [Process::start(&flags), Process::start(&flags)];
    let mut scene = Scene::start(&[&replicas[0], &replicas[1]]).await;
    scene.step(&clock, off, false).await;
    scene.assert_unharmed().await;
}

/// A replica that starts while Redis is unavailable knows no other clock than its own until Redis is back.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn clock_that_is_set_when_redis_is_back_changes_no_job(
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
    #[values(HOUR, -HOUR)] off: i64,
) {
    let clock = WallClock::new();
    let mut redis = Redis::with(&REDIS_FLAGS).await;
    redis.kill();
    let url = redis.url();
    let flags = flags(&url, LONG_GRACE, rule.flags());
    clock.set_off(off);
    let replicas = [Process::start(&flags), Process::by_clock(&clock, &flags)];
    let (mut workers, mut onlookers, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    let mut clients = [replicas[0].client().await, replicas[1].client().await];
    for (number, client) in clients.iter_mut().enumerate() {
        // Two replicas never agree on the time to the microsecond.
        sleep(CREATION_GAP).await;
        let live = rule.create(client, &format!("live-{number}"), 5).await;
        workers.push(Workers::start(client, &live).await);
        onlookers.push(Onlooker::start(client).await);
        expected.splice(0..0, live.into_iter().rev());
    }
    redis.restart().await;
    for replica in &replicas {
        whole(replica).await;
    }
    for workers in &workers {
        workers.go_on().await;
        workers.assert_none_refused();
    }
    for client in &mut clients {
        let (listed, partial) = list(client).await;
        let listed: Vec<_> = listed.into_iter().map(|(id, ..)| id).collect();
        assert_eq!((listed, partial), (expected.clone(), false), "newest first");
        for workers in &workers {
            assert_alive(client, rule, &workers.worked()).await;
        }
    }
    for onlooker in onlookers {
        onlooker.assert_no_job_ended_by_time().await;
    }
}
