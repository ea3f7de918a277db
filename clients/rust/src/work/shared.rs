//! The state that a worker shares with its background task.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::report::{Report, Stage, Waiting};
use crate::{
    Error,
    proto::{EncodedStruct, v1::Failure},
};

/// The reason for which a worker must stop.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stop {
    /// The cancellation of the job was requested. The worker should stop and call
    /// [`confirm_cancel`](super::Work::confirm_cancel). It may also complete the job.
    Requested {
        /// The reason that was given; may be empty.
        reason: String,
        /// The requester; may be empty.
        requester: String,
    },
    /// The attempt no longer belongs to this worker: another worker took it over, or the job has ended or was deleted.
    /// Further reports have no effect.
    Fenced(Error),
    /// The server refused the claim or a report for good.
    Refused(Error),
}

/// The end of an attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    Complete(Option<EncodedStruct>),
    Fail {
        failure: Failure,
        retry: bool,
    },
    ConfirmCancel(Option<String>),
    /// The worker dropped the work.
    Abandon {
        is_panic: bool,
    },
}

/// The claim of an attempt.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub attempt: i32,
    pub claim: String,
}

/// The state that a worker shares with its [`Reporter`](super::reporter::Reporter).
#[derive(Debug)]
pub struct Shared {
    pub job_id: String,
    state: Mutex<State>,
    /// Wakes the background task after a report.
    pub reported: Notify,
    outcome: watch::Sender<Option<Outcome>>,
    stop: watch::Sender<Option<Stop>>,
}

#[derive(Debug, Default)]
struct State {
    /// Reports that wait to be sent.
    waiting: Option<Waiting>,
    /// The stage that was reported last.
    stage: Stage,
    claimed: Option<Claimed>,
    /// The last error, while the tracker is unavailable.
    trouble: Option<Error>,
}

impl Shared {
    pub fn new(job_id: String) -> Self {
        let (outcome, stop) = (watch::Sender::new(None), watch::Sender::new(None));
        Self { job_id, state: Mutex::default(), reported: Notify::new(), outcome, stop }
    }

    /// Locks the state. A poisoned lock is no problem: the state is valid between any two statements.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn report(&self, report: Report) {
        let mut state = self.state();
        let starts_stage = state.stage.follow(&report);
        state.waiting.get_or_insert_default().add(report, starts_stage);
        drop(state);
        self.reported.notify_one();
    }

    /// Puts back reports that could not be sent. Reports that were added meanwhile count as later.
    pub fn put_back(&self, mut unsent: Waiting) {
        let mut state = self.state();
        if let Some(later) = state.waiting.take() {
            unsent.add_all(later);
        }
        state.waiting = Some(unsent);
    }

    pub fn take_waiting(&self) -> Option<Waiting> {
        self.state().waiting.take()
    }

    pub fn has_waiting(&self) -> bool {
        self.state().waiting.is_some()
    }

    /// Ends the attempt, unless it has ended already.
    pub fn end(&self, outcome: Outcome) {
        self.outcome.send_if_modified(|now| {
            let is_first = now.is_none();
            now.get_or_insert(outcome);
            is_first
        });
    }

    /// Waits for the end of the attempt.
    pub async fn outcome(&self) -> Outcome {
        wait(&self.outcome).await
    }

    pub fn claimed(&self) -> Option<Claimed> {
        self.state().claimed.clone()
    }

    pub fn set_claimed(&self, claimed: Claimed) {
        self.state().claimed = Some(claimed);
    }

    pub fn trouble(&self) -> Option<Error> {
        self.state().trouble.clone()
    }

    /// Records why the tracker is unavailable, or with `None` that it is available. Returns whether the availability
    /// has changed.
    pub fn set_trouble(&self, trouble: Option<Error>) -> bool {
        let mut state = self.state();
        let is_new = state.trouble.is_some() != trouble.is_some();
        state.trouble = trouble;
        is_new
    }

    /// Tells the worker to stop. The first reason is kept, except that `Fenced` replaces `Requested`.
    pub fn stop(&self, stop: Stop) {
        self.stop.send_if_modified(|now| {
            let is_news = matches!((&now, &stop), (None, _) | (Some(Stop::Requested { .. }), Stop::Fenced(_)));
            if is_news {
                *now = Some(stop);
            }
            is_news
        });
    }

    pub fn stop_reason(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    pub async fn stopped(&self) -> Stop {
        wait(&self.stop).await
    }
}

/// Waits until the channel has a value, and returns the value.
async fn wait<T: Clone>(sender: &watch::Sender<Option<T>>) -> T {
    let mut receiver = sender.subscribe();
    let value = receiver.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
    let Some(value) = value else { unreachable!("the sender is borrowed, and the value was just tested") };
    value
}
