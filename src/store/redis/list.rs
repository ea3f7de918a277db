//! Lists and counts, read from the indexes alone.
//!
//! A page is merged from all partitions, each read a little ahead.

use std::collections::VecDeque;

use futures_util::future::{join_all, try_join_all};
use redis::{Pipeline, Value, pipe};

use super::{
    RedisStore,
    codec::{READ, Record, decode},
    keys::{Partition, Place},
    pool::{Answer, Fault, read},
};
use crate::{
    domain::{Cursor, Filter, Job, JobId, ListQuery, State, Timestamp},
    store::Page,
};

/// How many records a page may look at beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// How many records are read at a time.
const BATCH: usize = 100;

/// How large the records that a page looks at may be together, in bytes. A page that comes there ends short.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The part of a list that one partition holds.
struct Run {
    partition: Partition,
    /// Read already, the newest first.
    ahead: VecDeque<Cursor>,
    /// All that is newer was read, and this too.
    after: Option<Cursor>,
    /// No older than this.
    oldest: Option<Timestamp>,
    chunk: usize,
    exhausted: bool,
}

impl RedisStore {
    /// See [`JobStore::list`](crate::store::JobStore::list).
    pub(super) async fn page(&self, query: &ListQuery) -> Result<Page, Fault> {
        let filter = &query.filter;
        let (places, total) = self.choose(filter, query.now).await?;
        let newest = filter.created_before.map(|time| Cursor { create_time: time, id: JobId::lower_bound() });
        let after = [query.after.clone(), newest].into_iter().flatten().min();
        let chunk = query.limit * 2 / Partition::all().count() + 4;
        let mut runs: Vec<_> = Partition::all()
            .map(|partition| Run {
                partition,
                ahead: VecDeque::new(),
                after: after.clone(),
                oldest: filter.created_after,
                chunk,
                exhausted: false,
            })
            .collect();

        let mut page = Page { total, ..Page::default() };
        let (mut looked_at, mut bytes) = (0, 0);
        while page.jobs.len() < query.limit {
            let wanted = (query.limit - page.jobs.len()).clamp(1, BATCH);
            let ids = self.take(&mut runs, &places, wanted).await?;
            let Some(last) = ids.last().cloned() else {
                page.next = None;
                break;
            };
            looked_at += ids.len();
            for (job, size) in self.read_many(ids.iter().map(|place| &place.id)).await? {
                bytes += size;
                if filter.matches(&job) && job.is_visible(query.now) {
                    page.jobs.push(super::stored(job));
                }
            }
            page.next = Some(last);
            if looked_at >= query.limit + SCAN || bytes >= MAX_BYTES {
                break;
            }
        }
        if page.next.is_some() && self.take(&mut runs, &places, 1).await?.is_empty() {
            page.next = None;
        }
        Ok(page)
    }

    /// How many jobs are in each state.
    pub(super) async fn counts(&self) -> Result<[u64; State::ALL.len()], Fault> {
        let of = |partition| async move {
            let mut cards = pipe();
            for state in State::ALL {
                cards.zcard(self.keys.place(partition, Place::State(state)));
            }
            numbers(self.reads.query_all(&cards).await?)
        };
        let mut counts = [0; State::ALL.len()];
        for partition in try_join_all(Partition::all().map(of)).await? {
            counts.iter_mut().zip(partition).for_each(|(sum, count)| *sum += count);
        }
        Ok(counts)
    }

    /// The jobs with these ids and the sizes of their records, in the same order, without those that are missing or
    /// can't be read.
    pub(super) async fn read_many(&self, ids: impl Iterator<Item = &JobId>) -> Result<Vec<(Job, usize)>, Fault> {
        let ids: Vec<_> = ids.collect();
        let mut by_partition = vec![Vec::new(); Partition::all().count()];
        for (at, id) in ids.iter().enumerate() {
            by_partition[Partition::of(id).index()].push((at, *id));
        }
        let parts = by_partition.into_iter().filter(|part| !part.is_empty());
        let parts = try_join_all(parts.map(|part| self.read_part(part))).await?;
        let mut found: Vec<_> = parts
            .into_iter()
            .flatten()
            .filter_map(|((at, id), fields)| {
                let size = fields.as_ref().map_or(0, size);
                match fields.map_or(Record::Corrupt, |fields| decode(id, fields)) {
                    Record::Found(job) => Some((at, (*job, size))),
                    Record::Missing => None,
                    Record::Corrupt => {
                        super::corrupt(id);
                        None
                    }
                }
            })
            .collect();
        found.sort_unstable_by_key(|(at, _)| *at);
        Ok(found.into_iter().map(|(_, job)| job).collect())
    }

    /// The records of some ids of one partition.
    async fn read_part<'a>(&self, part: Vec<(usize, &'a JobId)>) -> Result<Vec<((usize, &'a JobId), Answer)>, Fault> {
        let mut commands = Pipeline::with_capacity(part.len());
        for (_, id) in &part {
            commands.cmd("HMGET").arg(self.keys.job(id)).arg(&READ);
        }
        let answers = self.reads.query_all(&commands).await?;
        Ok(part.into_iter().zip(answers).collect())
    }

    /// The smallest sets that together hold all that `filter` may select, and how many that are if it is known.
    async fn choose<'a>(&self, filter: &'a Filter, now: Timestamp) -> Result<(Vec<Place<'a>>, Option<u64>), Fault> {
        let mut choices: Vec<Vec<Place<'a>>> = Vec::new();
        if !filter.states.is_empty() {
            choices.push(filter.states.iter().copied().map(Place::State).collect());
        }
        if !filter.owner.is_empty() {
            choices.push(vec![Place::Owner(&filter.owner)]);
        }
        if !filter.kind.is_empty() {
            choices.push(vec![Place::Kind(&filter.kind)]);
        }
        let indexed = filter.labels.is_empty() && filter.created_after.is_none() && filter.created_before.is_none();
        let exact = indexed && choices.len() <= 1;
        if choices.is_empty() {
            choices.push(vec![Place::Created]);
        }
        let of = |partition| {
            let mut commands = pipe();
            // While something is due, the indexes may still hold what the page leaves out.
            commands.zcount(self.keys.place(partition, Place::Expire), "-inf", now.as_micros());
            for place in choices.iter().flatten() {
                commands.zcard(self.keys.place(partition, *place));
            }
            async move { numbers(self.reads.query_all(&commands).await?) }
        };
        let mut sums = vec![0; 1 + choices.iter().map(Vec::len).sum::<usize>()];
        for partition in try_join_all(Partition::all().map(of)).await? {
            sums.iter_mut().zip(partition).for_each(|(sum, count)| *sum += count);
        }
        let mut sums = sums.into_iter();
        let due = sums.next().unwrap_or_default();
        let sized = choices.into_iter().map(|places| (sums.by_ref().take(places.len()).sum::<u64>(), places));
        let (size, places) = sized.min_by_key(|(size, _)| *size).unwrap_or_default();
        Ok((places, Some(size).filter(|_| exact && due == 0)))
    }

    /// Takes up to `wanted` places off the runs, the newest first.
    async fn take(&self, runs: &mut [Run], places: &[Place<'_>], wanted: usize) -> Result<Vec<Cursor>, Fault> {
        let mut taken = Vec::with_capacity(wanted);
        while taken.len() < wanted {
            let empty = runs.iter_mut().filter(|run| run.ahead.is_empty() && !run.exhausted);
            let refills = join_all(empty.map(|run| self.refill(run, places))).await;
            if !refills.is_empty() {
                refills.into_iter().collect::<Result<(), _>>()?;
                continue;
            }
            let newest = runs.iter_mut().filter(|run| !run.ahead.is_empty()).max_by(|a, b| a.ahead[0].cmp(&b.ahead[0]));
            let Some(run) = newest else { break };
            taken.extend(run.ahead.pop_front());
        }
        Ok(taken)
    }

    /// Reads ahead in one partition.
    async fn refill(&self, run: &mut Run, places: &[Place<'_>]) -> Result<(), Fault> {
        let newest = run.after.as_ref().map_or("+inf".to_owned(), |place| place.create_time.as_micros().to_string());
        let oldest = run.oldest.map_or("-inf".to_owned(), |time| time.as_micros().to_string());
        let mut commands = pipe();
        // States come in the order of a job's life: one that changes meanwhile is seen twice rather than missed.
        for place in places {
            let key = self.keys.place(run.partition, *place);
            commands.cmd("ZREVRANGEBYSCORE").arg(key).arg(&newest).arg(&oldest).arg("WITHSCORES");
            commands.arg("LIMIT").arg(0).arg(run.chunk);
        }
        let mut entries = Vec::new();
        let mut floor = None;
        let answers = self.reads.query_all(&commands).await?;
        run.exhausted = true;
        for answer in answers {
            let set = cursors(answer)?;
            if set.len() == run.chunk {
                // Below its last entry this set may have others.
                run.exhausted = false;
                floor = floor.max(set.last().cloned());
            }
            entries.extend(set);
        }
        entries.retain(|entry| floor.as_ref().is_none_or(|floor| entry >= floor));
        entries.retain(|entry| run.after.as_ref().is_none_or(|after| entry < after));
        entries.sort_unstable_by(|a, b| b.cmp(a));
        entries.dedup();
        match entries.last() {
            Some(last) => run.after = Some(last.clone()),
            // More jobs of one moment than were read: all of them lie before the place to go on from.
            None => run.chunk *= 2,
        }
        run.ahead.extend(entries);
        Ok(())
    }
}

/// The numbers that commands answered.
fn numbers(answers: Vec<Answer>) -> Result<Vec<u64>, Fault> {
    answers.into_iter().map(read).collect()
}

/// Places in a sorted set by time of creation. What is no id is passed over.
fn cursors(answer: Answer) -> Result<Vec<Cursor>, Fault> {
    let entries: Vec<(String, f64)> = read(answer)?;
    let place = |(id, score): (String, f64)| {
        let id = JobId::parse(&id)?;
        Some(Cursor { create_time: super::micros(score), id })
    };
    Ok(entries.into_iter().filter_map(place).collect())
}

/// How many bytes of data a record has.
fn size(fields: &Value) -> usize {
    match fields {
        Value::Array(fields) => fields.iter().map(size).sum(),
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    }
}
