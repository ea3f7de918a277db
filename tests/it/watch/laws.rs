//! Random writers and watchers, and invariants of all their events. `WATCH_LAWS_SEED` repeats a run, as far as tasks
//! and sockets allow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use jobtrack::proto::v1::{
    CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest, DeleteJobRequest, Event,
    FailJobRequest, Failure, Job, JobFilter, ListJobsRequest, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest,
    job::State,
};
use tokio::{sync::watch, task::JoinSet};
use tonic::{Code, Status};

use crate::support::{
    Client, Server, new_job,
    watching::{Seen, Watch, about, is_terminal, millis, try_watch_job, watch_jobs},
};

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
const OWNERS: [&str; 2] = ["us", "them"];
const OPERATIONS: usize = 250;
const ROUNDS: u64 = 3;
/// Separates the seeds of one round's tasks.
const FAR: u64 = 1 << 48;

/// Acknowledged ends: the id and the revision.
type Ends = Arc<Mutex<BTreeSet<(String, i64)>>>;

/// A random generator with a seed, by the algorithm `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("it is below a length")]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_laws() {
    let given = std::env::var("WATCH_LAWS_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
    for seed in first..first + ROUNDS {
        eprintln!("WATCH_LAWS_SEED={seed}");
        round(seed).await;
    }
}

async fn round(seed: u64) {
    let server = Server::start().await;
    let (done, is_done) = watch::channel(false);
    let ends = Ends::default();
    let mut steady = Vec::new();
    let (mut writers, mut watchers) = (JoinSet::new(), JoinSet::new());
    for number in 0..4 {
        let mut watcher = Watcher::new(&server, seed + FAR + number, is_done.clone()).await;
        let everything = watcher.paced();
        let mut stream = watch_jobs(&watcher.client, everything.clone()).await;
        stream.until_bookmark().await;
        steady.push((watcher, everything, stream));
    }
    for (watcher, everything, stream) in steady {
        watchers.spawn(watcher.steady(everything, stream, ends.clone()));
    }
    for number in 0..4 {
        let watcher = Watcher::new(&server, seed + 2 * FAR + number, is_done.clone()).await;
        watchers.spawn(watcher.roaming());
        let watcher = Watcher::new(&server, seed + 3 * FAR + number, is_done.clone()).await;
        watchers.spawn(watcher.of_one_job());
        let writer = write(server.client().await, Dice(seed + 4 * FAR + number), ends.clone());
        writers.spawn(writer);
    }
    while let Some(written) = writers.join_next().await {
        written.expect("a writer does not fail");
    }
    done.send(true).expect("somebody watches");
    while let Some(watched) = watchers.join_next().await {
        watched.expect("a watcher sees what it must");
    }
    server.stop().await;
}

/// Makes random calls, most of which the state machine rejects.
async fn write(mut client: Client, mut dice: Dice, ends: Ends) {
    for _ in 0..OPERATIONS {
        let id = dice.pick(&IDS).to_owned();
        match change(&mut client, &mut dice, id.clone()).await {
            Ok(Some(job)) if is_terminal(job.state()) => {
                ends.lock().expect("no writer fails").insert((id, job.revision));
            }
            Ok(_) => {}
            Err(status) => assert_refused(&status),
        }
    }
}

async fn change(client: &mut Client, dice: &mut Dice, job_id: String) -> Result<Option<Job>, Status> {
    let force = dice.percent(50);
    Ok(match dice.below(12) {
        0..3 => {
            let owner = dice.pick(&OWNERS).to_owned();
            client.create_job(CreateJobRequest { owner, ..new_job(&job_id) }).await?.into_inner().job
        }
        3..7 => {
            let request = UpdateProgressRequest { job_id, ..UpdateProgressRequest::default() };
            client.update_progress(request).await?.into_inner().job
        }
        7 => {
            let request = CompleteJobRequest { job_id, ..CompleteJobRequest::default() };
            client.complete_job(request).await?.into_inner().job
        }
        8 => {
            let request = FailJobRequest { job_id, failure: Some(Failure::default()), ..FailJobRequest::default() };
            client.fail_job(request).await?.into_inner().job
        }
        9 => {
            let request = CancelJobRequest { job_id, force, ..CancelJobRequest::default() };
            client.cancel_job(request).await?.into_inner().job
        }
        10 => {
            let request = ConfirmCancelRequest { job_id, ..ConfirmCancelRequest::default() };
            client.confirm_cancel(request).await?.into_inner().job
        }
        _ => {
            client.delete_job(DeleteJobRequest { job_id, force }).await?;
            None
        }
    })
}

fn assert_refused(status: &Status) {
    assert!(matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition), "{status:?}");
}

struct Watcher {
    client: Client,
    dice: Dice,
    done: watch::Receiver<bool>,
}

impl Watcher {
    async fn new(server: &Server, seed: u64, done: watch::Receiver<bool>) -> Self {
        Self { client: server.client().await, dice: Dice(seed), done }
    }

    fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    /// Returns a random scope, at a random pace.
    fn scope(&mut self) -> WatchJobsRequest {
        let states = [State::Pending, State::Running, State::Succeeded, State::Failed, State::Cancelled];
        let mut filter = JobFilter::default();
        if self.dice.percent(50) {
            filter.states = states.iter().filter(|_| self.dice.percent(40)).map(|state| *state as i32).collect();
        }
        if self.dice.percent(30) {
            self.dice.pick(&OWNERS).clone_into(&mut filter.owner);
        }
        let mut job_ids = Vec::new();
        if self.dice.percent(30) {
            job_ids = IDS.iter().filter(|_| self.dice.percent(60)).map(ToString::to_string).collect();
        }
        WatchJobsRequest { job_ids, filter: Some(filter), ..self.paced() }
    }

    fn pace(&mut self) -> Option<prost_types::Duration> {
        millis(self.dice.pick(&[0, 0, 2, 8]))
    }

    fn paced(&mut self) -> WatchJobsRequest {
        let min_interval = self.pace();
        WatchJobsRequest { min_interval, bookmark_interval: millis(1000), ..WatchJobsRequest::default() }
    }

    /// Reads one stream of all jobs from the beginning: it must contain every end, and the final state.
    async fn steady(mut self, scope: WatchJobsRequest, mut stream: Watch, ends: Ends) {
        let (mut view, mut told) = (View::new(&scope), BTreeSet::new());
        let mut idle = 0;
        while idle < 2 {
            let seen = stream.next().await;
            assert!(!seen.reset, "nothing was lost: {seen:?}");
            idle += usize::from(self.is_done() && seen.event == Event::Bookmark);
            if seen.event == Event::Update && is_terminal(seen.state()) {
                told.insert((seen.id().to_owned(), seen.revision()));
            }
            view.apply(&seen);
        }
        view.assert_is_the_truth(&mut self.client).await;
        let ends = ends.lock().expect("no writer failed");
        let lost: Vec<_> = ends.difference(&told).collect();
        assert!(lost.is_empty(), "ends that were never told: {lost:?}");
    }

    /// Leaves its streams at random, resumes with a token, and knows the final state in the end.
    async fn roaming(mut self) {
        let mut scope = self.scope();
        let mut view = View::new(&scope);
        loop {
            let resumed = !scope.resume_token.is_empty();
            let mut stream = watch_jobs(&self.client, scope.clone()).await;
            let (mut count, mut idle) = (0, 0);
            while idle < 2 {
                let last_round = self.is_done();
                let seen = stream.next().await;
                if count == 0 && resumed && seen.reset {
                    assert!(!view.caught_up, "the token of {scope:?} was good: {seen:?}");
                }
                count += 1;
                idle += usize::from(last_round && count > 1 && seen.event == Event::Bookmark);
                view.apply(&seen);
                scope.resume_token = seen.token;
                if !last_round && self.dice.percent(20) {
                    break;
                }
            }
            if idle == 2 {
                return view.assert_is_the_truth(&mut self.client).await;
            }
        }
    }

    /// Follows the incarnations of one job.
    async fn of_one_job(mut self) {
        let id = self.dice.pick(&IDS);
        let mut token = String::new();
        while !self.is_done() {
            let min_interval = self.pace();
            let request = WatchJobRequest { min_interval, bookmark_interval: millis(1000), ..about(id, &token) };
            let mut stream = match try_watch_job(&self.client, request).await {
                Ok(stream) => stream,
                Err(status) => {
                    assert_eq!((status.code(), token.as_str()), (Code::NotFound, ""), "its tombstone lives");
                    continue;
                }
            };
            let mut last = None;
            let ended = loop {
                let Some(outcome) = stream.outcome().await else { break true };
                let seen = outcome.expect("the stream ends OK");
                assert!(!seen.reset, "the token {token:?} was good: {seen:?}");
                token.clone_from(&seen.token);
                last = Some(seen);
                if self.dice.percent(10) || self.is_done() {
                    break false;
                }
            };
            let last = last.expect("an event");
            let is_end = last.job.as_ref().is_none_or(|job| is_terminal(job.state()) || last.event == Event::Removed);
            assert!(!ended || is_end, "it ended with {last:?}");
            if ended && self.dice.percent(50) {
                token.clear();
            }
        }
    }
}

/// The state of a client that reads a stream of many jobs.
struct View {
    scope: WatchJobsRequest,
    /// The newest revision of each id, and whether the job exists and matches.
    known: BTreeMap<String, (i64, bool)>,
    /// A bookmark was received: from here on, tokens can be honoured.
    caught_up: bool,
    resetting: bool,
    /// All events, for the message of a failure.
    history: Vec<Seen>,
}

impl View {
    fn new(scope: &WatchJobsRequest) -> Self {
        Self { scope: scope.clone(), known: BTreeMap::new(), caught_up: false, resetting: false, history: Vec::new() }
    }

    fn apply(&mut self, seen: &Seen) {
        if seen.reset && !self.resetting {
            self.known.clear();
        }
        self.resetting = seen.reset && seen.event == Event::Snapshot;
        self.caught_up |= seen.event == Event::Bookmark;
        self.history.push(seen.clone());
        let Some(job) = &seen.job else { return };
        let newest = self.known.get(&job.id).map_or(0, |(revision, _)| *revision);
        if job.revision > newest {
            let states = self.scope.filter.as_ref().map(|filter| &filter.states[..]).unwrap_or_default();
            let owner = self.scope.filter.as_ref().map_or("", |filter| &filter.owner);
            let matches = (states.is_empty() || states.contains(&job.state))
                && (owner.is_empty() || owner == job.owner)
                && seen.event != Event::Removed;
            self.known.insert(job.id.clone(), (job.revision, matches));
        }
    }

    async fn assert_is_the_truth(&self, client: &mut Client) {
        let request =
            ListJobsRequest { filter: self.scope.filter.clone(), page_size: 1000, ..ListJobsRequest::default() };
        let listed = client.list_jobs(request).await.expect("jobs can be listed").into_inner().jobs;
        let ids = &self.scope.job_ids;
        let truth: BTreeMap<_, _> = listed
            .iter()
            .filter(|job| ids.is_empty() || ids.contains(&job.id))
            .map(|job| (job.id.as_str(), job.revision))
            .collect();
        let view: BTreeMap<_, _> = self
            .known
            .iter()
            .filter(|(_, (_, matches))| *matches)
            .map(|(id, (revision, _))| (id.as_str(), *revision))
            .collect();
        let history: Vec<_> = self.history.iter().map(|seen| (seen.brief(), seen.token.as_str())).collect();
        assert_eq!(view, truth, "{:?}: {history:?}", self.scope);
    }
}
