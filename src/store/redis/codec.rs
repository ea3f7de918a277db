//! A job as fields of a hash, and the hint of a change.

use std::borrow::Cow;

use redis::{FromRedisValue, Value};
use serde::{Deserialize, Serialize};

use super::stored;
use crate::{
    domain::{Job, JobId, Stamp, State, Timestamp, Version},
    store::Record,
};

/// The fields that a job is read from.
pub const READ: [&str; 3] = ["doc", "durable_time", "rev"];

/// The version of a record in the form in which scripts compare it.
pub struct Written {
    /// Names the life.
    pub uid: String,
    /// The revision.
    pub rev: String,
    /// Names the change.
    pub stamp: String,
}

impl From<Version> for Written {
    fn from(version: Version) -> Self {
        Self { uid: version.uid.simple().to_string(), rev: version.revision.to_string(), stamp: stamp(version.stamp) }
    }
}

/// A stamp as text.
pub fn stamp(stamp: Stamp) -> String {
    format!("{:x}.{:x}", stamp.process, stamp.counter)
}

/// The whole job as JSON.
pub fn encode(job: &Job) -> Vec<u8> {
    serde_json::to_vec(job).expect("a job has no key that is not text")
}

/// Reads the fields [`READ`] of the record of `id`.
pub fn decode(id: &JobId, fields: Value) -> Record {
    let Ok((doc, durable_time, rev)) = <(Option<Vec<u8>>, Option<String>, Option<i64>)>::from_redis_value(fields)
    else {
        return Record::Corrupt;
    };
    let doc = match (doc, rev) {
        (None, None) => return Record::Missing,
        (doc, _) => doc.unwrap_or_default(),
    };
    match serde_json::from_slice::<Job>(&doc) {
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
    /// The replica that committed it.
    #[serde(borrow)]
    pub by: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// Of a commit `by` a replica.
    pub fn of(job: &'a Job, by: &'a str) -> Self {
        Self {
            id: job.id.as_str().into(),
            rev: job.version.revision,
            state: job.state,
            kind: job.kind.as_str().into(),
            owner: job.owner.as_str().into(),
            by: by.into(),
        }
    }

    /// As it is sent, without the number of the commit.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("it is made of text and numbers")
    }

    /// As it was received, with the number of the commit.
    pub fn decode(payload: &'a [u8]) -> Option<(i64, Self)> {
        let (number, message) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
        Some((number.parse().ok()?, serde_json::from_str(message).ok()?))
    }
}
