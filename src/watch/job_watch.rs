//! The stream of one job.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Alarm, CoalescedChanges, EventKind, JobToken, Pace, Reset, ResumeToken, Subscription, WatchEvent,
    last_sent::{LastSent, VersionOrder, is_end},
};
use crate::{
    domain::{Identity, Job, JobError, JobId, Owners, SharedJobs},
    store::{CommitEvent, Stored},
};

/// A stream of one job, from its current state to its end.
pub struct JobWatch {
    subscription: Subscription,
    epoch: u64,
    owners: Owners,
    /// The only incarnation that is sent, if the subscriber holds a watch token.
    shared: Option<Arc<SharedJobs>>,
    pace: Pace,
    first: Option<WatchEvent>,
    /// Last version that was sent; `None` once the stream is over.
    sent: Option<LastSent>,
    token: JobToken,
    waiting: Option<CoalescedChanges>,
    /// Time before which no update is sent, unless it is urgent.
    quiet_until: Instant,
    /// Time of the last event.
    last_event: Instant,
    alarm: Alarm,
}

impl JobWatch {
    /// Starts a stream for `caller` after `resume_token`, or at `current`: the record of `id`, which must have been
    /// read after `subscription` was made, so that no change is missed between the two.
    pub fn start(
        subscription: Subscription,
        epoch: u64,
        caller: &Identity,
        id: &JobId,
        current: Option<Stored>,
        resume_token: &str,
        pace: Pace,
    ) -> Result<Self, JobError> {
        // Makes tokens of other callers invalid, as tokens of another data set are.
        let epoch = epoch ^ caller.digest();
        let resumed = JobToken::decode(resume_token).filter(|token| token.epoch == epoch && token.id == *id);
        let stored = current.ok_or_else(|| JobError::NotFound(id.clone()))?;
        let job = &stored.job;
        let now = Instant::now();
        let mut watch = Self {
            subscription,
            epoch,
            owners: caller.owners.clone(),
            shared: caller.shared.clone(),
            pace,
            first: None,
            sent: Some(LastSent::of(job)),
            token: JobToken::after(epoch, job),
            waiting: None,
            quiet_until: now,
            last_event: now,
            alarm: Alarm::at(now + pace.bookmark_interval),
        };
        let first = watch.first_event(stored, resumed, Reset::from_token(resume_token));
        watch.first = Some(first.ok_or_else(|| JobError::NotFound(id.clone()))?);
        Ok(watch)
    }

    /// Returns the event with which the stream resumes after a token, or, with `reset`, starts. Returns `None` if there
    /// is only a tombstone of a job that the caller has not seen.
    fn first_event(&mut self, stored: Stored, resumed: Option<JobToken>, reset: Reset) -> Option<WatchEvent> {
        let version = stored.job.version;
        let is_valid = |token: &JobToken| {
            let at = (token.revision, token.change_id);
            token.revision < version.revision || at == (version.revision, version.change_id)
        };
        let is_removed = stored.job.removal.is_some();
        match resumed.filter(is_valid) {
            Some(token) if is_removed => {
                let skipped = (version.revision - token.revision - 1).max(0);
                Some(self.event(EventKind::Removed, stored, skipped, Reset::No))
            }
            Some(token) => Some(self.resume(&token, stored)),
            None if is_removed => None,
            // A token that can't be honoured starts the stream over.
            None => Some(self.event(EventKind::Snapshot, stored, 0, reset)),
        }
    }

    /// Returns the next event; `None` once the stream is over. An error ends the stream: the id now belongs to a job
    /// that the caller can't see.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, JobError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        loop {
            self.sent?;
            if let Some(event) = self.ready() {
                return Some(event);
            }
            let bookmark_due = self.last_event + self.pace.bookmark_interval;
            let wake = if self.waiting.is_some() { bookmark_due.min(self.quiet_until) } else { bookmark_due };
            tokio::select! {
                () = self.subscription.arrived() => {}
                () = self.alarm.wait(wake) => {
                    if Instant::now() >= bookmark_due {
                        return Some(Ok(self.bookmark()));
                    }
                }
            }
        }
    }

    /// Returns the event that can be sent now, if there is one.
    fn ready(&mut self) -> Option<Result<WatchEvent, JobError>> {
        for change in self.subscription.take().into_iter().flatten() {
            match &mut self.waiting {
                Some(waiting) if waiting.latest().version.revision >= change.latest().version.revision => {}
                Some(waiting) => waiting.append(change),
                None => self.waiting = Some(change),
            }
        }
        let waiting = self.waiting.take()?;
        let sent = self.sent?;
        let is_new = |job: &Job| sent.compare(job) != VersionOrder::NotNewer;
        let urgent = waiting.has_more() || sent.is_urgent(waiting.latest());
        if !urgent && is_new(waiting.latest()) && Instant::now() < self.quiet_until {
            self.waiting = Some(waiting);
            return None;
        }
        // Only the first new version is sent. Any further one follows an end or a removal, which ends the stream.
        let stored = waiting.into_versions().find(|change| is_new(&change.stored.job))?.stored;
        // After two replicas created jobs under one id independently, the job that remains may belong to another owner.
        // After an id was deleted and reused, the stream may have missed the removal, and a watch token is for the
        // first job only.
        let job = &stored.job;
        if !self.owners.include(&job.owner) || self.shared.as_ref().is_some_and(|shared| !shared.include(job)) {
            self.sent = None;
            return Some(Err(JobError::NotFound(stored.job.id.clone())));
        }
        Some(Ok(self.update(stored)))
    }

    /// Resumes after a token: sends a bookmark first, then the newer version, if there is one.
    fn resume(&mut self, token: &JobToken, stored: Stored) -> WatchEvent {
        self.token = token.clone();
        if token.revision < stored.job.version.revision {
            self.sent = Some(LastSent::unknown_at(token.revision, &stored.job));
            self.waiting =
                Some(CoalescedChanges::new(CommitEvent { stored, position: 0, previous: None, replaced: None }));
        } else {
            self.sent = self.sent.filter(|_| !is_end(&stored.job));
        }
        self.bookmark()
    }

    fn update(&mut self, stored: Stored) -> WatchEvent {
        let kind = EventKind::Update.of(&stored.job);
        match self.sent.map(|sent| sent.compare(&stored.job)) {
            Some(VersionOrder::Replaced) => self.event(EventKind::Snapshot.of(&stored.job), stored, 0, Reset::Yes),
            Some(VersionOrder::Newer(skipped)) => self.event(kind, stored, skipped, Reset::No),
            Some(VersionOrder::NotNewer) | None => {
                debug_assert!(false, "only new versions are sent, and none after the end");
                self.event(kind, stored, 0, Reset::No)
            }
        }
    }

    fn event(&mut self, kind: EventKind, stored: Stored, skipped: i64, reset: Reset) -> WatchEvent {
        let job: &Job = &stored.job;
        self.sent = (!is_end(job)).then(|| LastSent::of(job));
        self.token = JobToken::after(self.epoch, job);
        self.last_event = Instant::now();
        self.subscription.count_skipped(skipped);
        if kind == EventKind::Update {
            self.quiet_until = self.last_event + self.pace.min_interval;
        }
        let resume_token = ResumeToken::Job(self.token.clone());
        WatchEvent { kind, stored: Some(stored), skipped, resume_token, reset: reset.into(), snapshot_pending: false }
    }

    fn bookmark(&mut self) -> WatchEvent {
        self.last_event = Instant::now();
        let resume_token = ResumeToken::Job(self.token.clone());
        WatchEvent {
            kind: EventKind::Bookmark,
            stored: None,
            skipped: 0,
            resume_token,
            reset: false,
            snapshot_pending: false,
        }
    }
}
