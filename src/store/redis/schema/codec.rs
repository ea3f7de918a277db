//! A job as fields of a hash, and the hint of a change.

use std::borrow::Cow;

use redis::{Cmd, FromRedisValue, Value};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{ChangeId, Job, JobId, State, Timestamp, Version},
    store::{Record, redis::stored},
};

/// The fields that a job is read from.
pub const READ: [&str; 3] = ["doc", "durable_time", "rev"];

/// The version of a record in the form in which scripts compare it.
pub struct Written {
    /// Names the life.
    pub incarnation_id: String,
    /// The revision.
    pub rev: i64,
    /// Names the change.
    pub change_id: String,
}

impl From<Version> for Written {
    fn from(version: Version) -> Self {
        Self {
            incarnation_id: version.incarnation_id.simple().to_string(),
            rev: version.revision,
            change_id: change_id(version.change_id),
        }
    }
}

impl Written {
    /// Adds it to the arguments of a script, in this order.
    pub fn write_to(&self, command: &mut Cmd) {
        command.arg(&self.incarnation_id).arg(self.rev).arg(&self.change_id);
    }
}

/// A change_id as text.
pub fn change_id(change_id: ChangeId) -> String {
    format!("{:x}.{:x}", change_id.process, change_id.counter)
}

/// The whole job as JSON.
pub fn encode(job: &Job) -> Vec<u8> {
    serde_json::to_vec(job).expect("a job has no key that is not text")
}

/// Reads the fields [`READ`] of the record of `id`.
pub fn decode(id: &JobId, fields: Value) -> Record {
    let Ok((doc, durable_time, rev)) = <(Option<String>, Option<String>, Option<i64>)>::from_redis_value(fields) else {
        return Record::Corrupt;
    };
    let doc = match (doc, rev) {
        (None, None) => return Record::Missing,
        (doc, _) => doc.unwrap_or_default(),
    };
    match serde_json::from_str::<Job>(&doc) {
        Ok(mut job) if job.id == *id && Some(job.version.revision) == rev => {
            job.recorded = true;
            job.durable_time = durable_time.as_deref().and_then(time);
            Record::Found(stored(job))
        }
        _ => Record::Corrupt,
    }
}

/// A time as the script writes it; `None` if it is empty.
pub fn time(micros: &str) -> Option<Timestamp> {
    micros.parse().ok().map(Timestamp::from_micros)
}

/// What is said of a commit to everyone who listens: enough to tell whether to read the job, and never the job.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message<'a> {
    /// The job.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Its revision.
    pub rev: i64,
    /// The state it is in, for people who listen.
    pub state: State,
    /// What sort of work it is.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// Whom it belongs to.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub owner: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// Of a commit.
    pub fn of(job: &'a Job) -> Self {
        Self {
            id: job.id.as_str().into(),
            rev: job.version.revision,
            state: job.state,
            kind: job.kind.as_str().into(),
            owner: job.owner.as_str().into(),
        }
    }

    /// As it is sent `by` a replica, without the number of the commit.
    pub fn encode(&self, by: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(256);
        payload.extend_from_slice(by.as_bytes());
        payload.push(b' ');
        serde_json::to_writer(&mut payload, self).expect("it is made of text and numbers");
        payload
    }

    /// Reads it.
    pub fn decode(message: &'a str) -> Option<Self> {
        serde_json::from_str(message).ok()
    }
}

/// A hint as it was received.
pub struct Received<'a> {
    /// The number of the commit.
    pub number: i64,
    /// The replica that committed.
    pub by: &'a str,
    /// See [`Message::decode`].
    pub message: &'a str,
}

impl<'a> Received<'a> {
    /// Takes it apart.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(payload).ok()?.splitn(3, ' ');
        Some(Self { number: parts.next()?.parse().ok()?, by: parts.next()?, message: parts.next()? })
    }
}
