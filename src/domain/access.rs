//! The identity of a caller, and the calls and jobs that it may use.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    sync::Arc,
};

use thiserror::Error;
use uuid::Uuid;

use super::{Job, JobError, JobId, View};

/// Determines which calls a caller may make. Each role includes the rights of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads, lists and watches jobs.
    Reader,
    /// Creates jobs, reports on them, ends, cancels and deletes them.
    Reporter,
    /// Purges jobs and reads statistics.
    Admin,
}

impl Role {
    /// All roles, from the fewest rights to the most.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Reporter, Self::Admin];

    /// Returns the name of the role in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Reporter => "reporter",
            Self::Admin => "admin",
        }
    }

    /// Returns the role with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reason why this server can neither make nor check watch tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoTokenKey {
    /// The key has not been read from the store yet.
    #[error("the key of watch tokens is in Redis, which has not been reachable since this server started")]
    Unread,
    /// The store refused to read the key, or to store a new one.
    #[error("Redis refused to read or to store the key of watch tokens; check the Redis key that ends with :token-key")]
    Refused,
    /// The store has a key that is too short.
    #[error("the key of watch tokens in Redis has fewer than 32 bytes and is not used, so it must be replaced")]
    TooShort,
}

/// A set of owners, which selects the jobs that belong to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// All owners, and jobs without an owner.
    #[default]
    All,
    /// These owners; an empty name stands for jobs without an owner.
    Only(BTreeSet<String>),
}

impl Owners {
    /// Returns the set of one owner.
    pub fn one(owner: impl Into<String>) -> Self {
        Self::Only([owner.into()].into())
    }

    /// Returns whether the jobs of `owner` are selected.
    pub fn include(&self, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(owners) => owners.contains(owner),
        }
    }

    /// Returns the intersection of two sets.
    pub fn and(self, others: &Self) -> Self {
        match (self, others) {
            (owners, Self::All) => owners,
            (Self::All, others) => others.clone(),
            (Self::Only(owners), Self::Only(others)) => Self::Only(owners.intersection(others).cloned().collect()),
        }
    }

    /// Returns the union of two sets.
    pub fn or(self, others: &Self) -> Self {
        match (self, others) {
            (Self::Only(owners), Self::Only(others)) => Self::Only(owners.union(others).cloned().collect()),
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

/// The jobs that the holder of a watch token may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedJobs {
    /// The ids, each with the [incarnation](Self::incarnation) that the token is for.
    pub incarnations: BTreeMap<JobId, u64>,
    /// The largest part of each job that the holder may read.
    pub view: View,
}

impl SharedJobs {
    /// Returns a number that distinguishes the incarnation of `job` from others with the same id. It has 53 bits,
    /// because every JSON parser reads integers of that size exactly. So few bits suffice, because the ids of
    /// incarnations are random and no caller can choose them.
    pub const fn incarnation(job: &Job) -> u64 {
        job.version.incarnation_id.as_u64_pair().1 & ((1 << 53) - 1)
    }

    /// Returns whether this version of a job is shared.
    pub fn include(&self, job: &Job) -> bool {
        self.incarnations.get(&job.id) == Some(&Self::incarnation(job))
    }
}

/// The source of a caller's name. Callers of different kinds are different callers, even if their names are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// No authentication is configured: all callers share this identity.
    Anyone,
    /// An entry of the identities file.
    Listed,
    /// The subject of a JWT.
    Subject,
    /// A valid certificate that no entry of the identities file lists.
    Stranger,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The source of `name`.
    pub kind: IdentityKind,
    /// The caller's name; empty if no authentication is configured.
    pub name: String,
    /// The rights of the caller; `None`: no rights.
    pub role: Option<Role>,
    /// The owners whose jobs the caller can see. All other jobs are reported as not found.
    pub owners: Owners,
    /// The only jobs that the caller can name, if it holds a watch token; `name` is then the name of the caller that
    /// made the token.
    pub shared: Option<Arc<SharedJobs>>,
}

/// The identity of every caller if no authentication is configured: full access.
pub static ANYONE: Identity = Identity {
    kind: IdentityKind::Anyone,
    name: String::new(),
    role: Some(Role::Admin),
    owners: Owners::All,
    shared: None,
};

impl Identity {
    /// Returns the identity of a caller with a known name and no rights.
    pub fn stranger(name: &str) -> Self {
        let kind = IdentityKind::Stranger;
        Self { kind, name: name.to_owned(), role: None, owners: Owners::Only(BTreeSet::new()), shared: None }
    }

    /// Returns the identity of the holder of a watch token that this caller made. The holder may only read.
    #[must_use]
    pub fn as_watch_token_holder(&self, jobs: SharedJobs) -> Self {
        Self { role: self.role.min(Some(Role::Reader)), shared: Some(Arc::new(jobs)), ..self.clone() }
    }

    /// Returns the name as log lines show it; empty if callers have no names.
    pub fn label(&self) -> Cow<'_, str> {
        match (&self.shared, self.name.as_str()) {
            (None, name) => name.into(),
            (Some(_), "") => "watch token".into(),
            (Some(_), name) => format!("watch token of {name}").into(),
        }
    }

    /// Returns whether the caller can see this version of a job. Otherwise the job is reported as not found.
    pub fn can_see(&self, job: &Job) -> bool {
        self.owners.include(&job.owner) && self.shared.as_ref().is_none_or(|shared| shared.include(job))
    }

    /// Fails if the caller holds a watch token that is not for this id. Depends on the id only, so that the error
    /// discloses nothing about a job.
    pub fn may_name(&self, id: &JobId) -> Result<(), JobError> {
        match &self.shared {
            Some(shared) if !shared.incarnations.contains_key(id) => {
                Err(JobError::PermissionDenied(Needed::SharedJob(id.clone())))
            }
            _ => Ok(()),
        }
    }

    /// Returns the part of a job that the caller sees if it asks for `view`.
    pub fn view(&self, view: View) -> View {
        self.shared.as_ref().map_or(view, |shared| view.at_most(shared.view))
    }

    /// Returns a number that binds tokens to the caller. It is the same in every process.
    pub fn digest(&self) -> u64 {
        if self.name.is_empty() {
            return 0;
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.name.as_bytes()).as_u64_pair().0
    }
}

/// The reason why a caller's credentials are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unauthenticated {
    /// The call has no credentials.
    #[error("credentials required: a bearer token or a client certificate")]
    Missing,
    /// The credentials are unknown, expired or revoked.
    #[error("invalid or expired credentials")]
    Invalid,
    /// The credentials are an expired watch token.
    #[error("the watch token has expired")]
    Expired,
    /// The credentials were valid when the stream began, and are no longer valid.
    #[error("the credentials of this stream are no longer valid")]
    Ended,
}

impl Unauthenticated {
    /// Returns the machine-readable name, as in the details of an error.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::Invalid => "INVALID",
            Self::Expired => "EXPIRED",
            Self::Ended => "ENDED",
        }
    }
}

/// The right that a caller lacks for a call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Needed {
    /// A role.
    #[error("the caller lacks the role {0}")]
    Role(Role),
    /// Access to the jobs of all owners.
    #[error("this call requires access to all owners, and the caller has access to some only")]
    AllOwners,
    /// Access to the jobs of this owner.
    #[error("the caller has no access to jobs of owner {0:?}")]
    Owner(String),
    /// The credentials of an identity, rather than a watch token.
    #[error(
        "a watch token allows GetJob, WatchJob and WatchJobs of its jobs only; this call requires the credentials of an \
         identity"
    )]
    Identity,
    /// A watch token for this job.
    #[error("this watch token is for other jobs than {0}")]
    SharedJob(JobId),
}
