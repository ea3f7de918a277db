//! Which jobs are meant, and where a page begins.

use std::{cmp::Ordering, collections::BTreeSet};

use uuid::Uuid;

use super::{Identity, Job, JobId, Labels, Liveness, Owners, State, Timestamp};

/// Selects jobs; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these; empty: all.
    pub states: BTreeSet<State>,
    /// Exactly this one; empty: all.
    pub kind: String,
    /// Whose jobs.
    pub owners: Owners,
    /// Each of these pairs.
    pub labels: Labels,
    /// Created then or later.
    pub created_after: Option<Timestamp>,
    /// Created before then.
    pub created_before: Option<Timestamp>,
    /// Any of these; empty: all.
    pub liveness: BTreeSet<Liveness>,
    /// The worker that reported last; empty: any.
    pub worker: String,
    /// The beginning of the id.
    pub id_prefix: String,
    /// Last changed then or later.
    pub updated_after: Option<Timestamp>,
}

impl Filter {
    /// Returns whether it selects `job` as it is at `now`.
    pub fn matches(&self, job: &Job, now: Timestamp) -> bool {
        self.matches_condition(job, now) && self.matches_identity(job)
    }

    /// Whether it selects jobs in `state`.
    pub fn matches_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Returns whether it selects jobs that are as `job` is at `now`, as far as that changes in the life of a job.
    pub fn matches_condition(&self, job: &Job, now: Timestamp) -> bool {
        self.matches_state(job.state)
            && (self.liveness.is_empty() || self.liveness.contains(&job.liveness(now)))
            && (self.worker.is_empty() || self.worker == job.worker)
            && self.updated_after.is_none_or(|time| time <= job.update_time)
    }

    /// Returns whether it selects `job` in some condition: the criteria here stay as they were at the creation.
    pub fn matches_identity(&self, job: &Job) -> bool {
        self.matches_names(&job.id, &job.kind, &job.owner)
            && self.created_after.is_none_or(|time| time <= job.create_time)
            && self.created_before.is_none_or(|time| job.create_time < time)
            && (self.labels.is_empty() || self.labels.iter().all(|(key, value)| job.labels.get(key) == Some(value)))
    }

    /// Returns whether it selects some job of this id, kind and owner.
    pub fn matches_names(&self, id: &JobId, kind: &str, owner: &str) -> bool {
        id.as_str().starts_with(&self.id_prefix)
            && (self.kind.is_empty() || self.kind == kind)
            && self.owners.include(owner)
    }

    /// Returns whether it selects by no other part of a job's condition than its state.
    pub fn depends_on_state_alone(&self) -> bool {
        self.liveness.is_empty() && self.worker.is_empty() && self.updated_after.is_none()
    }

    /// Returns whether it selects by states, kind and owners alone: only these have indexes.
    pub fn is_indexed(&self) -> bool {
        self.labels.is_empty()
            && self.created_after.is_none()
            && self.created_before.is_none()
            && self.id_prefix.is_empty()
            && self.depends_on_state_alone()
    }

    /// A digest of what it selects for `caller`, the same in every process: binds a token to both. Criteria that earlier
    /// versions do not have change it only where they are set, so that tokens of those versions stay valid.
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

    /// The criteria that are set of those that earlier versions do not have, each with its name.
    fn newer_criteria(&self) -> impl Iterator<Item = (&'static str, String)> {
        let liveness = self.liveness.iter().map(|liveness| ("liveness", liveness.name().to_owned()));
        let updated_after = self.updated_after.map(|time| time.as_micros().to_string()).unwrap_or_default();
        let others =
            [("worker", self.worker.clone()), ("id_prefix", self.id_prefix.clone()), ("updated_after", updated_after)];
        liveness.chain(others).filter(|(_, value)| !value.is_empty())
    }
}

/// The direction of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// From the newest job to the oldest.
    #[default]
    Newest,
    /// From the oldest job to the newest.
    Oldest,
}

impl Order {
    /// Compares two places: the one that comes first in the list is less.
    pub fn compare(self, one: &Cursor, other: &Cursor) -> Ordering {
        match self {
            Self::Newest => other.cmp(one),
            Self::Oldest => one.cmp(other),
        }
    }

    /// Binds the `digest` of a filter to this order, too. Tokens of versions that know no order are for the newest first.
    pub fn bind(self, digest: Uuid) -> Uuid {
        match self {
            Self::Newest => digest,
            Self::Oldest => Uuid::new_v5(&digest, b"oldest"),
        }
    }
}

/// A job's place in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the job was created.
    pub create_time: Timestamp,
    /// Tells jobs of one time apart.
    pub id: JobId,
}

impl Cursor {
    /// The place of `job`.
    pub fn of(job: &Job) -> Self {
        Self { create_time: job.create_time, id: job.id.clone() }
    }

    /// Writes it as a page token that is bound to what has this `digest`.
    pub fn to_token(&self, digest: Uuid) -> String {
        format!("{}.{:x}.{}", digest.simple(), self.create_time.as_micros(), self.id)
    }

    /// Reads a page token; `None` if it is malformed, or bound to something else.
    pub fn from_token(token: &str, digest: Uuid) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let bound_to = Uuid::parse_str(parts.next()?).ok()?;
        let micros = u64::from_str_radix(parts.next()?, 16).ok()?.cast_signed();
        let id = JobId::parse(parts.next()?)?;
        (bound_to == digest).then_some(Self { create_time: Timestamp::from_micros(micros), id })
    }
}

/// A page to be listed.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which jobs.
    pub filter: Filter,
    /// The direction of the list.
    pub order: Order,
    /// How many at most, at least 1.
    pub limit: usize,
    /// The page ends with the job with which its jobs have this size in bytes, or more.
    pub max_bytes: usize,
    /// Only what comes after this place in the order.
    pub after: Option<Cursor>,
    /// Jobs whose time is over by then are left out.
    pub now: Timestamp,
    /// Only jobs of the filter's owners are looked at, so that where a page ends tells nothing of others.
    pub confined: bool,
    /// How much of each job is read.
    pub view: View,
}

impl ListQuery {
    /// The places between which the jobs of the page are, both exclusive: the older one, and the newer one.
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

/// How much of a job is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// All of it.
    #[default]
    Full,
    /// All but its documents: `metadata`, `result` and `progress.details`. Never to be cached, nor
    /// changed but into a tombstone, which has no documents. The details of a
    /// failure are read with the rest, and left out of the answer.
    Basic,
}
