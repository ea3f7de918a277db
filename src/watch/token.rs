//! Resume tokens: where a stream was, readable on any replica of the same data set.

use uuid::Uuid;

use crate::domain::{ChangeId, Job, JobId};

/// Where a stream was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeToken {
    /// One of `WatchJob`.
    Job(JobToken),
    /// One of `WatchJobs`.
    Jobs(JobsToken),
}

impl ResumeToken {
    /// Writes it.
    pub fn encode(&self) -> String {
        match self {
            Self::Job(token) => token.encode(),
            Self::Jobs(token) => token.encode(),
        }
    }
}

/// Where a stream of one job was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobToken {
    /// The data set.
    pub epoch: u64,
    /// The revision that was sent.
    pub revision: i64,
    /// The change that made it.
    pub change_id: ChangeId,
    /// The job.
    pub id: JobId,
}

impl JobToken {
    /// Behind this version of `job`.
    pub fn behind(epoch: u64, job: &Job) -> Self {
        Self { epoch, revision: job.version.revision, change_id: job.version.change_id, id: job.id.clone() }
    }

    /// Writes it.
    pub fn encode(&self) -> String {
        let ChangeId { process, counter } = self.change_id;
        format!("{:x}.{:x}.{process:x}.{counter:x}.{}", self.epoch, self.revision, self.id)
    }

    /// Reads it; `None` if it is malformed.
    pub fn decode(token: &str) -> Option<Self> {
        let mut parts = token.splitn(5, '.');
        let epoch = hex(parts.next()?)?;
        let revision = hex(parts.next()?)?.try_into().ok()?;
        let change_id = ChangeId { process: hex(parts.next()?)?, counter: hex(parts.next()?)? };
        Some(Self { epoch, revision, change_id, id: JobId::parse(parts.next()?)? })
    }
}

/// Where a stream of many jobs was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsToken {
    /// The data set.
    pub epoch: u64,
    /// All commits up to here were delivered; `None` before all snapshots were.
    pub position: Option<u64>,
    /// Digest of the ids and the filter.
    pub scope: Uuid,
}

impl JobsToken {
    /// Writes it.
    pub fn encode(&self) -> String {
        let position = self.position.map(|position| format!("{position:x}")).unwrap_or_default();
        format!("{:x}.{position}.{}", self.epoch, self.scope.simple())
    }

    /// Reads it; `None` if it is malformed.
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
