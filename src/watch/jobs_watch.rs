//! The stream of many jobs.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    task::{consume_budget, yield_now},
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    Alarm, Conflated, EventKind, Freshness, JobsToken, Pace, ResumeToken, Sent, Subscription, WatchEvent,
    backlog::Backlog, conflate::is_end,
};
use crate::{
    clock::Clock,
    domain::{Cursor, Filter, Identity, Job, JobId, ListQuery, Order, Owners, State, Timestamp, View},
    store::{CommitEvent, JobStore, StoreError, Stored},
};

/// How many jobs are read at a time.
const BATCH: usize = 500;

/// Size of the jobs that are read at a time, in bytes: the last of them may exceed it.
const BATCH_BYTES: usize = 1024 * 1024;

/// How many jobs are read at once by their ids.
const READ_AHEAD: usize = 16;

/// How long a stream that is under way waits before it asks a store again that is away.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Which jobs a stream is about; both must hold.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only these; empty: any.
    pub ids: BTreeSet<JobId>,
    /// Only those that match.
    pub filter: Filter,
    /// Others do not exist for the subscriber.
    pub owners: Owners,
}

impl Scope {
    fn covers(&self, job: &Job) -> bool {
        (self.ids.is_empty() || self.ids.contains(&job.id)) && self.filter.matches_identity(job)
    }

    /// Whether `job` matched at some time since it was in state `since`, or since its creation: a subscriber may have
    /// been sent more than its token says.
    fn matched_since(&self, since: Option<State>, job: &Job) -> bool {
        let since = since.unwrap_or(State::Pending);
        // An attempt may have ended in a retry, and another one may have begun since.
        let had_attempt = !since.is_terminal() && job.attempt > 0;
        let waited = had_attempt.then_some(State::Pending);
        let ran = had_attempt || (since == State::Pending && job.start_time.is_some());
        let states = [Some(since), waited, ran.then_some(State::Running), Some(job.state)];
        states.into_iter().flatten().any(|state| self.filter.matches_state(state))
    }

    fn matches(&self, job: &Job, now: Timestamp) -> bool {
        job.removal.is_none() && self.filter.matches_condition(job, now)
    }

    /// A page of the jobs that match now.
    fn query(&self, after: Option<Cursor>, now: Timestamp) -> ListQuery {
        let (filter, order, view) = (self.filter.clone(), Order::Newest, View::Full);
        ListQuery { filter, order, limit: BATCH, max_bytes: BATCH_BYTES, after, now, confined: false, view }
    }

    /// Binds a token to what `caller` asked for.
    pub fn digest(&self, caller: &Identity) -> Uuid {
        let mut text = self.filter.digest(caller).simple().to_string();
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
    /// What the subscriber was told of jobs that match, and of active ones that did.
    known: HashMap<JobId, Known>,
    /// The subscriber knows others too, from before its token: those that have not changed since then, and matched.
    resumed: bool,
    backlog: Backlog,
    events: VecDeque<WatchEvent>,
    /// What was committed up to here, as far as it matters, was sent or is in the backlog.
    taken: u64,
    /// What was committed up to here was read from the store; what is taken from the subscription of it is old.
    read: u64,
    spoke: Instant,
    /// The subscriber was sent something.
    spoken: bool,
    alarm: Alarm,
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
    /// Sending what changed between `since`, the place of a token or of what was delivered last, and now.
    CatchUp { since: u64, greeted: bool },
    /// Sending changes.
    Live,
}

impl JobsWatch {
    /// Starts a stream behind `resume_token`, if that has this `digest`, or from now. `subscription` must have been made
    /// before.
    pub fn start(
        store: Arc<dyn JobStore>,
        clock: Arc<dyn Clock>,
        subscription: Subscription,
        scope: Scope,
        digest: Uuid,
        resume_token: &str,
        pace: Pace,
    ) -> Self {
        let epoch = store.epoch();
        let resumed = JobsToken::decode(resume_token)
            .filter(|token| token.epoch == epoch && token.scope == digest)
            // Of the time of the token only the states of jobs are known: which of them matched then can't be told.
            .filter(|_| scope.filter.depends_on_state_alone())
            .and_then(|token| token.position);
        let mut watch = Self {
            store,
            clock,
            subscription,
            scope,
            digest,
            pace,
            phase: Phase::CatchUp { since: resumed.unwrap_or_default(), greeted: false },
            known: HashMap::new(),
            resumed: resumed.is_some(),
            backlog: Backlog::default(),
            events: VecDeque::new(),
            taken: resumed.unwrap_or_default(),
            read: 0,
            spoke: Instant::now(),
            spoken: false,
            alarm: Alarm::at(Instant::now() + pace.bookmark_interval),
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
                self.spoken = true;
                return Ok(event);
            }
            let read = match self.phase {
                Phase::Snapshot { .. } => self.read_snapshots().await,
                Phase::CatchUp { since, greeted } => self.catch_up(since, greeted).await,
                Phase::Live => {
                    self.follow().await;
                    Ok(())
                }
            };
            match read {
                // A stream that is under way stays open while the store is away.
                Err(StoreError::Unavailable) if self.spoken => sleep(STORE_PAUSE).await,
                read => read?,
            }
            // A scan of many jobs that do not match is as silent as a store that is away.
            if self.events.is_empty() && !matches!(self.phase, Phase::Live) && self.is_bookmark_due() {
                let reset = matches!(self.phase, Phase::Snapshot { reset: true, .. });
                self.events.push_back(self.bookmark(reset));
            }
        }
    }

    /// Returns whether nothing was sent for the interval of bookmarks.
    fn is_bookmark_due(&self) -> bool {
        Instant::now() >= self.spoke + self.pace.bookmark_interval
    }

    fn start_over(&mut self, reset: bool) {
        self.known.clear();
        self.resumed = false;
        self.backlog = Backlog::default();
        self.taken = self.store.position();
        self.read = self.taken;
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
            let listed = self.store.list(&self.scope.query(page.clone(), now)).await?;
            *all_read = listed.next.is_none();
            *page = listed.next;
            found = listed.jobs;
        } else {
            // What is fresh is no more than a moment behind, and what came since will be announced.
            let read = async |id: &JobId| match self.store.get_fresh(id) {
                Some(fresh) => Ok(Some(fresh)),
                None => self.store.get(id).await,
            };
            let mut reads = stream::iter(ids.iter().take(BATCH)).map(read).buffered(READ_AHEAD);
            let (mut some, mut bytes) = (0, 0);
            while bytes < BATCH_BYTES
                && let Some(stored) = reads.next().await
            {
                let stored = stored?;
                some += 1;
                bytes += stored.as_ref().map_or(0, |stored| stored.job.size());
                if let Some(others) = stored.as_ref().filter(|stored| !self.scope.owners.include(&stored.job.owner)) {
                    self.store.absence(others).await?;
                }
                found.extend(stored);
            }
            drop(reads);
            ids.drain(..some);
            *all_read = ids.is_empty();
            found.retain(|stored| stored.job.is_visible(now) && self.scope.filter.matches(&stored.job, now));
        }
        if found.is_empty() {
            // A store that answers at once would give nobody else a turn.
            yield_now().await;
        }
        for stored in found {
            self.send(EventKind::Snapshot, stored, 0, reset, None);
        }
        Ok(())
    }

    /// Reads some of what changed since the token, or since too much came to be kept.
    async fn catch_up(&mut self, since: u64, greeted: bool) -> Result<(), StoreError> {
        let Some(changes) = self.store.changed_since(since, self.taken, BATCH, BATCH_BYTES).await? else {
            self.start_over(true);
            return Ok(());
        };
        if !greeted {
            self.events.push_back(self.bookmark(false));
        }
        let bytes: usize = changes.iter().map(|change| change.stored.job.size()).sum();
        let is_last = changes.len() < BATCH && bytes < BATCH_BYTES;
        self.phase = if is_last { Phase::Live } else { Phase::CatchUp { since, greeted: true } };
        for change in changes {
            self.taken = change.position;
            let may_know = self.resumed && self.scope.matched_since(change.previous, &change.stored.job);
            self.consider(change, may_know, None);
        }
        self.read = self.taken;
        if self.events.is_empty() {
            yield_now().await;
        }
        Ok(())
    }

    /// Waits for something to send, and prepares it.
    async fn follow(&mut self) {
        if self.backlog.is_idle() {
            let reached = self.subscription.reached();
            let Some(arrived) = self.subscription.take() else {
                // It was too much to be kept, but the store may still know. What was taken before is not asked for.
                while let Some(changes) = self.backlog.pop_any() {
                    self.deliver(changes);
                }
                self.phase = Phase::CatchUp { since: self.taken, greeted: true };
                return;
            };
            for changes in arrived {
                let ready_at = self.hold(&changes);
                self.backlog.push(changes, ready_at);
            }
            self.taken = self.taken.max(reached);
        }
        if self.is_bookmark_due() {
            self.events.push_back(self.bookmark(false));
            return;
        }
        if let Some(changes) = self.backlog.pop(Instant::now()) {
            self.deliver(changes);
            return consume_budget().await;
        }
        let bookmark_due = self.spoke + self.pace.bookmark_interval;
        let wake = self.backlog.next_ready().map_or(bookmark_due, |ready| ready.min(bookmark_due));
        tokio::select! {
            () = self.subscription.arrived() => {}
            () = self.alarm.wait(wake) => {}
        }
    }

    /// Sends what of a job's changes is news for this subscriber.
    fn deliver(&mut self, changes: Conflated) {
        let mut changes = changes.into_versions().filter(|change| change.position > self.read).collect::<VecDeque<_>>();
        while let Some(change) = changes.pop_front() {
            let matched = |state| self.scope.filter.matches_state(state);
            let may_know = self.resumed && change.previous.is_some_and(matched);
            self.consider(change, may_know, changes.front());
        }
    }

    /// Until when changes of a job are held back; `None`: not at all.
    fn hold(&self, changes: &Conflated) -> Option<Instant> {
        let known = self.known.get(&changes.latest().id)?;
        let urgent = changes.has_more() || known.sent.is_urgent(changes.latest());
        (!urgent).then_some(known.quiet_until)
    }

    /// Sends a version, if it is news for this subscriber, before `next`. `may_know` says whether the subscriber may
    /// know the job from before its token.
    fn consider(&mut self, change: CommitEvent, may_know: bool, next: Option<&CommitEvent>) {
        let job = &*change.stored.job;
        if !self.scope.covers(job) {
            return;
        }
        let matches = self.scope.matches(job, self.clock.now());
        let (kind, anew) = (EventKind::Update.of(job), EventKind::Snapshot.of(job));
        let Some(known) = self.known.get(&job.id) else {
            if matches || may_know {
                self.send(kind, change.stored, 0, false, next);
            }
            return;
        };
        if !known.matching && !matches {
            if is_end(job) {
                self.known.remove(&job.id);
            }
            return;
        }
        match known.sent.compare(job) {
            Freshness::Stale => {}
            Freshness::StartedOver => self.send(anew, change.stored, 0, true, next),
            Freshness::Newer(skipped) => self.send(kind, change.stored, skipped, false, next),
        }
    }

    fn send(&mut self, kind: EventKind, stored: Stored, skipped: i64, reset: bool, next: Option<&CommitEvent>) {
        let job = &*stored.job;
        let matching = self.scope.matches(job, self.clock.now());
        if matching || !is_end(job) {
            let quiet = if kind == EventKind::Update { self.pace.min_interval } else { Duration::ZERO };
            let known = Known { sent: Sent::of(job), matching, quiet_until: Instant::now() + quiet };
            self.known.insert(job.id.clone(), known);
        } else {
            self.known.remove(&job.id);
        }
        let resume_token = self.token(next);
        self.subscription.skip(skipped);
        let stored = Some(stored);
        self.events.push_back(WatchEvent { kind, stored, skipped, resume_token, reset, snapshot_pending: false });
    }

    fn bookmark(&self, reset: bool) -> WatchEvent {
        WatchEvent {
            kind: EventKind::Bookmark,
            stored: None,
            skipped: 0,
            resume_token: self.token(None),
            reset,
            snapshot_pending: matches!(self.phase, Phase::Snapshot { .. }),
        }
    }

    /// A token behind what was sent so far: everything from the oldest change that is still to be sent, among them
    /// `next`, will be sent again.
    fn token(&self, next: Option<&CommitEvent>) -> ResumeToken {
        let waiting = [self.backlog.oldest(), next.map(|next| next.position)];
        let position = waiting.into_iter().flatten().map(|place| place - 1).fold(self.taken, u64::min);
        let position = (!matches!(self.phase, Phase::Snapshot { .. })).then_some(position);
        ResumeToken::Jobs(JobsToken { epoch: self.store.epoch(), position, scope: self.digest })
    }
}
