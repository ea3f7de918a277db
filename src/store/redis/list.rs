//! Lists and counts, selected by the indexes.
//!
//! A page is merged from all partitions, each read a little ahead. Ids whose records are missing are removed from the
//! indexes when a list finds them.

use std::collections::VecDeque;

use futures_util::future::{join_all, try_join_all};
use redis::{cmd, pipe};

use super::{
    RedisStore,
    connection::{Fault, read},
    schema::keys::{IndexKey, PARTITIONS, Partition},
    script::Write,
};
use crate::{
    domain::{Cursor, Job, JobId, ListQuery, Owners, State, Timestamp},
    store::{Page, Record},
};

/// Maximum number of records that a page examines beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// Maximum number of records read at a time.
const BATCH: usize = 100;

/// Maximum number of times that a page may select more records than can be read together; then it is returned short.
const MAX_CUTS: usize = 4;

/// Script that returns the number of members of each of several sets.
const CARDS: &str =
    "local cards = {} for at, key in ipairs(KEYS) do cards[at] = redis.call('ZCARD', key) end return cards";

/// The part of a list that one partition holds.
struct Run {
    partition: Partition,
    /// Positions that were read ahead, newest first.
    ahead: VecDeque<Cursor>,
    /// Position up to which everything was read, inclusive.
    after: Option<Cursor>,
    /// Oldest time of creation to read.
    oldest: Option<Timestamp>,
    chunk: usize,
    exhausted: bool,
}

impl RedisStore {
    /// Implements [`JobStore::list`](crate::store::JobStore::list).
    pub(super) async fn page(&self, query: &ListQuery) -> Result<Page, Fault> {
        let filter = &query.filter;
        let (places, total) = self.choose(query).await?;
        let newest = filter.created_before.map(|time| Cursor { create_time: time, id: JobId::lower_bound() });
        let after = [query.after.clone(), newest].into_iter().flatten().min();
        let chunk = query.limit * 2 / PARTITIONS + 4;
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
        if places.is_empty() {
            return Ok(page);
        }
        let (mut looked_at, mut cuts) = (0, 0);
        while page.jobs.len() < query.limit && looked_at < query.limit + SCAN && cuts < MAX_CUTS {
            let wanted = (query.limit - page.jobs.len()).min(BATCH);
            let mut ahead = self.take(&mut runs, &places, wanted).await?;
            if ahead.is_empty() {
                page.next = None;
                break;
            }
            while !ahead.is_empty() && cuts < MAX_CUTS {
                let ids: Vec<_> = ahead.iter().map(|place| place.id.clone()).collect();
                let records = self.read_first(&ids, query.view).await?;
                self.leave_lists(&ids, &records, &places).await?;
                cuts += usize::from(records.len() < ids.len());
                looked_at += records.len();
                page.next = ahead.drain(..records.len()).next_back();
                let found = records.into_iter().filter_map(Record::found);
                let selects = |job: &Job| filter.matches(job) && job.is_visible(query.now);
                page.jobs.extend(found.filter(|stored| selects(&stored.job)));
            }
            if !ahead.is_empty() {
                return Ok(page);
            }
        }
        if page.next.is_some() && self.take(&mut runs, &places, 1).await?.is_empty() {
            page.next = None;
        }
        Ok(page)
    }

    /// Removes ids from the indexes whose records are missing: evicted, or deleted by hand.
    async fn leave_lists(&self, ids: &[JobId], records: &[Record], read: &[IndexKey<'_>]) -> Result<(), Fault> {
        let missing: Vec<_> = ids.iter().zip(records).filter(|(_, record)| matches!(record, Record::Missing)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let states = State::ALL.map(IndexKey::State);
        let others = [IndexKey::Created, IndexKey::Expire, IndexKey::Lease];
        let mut leaving: Vec<_> = states.into_iter().chain(others).collect();
        leaving.extend(read.iter().filter(|key| matches!(key, IndexKey::Owner(_) | IndexKey::Kind(_))));
        for (id, _) in missing {
            Write::removal(id, None, &leaving).run(None, &self.bulk, &self.keys).await?;
            self.listener.vanished(id);
        }
        Ok(())
    }

    /// Returns the number of jobs in each state.
    pub(super) async fn counts(&self) -> Result<[u64; State::ALL.len()], Fault> {
        let cards = self.cards(&State::ALL.map(IndexKey::State)).await?;
        Ok(std::array::from_fn(|state| cards[state]))
    }

    /// Returns the number of jobs of an owner.
    pub(super) async fn count(&self, owner: &str) -> Result<u64, Fault> {
        Ok(self.cards(&[IndexKey::Owner(owner)]).await?[0])
    }

    /// Returns the number of members of each set, summed over all partitions; each partition is counted at one moment.
    async fn cards(&self, places: &[IndexKey<'_>]) -> Result<Vec<u64>, Fault> {
        let of = |partition| {
            let mut command = cmd("EVAL");
            command.arg(CARDS).arg(places.len());
            for place in places {
                command.arg(self.keys.index(partition, *place));
            }
            async move { self.bulk.query::<Vec<u64>>(&command).await }
        };
        let mut sums = vec![0; places.len()];
        for partition in try_join_all(Partition::all().map(of)).await? {
            sums.iter_mut().zip(partition).for_each(|(sum, count)| *sum += count);
        }
        Ok(sums)
    }

    /// Returns the smallest sets that together contain every job a query may select, and the exact total if it is
    /// known.
    async fn choose<'a>(&self, query: &'a ListQuery) -> Result<(Vec<IndexKey<'a>>, Option<u64>), Fault> {
        let ListQuery { filter, confined, now, .. } = query;
        let mut choices: Vec<Vec<IndexKey<'a>>> = Vec::new();
        if let Owners::Only(owners) = &filter.owners {
            choices.push(owners.iter().map(|owner| IndexKey::Owner(owner)).collect());
        }
        if !filter.states.is_empty() {
            choices.push(filter.states.iter().copied().map(IndexKey::State).collect());
        }
        if !filter.kind.is_empty() {
            choices.push(vec![IndexKey::Kind(&filter.kind)]);
        }
        let indexed = filter.labels.is_empty() && filter.created_after.is_none() && filter.created_before.is_none();
        let exact = indexed && choices.len() <= 1;
        if *confined {
            choices.truncate(1);
        }
        if choices.is_empty() {
            choices.push(vec![IndexKey::Created]);
        }
        let all: Vec<_> = choices.iter().flatten().copied().collect();
        let (sums, due) = tokio::try_join!(self.cards(&all), self.is_anything_due(*now))?;
        let mut sums = sums.into_iter();
        let sized = choices.into_iter().map(|places| (sums.by_ref().take(places.len()).sum::<u64>(), places));
        let (size, places) = sized.min_by_key(|(size, _)| *size).unwrap_or_default();
        Ok((places, Some(size).filter(|_| exact && !due)))
    }

    /// Returns whether the indexes may still contain expired jobs, which pages leave out.
    async fn is_anything_due(&self, now: Timestamp) -> Result<bool, Fault> {
        let of = |partition| async move {
            let mut command = cmd("ZCOUNT");
            command.arg(self.keys.index(partition, IndexKey::Expire)).arg("-inf").arg(now.as_micros());
            self.bulk.query::<u64>(&command).await
        };
        Ok(try_join_all(Partition::all().map(of)).await?.into_iter().any(|count| count > 0))
    }

    /// Takes up to `wanted` positions off the runs, newest first.
    async fn take(&self, runs: &mut [Run], places: &[IndexKey<'_>], wanted: usize) -> Result<Vec<Cursor>, Fault> {
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
    async fn refill(&self, run: &mut Run, places: &[IndexKey<'_>]) -> Result<(), Fault> {
        let newest = run.after.as_ref().map_or("+inf".to_owned(), |place| place.create_time.as_micros().to_string());
        let oldest = run.oldest.map_or("-inf".to_owned(), |time| time.as_micros().to_string());
        let mut commands = pipe();
        // States are read in the order in which a job passes through them: a job that changes meanwhile is seen twice
        // rather than missed.
        for place in places {
            let key = self.keys.index(run.partition, *place);
            commands.cmd("ZREVRANGEBYSCORE").arg(key).arg(&newest).arg(&oldest).arg("WITHSCORES");
            commands.arg("LIMIT").arg(0).arg(run.chunk);
        }
        let mut entries = Vec::new();
        let mut floor = None;
        let answers = self.bulk.query_all(&commands).await?;
        run.exhausted = true;
        for answer in answers {
            let set: Vec<(String, f64)> = read(answer)?;
            let is_full = set.len() == run.chunk;
            let set = cursors(set);
            if is_full {
                // This set may have more entries below its last one.
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
            // More jobs share one time of creation than were read, and all of them precede the position to continue
            // from.
            None => run.chunk *= 2,
        }
        run.ahead.extend(entries);
        Ok(())
    }
}

/// Converts entries of a sorted set by time of creation to positions. Members that are not ids are skipped.
fn cursors(entries: Vec<(String, f64)>) -> Vec<Cursor> {
    let place = |(id, score): (String, f64)| {
        let id = JobId::parse(&id)?;
        Some(Cursor { create_time: super::time_of(score), id })
    };
    entries.into_iter().filter_map(place).collect()
}
