//! Filters for jobs, and positions in lists.

use std::{cmp::Ordering, collections::BTreeSet};

use uuid::Uuid;

use super::{Identity, Job, JobId, Labels, Liveness, Owners, State, Timestamp};

/// Selects jobs that meet all criteria.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these states; empty: all.
    pub states: BTreeSet<State>,
    /// Exactly this kind; empty: all.
    pub kind: String,
    /// Any of these owners.
    pub owners: Owners,
    /// All of these labels.
    pub labels: Labels,
    /// Created at this time or later.
    pub created_after: Option<Timestamp>,
    /// Created before this time.
    pub created_before: Option<Timestamp>,
    /// Any of these; empty: all.
    pub liveness: BTreeSet<Liveness>,
    /// The worker that reported last; empty: any.
    pub worker: String,
    /// A prefix of the id.
    pub id_prefix: String,
    /// Last changed at this time or later.
    pub updated_after: Option<Timestamp>,
}

impl Filter {
    /// Returns whether `job` is selected at `now`.
    pub fn matches(&self, job: &Job, now: Timestamp) -> bool {
        self.matches_condition(job, now) && self.matches_creation(job)
    }

    /// Returns whether jobs in `state` are selected.
    pub fn matches_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Returns whether `job` meets the criteria that depend on its present condition at `now`.
    pub fn matches_condition(&self, job: &Job, now: Timestamp) -> bool {
        self.matches_state(job.state)
            && (self.liveness.is_empty() || self.liveness.contains(&job.liveness(now)))
            && (self.worker.is_empty() || self.worker == job.worker)
            && self.updated_after.is_none_or(|time| time <= job.update_time)
    }

    /// Returns whether `job` meets the criteria that never change after its creation.
    pub fn matches_creation(&self, job: &Job) -> bool {
        self.matches_names(&job.id, &job.kind, &job.owner)
            && self.created_after.is_none_or(|time| time <= job.create_time)
            && self.created_before.is_none_or(|time| job.create_time < time)
            && job.labels.contains(&self.labels)
    }

    /// Returns whether a job of this id, kind and owner can be selected.
    pub fn matches_names(&self, id: &JobId, kind: &str, owner: &str) -> bool {
        id.as_str().starts_with(&self.id_prefix)
            && (self.kind.is_empty() || self.kind == kind)
            && self.owners.include(owner)
    }

    /// Returns whether the state is the only part of a job's condition that the filter depends on.
    pub fn depends_on_state_alone(&self) -> bool {
        self.liveness.is_empty() && self.worker.is_empty() && self.updated_after.is_none()
    }

    /// Returns whether the filter uses states, kind and owners alone: only these are indexed.
    pub fn is_indexed(&self) -> bool {
        self.labels.is_empty()
            && self.created_after.is_none()
            && self.created_before.is_none()
            && self.id_prefix.is_empty()
            && self.depends_on_state_alone()
    }

    /// Returns a digest of the filter and of `caller`, the same in every process, that binds a token to both. Criteria
    /// that older releases of jobtrack do not have are included only if they are set, so that tokens of those releases
    /// stay valid.
    pub fn digest(&self, caller: &Identity) -> Uuid {
        let mut text = String::new();
        let mut push = |part: &str| {
            text.push_str(&part.len().to_string());
            text.push(':');
            text.push_str(part);
        };
        for state in &self.states {
            push(state.name());
        }
        push("");
        push(&self.kind);
        match &self.owners {
            Owners::All => push("all"),
            Owners::Only(owners) => {
                push(&owners.len().to_string());
                for owner in owners {
                    push(owner);
                }
            }
        }
        push(&caller.name);
        for (key, value) in self.labels.iter() {
            push(key);
            push(value);
        }
        for time in [self.created_after, self.created_before] {
            push(&time.map(|time| time.as_micros().to_string()).unwrap_or_default());
        }
        for (name, value) in self.newer_criteria() {
            push(name);
            push(&value);
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
    }

    /// Returns the names and values of those criteria that are set and that older releases of jobtrack do not have.
    fn newer_criteria(&self) -> impl Iterator<Item = (&'static str, String)> {
        let liveness = self.liveness.iter().map(|liveness| ("liveness", liveness.name().to_owned()));
        let updated_after = self.updated_after.map(|time| time.as_micros().to_string()).unwrap_or_default();
        let others =
            [("worker", self.worker.clone()), ("id_prefix", self.id_prefix.clone()), ("updated_after", updated_after)];
        liveness.chain(others).filter(|(_, value)| !value.is_empty())
    }
}

/// The direction of a list, by creation time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// From the newest job to the oldest.
    #[default]
    Newest,
    /// From the oldest job to the newest.
    Oldest,
}

impl Order {
    /// Compares two positions: the one that comes first in the list is less.
    pub fn compare(self, one: &Cursor, other: &Cursor) -> Ordering {
        match self {
            Self::Newest => other.cmp(one),
            Self::Oldest => one.cmp(other),
        }
    }

    /// Binds the `digest` of a filter to this order, too. Tokens of releases that knew no order are for lists with the
    /// newest job first.
    pub fn bind(self, digest: Uuid) -> Uuid {
        match self {
            Self::Newest => digest,
            Self::Oldest => Uuid::new_v5(&digest, b"oldest"),
        }
    }
}

/// A position in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Creation time of the job.
    pub create_time: Timestamp,
    /// Distinguishes jobs with the same creation time.
    pub id: JobId,
}

impl Cursor {
    /// Returns the position of `job`.
    pub fn of(job: &Job) -> Self {
        Self { create_time: job.create_time, id: job.id.clone() }
    }

    /// Encodes the position as a page token that is bound to `digest`.
    pub fn to_token(&self, digest: Uuid) -> String {
        format!("{}.{:x}.{}", digest.simple(), self.create_time.as_micros(), self.id)
    }

    /// Decodes a page token; `None` if it is malformed, or bound to a different digest.
    pub fn from_token(token: &str, digest: Uuid) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let bound_to = Uuid::parse_str(parts.next()?).ok()?;
        let micros = u64::from_str_radix(parts.next()?, 16).ok()?.cast_signed();
        let id = JobId::parse(parts.next()?)?;
        (bound_to == digest).then_some(Self { create_time: Timestamp::from_micros(micros), id })
    }
}

/// A request for one page of a list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Selects the jobs.
    pub filter: Filter,
    /// The direction of the list.
    pub order: Order,
    /// Maximum number of jobs, at least 1.
    pub limit: usize,
    /// Maximum total size of the page in bytes: the job that reaches it is the last one on the page.
    pub max_bytes: usize,
    /// Only jobs after this position.
    pub after: Option<Cursor>,
    /// Jobs that have expired by this time are left out.
    pub now: Timestamp,
    /// Examines only jobs of the filter's owners, so that the end of a page discloses nothing about other jobs.
    pub confined: bool,
    /// The part of each job that is read.
    pub view: View,
}

impl ListQuery {
    /// Returns the positions between which the jobs of the page are, both exclusive: first the older one.
    pub fn bounds(&self) -> (Option<Cursor>, Option<Cursor>) {
        let at = |create_time| Cursor { create_time, id: JobId::lower_bound() };
        let (oldest, newest) = (self.filter.created_after.map(at), self.filter.created_before.map(at));
        let after = self.after.clone();
        match self.order {
            Order::Newest => (oldest, [after, newest].into_iter().flatten().min()),
            Order::Oldest => (oldest.max(after), newest),
        }
    }
}

/// The part of a job that is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The whole job.
    #[default]
    Full,
    /// All fields but the documents `metadata`, `result` and `progress.details`. Such a job must not be cached, nor
    /// changed, except into a tombstone, which has no documents. The details of a failure are read, and removed from
    /// the response.
    Basic,
}

impl View {
    /// Returns this view, or `most` if that shows less.
    #[must_use]
    pub const fn at_most(self, most: Self) -> Self {
        match self {
            Self::Full => most,
            Self::Basic => Self::Basic,
        }
    }
}
