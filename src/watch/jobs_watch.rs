//! The stream of many jobs: a snapshot or the changes since a token, then changes as they are committed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{consume_budget, yield_now},
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    Alarm, CoalescedChanges, EventKind, JobsToken, Pace, Reset, ResumeToken, Scope, Subscription, WatchEvent,
    backlog::Backlog,
    batch::{BATCH, BATCH_BYTES, read_some},
    last_sent::{LastSent, VersionOrder, is_end},
};
use crate::{
    clock::Clock,
    domain::{Cursor, JobId, ListQuery, Order, View},
    store::{CommitEvent, CommitPosition, JobStore, StoreError, Stored},
};

/// Time until a stream reads an unavailable store again.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A stream of many jobs, which does not end by itself unless it is that of a watch token.
pub struct JobsWatch {
    store: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
    subscription: Subscription,
    scope: Scope,
    digest: Uuid,
    pace: Pace,
    phase: Phase,
    /// Last versions that were sent, of jobs that match and of active jobs that matched before.
    known: HashMap<JobId, Known>,
    /// The stream resumed after a token: before that, the subscriber may have received jobs that are not in `known`.
    resumed: bool,
    backlog: Backlog,
    events: VecDeque<WatchEvent>,
    /// All commits in the scope up to this position were sent or are in the backlog.
    received: CommitPosition,
    /// All commits up to this position were read from the store: the subscription delivers them again, and they are
    /// ignored.
    read: CommitPosition,
    /// Time of the last event, or of the start.
    last_event: Instant,
    /// An event was sent.
    has_sent: bool,
    /// [`is_over`](Self::is_over) has to check: it has not done so yet, or a job was removed since its last check.
    may_be_over: bool,
    alarm: Alarm,
}

/// The last version of a job that was sent, and its timing.
struct Known {
    sent: LastSent,
    matching: bool,
    /// Time before which no update is sent, unless it is urgent.
    quiet_until: Instant,
}

/// The phase of a stream.
enum Phase {
    /// Sends the jobs that match now: the remaining `ids` or, without ids, the pages from `page` on.
    Snapshot { reset: Reset, ids: VecDeque<JobId>, page: Option<Cursor>, all_read: bool },
    /// Sends the changes between the position `since` and now.
    CatchUp { since: CommitPosition, bookmark_sent: bool },
    /// Sends changes as they are committed.
    Live,
}

impl JobsWatch {
    /// Starts a stream after `resume_token` if that has this `digest`, otherwise with a snapshot. `subscription` must
    /// have begun before this call, so that no change is missed.
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
            // The store remembers only the states that jobs had at the position of the token, not the other properties
            // by which a filter selects.
            .filter(|_| scope.filter.depends_on_state_alone())
            .and_then(|token| token.position);
        let mut watch = Self {
            store,
            clock,
            subscription,
            scope,
            digest,
            pace,
            phase: Phase::CatchUp { since: resumed.unwrap_or_default(), bookmark_sent: false },
            known: HashMap::new(),
            resumed: resumed.is_some(),
            backlog: Backlog::default(),
            events: VecDeque::new(),
            received: resumed.unwrap_or_default(),
            read: 0,
            last_event: Instant::now(),
            has_sent: false,
            may_be_over: true,
            alarm: Alarm::at(Instant::now() + pace.bookmark_interval),
        };
        if resumed.is_none() {
            watch.start_over(Reset::from_token(resume_token));
        }
        watch
    }

    /// Returns the next event.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.last_event = Instant::now();
                self.has_sent = true;
                return Ok(event);
            }
            let read = match self.phase {
                Phase::Snapshot { .. } => self.read_snapshots().await,
                Phase::CatchUp { since, bookmark_sent } => self.catch_up(since, bookmark_sent).await,
                Phase::Live => {
                    self.advance().await;
                    Ok(())
                }
            };
            match read {
                // A stream that has begun stays open while the store is unavailable.
                Err(StoreError::Unavailable) if self.has_sent => sleep(STORE_PAUSE).await,
                read => read?,
            }
            // A scan of many jobs that do not match produces no event, and neither does an unavailable store. Bookmarks
            // show the subscriber that the stream is alive.
            if self.events.is_empty() && !matches!(self.phase, Phase::Live) && self.is_bookmark_due() {
                let reset = if let Phase::Snapshot { reset, .. } = self.phase { reset } else { Reset::No };
                self.events.push_back(self.bookmark(reset));
            }
        }
    }

    /// Returns whether there is nothing to wait for: the stream is that of a watch token, and none of its jobs exists
    /// any more. Other jobs may have these ids now, but the token is not for them.
    pub async fn is_over(&mut self) -> bool {
        let is_due = self.may_be_over && self.events.is_empty() && matches!(self.phase, Phase::Live);
        // The removal of each known job is still to be sent, even if the store has already removed the job.
        if !is_due || self.scope.shared.is_none() || !self.known.is_empty() {
            return false;
        }
        let now = self.clock.now();
        let mut ids: VecDeque<_> = self.scope.ids.iter().cloned().collect();
        while !ids.is_empty() {
            // If the store is unavailable, the stream counts as not over, and is checked again after the next event.
            let Ok(found) = read_some(&*self.store, &self.scope, &mut ids).await else { return false };
            if found.iter().any(|stored| stored.job.is_visible(now) && self.scope.discloses(&stored.job)) {
                self.may_be_over = false;
                return false;
            }
        }
        true
    }

    /// Returns whether no event was sent for the interval of bookmarks.
    fn is_bookmark_due(&self) -> bool {
        Instant::now() >= self.last_event + self.pace.bookmark_interval
    }

    fn start_over(&mut self, reset: Reset) {
        self.known.clear();
        self.resumed = false;
        self.backlog = Backlog::default();
        self.received = self.store.position();
        self.read = self.received;
        let ids = self.scope.ids.iter().cloned().collect();
        self.phase = Phase::Snapshot { reset, ids, page: None, all_read: false };
    }

    /// Sends some of the jobs that match now, or completes the snapshot if all were sent.
    async fn read_snapshots(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let Phase::Snapshot { reset, ids, page, all_read } = &mut self.phase else { return Ok(()) };
        let reset = *reset;
        if *all_read {
            self.phase = Phase::Live;
            self.events.push_back(self.bookmark(reset));
            return Ok(());
        }
        let mut found = if self.scope.ids.is_empty() {
            let query = ListQuery {
                filter: self.scope.filter.clone(),
                order: Order::Newest,
                limit: BATCH,
                max_bytes: BATCH_BYTES,
                after: page.clone(),
                now,
                confined: false,
                view: View::Full,
            };
            let listed = self.store.list(&query).await?;
            *all_read = listed.next.is_none();
            *page = listed.next;
            listed.jobs
        } else {
            let mut found = read_some(&*self.store, &self.scope, ids).await?;
            *all_read = ids.is_empty();
            found.retain(|stored| stored.job.is_visible(now) && self.scope.filter.matches(&stored.job, now));
            found
        };
        found.retain(|stored| self.scope.discloses(&stored.job));
        if found.is_empty() {
            // Lets other tasks run, even if the store answers without waiting.
            yield_now().await;
        }
        for stored in found {
            self.send(EventKind::Snapshot, stored, 0, reset, None);
        }
        Ok(())
    }

    /// Sends some of the changes since the token, or since the inbox overflowed.
    async fn catch_up(&mut self, since: CommitPosition, bookmark_sent: bool) -> Result<(), StoreError> {
        let Some(changes) = self.store.changed_since(since, self.received, BATCH, BATCH_BYTES).await? else {
            self.start_over(Reset::Yes);
            return Ok(());
        };
        if !bookmark_sent {
            self.events.push_back(self.bookmark(Reset::No));
        }
        let bytes: usize = changes.iter().map(|change| change.stored.job.size()).sum();
        let is_last = changes.len() < BATCH && bytes < BATCH_BYTES;
        self.phase = if is_last { Phase::Live } else { Phase::CatchUp { since, bookmark_sent: true } };
        for change in changes {
            debug_assert!(change.position > self.received, "changes are returned in the order of commits");
            self.received = change.position;
            let may_know = self.resumed && self.scope.matched_since(change.previous, &change.stored.job);
            self.send_if_new(change, may_know, None);
        }
        self.read = self.received;
        if self.events.is_empty() {
            yield_now().await;
        }
        Ok(())
    }

    /// Prepares the next events, or waits for changes.
    async fn advance(&mut self) {
        if self.backlog.is_idle() {
            // Read before the changes are taken, so that `received` excludes commits that arrive in between.
            let delivered = self.subscription.delivered_until();
            let Some(arrived) = self.subscription.take() else {
                // The inbox overflowed, but the store may still have the changes. Those in the backlog are sent first:
                // the store is read from the position after them.
                while let Some(changes) = self.backlog.pop_any() {
                    self.deliver(changes);
                }
                self.phase = Phase::CatchUp { since: self.received, bookmark_sent: true };
                return;
            };
            for changes in arrived {
                let ready_at = self.delay_until(&changes);
                self.backlog.push(changes, ready_at);
            }
            self.received = self.received.max(delivered);
        }
        if self.is_bookmark_due() {
            self.events.push_back(self.bookmark(Reset::No));
            return;
        }
        if let Some(changes) = self.backlog.pop(Instant::now()) {
            self.deliver(changes);
            return consume_budget().await;
        }
        let bookmark_due = self.last_event + self.pace.bookmark_interval;
        let wake = self.backlog.next_ready().map_or(bookmark_due, |ready| ready.min(bookmark_due));
        tokio::select! {
            () = self.subscription.arrived() => {}
            () = self.alarm.wait(wake) => {}
        }
    }

    /// Sends those of a job's changes that are new to this subscriber.
    fn deliver(&mut self, changes: CoalescedChanges) {
        let mut changes = changes.into_versions().filter(|change| change.position > self.read).collect::<VecDeque<_>>();
        while let Some(change) = changes.pop_front() {
            let matched = |state| self.scope.filter.matches_state(state);
            let may_know = self.resumed && change.previous.is_some_and(matched);
            self.send_if_new(change, may_know, changes.front());
        }
    }

    /// Returns the time until which changes of a job are delayed; `None` if they are sent at once.
    fn delay_until(&self, changes: &CoalescedChanges) -> Option<Instant> {
        let known = self.known.get(&changes.latest().id)?;
        let urgent = changes.has_more() || known.sent.is_urgent(changes.latest());
        (!urgent).then_some(known.quiet_until)
    }

    /// Sends a version, if it is new to this subscriber; `next` is sent after it. `may_know`: the subscriber may have
    /// received the job before its token.
    fn send_if_new(&mut self, change: CommitEvent, may_know: bool, next: Option<&CommitEvent>) {
        let job = &*change.stored.job;
        if !self.scope.covers(job) {
            return;
        }
        self.may_be_over |= job.removal.is_some();
        let matches = self.scope.matches(job, self.clock.now());
        let (update, snapshot) = (EventKind::Update.of(job), EventKind::Snapshot.of(job));
        let Some(known) = self.known.get(&job.id) else {
            if matches || may_know {
                self.send(update, change.stored, 0, Reset::No, next);
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
            VersionOrder::NotNewer => {}
            VersionOrder::Replaced => self.send(snapshot, change.stored, 0, Reset::Yes, next),
            VersionOrder::Newer(skipped) => self.send(update, change.stored, skipped, Reset::No, next),
        }
    }

    fn send(&mut self, kind: EventKind, stored: Stored, skipped: i64, reset: Reset, next: Option<&CommitEvent>) {
        let job = &*stored.job;
        let matching = self.scope.matches(job, self.clock.now());
        if matching || !is_end(job) {
            let quiet = if kind == EventKind::Update { self.pace.min_interval } else { Duration::ZERO };
            let known = Known { sent: LastSent::of(job), matching, quiet_until: Instant::now() + quiet };
            self.known.insert(job.id.clone(), known);
        } else {
            self.known.remove(&job.id);
        }
        let resume_token = self.token(next);
        self.subscription.count_skipped(skipped);
        let (stored, reset) = (Some(stored), reset.into());
        self.events.push_back(WatchEvent { kind, stored, skipped, resume_token, reset, snapshot_pending: false });
    }

    fn bookmark(&self, reset: Reset) -> WatchEvent {
        WatchEvent {
            kind: EventKind::Bookmark,
            stored: None,
            skipped: 0,
            resume_token: self.token(None),
            reset: reset.into(),
            snapshot_pending: matches!(self.phase, Phase::Snapshot { .. }),
        }
    }

    /// Returns a token for the position after the events so far, but before the oldest change that was not sent yet,
    /// `next` included. A resumed stream may therefore repeat changes, but misses none.
    fn token(&self, next: Option<&CommitEvent>) -> ResumeToken {
        let waiting = [self.backlog.oldest(), next.map(|next| next.position)];
        let position = waiting.into_iter().flatten().map(|position| position - 1).fold(self.received, u64::min);
        let position = (!matches!(self.phase, Phase::Snapshot { .. })).then_some(position);
        ResumeToken::Jobs(JobsToken { epoch: self.store.epoch(), position, scope: self.digest })
    }
}
