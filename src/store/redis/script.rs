//! The only write of records, `replace.lua`, and its arguments. For decisions by time, `decide.lua` precedes it.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, Script, Value, cmd};

use super::{
    arguments::{Arguments, Encoded, GivenBranch, Mode, ReplacementOptions, Time},
    connection::{Fault, Pool, is_unknown_script},
    schema::{
        codec::{self, Fields, NotificationContent, parse_branch, version},
        keys::{IndexKey, Keys, Partition, Score},
    },
};
use crate::{
    domain::{Branch, Job, JobId, NextBranch, Timestamp},
    store::new_branch_id,
};

/// A script, and the hash that names it in Redis.
pub struct ScriptSource {
    text: &'static str,
    hash: String,
}

impl ScriptSource {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }
}

static REPLACE: LazyLock<ScriptSource> = LazyLock::new(|| {
    ScriptSource::new(concat!(include_str!("announce.lua"), include_str!("replace.lua"), "return replace(0, 1)\n"))
});
static REPLACE_GROUP: LazyLock<ScriptSource> = LazyLock::new(|| {
    ScriptSource::new(concat!("local announce\n", include_str!("replace.lua"), include_str!("group.lua")))
});
static DECIDE: LazyLock<ScriptSource> = LazyLock::new(|| {
    ScriptSource::new(concat!(
        include_str!("announce.lua"),
        include_str!("decide.lua"),
        include_str!("replace.lua"),
        "return replace(0, 1)\n"
    ))
});
/// The script of a beat, which [`Prober`](super::probe::Prober) sends.
pub static BEAT_SCRIPT: LazyLock<ScriptSource> = LazyLock::new(|| ScriptSource::new(include_str!("beat.lua")));

/// The replacement of one record.
pub struct Write<'a> {
    /// Id of the record.
    pub id: &'a JobId,
    /// The version that must be stored now; `None`: there must be none.
    pub previous: Option<&'a Job>,
    /// The version to store; `None`: the record is removed.
    pub next: Option<&'a Job>,
    /// Id of the replica that commits; `None`: the commit is not announced.
    pub by: Option<&'a str>,
    /// Sorted sets from which the id is removed, besides those that follow from the versions.
    pub leaving: &'a [IndexKey<'a>],
    /// The part of the record that is written.
    pub extent: Extent,
    /// The lineage of the partition's data, as far as this replica knows.
    pub lineage: u64,
}

/// The fields that a write sets and deletes, and what happens to the others.
pub struct FieldChanges {
    mode: Mode,
    fields: Fields,
}

impl FieldChanges {
    /// Returns the size of the values in bytes.
    pub fn bytes(&self) -> usize {
        self.fields.set.iter().map(|(_, value)| value.len()).sum()
    }
}

/// The part of a record that a write touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The fields that differ from the version before.
    Part,
    /// All fields.
    Whole,
    /// Only the time of the worker's last report.
    Heard,
}

/// The conditions of a decision by time about an active job.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The time from which `wait` is counted; absent: the worker's last report.
    pub since: Option<Timestamp>,
    /// Minimum time since then.
    pub wait: Duration,
    /// Maximum time for which replicas may be cut off with reports that they acknowledged; zero for a decision that the
    /// next report reverts.
    pub bound: Duration,
    /// Maximum age of the last beat of a serving replica.
    pub silence: Duration,
    /// Moves the deadline to the time of the next try, if the decision is too early.
    pub postpones: bool,
}

/// The outcome of a write.
pub enum Outcome {
    /// Stored; the record has these times and this branch now.
    Done(StoredValues),
    /// Not stored: it is too early for the decision.
    Deferred,
    /// Not stored: the record is of version 0.1, and must be written as a whole.
    Legacy,
    /// Not stored: another version is there, with the fields [`READ_FULL`](super::schema::codec::READ_FULL).
    Other(Value),
}

/// The values that the script adds to a version: times on the clock of Redis, and the branch of the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoredValues {
    /// Time of the worker's report.
    pub heard: Option<Timestamp>,
    /// Time at which the id was taken.
    pub since: Option<Timestamp>,
    /// Time at which the end of the job was stored.
    pub durable: Option<Timestamp>,
    /// The branch.
    pub branch: Option<Branch>,
}

impl StoredValues {
    fn parse(text: &str) -> Self {
        let mut parts = text.splitn(4, ' ');
        let mut time = || parts.next().and_then(|time| time.parse().ok()).map(Timestamp::from_micros);
        let (heard, since, durable) = (time(), time(), time());
        Self { heard, since, durable, branch: parts.next().and_then(parse_branch) }
    }
}

impl From<Value> for Outcome {
    fn from(answer: Value) -> Self {
        match answer {
            Value::BulkString(text) => Self::Done(StoredValues::parse(&String::from_utf8_lossy(&text))),
            Value::SimpleString(word) if word == "DEFERRED" => Self::Deferred,
            Value::SimpleString(_) => Self::Legacy,
            other => Self::Other(other),
        }
    }
}

/// Executes several writes in one call. Returns the answer to each.
pub async fn run_group(writes: &[Encoded], pool: &Pool) -> Result<Vec<Value>, Fault> {
    match writes {
        [only] => Ok(vec![run(pool, &REPLACE, |command| only.add_to(command)).await?]),
        _ => run(pool, &REPLACE_GROUP, |command| Encoded::add_all(writes, command)).await,
    }
}

/// Runs a script; `add` adds its arguments.
pub async fn run<T: redis::FromRedisValue>(
    pool: &Pool,
    source: &ScriptSource,
    add: impl Fn(&mut Cmd),
) -> Result<T, Fault> {
    let command = |name: &str, script: &str| {
        let mut command = cmd(name);
        command.arg(script);
        add(&mut command);
        command
    };
    match pool.query(&command("EVALSHA", &source.hash)).await {
        Err(Fault::Refused(error)) if is_unknown_script(&error) => pool.query(&command("EVAL", source.text)).await,
        answer => answer,
    }
}

impl<'a> Write<'a> {
    /// Returns a write that removes the record, if `previous` is there, and the id from the indexes `leaving`.
    pub const fn removal(id: &'a JobId, previous: Option<&'a Job>, leaving: &'a [IndexKey<'a>]) -> Self {
        Self { id, previous, next: None, by: None, leaving, extent: Extent::Part, lineage: 0 }
    }

    /// Executes the write; with `terms`, only if the passing of time allows it.
    pub async fn run(&self, terms: Option<&Terms>, pool: &Pool, keys: &Keys) -> Result<Outcome, Fault> {
        let fields = self.fields().await;
        self.run_with(&fields, terms, pool, keys).await
    }

    /// Executes the write, which changes `fields`; with `terms`, only if the passing of time allows it.
    pub async fn run_with(
        &self,
        fields: &FieldChanges,
        terms: Option<&Terms>,
        pool: &Pool,
        keys: &Keys,
    ) -> Result<Outcome, Fault> {
        let source = if terms.is_some() { &DECIDE } else { &REPLACE };
        let answer: Value = run(pool, source, |command| self.add_to(command, keys, terms, fields)).await?;
        Ok(answer.into())
    }

    /// Returns the keys and arguments of the write, which changes `fields`.
    pub fn encode(&self, fields: &FieldChanges, keys: &Keys) -> Encoded {
        let mut encoded = Encoded::default();
        self.add_to(&mut encoded, keys, None, fields);
        encoded
    }

    /// Returns the command that executes the write, if Redis has the script.
    pub async fn command(&self, keys: &Keys) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&REPLACE.hash);
        self.add_to(&mut command, keys, None, &self.fields().await);
        command
    }

    fn add_to(&self, to: &mut impl Arguments, keys: &Keys, terms: Option<&Terms>, fields: &FieldChanges) {
        let partition = Partition::of(self.id);
        let moves = self.moves();
        to.begin(2 + moves.len() + if terms.is_some() { 2 } else { 0 });
        to.add_parts(&keys.parts_of_job(self.id));
        to.add(keys.commits(partition));
        for (key, _) in &moves {
            to.add_parts(&keys.parts_of_index(partition, *key));
        }
        if terms.is_some() {
            to.add(keys.index(partition, IndexKey::Lease));
            to.add(keys.beat(partition));
        }
        to.add(keys.changes(partition));
        let options = ReplacementOptions {
            notification: self.next.zip(self.by).map(|(job, by)| NotificationContent::of(job).encode(partition, by)),
            heard: self.heard(),
            since: self.since(),
            durable_time: self.durable_time(),
            branch: self.branch(),
        };
        self.add_replacement(to, &options, &moves, fields);
        if let Some(terms) = terms {
            for time in [terms.wait, terms.bound, terms.silence] {
                to.add_number(micros(time));
            }
            to.add(text(terms.since));
            to.add(if terms.postpones { self.id.as_str() } else { "" });
        }
    }

    /// Adds the arguments of replace.lua.
    fn add_replacement(
        &self,
        to: &mut impl Arguments,
        options: &ReplacementOptions,
        moves: &[(IndexKey<'_>, Option<Score>)],
        FieldChanges { mode, fields }: &FieldChanges,
    ) {
        to.add(options.head(*mode, moves.len(), fields.deleted.len(), fields.set.len()));
        to.add(self.previous.map(|job| version(job.version)).unwrap_or_default());
        options.add_to(to);
        if !moves.is_empty() {
            to.add(self.id.as_str());
        }
        for (_, score) in moves {
            match score {
                Some(Score::At(time)) => to.add_number(time.as_micros()),
                Some(Score::AfterHeard(after)) => to.add(self.after_heard(*after)),
                None => to.add(""),
            }
        }
        for field in &fields.deleted {
            to.add(field);
        }
        for (field, value) in &fields.set {
            to.add(field);
            to.add(value);
        }
    }

    /// Returns the fields to write.
    pub async fn fields(&self) -> FieldChanges {
        let whole = self.extent == Extent::Whole;
        match (self.next, self.extent) {
            (None, _) => FieldChanges { mode: Mode::Removed, fields: Fields::default() },
            (Some(_), Extent::Heard) => FieldChanges { mode: Mode::Heard, fields: Fields::default() },
            (Some(job), _) if whole || self.is_another_incarnation() => {
                FieldChanges { mode: Mode::Whole, fields: Fields::of(job, self.previous, true).await }
            }
            (Some(job), _) => FieldChanges { mode: Mode::Part, fields: Fields::of(job, self.previous, false).await },
        }
    }

    fn is_another_incarnation(&self) -> bool {
        let incarnation = |job: &Job| job.version.incarnation_id;
        self.previous.map(incarnation) != self.next.map(incarnation)
    }

    /// Returns the sorted sets that change, each with the new score, or `None` if the id is removed.
    fn moves(&self) -> Vec<(IndexKey<'_>, Option<Score>)> {
        if self.extent == Extent::Heard {
            let places = self.next.into_iter().flat_map(IndexKey::of);
            return places.filter(|(key, _)| *key == IndexKey::Lease).map(|(key, score)| (key, Some(score))).collect();
        }
        let before = || self.previous.into_iter().flat_map(IndexKey::of);
        let after = || self.next.into_iter().flat_map(IndexKey::of);
        let is_heard = self.is_heard();
        let is_relative = |(_, score): (IndexKey<'_>, Score)| matches!(score, Score::AfterHeard(_));
        if self.leaving.is_empty() && before().eq(after()) && !(is_heard && after().any(is_relative)) {
            return Vec::new();
        }
        let (before, after): (Vec<_>, Vec<_>) = (before().collect(), after().collect());
        let left = before.iter().filter(|(key, _)| !after.iter().any(|(kept, _)| kept == key));
        let left = self.leaving.iter().chain(left.map(|(key, _)| key)).map(|key| (*key, None));
        let stays = |entry: &(IndexKey<'_>, Score)| before.contains(entry) && !(is_heard && is_relative(*entry));
        let moved = after.iter().filter(|entry| !stays(entry)).map(|(key, score)| (*key, Some(*score)));
        left.chain(moved).collect()
    }

    /// Returns whether this version has a report, or is of an incarnation, that was not there before.
    fn is_heard(&self) -> bool {
        let report = |job: &Job| (job.version.incarnation_id, job.report_time);
        self.extent == Extent::Heard || self.previous.map(report) != self.next.map(report)
    }

    fn heard(&self) -> Time {
        match self.next {
            Some(_) if self.is_heard() => Time::Now,
            Some(job) if self.extent == Extent::Whole => job.heard.into(),
            _ => Time::Kept,
        }
    }

    /// Returns the score of a deadline that is `after` the worker's last report.
    fn after_heard(&self, after: Duration) -> String {
        match self.next.and_then(|job| job.heard) {
            Some(heard) if !self.is_heard() => (heard + after).as_micros().to_string(),
            _ => format!("+{}", after.as_micros()),
        }
    }

    fn since(&self) -> Time {
        match (self.next, self.previous) {
            (Some(job), _) if job.since.is_some() => {
                let stays = !self.is_another_incarnation() && self.extent != Extent::Whole;
                if stays && self.previous.and_then(|there| there.since) == job.since {
                    Time::Kept
                } else {
                    job.since.into()
                }
            }
            (Some(_), _) if self.extent == Extent::Heard => Time::Kept,
            (Some(_), Some(there)) if there.since.is_some() && !self.is_another_incarnation() => Time::Kept,
            (Some(_), _) => Time::Now,
            (None, _) => Time::Kept,
        }
    }

    /// Returns the branch of the record after the write, as far as it is given.
    fn branch(&self) -> Option<GivenBranch> {
        let job = self.next.filter(|_| self.extent != Extent::Heard)?;
        Some(match NextBranch::of(job, self.previous, self.lineage, new_branch_id()) {
            NextBranch::Continued(branch) => GivenBranch::Continued(codec::branch(branch)),
            NextBranch::Given(branch) => GivenBranch::Begun(codec::branch(branch)),
        })
    }

    fn durable_time(&self) -> Time {
        let ended = |job: &&Job| job.state.is_terminal() && job.removal.is_none();
        let Some(job) = self.next.filter(ended).filter(|_| self.extent != Extent::Heard) else { return Time::Kept };
        let before = self.previous.filter(|_| !self.is_another_incarnation()).and_then(|there| there.durable_time);
        job.durable_time.or(before).map_or(Time::Now, Time::At)
    }
}

/// Returns a duration in microseconds, as scripts take it.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn text(time: Option<Timestamp>) -> String {
    time.map(|time| time.as_micros().to_string()).unwrap_or_default()
}
