//! The stream of one job.

use tokio::time::Instant;

use super::{
    Alarm, Conflated, EventKind, Freshness, JobToken, Pace, ResumeToken, Sent, Subscription, WatchEvent,
    conflate::is_end,
};
use crate::{
    domain::{Identity, Job, JobError, JobId, Owners},
    store::{CommitEvent, Stored},
};

/// A stream of one job: from its state now to its end.
pub struct JobWatch {
    subscription: Subscription,
    epoch: u64,
    owners: Owners,
    pace: Pace,
    first: Option<WatchEvent>,
    /// What was sent last; `None` once the stream is over.
    sent: Option<Sent>,
    token: JobToken,
    waiting: Option<Conflated>,
    /// No update before then.
    quiet_until: Instant,
    spoke: Instant,
    alarm: Alarm,
}

impl JobWatch {
    /// Starts a stream of `caller` behind `resume_token`, or at `current`: what the store held for `id`, read after
    /// `subscription` was made.
    pub fn start(
        subscription: Subscription,
        epoch: u64,
        caller: &Identity,
        id: &JobId,
        current: Option<Stored>,
        resume_token: &str,
        pace: Pace,
    ) -> Result<Self, JobError> {
        // Tokens of another caller are as those of another data set.
        let epoch = epoch ^ caller.digest();
        let resumed = JobToken::decode(resume_token).filter(|token| token.epoch == epoch && token.id == *id);
        let stored = current.ok_or_else(|| JobError::NotFound(id.clone()))?;
        let job = stored.job.clone();
        let now = Instant::now();
        let mut watch = Self {
            subscription,
            epoch,
            owners: caller.owners.clone(),
            pace,
            first: None,
            sent: Some(Sent::of(&job)),
            token: JobToken::behind(epoch, &job),
            waiting: None,
            quiet_until: now,
            spoke: now,
            alarm: Alarm::at(now + pace.bookmark_interval),
        };
        let behind = |token: &JobToken| token.revision < job.version.revision;
        let at = |token: &JobToken| (token.revision, token.change_id) == (job.version.revision, job.version.change_id);
        watch.first = Some(match resumed {
            Some(token) if job.removal.is_some() && (behind(&token) || at(&token)) => {
                let skipped = (job.version.revision - token.revision - 1).max(0);
                watch.event(EventKind::Removed, stored, skipped, false)
            }
            _ if job.removal.is_some() => return Err(JobError::NotFound(id.clone())),
            Some(token) if behind(&token) || at(&token) => watch.resume(&token, stored),
            _ => watch.event(EventKind::Snapshot, stored, 0, !resume_token.is_empty()),
        });
        Ok(watch)
    }

    /// The next event; `None` once the stream is over. An error if the id has become another owner's, and the end.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, JobError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        loop {
            self.sent?;
            if let Some(event) = self.ready() {
                return Some(event);
            }
            let bookmark_due = self.spoke + self.pace.bookmark_interval;
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

    /// What can be sent at once.
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
        let is_news = |job: &Job| sent.compare(job) != Freshness::Stale;
        let urgent = waiting.has_more() || sent.is_urgent(waiting.latest());
        if !urgent && is_news(waiting.latest()) && Instant::now() < self.quiet_until {
            self.waiting = Some(waiting);
            return None;
        }
        // What comes behind an end is of no interest: the stream is over then.
        let stored = waiting.into_versions().find(|change| is_news(&change.stored.job))?.stored;
        // Of two jobs that replicas made apart under one id, another's may be the one that stands.
        if !self.owners.include(&stored.job.owner) {
            self.sent = None;
            return Some(Err(JobError::NotFound(stored.job.id.clone())));
        }
        Some(Ok(self.update(stored)))
    }

    /// Goes on behind a token: a bookmark, and what is newer waits its turn.
    fn resume(&mut self, token: &JobToken, stored: Stored) -> WatchEvent {
        self.token = token.clone();
        if token.revision < stored.job.version.revision {
            // The state at the token is not known, so whatever came since counts as urgent.
            let sent = Sent::of(&stored.job);
            self.sent = Some(Sent { revision: token.revision, incarnation_id: uuid::Uuid::nil(), ..sent });
            self.waiting = Some(Conflated::new(CommitEvent { stored, position: 0, previous: None }));
        } else {
            self.sent = self.sent.filter(|_| !is_end(&stored.job));
        }
        self.bookmark()
    }

    fn update(&mut self, stored: Stored) -> WatchEvent {
        let kind = EventKind::Update.of(&stored.job);
        match self.sent.map(|sent| sent.compare(&stored.job)) {
            Some(Freshness::StartedOver) => self.event(EventKind::Snapshot.of(&stored.job), stored, 0, true),
            Some(Freshness::Newer(skipped)) => self.event(kind, stored, skipped, false),
            Some(Freshness::Stale) | None => self.event(kind, stored, 0, false),
        }
    }

    fn event(&mut self, kind: EventKind, stored: Stored, skipped: i64, reset: bool) -> WatchEvent {
        let job: &Job = &stored.job;
        self.sent = (!is_end(job)).then(|| Sent::of(job));
        self.token = JobToken::behind(self.epoch, job);
        self.spoke = Instant::now();
        self.subscription.skip(skipped);
        if kind == EventKind::Update {
            self.quiet_until = self.spoke + self.pace.min_interval;
        }
        let resume_token = ResumeToken::Job(self.token.clone());
        WatchEvent { kind, stored: Some(stored), skipped, resume_token, reset, snapshot_pending: false }
    }

    fn bookmark(&mut self) -> WatchEvent {
        self.spoke = Instant::now();
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
