//! Resume tokens: positions in a stream. With Redis, a token of `WatchJob` is valid on every replica; after a token of
//! `WatchJobs` the stream starts over, because only the store in memory records the order of commits.

use uuid::Uuid;

use crate::{
    domain::{ChangeId, Job, JobId},
    store::CommitPosition,
};

/// A position in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeToken {
    /// Position in a stream of `WatchJob`.
    Job(JobToken),
    /// Position in a stream of `WatchJobs`.
    Jobs(JobsToken),
}

impl ResumeToken {
    /// Encodes the token as text.
    pub fn encode(&self) -> String {
        match self {
            Self::Job(token) => token.encode(),
            Self::Jobs(token) => token.encode(),
        }
    }
}

/// A position in a stream of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobToken {
    /// Id of the data set, combined with the digest of the caller: the tokens of other callers are invalid.
    pub epoch: u64,
    /// Revision that was sent last.
    pub revision: i64,
    /// Id of the change that created the revision.
    pub change_id: ChangeId,
    /// Id of the job.
    pub id: JobId,
}

impl JobToken {
    /// Returns the position after this version of `job` was sent.
    pub fn after(epoch: u64, job: &Job) -> Self {
        Self { epoch, revision: job.version.revision, change_id: job.version.change_id, id: job.id.clone() }
    }

    /// Encodes the token as text.
    pub fn encode(&self) -> String {
        let ChangeId { process, counter } = self.change_id;
        format!("{:x}.{:x}.{process:x}.{counter:x}.{}", self.epoch, self.revision, self.id)
    }

    /// Decodes a token; `None` if it is malformed.
    pub fn decode(token: &str) -> Option<Self> {
        let mut parts = token.splitn(5, '.');
        let epoch = hex(parts.next()?)?;
        let revision = hex(parts.next()?)?.try_into().ok()?;
        let change_id = ChangeId { process: hex(parts.next()?)?, counter: hex(parts.next()?)? };
        Some(Self { epoch, revision, change_id, id: JobId::parse(parts.next()?)? })
    }
}

/// A position in a stream of many jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsToken {
    /// Id of the data set.
    pub epoch: u64,
    /// All commits up to this position were sent; `None` while the snapshot is incomplete.
    pub position: Option<CommitPosition>,
    /// Digest of the ids, the filter and the caller.
    pub scope: Uuid,
}

impl JobsToken {
    /// Encodes the token as text.
    pub fn encode(&self) -> String {
        let position = self.position.map(|position| format!("{position:x}")).unwrap_or_default();
        format!("{:x}.{position}.{}", self.epoch, self.scope.simple())
    }

    /// Decodes a token; `None` if it is malformed.
    pub fn decode(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, '.');
        let epoch = hex(parts.next()?)?;
        let position = match parts.next()? {
            "" => None,
            position => Some(hex(position)?),
        };
        Some(Self { epoch, position, scope: Uuid::parse_str(parts.next()?).ok()? })
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
