//! What time has brought about, from the sorted sets.

use std::collections::{HashMap, HashSet};

use futures_util::future::try_join_all;
use redis::pipe;

use super::{
    RedisStore,
    keys::{Partition, Place},
    pool::{Answer, Fault, read},
};
use crate::{
    domain::{JobId, Timestamp},
    store::{DueBatch, DueRecord},
};

/// The sets that are sorted by a time that comes.
const SETS: [Place<'static>; 2] = [Place::Expire, Place::Lease];

impl RedisStore {
    /// See [`JobStore::due`](crate::store::JobStore::due).
    pub(super) async fn due_batch(&self, now: Timestamp, limit: usize) -> Result<DueBatch, Fault> {
        let mut due = Vec::new();
        let mut next = None;
        for (found, later) in try_join_all(Partition::all().map(|partition| self.due_in(partition, now, limit))).await?
        {
            due.extend(found);
            next = next.into_iter().chain(later).min();
        }
        due.sort_unstable();
        let mut seen = HashSet::new();
        due.retain(|(_, id)| seen.insert(id.clone()));
        if let Some((time, _)) = due.get(limit) {
            next = Some(*time);
            due.truncate(limit);
        }

        let jobs = self.read_many(due.iter().map(|(_, id)| id)).await?;
        let mut jobs: HashMap<_, _> = jobs.into_iter().map(|(job, _)| (job.id.clone(), job)).collect();
        let mut batch = DueBatch { records: Vec::new(), next };
        for (_, id) in due {
            let Some(job) = jobs.remove(&id) else {
                self.forget_places(&id).await?;
                continue;
            };
            // It may have changed since its place was read.
            if let Some((_, due)) = job.next_due().filter(|(time, _)| *time <= now) {
                batch.records.push(DueRecord { stored: super::stored(job), due });
            }
        }
        Ok(batch)
    }

    /// Up to `limit` places in one partition that are due, and the time of the next one.
    async fn due_in(
        &self,
        partition: Partition,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<(Timestamp, JobId)>, Option<Timestamp>), Fault> {
        let mut commands = pipe();
        for set in SETS {
            let key = self.keys.place(partition, set);
            let mut range = |from: &str, to: &str, limit: usize| {
                commands.cmd("ZRANGEBYSCORE").arg(&key).arg(from).arg(to).arg("WITHSCORES");
                commands.arg("LIMIT").arg(0).arg(limit);
            };
            let now = now.as_micros();
            range("-inf", &now.to_string(), limit);
            range(&format!("({now}"), "+inf", 1);
        }
        let answers: Vec<_> =
            self.reads.query_all(&commands).await?.into_iter().map(places).collect::<Result<_, _>>()?;
        let (due, later): (Vec<_>, Vec<_>) = answers.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let next = later.into_iter().flat_map(|(_, places)| places).map(|(time, _)| time).min();
        Ok((due.into_iter().flat_map(|(_, places)| places).collect(), next))
    }

    /// Takes out the places of a record that is not there or can't be read: nothing can be done about it.
    async fn forget_places(&self, id: &JobId) -> Result<(), Fault> {
        let mut commands = pipe();
        for set in SETS {
            commands.zrem(self.keys.place(Partition::of(id), set), id.as_str());
        }
        self.reads.query_all(&commands).await.map(|_| ())
    }
}

fn places(answer: Answer) -> Result<Vec<(Timestamp, JobId)>, Fault> {
    let entries: Vec<(String, f64)> = read(answer)?;
    Ok(entries.into_iter().filter_map(|(id, score)| Some((super::micros(score), JobId::parse(&id)?))).collect())
}
