//! A round: active clients, a fault, and the check of the history.

use std::{
    collections::BTreeSet,
    fs,
    mem::replace,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::proto::v1::reconciled_job::Outcome;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tonic::Code;

use super::{Soak, faults::Harm, stage::Stage};
use crate::robustness::history::{AUDITOR, Act, Answer, At, Call, Face, Shown, Violation, check, check_returns};

/// Number of concurrent scenes.
const SCENES: usize = 24;

/// Number of workers that keep reporting on a job for the whole round.
const KEEPERS: usize = 6;

/// Maximum number of jobs of earlier rounds that stay under observation.
const OLD: usize = 200;

/// Maximum time until watchers know the latest versions: lost notifications are noticed within about 2 s, after which
/// watched jobs are read again; the rest is for a busy machine.
const ARRIVAL: Duration = Duration::from_secs(7);

/// Maximum wait for replicas to return, unless the history shows earlier that they take too long.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

impl Soak {
    /// Runs clients, causes one fault, and checks the history against the promises once everything is healed and quiet.
    pub async fn play_round(&mut self, harm: Harm) {
        self.round += 1;
        let owner = format!("o{}", self.round);
        let stage = Stage::new(self.client.clone(), owner.clone());
        let scenes = TaskTracker::new();
        for replica in 0..self.world.replicas.len() {
            for face in [Face::Grpc, Face::Events] {
                let watcher = self.client.named(&owner).through(face);
                stage.watchers.spawn(watcher.watch_all(replica, stage.leave.clone()));
            }
        }
        for number in 0..SCENES {
            scenes.spawn(stage.clone().play(number, self.dice.fork()));
        }
        for number in 0..KEEPERS {
            scenes.spawn(stage.clone().keep(number, self.dice.fork()));
        }
        sleep(self.dice.pause(Duration::from_millis(400))).await;
        let since = self.world.recorder.now();
        let mended = harm.happen(&mut self.world, &mut self.dice).await;
        self.await_return(since).await;
        Harm::mend_links(&self.world);
        sleep(self.dice.pause(Duration::from_millis(300))).await;
        stage.stop.cancel();
        scenes.close();
        scenes.wait().await;
        let whole = self.world.whole(mended).await;
        self.heal();
        if let Err(what) = whole {
            self.object(&Violation { rule: "G16", job: owner.clone(), what });
        }
        self.audit().await;
        self.check(harm);
        stage.leave.cancel();
        stage.watchers.close();
        stage.watchers.wait().await;
        replace(&mut self.lingering, stage.linger).cancel();
        if harm == Harm::Nothing {
            self.calm = self.round;
        }
        self.forget(&owner);
    }

    /// Waits until every replica has stored a change after the fault that began after `since`, while clients continue.
    async fn await_return(&self, since: At) {
        let deadline = Instant::now() + RETURN_TIMEOUT;
        while Instant::now() < deadline && !self.has_returned(since) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns whether every replica has stored a change after that fault, or one has exceeded its time.
    fn has_returned(&self, since: At) -> bool {
        let history = self.world.recorder.history();
        let mended = history.faults.last().filter(|fault| fault.from >= since).and_then(|fault| fault.mended);
        mended.is_none_or(|mended| history.all_store_since(mended)) || !check_returns(&history).is_empty()
    }

    fn heal(&self) {
        let now = self.world.recorder.now();
        if let Some(fault) = self.world.recorder.history().faults.last_mut().filter(|fault| fault.until.is_none()) {
            fault.until = Some(now);
        }
    }

    /// Reads every job on all replicas, and again until all watchers know the same versions or their time is over.
    async fn audit(&mut self) {
        let auditor = self.client.named(AUDITOR);
        let jobs: BTreeSet<_> = self.world.recorder.history().calls.iter().map(|call| call.job.clone()).collect();
        let (mut deadline, last) = (Instant::now() + ARRIVAL, Instant::now() + 4 * ARRIVAL);
        loop {
            let quiet = self.world.recorder.now();
            self.world.recorder.history().quiet = Some(quiet);
            for job in &jobs {
                join_all((0..self.world.replicas.len()).map(|replica| auditor.call(replica, job, Act::Get))).await;
            }
            if Instant::now() > deadline || self.found().is_empty() {
                return;
            }
            // On a busy machine a replica may consider Redis unavailable.
            if self.is_away_again(quiet) && Instant::now() < last && self.world.whole(Instant::now()).await.is_ok() {
                *self.counts.entry("relapses").or_default() += 1;
                deadline = Instant::now() + ARRIVAL;
            }
            sleep(Duration::from_millis(500)).await;
            self.world.recorder.history().calls.retain(|call| call.client != AUDITOR || call.begun < quiet);
        }
    }

    /// Returns the violations in the history as it is now.
    fn found(&self) -> BTreeSet<Violation> {
        let mut history = self.world.recorder.history();
        history.unify_incarnations();
        check(&history)
    }

    /// Returns whether the auditor received answers since then that did not come from Redis.
    fn is_away_again(&self, since: At) -> bool {
        let history = self.world.recorder.history();
        let mut told = history.calls.iter().filter(|call| call.client == AUDITOR && call.begun >= since);
        told.any(|call| call.shown().is_some_and(|shown| !shown.durable))
    }

    fn check(&mut self, harm: Harm) {
        for violation in self.found() {
            self.object(&violation);
        }
        let (round, at) = (self.round, self.world.recorder.now());
        println!("round {round}, {at:.0?}: {harm:?}, {} violations", self.violations.len());
    }

    fn object(&mut self, violation: &Violation) {
        // One violation of each rule is enough for each job.
        let known = self.violations.iter().any(|other| (other.rule, &other.job) == (violation.rule, &violation.job));
        if !known && self.violations.insert(violation.clone()) {
            println!("round {}: {violation}", self.round);
            let story = self.world.recorder.history().tell(&violation.job);
            fs::write(self.folder.join(format!("{}.txt", violation.job)), story).expect("a file can be written");
        }
    }

    /// Counts the history, and drops the part of it that later rounds do not need.
    fn forget(&mut self, owner: &str) {
        self.tally();
        let now = self.world.recorder.now();
        let mut history = self.world.recorder.history();
        let prefix = format!("{owner}-");
        let ours: Vec<_> =
            history.calls.iter().filter(|call| call.job.starts_with(&prefix)).map(|call| &call.job).collect();
        let some = ours.iter().step_by(40).map(|&job| job.clone());
        self.old.extend(some.collect::<BTreeSet<_>>());
        let surplus = self.old.len().saturating_sub(OLD);
        self.old.drain(..surplus);
        let old: BTreeSet<_> = self.old.iter().map(String::as_str).collect();
        let may_linger = |name: &str| name.starts_with(&prefix) && name.ends_with("Leased");
        // The next round without a fault shows whether they were noticed.
        let dying = |name: &str| name.ends_with("Dying") && round_of(name).is_some_and(|round| round > self.calm);
        history.retain(|name| old.contains(name) || may_linger(name) || dying(name));
        history.forgotten = now;
    }

    /// Counts the history since the last count.
    pub fn tally(&mut self) {
        let since = replace(&mut self.counted, self.world.recorder.now());
        let history = self.world.recorder.history();
        let entries = || history.reported.iter().filter(|entry| entry.at >= since);
        let count = |outcome| entries().filter(|entry| entry.outcome == outcome).count();
        let heard = |face| history.streams.iter().filter(move |it| it.face == face).flat_map(|stream| &stream.events);
        let heard = |face| heard(face).filter(|heard| heard.at >= since).count();
        let opened = |face| history.streams.iter().filter(|it| it.face == face && it.opened >= since).count();
        let calls =
            |is_it: fn(&Call) -> bool| history.calls.iter().filter(|call| call.ended >= since && is_it(call)).count();
        let news = [
            ("merged", count(Outcome::Merged)),
            ("conflicted", count(Outcome::Conflicted)),
            ("dropped", count(Outcome::Dropped)),
            ("calls", calls(|_| true)),
            ("volatile", calls(|call| call.made().is_some_and(|made| !made.durable))),
            ("taken", calls(|call| !call.limited_to.is_empty() && call.made().is_some())),
            ("exhausted", calls(is_exhausted)),
            ("workers lost", calls(|call| call.client == AUDITOR && call.shown().is_some_and(Shown::is_worker_lost))),
            ("events", heard(Face::Grpc)),
            ("streams", opened(Face::Grpc)),
            ("events by HTTP", heard(Face::Events)),
            ("streams by HTTP", opened(Face::Events)),
        ];
        let sums = [("faults", history.faults.len()), ("deaths", history.deaths.len()), ("stops", history.stops.len())];
        drop(history);
        for (name, number) in news {
            *self.counts.entry(name).or_default() += number;
        }
        self.counts.extend(sums);
    }
}

fn is_exhausted(call: &Call) -> bool {
    matches!(&call.answer, Answer::Refused { code: Code::ResourceExhausted, .. })
}

/// Returns the round in which a job of this name was created.
fn round_of(job: &str) -> Option<usize> {
    job.strip_prefix('o')?.split('-').next()?.parse().ok()
}
