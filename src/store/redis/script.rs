//! The one write: `replace.lua`, and what it is given.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisError, Script, ServerErrorKind, Value, cmd};

use super::{
    connection::{Fault, Pool},
    schema::{
        codec::{Message, Written, encode},
        keys::{IndexKey, Keys, Partition},
    },
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
    pub leaving: &'a [IndexKey<'a>],
}

/// What came of a write.
pub enum Outcome {
    /// It is done; the time at which the job's end entered Redis, if it has ended.
    Done(String),
    /// This is there instead: the fields [`READ`](super::schema::codec::READ).
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
        let answer: Result<Value, _> = match pool.query(&self.command(keys)).await {
            Err(Fault::Refused(error)) if is_unknown(&error) => {
                pool.query(&self.command_with("EVAL", SOURCE, keys)).await
            }
            answer => answer,
        };
        answer.map(Outcome::from)
    }

    /// The command that carries it out where Redis knows the script.
    pub fn command(&self, keys: &Keys) -> Cmd {
        self.command_with("EVALSHA", &HASH, keys)
    }

    fn command_with(&self, name: &str, script: &str, keys: &Keys) -> Cmd {
        let partition = Partition::of(self.id);
        let moves = self.moves();
        let mut command = cmd(name);
        command.arg(script).arg(2 + moves.len()).arg(keys.job(self.id)).arg(keys.commits(partition));
        for (place, _) in &moves {
            command.arg(keys.place(partition, *place));
        }
        match self.previous {
            Some(job) => Written::from(job.version).write_to(&mut command),
            None => _ = command.arg("").arg("").arg(""),
        }
        let hint = self.next.zip(self.by).map(|(job, by)| Message::of(job).encode(by)).unwrap_or_default();
        command.arg(self.id.as_str()).arg(keys.changes(partition)).arg(hint).arg(self.durable_time());
        for (_, time) in &moves {
            match time {
                Some(time) => command.arg(time.as_micros()),
                None => command.arg(""),
            };
        }
        if let Some(job) = self.next {
            let written = Written::from(job.version);
            let state = if job.removal.is_some() { "REMOVED" } else { job.state.name() };
            command
                .arg("uid")
                .arg(written.incarnation_id)
                .arg("rev")
                .arg(written.rev)
                .arg("stamp")
                .arg(written.change_id);
            command.arg("born").arg(job.version.first_revision).arg("state").arg(state).arg("doc").arg(encode(job));
        }
        command
    }

    /// The sorted sets that change, with the score, or without one where the id is taken out.
    fn moves(&self) -> Vec<(IndexKey<'_>, Option<Timestamp>)> {
        let before: Vec<_> = self.previous.into_iter().flat_map(IndexKey::of).collect();
        let after: Vec<_> = self.next.into_iter().flat_map(IndexKey::of).collect();
        let left = before.iter().filter(|(place, _)| !after.iter().any(|(kept, _)| kept == place));
        let left = self.leaving.iter().chain(left.map(|(place, _)| place)).map(|place| (*place, None));
        let moved = after.iter().filter(|entry| !before.contains(entry)).map(|(place, time)| (*place, Some(*time)));
        left.chain(moved).collect()
    }

    fn durable_time(&self) -> String {
        let ended = self.next.filter(|job| job.state.is_terminal() && job.removal.is_none());
        let known = |job: &Job| job.durable_time.map(Timestamp::as_micros).map(|micros| micros.to_string());
        ended.map(|job| known(job).unwrap_or_else(|| "first".to_owned())).unwrap_or_default()
    }
}
