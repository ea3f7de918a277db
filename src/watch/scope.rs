//! The jobs that a stream of many jobs is about.

use std::{collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use crate::domain::{Filter, Identity, Job, JobId, Owners, SharedJobs, State, Timestamp};

/// The jobs that a stream is about: those that satisfy all of the following.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Ids of the jobs; empty for any id.
    pub ids: BTreeSet<JobId>,
    /// Filter that the jobs match.
    pub filter: Filter,
    /// Owners of the jobs; the subscriber must not learn of jobs of others.
    pub owners: Owners,
    /// The only jobs that the subscriber may learn of, if it holds a watch token.
    pub shared: Option<Arc<SharedJobs>>,
}

impl Scope {
    /// Returns whether the job can be in the scope, whatever its present state.
    pub fn covers(&self, job: &Job) -> bool {
        (self.ids.is_empty() || self.ids.contains(&job.id))
            && self.filter.matches_creation(job)
            && self.shared.as_ref().is_none_or(|shared| shared.include(job))
    }

    /// Returns whether the subscriber may learn of the job.
    pub fn discloses(&self, job: &Job) -> bool {
        self.owners.include(&job.owner) && self.shared.as_ref().is_none_or(|shared| shared.include(job))
    }

    /// Returns whether `job` may have matched at some time since it was in state `since`, or since its creation if
    /// `since` is `None`. Considers all states since then, because the subscriber may have received events that are
    /// later than its token.
    pub fn matched_since(&self, since: Option<State>, job: &Job) -> bool {
        let since = since.unwrap_or(State::Pending);
        // Since then, an attempt may have ended in a retry, and another one may have begun.
        let had_attempt = !since.is_terminal() && job.attempt > 0;
        let waited = had_attempt.then_some(State::Pending);
        let ran = had_attempt || (since == State::Pending && job.start_time.is_some());
        let states = [Some(since), waited, ran.then_some(State::Running), Some(job.state)];
        states.into_iter().flatten().any(|state| self.filter.matches_state(state))
    }

    /// Returns whether a job that the scope [covers](Self::covers) is in the scope at `now`.
    pub fn matches(&self, job: &Job, now: Timestamp) -> bool {
        job.removal.is_none() && self.filter.matches_condition(job, now)
    }

    /// Returns a digest of the scope and of `caller`, which binds a resume token to both.
    pub fn digest(&self, caller: &Identity) -> Uuid {
        let mut text = self.filter.digest(caller).simple().to_string();
        for id in &self.ids {
            text.push(' ');
            text.push_str(id.as_str());
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
    }
}
