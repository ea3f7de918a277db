//! Due records, selected by the sorted sets.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::pipe;

use super::{
    client::Client,
    connection::{Answer, Fault, read},
    monitor::Monitor,
    read::Reader,
    schema::keys::{IndexKey, Partition, time_of},
    script::Write,
};
use crate::{
    domain::{Due, Job, JobId, Timestamp, View},
    store::{DueBatch, DueRecord, Record},
};

/// Delay until a record that can't be read is tried again.
const POSTPONED: Duration = Duration::from_secs(3600);

/// Time for which a due record is left to the replica that it is assigned to, before the others handle it.
const HANDOVER: Duration = Duration::from_secs(3);

/// The sets that are sorted by due time.
const SETS: [IndexKey<'static>; 2] = [IndexKey::Expire, IndexKey::Lease];

/// Finds due records.
pub struct DueSets {
    client: Arc<Client>,
    reader: Arc<Reader>,
    monitor: Arc<Monitor>,
}

impl DueSets {
    /// Creates a finder of due records, which reads them with `reader` and takes this replica's share from `monitor`.
    pub const fn new(client: Arc<Client>, reader: Arc<Reader>, monitor: Arc<Monitor>) -> Self {
        Self { client, reader, monitor }
    }

    /// Implements [`JobStore::due`](crate::store::JobStore::due). Partitions that do not answer are left out.
    pub async fn due_batch(&self, now: Timestamp, limit: usize) -> Result<DueBatch, Fault> {
        let (ids, next) = self.due_ids(now, limit).await?;
        let mut batch = DueBatch { records: Vec::new(), next };
        for (id, record) in ids.iter().zip(self.reader.read_many(&ids, View::Full).await?) {
            match record {
                // The job may have changed since the sorted set was read.
                Record::Found(stored) => {
                    if let Some(due) = due_of(&stored.job, now) {
                        batch.records.push(DueRecord { stored, due });
                    }
                }
                Record::Missing => self.remove_from_indexes(id).await?,
                Record::Corrupt => self.postpone(id, now).await?,
            }
        }
        Ok(batch)
    }

    /// Returns up to `limit` due ids, the longest overdue first, and the time of the next one.
    async fn due_ids(&self, now: Timestamp, limit: usize) -> Result<(Vec<JobId>, Option<Timestamp>), Fault> {
        let mut due = Vec::new();
        let mut next = None;
        let mut failure = None;
        let asked = join_all(Partition::all().map(|partition| self.due_in(partition, now, limit))).await;
        let answered = asked.iter().any(Result::is_ok);
        for outcome in asked {
            match outcome {
                Ok((found, later)) => {
                    due.extend(found);
                    next = next.into_iter().chain(later).min();
                }
                Err(fault) => failure = Some(fault),
            }
        }
        if let Some(fault) = failure.filter(|_| !answered) {
            return Err(fault);
        }
        due.sort_unstable();
        let mut seen = HashSet::new();
        due.retain(|(_, id)| seen.insert(id.clone()));
        if let Some((time, _)) = due.get(limit) {
            next = Some(*time);
            due.truncate(limit);
        }
        Ok((due.into_iter().map(|(_, id)| id).collect(), next))
    }

    /// Returns up to `limit` entries of each due set of a partition, as far as this replica handles them, and the time
    /// of the next one.
    async fn due_in(
        &self,
        partition: Partition,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<(Timestamp, JobId)>, Option<Timestamp>), Fault> {
        let (time, share) = self.monitor.time_and_share(partition, now);
        let mut commands = pipe();
        for (set, now) in SETS.into_iter().zip([now, time]) {
            let key = self.client.keys().index(partition, set);
            let mut range = |from: &str, to: &str, limit: usize| {
                commands.cmd("ZRANGEBYSCORE").arg(&key).arg(from).arg(to).arg("WITHSCORES");
                commands.arg("LIMIT").arg(0).arg(limit);
            };
            let now = now.as_micros();
            range("-inf", &now.to_string(), limit);
            range(&format!("({now}"), "+inf", 1);
        }
        let answers: Vec<_> =
            self.client.bulk().query_all(&commands).await?.into_iter().map(places).collect::<Result<_, _>>()?;
        let (due, later): (Vec<_>, Vec<_>) = answers.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let mut next = later.into_iter().flat_map(|(_, places)| places).map(|(time, _)| time).min();
        let mut due: Vec<_> = due.into_iter().flat_map(|(_, places)| places).collect();
        // Other replicas handle their shares, unless they are late.
        due.retain(|(since, id)| {
            let is_ours = share.includes(id) || now.since(*since) > HANDOVER;
            if !is_ours {
                next = next.into_iter().chain([*since + HANDOVER]).min();
            }
            is_ours
        });
        Ok((due, next))
    }

    /// Removes an id from the due sets, if its record is still missing.
    async fn remove_from_indexes(&self, id: &JobId) -> Result<(), Fault> {
        Write::removal(id, None, &SETS).run(None, self.client.bulk(), self.client.keys()).await.map(drop)
    }

    /// Postpones a record that can't be read. Otherwise such records could fill each batch, and the others would not be
    /// handled.
    async fn postpone(&self, id: &JobId, now: Timestamp) -> Result<(), Fault> {
        let mut commands = pipe();
        for set in SETS {
            let key = self.client.keys().index(Partition::of(id), set);
            commands.cmd("ZADD").arg(key).arg("XX").arg((now + POSTPONED).as_micros()).arg(id.as_str());
        }
        self.client.bulk().query_all(&commands).await.map(|_| ())
    }
}

/// Returns the action that is due for a job that is in a due set.
fn due_of(job: &Job, now: Timestamp) -> Option<Due> {
    match job.deadline() {
        // The script that stores the decision checks whether it is time.
        Some(deadline) => Some(deadline.due),
        None => job.next_due().filter(|(time, _)| *time <= now).map(|(_, due)| due),
    }
}

fn places(answer: Answer) -> Result<Vec<(Timestamp, JobId)>, Fault> {
    let entries: Vec<(String, f64)> = read(answer)?;
    Ok(entries.into_iter().filter_map(|(id, score)| Some((time_of(score), JobId::parse(&id)?))).collect())
}
