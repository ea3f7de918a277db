//! Writes of versions, one or many at once.

use std::{mem::forget, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Arg, Cmd, Value};

use super::{
    client::Client,
    connection::{Answer, Fault, is_unknown_script},
    errors::{corrupt, error_of},
    feed::Feed,
    groups::Groups,
    monitor::Monitor,
    probe::{BEAT_INTERVAL, SILENCE},
    read::by_partition,
    schema::{
        codec::{decode, stored},
        keys::Partition,
    },
    script::{Extent, Outcome, StoredValues, Terms, Write},
};
use crate::{
    domain::{Deadline, Job, JobId},
    store::{Decided, Decision, Record, Replaced, Replacement, StoreError},
};

/// Writes records.
pub struct Writer {
    client: Arc<Client>,
    feed: Arc<Feed>,
    monitor: Arc<Monitor>,
    groups: Arc<Groups>,
    /// Maximum time for which a replica may be cut off with reports that it acknowledged.
    bound: Duration,
}

impl Writer {
    /// Creates a writer that announces commits to `feed` and takes the lineage of the data from `monitor`. Decisions by
    /// time wait for replicas that are cut off for up to `bound`.
    pub fn new(client: Arc<Client>, feed: Arc<Feed>, monitor: Arc<Monitor>, bound: Duration) -> Self {
        Self { groups: Arc::new(Groups::new(client.clone())), client, feed, monitor, bound }
    }

    /// Implements [`JobStore::replace`](crate::store::JobStore::replace).
    pub async fn write(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.write_extent(job, previous, Extent::Part).await
    }

    async fn write_extent(
        &self,
        job: Arc<Job>,
        previous: Option<&Job>,
        extent: Extent,
    ) -> Result<Replaced, StoreError> {
        let write = Write { extent, ..self.write_of(&job, previous) };
        let outcome = self.carry_out(write, None).await?;
        self.replaced(job, previous, outcome).await
    }

    /// Implements [`JobStore::decide`](crate::store::JobStore::decide).
    pub async fn write_decision(
        &self,
        job: Arc<Job>,
        previous: &Job,
        decision: Decision,
    ) -> Result<Decided, StoreError> {
        let Deadline { since, wait, .. } = decision.deadline;
        let (wait, bound) = if decision.is_revertible {
            (wait, Duration::ZERO)
        } else {
            (wait.max(SILENCE + BEAT_INTERVAL * 2), self.bound)
        };
        let terms = Terms { since, wait, bound, silence: SILENCE, postpones: decision.is_due };
        let outcome = self.carry_out(self.write_of(&job, Some(previous)), Some(&terms)).await?;
        if let Outcome::Deferred = outcome {
            return Ok(Decided::Deferred);
        }
        Ok(match self.replaced(job.clone(), Some(previous), outcome).await? {
            Replaced::Stored(stored) => Decided::Stored(stored),
            Replaced::Conflict(_) => Decided::Conflict,
        })
    }

    /// Executes a write. If the record is of version 0.1, writes the whole record instead. If no answer arrives, the
    /// job is read again.
    async fn carry_out(&self, write: Write<'_>, terms: Option<&Terms>) -> Result<Outcome, StoreError> {
        let id = write.id;
        let unanswered = Unanswered { feed: &self.feed, id };
        let outcome = match terms {
            Some(terms) => write.run(Some(terms), self.client.calls(), self.client.keys()).await,
            None => self.groups.execute(&write).await,
        };
        let mut outcome = outcome.map_err(|fault| error_of(fault, id))?;
        if let Outcome::Legacy = outcome {
            let whole = Write { extent: Extent::Whole, ..write };
            outcome =
                whole.run(terms, self.client.calls(), self.client.keys()).await.map_err(|fault| error_of(fault, id))?;
        }
        forget(unanswered);
        Ok(outcome)
    }

    /// Implements [`JobStore::delete`](crate::store::JobStore::delete).
    pub async fn remove(&self, job: &Job) -> Result<(), StoreError> {
        let removal = Write::removal(&job.id, Some(job), &[]);
        let removed = removal.run(None, self.client.calls(), self.client.keys()).await;
        removed.map(drop).map_err(|fault| error_of(fault, &job.id))
    }

    /// Implements [`PrimaryStore::renew`](crate::store::PrimaryStore::renew).
    pub async fn write_heard(&self, job: &Job) -> Result<(), Fault> {
        let heard = Write { by: None, extent: Extent::Heard, ..self.write_of(job, Some(job)) };
        if let Outcome::Legacy = heard.run(None, self.client.bulk(), self.client.keys()).await? {
            let whole = Write { extent: Extent::Whole, ..self.write_of(job, Some(job)) };
            whole.run(None, self.client.bulk(), self.client.keys()).await?;
            heard.run(None, self.client.bulk(), self.client.keys()).await?;
        }
        Ok(())
    }

    /// Implements [`PrimaryStore::replace_many`](crate::store::PrimaryStore::replace_many).
    pub async fn write_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        let mut next = None;
        while outcomes.len() < writes.len() {
            let remaining = &writes[outcomes.len()..];
            let commands = self.next_commands(remaining, &mut next).await;
            outcomes.extend(self.write_part(remaining, commands).await);
            // The remaining writes would wait for the same silent Redis.
            if outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::Unavailable))) {
                outcomes.resize_with(writes.len(), || Err(StoreError::Unavailable));
            }
        }
        outcomes
    }

    /// Returns the commands of the first of `writes`, as many as fit into a batch. `next` passes the command of the
    /// first write that did not fit from one call to the next.
    async fn next_commands(&self, writes: &[Replacement], next: &mut Option<Cmd>) -> Vec<Cmd> {
        let (mut commands, mut size, most) = (Vec::new(), 0, self.client.batch_size().get());
        for write in writes {
            let command = match next.take() {
                Some(command) => command,
                None => self.write_of(&write.job, write.previous.as_deref()).command(self.client.keys()).await,
            };
            if size > 0 && size + length(&command) > most {
                *next = Some(command);
                break;
            }
            size += length(&command);
            commands.push(command);
        }
        commands
    }

    /// Executes the `commands` of the first of `writes` in one batch, and returns their outcomes.
    async fn write_part(&self, writes: &[Replacement], commands: Vec<Cmd>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = vec![Err(StoreError::Unavailable); commands.len()];
        let parts = by_partition(writes.iter().map(|write| &write.job.id).zip(commands));
        let answers = join_all(parts.iter().map(|(_, pipeline)| self.client.bulk().query_all(pipeline))).await;
        for ((positions, _), answers) in parts.iter().zip(answers) {
            self.client.batch_size().learn(&answers);
            let mut answers = answers.map(Vec::into_iter);
            for position in positions {
                let answer = answers.as_mut().map_err(|fault| fault.clone());
                let answer = answer.map(|answers| answers.next().unwrap_or(Ok(Value::Nil)));
                outcomes[*position] = self.answered(&writes[*position], answer).await;
            }
        }
        outcomes
    }

    /// Returns the outcome of one of many writes. A write that Redis could not execute in the batch is sent again
    /// alone.
    async fn answered(
        &self,
        Replacement { job, previous }: &Replacement,
        answer: Result<Answer, Fault>,
    ) -> Result<Replaced, StoreError> {
        let (job, previous) = (job.clone(), previous.as_deref());
        match answer {
            Ok(Ok(answer)) => match Outcome::from(answer) {
                Outcome::Legacy => self.write_extent(job, previous, Extent::Whole).await,
                outcome => self.replaced(job, previous, outcome).await,
            },
            Ok(Err(error)) if is_unknown_script(&error) => self.write(job, previous).await,
            Ok(Err(error)) => Err(error_of(Fault::Refused(error), &job.id)),
            Err(fault) => {
                self.feed.doubt(&job.id);
                Err(fault.into())
            }
        }
    }

    fn write_of<'a>(&'a self, job: &'a Job, previous: Option<&'a Job>) -> Write<'a> {
        Write {
            id: &job.id,
            previous,
            next: Some(job),
            by: Some(self.client.process()),
            leaving: &[],
            extent: Extent::Part,
            lineage: self.monitor.history(Partition::of(&job.id).index()).lineage,
        }
    }

    /// Converts the outcome of replacing `previous` by `job`. Announces the version that was stored.
    async fn replaced(
        &self,
        mut job: Arc<Job>,
        previous: Option<&Job>,
        outcome: Outcome,
    ) -> Result<Replaced, StoreError> {
        let fields = match outcome {
            Outcome::Done(written) => {
                add_written(Arc::make_mut(&mut job), previous, written);
                let stored = stored(job);
                self.feed.announce(stored.clone(), previous);
                return Ok(Replaced::Stored(stored));
            }
            Outcome::Other(fields) => fields,
            // Callers have handled a deferred decision, and a write of the whole record never ends with `Legacy`.
            Outcome::Deferred | Outcome::Legacy => return Err(StoreError::Unavailable),
        };
        match decode(&job.id, fields).await {
            Record::Missing => Ok(Replaced::Conflict(None)),
            Record::Found(there) if there.job.version == job.version => {
                self.feed.announce(there.clone(), previous);
                Ok(Replaced::Stored(there))
            }
            // The script found a difference, and the decoded versions are equal: the text of the version is damaged.
            Record::Found(there) if previous.is_some_and(|previous| previous.version == there.job.version) => {
                Err(corrupt(&job.id))
            }
            Record::Found(there) => Ok(Replaced::Conflict(Some(there))),
            Record::Corrupt => Err(corrupt(&job.id)),
        }
    }
}

/// Sets the times and the branch that the script has written, or left as they were in `previous`.
fn add_written(job: &mut Job, previous: Option<&Job>, written: StoredValues) {
    let StoredValues { heard, since, durable, branch } = written;
    let before = previous.filter(|previous| previous.version.incarnation_id == job.version.incarnation_id);
    job.heard = heard.or(job.heard).or(before.and_then(|before| before.heard));
    job.since = since.or(job.since).or(before.and_then(|before| before.since));
    job.durable_time = durable;
    // Versions of one branch share it.
    let known = job.branch.take().or_else(|| before.and_then(|before| before.branch.clone()));
    job.branch = branch.map(|branch| known.filter(|known| **known == branch).unwrap_or_else(|| branch.into()));
    debug_assert!(job.since.is_some(), "a stored version has the time at which its id was taken");
}

/// Returns the approximate size of a command, in bytes.
fn length(command: &Cmd) -> usize {
    command.args_iter().map(|arg| if let Arg::Simple(bytes) = arg { bytes.len() } else { 0 }).sum()
}

/// A guard of a write that may be executed although its caller receives no answer or was cancelled. When dropped, it
/// causes the job to be read again.
struct Unanswered<'a> {
    feed: &'a Feed,
    id: &'a JobId,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.feed.doubt(self.id);
    }
}
