//! The stream of many jobs.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{
    Conflated, EventKind, Freshness, JobsToken, Pace, Sent, Subscription, WatchEvent, backlog::Backlog,
    conflate::is_end,
};
use crate::{
    clock::Clock,
    domain::{Cursor, Filter, Job, JobId, ListQuery, Timestamp},
    store::{Announcement, JobStore, StoreError, Stored},
};

/// How many jobs are read at a time.
const BATCH: usize = 500;

/// How far the times of changes may stray from the order of commits.
const CLOCK_MARGIN: Duration = Duration::from_secs(5);

/// Which jobs a stream is about; both must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only these; empty: any.
    pub ids: BTreeSet<JobId>,
    /// Only those that match.
    pub filter: Filter,
}

impl Scope {
    fn covers(&self, job: &Job) -> bool {
        (self.ids.is_empty() || self.ids.contains(&job.id)) && self.filter.matches_identity(job)
    }

    /// Whether a subscriber that was up to date at `since` may know `job`, because it matched then or later.
    fn matched_since(&self, job: &Job, since: Timestamp) -> bool {
        self.filter.states.is_empty() || self.filter.states.iter().any(|state| job.was_in(*state, since))
    }

    fn digest(&self) -> Uuid {
        let mut text = self.filter.digest().simple().to_string();
        for id in &self.ids {
            text.push(' ');
            text.push_str(id.as_str());
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
    }
}

/// A stream of many jobs, without an end.
pub struct JobsWatch {
    store: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
    subscription: Subscription,
    scope: Scope,
    digest: Uuid,
    pace: Pace,
    phase: Phase,
    /// What the subscriber knows of each job: those that match, and active ones that did.
    known: HashMap<JobId, Known>,
    /// The subscriber may know other jobs too, from before this time, as it resumed then.
    resumed: Option<Timestamp>,
    backlog: Backlog,
    events: VecDeque<WatchEvent>,
    /// All commits up to here, and to this time, are in the backlog or were delivered.
    taken: (u64, Timestamp),
    spoke: Instant,
}

struct Known {
    sent: Sent,
    matching: bool,
    /// No update before then.
    quiet_until: Instant,
}

/// Where the stream is in its course.
enum Phase {
    /// Sending what matches now: either the rest of `ids`, or the pages from `page` on.
    Snapshot { reset: bool, ids: VecDeque<JobId>, page: Option<Cursor>, all_read: bool },
    /// Sending what changed between a token and now.
    CatchUp { greeted: bool },
    /// Sending changes.
    Live,
}

impl JobsWatch {
    /// Starts a stream behind `resume_token`, or from now. `subscription` must have been made before.
    pub fn start(
        store: Arc<dyn JobStore>,
        clock: Arc<dyn Clock>,
        subscription: Subscription,
        scope: Scope,
        resume_token: &str,
        pace: Pace,
    ) -> Self {
        let digest = scope.digest();
        let epoch = store.epoch();
        let resumed = JobsToken::decode(resume_token)
            .filter(|token| token.epoch == epoch && token.scope == digest)
            .and_then(|token| token.position.map(|position| (position, token.time)));
        let mut watch = Self {
            store,
            clock,
            subscription,
            scope,
            digest,
            pace,
            phase: Phase::CatchUp { greeted: false },
            known: HashMap::new(),
            resumed: resumed.map(|(_, time)| time - CLOCK_MARGIN),
            backlog: Backlog::default(),
            events: VecDeque::new(),
            taken: resumed.unwrap_or_default(),
            spoke: Instant::now(),
        };
        if resumed.is_none() {
            watch.start_over(!resume_token.is_empty());
        }
        watch
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.spoke = Instant::now();
                return Ok(event);
            }
            match self.phase {
                Phase::Snapshot { .. } => self.read_snapshots().await?,
                Phase::CatchUp { greeted } => self.catch_up(greeted).await?,
                Phase::Live => self.follow().await,
            }
        }
    }

    fn start_over(&mut self, reset: bool) {
        self.known.clear();
        self.resumed = None;
        self.backlog = Backlog::default();
        self.taken = (self.store.position(), self.clock.now());
        let ids = self.scope.ids.iter().cloned().collect();
        self.phase = Phase::Snapshot { reset, ids, page: None, all_read: false };
    }

    /// Reads some of the jobs that match now, or ends the snapshot if all were read.
    async fn read_snapshots(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let Phase::Snapshot { reset, ids, page, all_read } = &mut self.phase else { return Ok(()) };
        let reset = *reset;
        if *all_read {
            self.phase = Phase::Live;
            self.events.push_back(self.bookmark(reset));
            return Ok(());
        }
        let mut found = Vec::new();
        if self.scope.ids.is_empty() {
            let filter = self.scope.filter.clone();
            let listed = self.store.list(&ListQuery { filter, limit: BATCH, after: page.take(), now }).await?;
            *all_read = listed.next.is_none();
            *page = listed.next;
            found = listed.jobs;
        } else {
            for id in ids.drain(..ids.len().min(BATCH)).collect::<Vec<_>>() {
                found.extend(self.store.get(&id).await?);
            }
            *all_read = ids.is_empty();
            found.retain(|stored| stored.job.is_visible(now) && self.scope.filter.matches(&stored.job));
        }
        for stored in found {
            self.send(EventKind::Snapshot, stored, 0, reset);
        }
        Ok(())
    }

    /// Reads some of what changed since the token.
    async fn catch_up(&mut self, greeted: bool) -> Result<(), StoreError> {
        let Some(changes) = self.store.changed_since(self.taken.0, BATCH).await? else {
            self.start_over(true);
            return Ok(());
        };
        if !greeted {
            self.events.push_back(self.bookmark(false));
        }
        self.phase = if changes.len() < BATCH { Phase::Live } else { Phase::CatchUp { greeted: true } };
        for change in changes {
            self.taken.0 = change.position;
            self.consider(change);
        }
        Ok(())
    }

    /// Waits for something to send, and prepares it.
    async fn follow(&mut self) {
        if self.backlog.is_idle() {
            self.taken.1 = self.clock.now();
            let Some(arrived) = self.subscription.take() else { return self.start_over(true) };
            for changes in arrived {
                self.taken.0 = self.taken.0.max(changes.first);
                self.backlog.push(changes.clone(), self.hold(&changes));
            }
        }
        if let Some(changes) = self.backlog.pop(Instant::now()) {
            return changes.into_versions().for_each(|change| self.consider(change));
        }
        let bookmark_due = self.spoke + self.pace.bookmark_interval;
        let wake = self.backlog.next_ready().map_or(bookmark_due, |ready| ready.min(bookmark_due));
        tokio::select! {
            () = self.subscription.arrived() => {}
            () = sleep_until(wake) => {
                if Instant::now() >= bookmark_due {
                    self.events.push_back(self.bookmark(false));
                }
            }
        }
    }

    /// Until when changes of a job are held back; `None`: not at all.
    fn hold(&self, changes: &Conflated) -> Option<Instant> {
        let known = self.known.get(&changes.latest.stored.job.id)?;
        let urgent = changes.end.is_some() || known.sent.is_urgent(&changes.latest.stored.job);
        (!urgent).then_some(known.quiet_until)
    }

    /// Sends a version, if it is news for this subscriber.
    fn consider(&mut self, change: Announcement) {
        let stored = change.stored;
        let job = &*stored.job;
        if !self.scope.covers(job) {
            return;
        }
        let kind = if job.removal.is_some() { EventKind::Removed } else { EventKind::Update };
        let matches = job.removal.is_none() && self.scope.filter.matches_state(job.state);
        let Some(known) = self.known.get(&job.id) else {
            let may_know = |since| self.scope.matched_since(job, since);
            if matches || self.resumed.is_some_and(may_know) {
                self.send(kind, stored, 0, false);
            }
            return;
        };
        match known.sent.compare(job) {
            _ if !known.matching && !matches => {
                if is_end(job) {
                    self.known.remove(&job.id);
                }
            }
            Freshness::Stale => {}
            Freshness::StartedOver => self.send(EventKind::Snapshot, stored, 0, true),
            Freshness::Newer(skipped) => self.send(kind, stored, skipped, false),
        }
    }

    fn send(&mut self, kind: EventKind, stored: Stored, skipped: i64, reset: bool) {
        let job = &*stored.job;
        let matching = job.removal.is_none() && self.scope.filter.matches_state(job.state);
        if matching || !is_end(job) {
            let quiet = if kind == EventKind::Update { self.pace.min_interval } else { Duration::ZERO };
            let known = Known { sent: Sent::of(job), matching, quiet_until: Instant::now() + quiet };
            self.known.insert(job.id.clone(), known);
        } else {
            self.known.remove(&job.id);
        }
        let resume_token = self.token();
        self.events.push_back(WatchEvent { kind, stored: Some(stored), skipped, resume_token, reset });
    }

    fn bookmark(&self, reset: bool) -> WatchEvent {
        WatchEvent { kind: EventKind::Bookmark, stored: None, skipped: 0, resume_token: self.token(), reset }
    }

    /// A token behind what was sent so far: everything from the oldest change that still waits will be sent again.
    fn token(&self) -> String {
        let (position, time) = self.backlog.oldest().map_or(self.taken, |(first, since)| (first - 1, since));
        let position = (!matches!(self.phase, Phase::Snapshot { .. })).then_some(position);
        JobsToken { epoch: self.store.epoch(), position, time, scope: self.digest }.encode()
    }
}
