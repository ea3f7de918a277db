//! Which jobs are meant, and where a page begins.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Identity, Job, JobId, Labels, Owners, State, Timestamp};

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
}

impl Filter {
    /// Whether it selects `job` as it is.
    pub fn matches(&self, job: &Job) -> bool {
        self.matches_state(job.state) && self.matches_identity(job)
    }

    /// Whether it selects jobs in `state`.
    pub fn matches_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether it selects `job` in some state: all but the state stays as it was at the creation.
    pub fn matches_identity(&self, job: &Job) -> bool {
        self.matches_names(&job.kind, &job.owner)
            && self.created_after.is_none_or(|time| time <= job.create_time)
            && self.created_before.is_none_or(|time| job.create_time < time)
            && (self.labels.is_empty() || self.labels.iter().all(|(key, value)| job.labels.get(key) == Some(value)))
    }

    /// Whether it selects some job of this kind and owner.
    pub fn matches_names(&self, kind: &str, owner: &str) -> bool {
        (self.kind.is_empty() || self.kind == kind) && self.owners.include(owner)
    }

    /// A digest of what it selects for `caller`, the same in every process: binds a token to both.
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
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
    }
}

/// A job's place in a list, which runs from the newest to the oldest.
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

    /// Writes it as a page token of `caller` for `filter`.
    pub fn to_token(&self, filter: &Filter, caller: &Identity) -> String {
        format!("{}.{:x}.{}", filter.digest(caller).simple(), self.create_time.as_micros(), self.id)
    }

    /// Reads a page token; `None` if it is malformed, or of another filter or caller.
    pub fn from_token(token: &str, filter: &Filter, caller: &Identity) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let digest = Uuid::parse_str(parts.next()?).ok()?;
        let micros = u64::from_str_radix(parts.next()?, 16).ok()?.cast_signed();
        let id = JobId::parse(parts.next()?)?;
        (digest == filter.digest(caller)).then_some(Self { create_time: Timestamp::from_micros(micros), id })
    }
}

/// A page to be listed.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which jobs.
    pub filter: Filter,
    /// How many at most, at least 1.
    pub limit: usize,
    /// Only what is older than this place.
    pub after: Option<Cursor>,
    /// Jobs whose time is over by then are left out.
    pub now: Timestamp,
    /// Only jobs of the filter's owners are looked at, so that where a page ends tells nothing of others.
    pub confined: bool,
    /// How much of each job is read.
    pub view: View,
}

/// How much of a job is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// All of it.
    #[default]
    Full,
    /// All but its documents: `metadata`, `result` and `progress.details`. Never to be changed or cached. The details of a
    /// failure are read with the rest, and left out of the answer.
    Basic,
}
