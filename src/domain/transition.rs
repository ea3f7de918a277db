//! The state machine of a job, which alone implements the rules of its lifecycle.
//!
//! Reports and ends of an attempt are checked in one order: the attempt and its claim, the state, the expected
//! revision, and for a confirmed cancellation whether it was requested. A change that is stored raises the revision by
//! one, under the id of its [`ChangeContext`]; a change without an effect leaves the job unchanged.

mod attempts;
mod cancel;

use std::{cmp::max, time::Duration};

use uuid::Uuid;

use super::{
    Applied, Change, ChangeContext, ChangeId, Claim, Due, Failure, FailureCode, Ignored, Job, JobId, Lease, NewJob,
    Outcome, Progress, Rejected, Removal, Report, Retention, State, TOMBSTONE_LIFE, Timestamp, Version,
};

type Result = std::result::Result<Applied, Rejected>;

impl Job {
    /// Creates a job in PENDING; `previous` is the tombstone under its id, if there is one.
    pub fn create(id: JobId, new: NewJob, previous: Option<&Self>, incarnation_id: Uuid, at: &ChangeContext) -> Self {
        let first_revision = previous.map_or(0, |tombstone| tombstone.version.revision) + 1;
        let now = previous.map_or(at.now, |tombstone| max(at.now, tombstone.update_time.next()));
        let mut job = Self {
            id,
            version: Version { incarnation_id, first_revision, revision: first_revision, change_id: at.change_id },
            request_id: new.request_id,
            kind: new.kind,
            owner: new.owner,
            title: new.title.into(),
            labels: new.labels,
            metadata: new.metadata,
            state: State::Pending,
            attempt: 0,
            attempt_start_time: None,
            claim: None,
            attempts: Box::default(),
            sequence: None,
            progress: Progress::default(),
            worker: String::new(),
            cancel: None,
            lease: Lease {
                timeout: new.lease_timeout,
                start_timeout: new.start_timeout,
                fail_when_lost: new.fail_when_lost,
                ..Lease::default()
            },
            retention: new.retention,
            create_time: now,
            start_time: None,
            update_time: now,
            report_time: None,
            progress_time: None,
            end_time: None,
            expire_time: None,
            forget_time: None,
            outcome: None,
            durable_time: None,
            since: previous.and_then(|tombstone| tombstone.since),
            heard: None,
            branch: None,
            removal: None,
        };
        job.renew_lease(now);
        job.plan_expiry(&at.retention);
        job
    }

    /// Applies `change` to this job. A tombstone accepts no change.
    pub fn apply(&self, change: &Change, at: &ChangeContext) -> Result {
        if self.removal.is_some() {
            return Ok(Applied::Unchanged);
        }
        match change {
            Change::Start(start) => self.start_attempt(start, at),
            Change::Report(report) => self.report(report, at),
            Change::Complete(end) => {
                if !self.may_end(State::Succeeded, end.attempt, end.claim, end.expected_revision)? {
                    return Ok(Applied::Unchanged);
                }
                Ok(self.next(at, |job, now| {
                    job.begin(end.attempt, now);
                    if job.progress.percent.replace(100.0) != Some(100.0) {
                        job.progress_time = Some(now);
                    }
                    job.end(State::Succeeded, end.outcome.clone().map(Outcome::Result), now);
                }))
            }
            Change::Fail(end) => {
                if !self.may_end(State::Failed, end.attempt, end.claim, end.expected_revision)? {
                    return Ok(Applied::Unchanged);
                }
                Ok(self.next(at, |job, now| {
                    job.begin(end.attempt, now);
                    job.end(State::Failed, Some(Outcome::Failure(end.outcome.clone().into())), now);
                }))
            }
            Change::Retry(end) => self.retry(end, at),
            Change::Cancel { .. } => self.request_cancel(change, at),
            Change::ConfirmCancel { attempt, claim, message } => {
                self.confirm_cancel(*attempt, *claim, message.as_ref(), at)
            }
            Change::Delete { force } => {
                if !self.state.is_terminal() && !force {
                    return Err(Rejected::Active);
                }
                let update_time = max(at.now, self.update_time.next());
                Ok(Applied::Changed(Box::new(self.tombstone(Removal::Deleted, update_time, at.now, at.change_id))))
            }
            Change::LoseWorker => Ok(self.lose_worker(at)),
            Change::ForceCancel => Ok(match self.deadline_of(Due::ForceCancel) {
                Some(_) => self.next(at, |job, now| job.end(State::Cancelled, None, now)),
                None => Applied::Unchanged,
            }),
            Change::Expire => Ok(match self.expire_time {
                Some(expires) if expires <= at.now => Applied::Changed(Box::new(self.expired(at.now, at.change_id))),
                _ => Applied::Unchanged,
            }),
        }
    }

    /// Returns the tombstone of this job after its retention, or after its eviction. The expiry of an active job keeps
    /// the time of its last change, so that a merge prefers it to that version, and to no newer one.
    pub fn expired(&self, now: Timestamp, change_id: ChangeId) -> Self {
        let update_time = if self.state.is_terminal() { max(now, self.update_time.next()) } else { self.update_time };
        self.tombstone(Removal::Expired, update_time, now, change_id)
    }

    /// Returns the tombstone of a removed job: its identity, the fields that filters use and its last numbers, without
    /// documents and texts.
    fn tombstone(&self, removal: Removal, update_time: Timestamp, now: Timestamp, change_id: ChangeId) -> Self {
        let progress = Progress { details: None, message: None, ..self.progress.clone() };
        let outcome = match &self.outcome {
            Some(Outcome::Failure(failure)) => {
                let (code, reason) = (failure.code, failure.reason.clone());
                Some(Outcome::Failure(Box::new(Failure { code, reason, message: String::new(), details: None })))
            }
            Some(Outcome::Result(_)) | None => None,
        };
        Self {
            title: Box::default(),
            cancel: self.cancel.as_deref().map(|cancel| Box::new(cancel.without_reason())),
            version: self.version.next(change_id),
            update_time,
            removal: Some(removal),
            forget_time: Some(max(now, update_time) + TOMBSTONE_LIFE),
            metadata: None,
            progress,
            outcome,
            lease: Lease { expire_time: None, lost: false, ..self.lease.clone() },
            attempts: Box::default(),
            durable_time: None,
            ..self.clone()
        }
    }

    /// Returns the next action that becomes due by time alone, and its time.
    pub fn next_due(&self) -> Option<(Timestamp, Due)> {
        if self.removal.is_some() {
            let forgotten = self.forget_time.unwrap_or(self.update_time + TOMBSTONE_LIFE);
            return Some((forgotten, Due::Forget));
        }
        match self.deadline() {
            Some(deadline) => Some((self.time_of(&deadline), deadline.due)),
            None => self.expire_time.map(|time| (time, Due::Expire)),
        }
    }

    fn report(&self, report: &Report, at: &ChangeContext) -> Result {
        self.check_attempt(report.attempt, report.claim)?;
        if self.state.is_terminal() {
            return Err(Rejected::Finished);
        }
        self.check_revision(report.expected_revision)?;

        let same_attempt = !self.is_between_attempts() && report.attempt.is_none_or(|attempt| attempt == self.attempt);
        if let Some(why) = self.why_ignored(report).filter(|_| same_attempt) {
            return Ok(Applied::Ignored { why, renewed: self.renewed(at) });
        }
        Ok(self.next(at, |job, now| {
            job.begin(report.attempt, now);
            job.state = State::Running;
            job.sequence = report.sequence.or(job.sequence);
            if !report.worker.is_empty() {
                job.worker.clone_from(&report.worker);
            }
            job.progress.update(&report.progress);
            let fresh = Progress::default();
            let before = if job.attempt > self.attempt { &fresh } else { &self.progress };
            if job.progress.has_advanced_since(before) {
                job.progress_time = Some(now);
            }
            job.hear(report.lease_timeout, now, at);
        }))
    }

    /// Returns the reason to ignore a report of the current attempt, if it is older than the last report that was
    /// applied.
    fn why_ignored(&self, report: &Report) -> Option<Ignored> {
        match report.sequence {
            Some(sequence) => self.sequence.is_some_and(|last| sequence <= last).then_some(Ignored::OlderSequence),
            None => self.progress.is_ahead_of(&report.progress).then_some(Ignored::LowerProgress),
        }
    }

    /// Returns the version with which an ignored report renews the lease and the retention of an active job: the worker
    /// is alive, whatever it reports. `update_time` is kept, so that a merge does not prefer this version to a newer
    /// report.
    fn renewed(&self, at: &ChangeContext) -> Option<Box<Self>> {
        if self.lease.timeout.is_zero() && at.retention.active.is_zero() {
            return None;
        }
        let mut job = Box::new(self.clone());
        job.version = self.version.next(at.change_id);
        job.report_time = Some(max(at.now, self.update_time.next()));
        job.renew_lease(at.now);
        job.plan_expiry(&at.retention);
        Some(job)
    }

    fn lose_worker(&self, at: &ChangeContext) -> Applied {
        // The store decides if the lease has expired, because only the store has the time of the last report.
        if self.deadline_of(Due::LoseWorker).is_none() {
            return Applied::Unchanged;
        }
        if self.cancel.is_some() {
            return self.next(at, |job, now| job.end(State::Cancelled, None, now));
        }
        if self.lease.fail_when_lost {
            let failure = Outcome::Failure(self.failure_by_silence().into());
            return self.next(at, |job, now| job.end(State::Failed, Some(failure), now));
        }
        let mut job = Box::new(self.clone());
        job.version = self.version.next(at.change_id);
        job.lease.lost = true;
        Applied::Changed(job)
    }

    fn failure_by_silence(&self) -> Failure {
        let (reason, message) = match self.state {
            State::Pending => ("NOT_STARTED", "no worker started the job within its start timeout"),
            _ => ("WORKER_LOST", "the worker did not report within its lease"),
        };
        Failure {
            code: FailureCode::DEADLINE_EXCEEDED,
            reason: reason.to_owned(),
            message: message.to_owned(),
            details: None,
        }
    }

    /// Returns whether the job can still move to `end`: `false` if it is there already, an error if it ended
    /// differently.
    fn may_end(
        &self,
        end: State,
        attempt: Option<i32>,
        claim: Option<Claim>,
        expected_revision: Option<i64>,
    ) -> std::result::Result<bool, Rejected> {
        self.check_attempt(attempt, claim)?;
        if self.state == end {
            return Ok(false);
        }
        if self.state.is_terminal() {
            return Err(Rejected::Finished);
        }
        self.check_revision(expected_revision)?;
        Ok(true)
    }

    fn check_revision(&self, expected: Option<i64>) -> std::result::Result<(), Rejected> {
        if expected.is_some_and(|expected| expected != self.version.revision) {
            Err(Rejected::RevisionMismatch)
        } else {
            Ok(())
        }
    }

    fn next(&self, at: &ChangeContext, edit: impl FnOnce(&mut Self, Timestamp)) -> Applied {
        Applied::Changed(self.next_version(at, edit))
    }

    /// Returns the next version. `edit` receives the time of the change, which is later than that of the last change.
    fn next_version(&self, at: &ChangeContext, edit: impl FnOnce(&mut Self, Timestamp)) -> Box<Self> {
        let mut job = Box::new(self.clone());
        job.version = self.version.next(at.change_id);
        job.update_time = max(at.now, self.update_time.next());
        job.durable_time = None;
        let now = job.update_time;
        edit(&mut job, now);
        job.plan_expiry(&at.retention);
        debug_assert!(job.attempt >= self.attempt, "attempts only rise");
        debug_assert!(job.update_time > self.update_time, "the time of the last change only rises");
        debug_assert_eq!(job.end_time.is_some(), job.state.is_terminal(), "a job has an end if its state is final");
        debug_assert!(job.outcome.is_none() || job.state.is_terminal(), "only a job that ended has an outcome");
        debug_assert!(job.lease.expire_time.is_none() || !job.state.is_terminal(), "the lease ends with the job");
        job
    }

    fn end(&mut self, state: State, outcome: Option<Outcome>, now: Timestamp) {
        self.state = state;
        self.outcome = outcome;
        self.end_time = Some(now);
        self.lease.expire_time = None;
        self.lease.lost = false;
    }

    /// Records a report of the worker, and renews the lease. The worker may set the length of the lease.
    fn hear(&mut self, lease_timeout: Option<Duration>, now: Timestamp, at: &ChangeContext) {
        if let Some(timeout) = lease_timeout {
            self.lease.timeout = timeout;
        }
        self.report_time = Some(now);
        self.renew_lease(at.now);
    }

    fn renew_lease(&mut self, now: Timestamp) {
        let allowed = self.silence_allowed();
        self.lease.lost = false;
        self.lease.expire_time = (!allowed.is_zero()).then(|| now + allowed);
    }

    fn plan_expiry(&mut self, retention: &Retention) {
        let (from, kept) = match self.end_time {
            Some(end) => (end, self.retention.unwrap_or(retention.of(self.state))),
            None => (max(self.update_time, self.report_time.unwrap_or(self.update_time)), retention.of(self.state)),
        };
        self.expire_time = (!kept.is_zero()).then(|| from + kept);
    }
}
