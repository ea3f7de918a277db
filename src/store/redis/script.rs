//! The one write: `replace.lua`, and what it is given.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisError, Script, ServerErrorKind, Value, cmd};

use super::{
    codec::{Message, Written, encode},
    keys::{Keys, Partition, Place},
    pool::{Fault, Pool},
};
use crate::domain::{Job, JobId, Timestamp};

const SOURCE: &str = include_str!("replace.lua");

static HASH: LazyLock<String> = LazyLock::new(|| Script::new(SOURCE).get_hash().to_owned());

/// One record that is to be replaced.
pub struct Write<'a> {
    /// Which record.
    pub id: &'a JobId,
    /// What must be there.
    pub previous: Option<&'a Job>,
    /// What is to be there.
    pub next: Option<&'a Job>,
    /// The replica that says so; `None`: it is not announced.
    pub by: Option<&'a str>,
    /// Where the id has no place any more, besides what follows from the versions.
    pub leaving: &'a [Place<'a>],
}

/// What came of a write.
pub enum Outcome {
    /// It is done; the time at which the job's end entered Redis, if it has ended.
    Done(String),
    /// This is there instead: the fields [`READ`](super::codec::READ).
    Other(Value),
}

impl From<Value> for Outcome {
    fn from(answer: Value) -> Self {
        match answer {
            Value::BulkString(durable_time) => Self::Done(String::from_utf8_lossy(&durable_time).into_owned()),
            other => Self::Other(other),
        }
    }
}

/// Whether Redis has forgotten the script: it does when it restarts or is told to.
pub fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

impl Write<'_> {
    /// Carries it out.
    pub async fn run(&self, pool: &Pool, keys: &Keys) -> Result<Outcome, Fault> {
        let arguments = self.arguments(keys);
        let answer: Result<Value, _> = match pool.query(&command("EVALSHA", &HASH, &arguments)).await {
            Err(Fault::Refused(error)) if is_unknown(&error) => pool.query(&command("EVAL", SOURCE, &arguments)).await,
            answer => answer,
        };
        answer.map(Outcome::from)
    }

    /// The command that carries it out where Redis knows the script.
    pub fn command(&self, keys: &Keys) -> Cmd {
        command("EVALSHA", &HASH, &self.arguments(keys))
    }

    fn arguments(&self, keys: &Keys) -> Arguments {
        let partition = Partition::of(self.id);
        let expected = self.previous.map(|job| Written::from(job.version));
        let expected = expected.unwrap_or(Written { uid: String::new(), rev: String::new(), stamp: String::new() });
        let hint = self.next.zip(self.by).map(|(job, by)| Message::of(job, by).encode()).unwrap_or_default();
        let mut arguments =
            Arguments { keys: vec![keys.job(self.id), keys.commits(partition)], values: Vec::with_capacity(24) };
        let values = &mut arguments.values;
        values.extend([expected.uid, expected.rev, expected.stamp, self.id.to_string()].map(String::into_bytes));
        values.extend([keys.changes(partition), hint, self.durable_time()].map(String::into_bytes));

        let before: Vec<_> = self.previous.into_iter().flat_map(Place::of).collect();
        let after: Vec<_> = self.next.into_iter().flat_map(Place::of).collect();
        let left = before.iter().filter(|(place, _)| !after.iter().any(|(kept, _)| kept == place));
        let moved = after.iter().filter(|entry| !before.contains(entry));
        let left = self.leaving.iter().chain(left.map(|(place, _)| place)).map(|place| (place, None));
        for (place, score) in left.chain(moved.map(|(place, time)| (place, Some(time)))) {
            arguments.keys.push(keys.place(partition, *place));
            values.push(score.map(|time| time.as_micros().to_string()).unwrap_or_default().into_bytes());
        }
        if let Some(job) = self.next {
            let Written { uid, rev, stamp } = job.version.into();
            let born = job.version.born.to_string();
            let state = if job.removal.is_some() { "REMOVED" } else { job.state.name() };
            for (field, value) in
                [("uid", uid), ("rev", rev), ("stamp", stamp), ("born", born), ("state", state.into())]
            {
                values.extend([field.into(), value.into_bytes()]);
            }
            values.extend([b"doc".to_vec(), encode(job)]);
        }
        arguments
    }

    fn durable_time(&self) -> String {
        let ended = self.next.filter(|job| job.state.is_terminal() && job.removal.is_none());
        let known = |job: &Job| job.durable_time.map(Timestamp::as_micros).map(|micros| micros.to_string());
        ended.map(|job| known(job).unwrap_or_else(|| "first".to_owned())).unwrap_or_default()
    }
}

/// What the script is given.
struct Arguments {
    keys: Vec<String>,
    values: Vec<Vec<u8>>,
}

fn command(name: &str, script: &str, arguments: &Arguments) -> Cmd {
    let mut command = cmd(name);
    command.arg(script).arg(arguments.keys.len()).arg(&arguments.keys);
    for value in &arguments.values {
        command.arg(value.as_slice());
    }
    command
}
