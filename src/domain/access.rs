//! Who calls, and what that caller may do.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use thiserror::Error;
use uuid::Uuid;

/// What sort of calls a caller may make. Each role may do what those before it may.
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
    /// Every role, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Reporter, Self::Admin];

    /// The role's name, as operators write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Reporter => "reporter",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose jobs are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// Everybody's.
    #[default]
    All,
    /// Those of these owners; an empty one stands for jobs without an owner.
    Only(BTreeSet<String>),
}

impl Owners {
    /// Those of this owner alone.
    pub fn one(owner: impl Into<String>) -> Self {
        Self::Only([owner.into()].into())
    }

    /// Whether the jobs of `owner` are among them.
    pub fn include(&self, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(owners) => owners.contains(owner),
        }
    }

    /// Those that are among both.
    pub fn and(self, others: &Self) -> Self {
        match (self, others) {
            (owners, Self::All) => owners,
            (Self::All, others) => others.clone(),
            (Self::Only(owners), Self::Only(others)) => Self::Only(owners.intersection(others).cloned().collect()),
        }
    }
}

/// Source of the name of a caller. Callers of different kinds are different callers, whatever their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// Everybody, where callers are not told apart.
    Anyone,
    /// An entry of the identities file.
    Listed,
    /// The subject of a JWT.
    Subject,
    /// A certificate that is in no entry.
    Stranger,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Source of its name.
    pub kind: IdentityKind,
    /// Who it is; empty where callers are not told apart.
    pub name: String,
    /// What it may do; `None`: nothing.
    pub role: Option<Role>,
    /// Whose jobs exist for it.
    pub owners: Owners,
}

/// Every caller, where they are not told apart: may do everything.
pub static ANYONE: Identity =
    Identity { kind: IdentityKind::Anyone, name: String::new(), role: Some(Role::Admin), owners: Owners::All };

impl Identity {
    /// Somebody whose name is known and no more: may do nothing.
    pub fn stranger(name: &str) -> Self {
        let kind = IdentityKind::Stranger;
        Self { kind, name: name.to_owned(), role: None, owners: Owners::Only(BTreeSet::new()) }
    }

    /// Tells callers apart in tokens, the same in every process.
    pub fn digest(&self) -> u64 {
        if self.name.is_empty() {
            return 0;
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.name.as_bytes()).as_u64_pair().0
    }
}

/// What is wrong with a caller's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unauthenticated {
    /// There are none.
    #[error("this server needs a bearer token or a client certificate")]
    Missing,
    /// They are not known here, or do not count any more.
    #[error("the credentials are not known here, or no longer valid")]
    Invalid,
    /// They were valid when the stream began.
    #[error("the credentials that this stream began with are no longer valid")]
    Ended,
}

impl Unauthenticated {
    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::Invalid => "INVALID",
            Self::Ended => "ENDED",
        }
    }
}

/// What a caller would need to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Needed {
    /// This role.
    #[error("this call needs the role {0}")]
    Role(Role),
    /// The right to touch the jobs of everybody.
    #[error("this call is about the jobs of all owners, and the caller is limited to some")]
    AllOwners,
    /// The right to touch the jobs of this owner.
    #[error("the caller may not touch the jobs of owner {0:?}")]
    Owner(String),
}
