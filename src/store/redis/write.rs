//! Storing versions, one or many at once.

use std::{mem::forget, sync::Arc};

use futures_util::future::join_all;
use redis::{Arg, Cmd, Pipeline, Value};

use super::{
    RedisStore,
    connection::Fault,
    corrupt,
    read::PART,
    schema::{
        codec::{decode, time},
        keys::{PARTITIONS, Partition},
    },
    script::{self, Outcome, Write},
    stored,
    subscriber::Feed,
};
use crate::{
    domain::{Job, JobId},
    store::{Record, Replaced, Replacement, StoreError},
};

impl RedisStore {
    /// See [`JobStore::replace`](crate::store::JobStore::replace).
    pub(super) async fn write(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let write = self.write_of(&job, previous);
        let unanswered = Unanswered { feed: &self.feed, id: &job.id };
        let outcome = write.run(&self.pool, &self.keys).await.map_err(|fault| Self::error(fault, &job.id))?;
        forget(unanswered);
        self.replaced(job, previous, outcome)
    }

    /// See [`JobStore::replace_many`](crate::store::JobStore::replace_many).
    pub(super) async fn write_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        while outcomes.len() < writes.len() {
            // Of each partition the places in this part and the commands.
            let mut parts = vec![(Vec::new(), Pipeline::new()); PARTITIONS];
            let mut size = 0;
            for (place, Replacement { job, previous }) in writes.iter().enumerate().skip(outcomes.len()) {
                let command = self.write_of(job, previous.as_deref()).command(&self.keys);
                size += length(&command);
                if size > PART && size > length(&command) {
                    break;
                }
                let (places, pipeline) = &mut parts[Partition::of(&job.id).index()];
                places.push(place);
                pipeline.add_command(command);
                outcomes.push(Err(StoreError::Unavailable));
            }
            parts.retain(|(places, _)| !places.is_empty());
            let answers = join_all(parts.iter().map(|(_, pipeline)| self.bulk.query_all(pipeline))).await;
            for ((places, _), answers) in parts.iter().zip(answers) {
                let mut answers = answers.map(Vec::into_iter);
                for place in places {
                    let answer = answers.as_mut().map_err(|fault| fault.clone());
                    let answer = answer.map(|answers| answers.next().unwrap_or(Ok(Value::Nil)));
                    let Replacement { job, previous } = &writes[*place];
                    outcomes[*place] = match answer {
                        Ok(Ok(answer)) => self.replaced(job.clone(), previous.as_deref(), Outcome::from(answer)),
                        Ok(Err(error)) if script::is_unknown(&error) => {
                            self.write(job.clone(), previous.as_deref()).await
                        }
                        Ok(Err(error)) => Err(Self::error(Fault::Refused(error), &job.id)),
                        Err(fault) => {
                            self.feed.doubt(&job.id);
                            Err(fault.into())
                        }
                    };
                }
            }
        }
        outcomes
    }

    fn write_of<'a>(&'a self, job: &'a Job, previous: Option<&'a Job>) -> Write<'a> {
        Write { id: &job.id, previous, next: Some(job), by: Some(&self.by), leaving: &[] }
    }

    /// What became of storing `job` in the place of `previous`. What was stored is announced.
    fn replaced(&self, mut job: Arc<Job>, previous: Option<&Job>, outcome: Outcome) -> Result<Replaced, StoreError> {
        let fields = match outcome {
            Outcome::Done(durable_time) => {
                let noted = Arc::make_mut(&mut job);
                noted.recorded = true;
                noted.durable_time = time(&durable_time);
                let before = previous.filter(|previous| previous.version.incarnation_id == job.version.incarnation_id);
                let stored = stored(job);
                self.announce(stored.clone(), before.map(|previous| previous.state));
                return Ok(Replaced::Stored(stored));
            }
            Outcome::Other(fields) => fields,
        };
        match decode(&job.id, fields) {
            Record::Missing => Ok(Replaced::Conflict(None)),
            Record::Found(there) if there.job.version == job.version => {
                self.announce(there.clone(), previous.map(|previous| previous.state));
                Ok(Replaced::Stored(there))
            }
            // What the script compares says something else than the job.
            Record::Found(there) if previous.is_some_and(|previous| previous.version == there.job.version) => {
                Err(corrupt(&job.id))
            }
            Record::Found(there) => Ok(Replaced::Conflict(Some(there))),
            Record::Corrupt => Err(corrupt(&job.id)),
        }
    }
}

/// How many bytes a command takes, about.
fn length(command: &Cmd) -> usize {
    command.args_iter().map(|arg| if let Arg::Simple(bytes) = arg { bytes.len() } else { 0 }).sum()
}

/// A write that may have been carried out without anybody hearing of it: its caller is gone, or got no answer. Dropped,
/// it has the job read again.
struct Unanswered<'a> {
    feed: &'a Feed,
    id: &'a JobId,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.feed.doubt(self.id);
    }
}
