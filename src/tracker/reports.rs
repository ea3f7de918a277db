//! Reports of one job that arrive while an earlier one is being stored. They wait, and are then stored together: each
//! is applied to the version that the one before it made, and only the last version is written. Otherwise all of them
//! would be applied to the same version, and all but one would end in a conflict.
//!
//! The versions in between are never written, as if each had been replaced before anybody could read it. Only reports
//! are stored together: streams must not miss the version that another change makes.

use std::{
    collections::{HashMap, hash_map::Entry},
    iter::zip,
    mem::replace,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};
use uuid::Uuid;

use super::{ChangeContexts, Changed, Effect};
use crate::{
    domain::{Applied, Change, ChangeContext, Job, JobError, JobId, Subject},
    store::{JobStore, Replaced, Stored},
};

/// Maximum number of reports that are stored together.
const BATCH: usize = 64;

/// The reports that wait, by job.
pub struct ReportQueues {
    store: Arc<dyn JobStore>,
    contexts: Arc<ChangeContexts>,
    /// Has an entry for each job of which a report is being stored.
    queues: Mutex<HashMap<JobId, Queue>>,
}

/// The reports of a job that wait.
struct Queue {
    /// The newest version that is known here; absent until the first report is stored, if no version was known before.
    /// It may be outdated: then the store refuses the next version, and returns the current one.
    known: Option<Stored>,
    waiting: Vec<Waiting>,
    /// Reports that wait for a known version, and then join the queue again. If the first report fails, their channels
    /// are closed, and they are applied alone.
    before_known: Vec<oneshot::Sender<()>>,
}

impl Queue {
    fn set_known(&mut self, known: Stored) {
        self.known = Some(known);
        for report in self.before_known.drain(..) {
            // A caller that has left does not join again.
            _ = report.send(());
        }
    }
}

/// A report that waits.
struct Waiting {
    /// The incarnation of the job that the caller may change.
    incarnation_id: Uuid,
    change: Change,
    outcome: oneshot::Sender<ReportOutcome>,
}

/// The outcome of a report that was stored with others.
pub type ReportOutcome = Result<Changed, JobError>;

/// The position of a report in the queue of its job.
pub enum Position {
    /// The first: no other report of the job is being stored. The others wait until the guard is dropped.
    First(Storing),
    /// Another report is being stored. If the channel closes without an outcome, the report must be applied alone.
    Waiting(oneshot::Receiver<ReportOutcome>),
    /// Another report is being stored, and no version is known yet. After a message this report must join again; if the
    /// channel closes without a message, it must be applied alone.
    BeforeKnown(oneshot::Receiver<()>),
}

/// A guard that exists while reports of a job are being stored. When dropped, those that have arrived in the meantime
/// are stored.
pub struct Storing {
    queues: Arc<ReportQueues>,
    id: JobId,
}

impl Storing {
    /// Records the version that was stored.
    pub fn record(&self, stored: &Stored) {
        if let Some(queue) = self.queues.queues().get_mut(&self.id) {
            queue.set_known(stored.clone());
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.queues.store_next(&self.id);
    }
}

impl ReportQueues {
    /// Creates empty queues of reports for `store`.
    pub(super) fn new(store: Arc<dyn JobStore>, contexts: Arc<ChangeContexts>) -> Self {
        Self { store, contexts, queues: Mutex::default() }
    }

    /// Adds the report `change` of the job `id` to the queue of the job. `fresh` is a version that the caller may
    /// change, if one is known. Returns `None` if the report must be applied alone, because `may_change` does not allow
    /// it for the version that the queue knows.
    pub fn join(
        self: &Arc<Self>,
        id: &JobId,
        change: &Change,
        fresh: Option<Stored>,
        may_change: impl FnOnce(&Job) -> bool,
    ) -> Option<Position> {
        let mut queues = self.queues();
        let queue = match queues.entry(id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Queue { known: fresh, waiting: Vec::new(), before_known: Vec::new() });
                return Some(Position::First(Storing { queues: self.clone(), id: id.clone() }));
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if let (None, Some(fresh)) = (&queue.known, fresh) {
            queue.set_known(fresh);
        }
        let Some(known) = &queue.known else {
            let (known, receiver) = oneshot::channel();
            queue.before_known.push(known);
            return Some(Position::BeforeKnown(receiver));
        };
        if !may_change(&known.job) {
            return None;
        }
        let (outcome, receiver) = oneshot::channel();
        let incarnation_id = known.job.version.incarnation_id;
        if queue.waiting.len() % BATCH == BATCH - 1 {
            // Drops reports whose caller has left: their bytes are not counted in any quota.
            queue.waiting.retain(|report| !report.outcome.is_closed());
        }
        queue.waiting.push(Waiting { incarnation_id, change: change.clone(), outcome });
        Some(Position::Waiting(receiver))
    }

    /// Starts to store the reports of `id` that wait; removes the queue if there are none.
    fn store_next(self: &Arc<Self>, id: &JobId) {
        let (known, batch) = {
            let mut queues = self.queues();
            let Some(Queue { known, waiting, .. }) = queues.get_mut(id) else { return };
            // Drops reports whose caller has left.
            waiting.retain(|report| !report.outcome.is_closed());
            if waiting.is_empty() {
                queues.remove(id);
                return;
            }
            let rest = waiting.split_off(waiting.len().min(BATCH));
            (known.clone(), replace(waiting, rest))
        };
        let storing = Storing { queues: self.clone(), id: id.clone() };
        // A task of its own, so that no report depends on the caller of another one.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { storing.queues.store(&storing, known, batch).await });
        }
    }

    /// Stores reports of a job whose newest known version is `known`, and sends their outcomes. A report without an
    /// outcome must be applied alone.
    async fn store(&self, storing: &Storing, known: Option<Stored>, reports: Vec<Waiting>) {
        let mut current = known;
        while let Some(there) = current.take() {
            let Some(chain) = self.chain(&there, &reports) else { return };
            match self.store.replace(chain.last.clone(), Some(&there.job)).await {
                Ok(Replaced::Stored(stored)) => {
                    storing.record(&stored);
                    for (report, outcome) in zip(reports, chain.outcomes) {
                        if let Some(outcome) = outcome {
                            // A caller that has left does not receive its outcome.
                            _ = report.outcome.send(outcome.map(|(job, effect)| changed(&stored, job, effect)));
                        }
                    }
                    return;
                }
                Ok(Replaced::Conflict(other)) => current = other,
                Err(error) => {
                    for report in reports {
                        _ = report.outcome.send(Err(error.clone().into()));
                    }
                    return;
                }
            }
        }
    }

    /// Applies `reports` to `there`, now. Returns `None` if that makes no new version.
    fn chain(&self, there: &Stored, reports: &[Waiting]) -> Option<Chain> {
        let mut last = there.job.clone();
        let outcomes = reports.iter().map(|report| report.apply_to(&mut last, &self.contexts.next())).collect();
        (last.version != there.job.version).then_some(Chain { last, outcomes })
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<JobId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the result of the report that made `job`. `stored` is `job` itself, or a later version of the same batch.
fn changed(stored: &Stored, job: Arc<Job>, effect: Effect) -> Changed {
    let is_last = stored.job.version == job.version;
    let job = if is_last { stored.job.clone() } else { job };
    Changed { stored: Stored { job, ..stored.clone() }, effect }
}

/// The versions that reports make one after another.
struct Chain {
    /// The last version.
    last: Arc<Job>,
    /// The outcome of each report. Absent: the report can't be stored with others. Valid only if the last version is
    /// stored: that shows that the chain began at the current version.
    outcomes: Vec<Option<Applying>>,
}

/// The version and the effect of a report, or the reason for which it is rejected.
type Applying = Result<(Arc<Job>, Effect), JobError>;

impl Waiting {
    /// Applies the report to `job`, which becomes the next version if there is one.
    fn apply_to(&self, job: &mut Arc<Job>, context: &ChangeContext) -> Option<Applying> {
        if job.version.incarnation_id != self.incarnation_id || !job.is_visible(context.now) {
            return None;
        }
        let (next, effect) = match job.apply(&self.change, context) {
            Ok(Applied::Changed(next)) => (Some(next), Effect::Applied),
            Ok(Applied::Unchanged) => (None, Effect::None),
            Ok(Applied::Ignored { why, renewed }) => (renewed, Effect::Ignored(why)),
            Ok(Applied::ChangedIfLost(_)) => return None,
            Err(reason) => return Some(Err(JobError::Rejected(Subject::from(&**job), reason))),
        };
        if let Some(next) = next {
            *job = Arc::from(next);
        }
        Some(Ok((job.clone(), effect)))
    }
}
