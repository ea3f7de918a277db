//! Lists and counts, selected by the indexes.
//!
//! A page is merged from all partitions, each read a little ahead. Ids whose records are missing are removed from the
//! indexes when a list finds them.

use std::{collections::VecDeque, sync::Arc};

use futures_util::future::{join_all, try_join_all};
use redis::{Cmd, cmd};

use super::{
    client::Client,
    connection::Fault,
    read::Reader,
    schema::keys::{IndexKey, Keys, PARTITIONS, Partition, time_of},
    script::Write,
};
use crate::{
    domain::{Cursor, Job, JobId, ListQuery, Order, Owners, State, Timestamp},
    store::{Listener, Page, Presence, Record, Stored},
};

/// Maximum number of records that a page examines beyond those that it returns, if no index fits its filter.
const SCAN: usize = 2000;

/// Maximum number of records read at a time.
const BATCH: usize = 100;

/// Maximum number of reads of a page that are cut at the size of a batch. After that, the page is returned with fewer
/// jobs than requested.
const MAX_CUTS: usize = 4;

/// Maximum number of sets that an id leaves in one write, because a script takes a limited number of arguments.
const LEAVING_MAX: usize = 100;

/// Script that returns the number of members of each of several sets.
const CARDS: &str =
    "local cards = {} for at, key in ipairs(KEYS) do cards[at] = redis.call('ZCARD', key) end return cards";

/// Script that returns a range of each of several sets, all at one moment, so that a job whose state changes meanwhile
/// is in exactly one of the sets of states.
const RANGES: &str = "local sets = {} for at, key in ipairs(KEYS) do \
                      sets[at] = redis.call(ARGV[1], key, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', 0, ARGV[4]) \
                      end return sets";

/// The sets and the bounds of a list.
struct Reading<'a> {
    order: Order,
    /// The sets that together contain every job of the list.
    indexes: Vec<IndexKey<'a>>,
    /// Position after which the list begins.
    start: Option<Cursor>,
    /// The score at which the list ends.
    end: String,
}

/// The part of a list that one partition holds.
struct Run {
    partition: Partition,
    /// Positions that were read ahead, in the order of the list.
    ahead: VecDeque<Cursor>,
    /// Position up to which everything was read, inclusive.
    after: Option<Cursor>,
    chunk: usize,
    exhausted: bool,
}

impl<'a> Reading<'a> {
    fn new(query: &ListQuery, indexes: Vec<IndexKey<'a>>) -> Self {
        let micros = |place: Cursor| place.create_time.as_micros();
        // The bound of a filter is a time of creation with an id that precedes all others.
        let (start, end) = match query.bounds() {
            (oldest, newest) if query.order == Order::Newest => {
                (newest, oldest.map_or("-inf".to_owned(), |oldest| micros(oldest).to_string()))
            }
            (oldest, newest) => (oldest, newest.map_or("+inf".to_owned(), |newest| format!("({}", micros(newest)))),
        };
        Self { order: query.order, indexes, start, end }
    }

    /// Returns the parts of the list, of which `limit` jobs are wanted.
    fn runs(&self, limit: usize) -> Vec<Run> {
        let chunk = limit * 2 / PARTITIONS + 4;
        let run = |partition| {
            let (ahead, after) = (VecDeque::new(), self.start.clone());
            Run { partition, ahead, after, chunk, exhausted: false }
        };
        Partition::all().map(run).collect()
    }

    /// Returns the command that reads the next entries of a partition.
    fn ranges(&self, keys: &Keys, run: &Run) -> Cmd {
        let (name, start) = match self.order {
            Order::Newest => ("ZREVRANGEBYSCORE", "+inf"),
            Order::Oldest => ("ZRANGEBYSCORE", "-inf"),
        };
        let start = run.after.as_ref().map_or(start.to_owned(), |place| place.create_time.as_micros().to_string());
        let mut command = cmd("EVAL");
        command.arg(RANGES).arg(self.indexes.len());
        for place in &self.indexes {
            command.arg(keys.index(run.partition, *place));
        }
        command.arg(name).arg(start).arg(&self.end).arg(run.chunk);
        command
    }
}

/// Lists and counts jobs.
pub struct Lists {
    client: Arc<Client>,
    reader: Arc<Reader>,
    listener: Arc<dyn Listener>,
    presence: Arc<Presence>,
}

impl Lists {
    /// Creates lists of the jobs that `reader` reads.
    pub fn new(client: Arc<Client>, reader: Arc<Reader>, listener: Arc<dyn Listener>, presence: Arc<Presence>) -> Self {
        Self { client, reader, listener, presence }
    }

    /// Implements [`JobStore::list`](crate::store::JobStore::list).
    pub async fn page(&self, query: &ListQuery) -> Result<Page, Fault> {
        let filter = &query.filter;
        let (indexes, total) = self.choose(query).await?;
        let mut page = Page { total, ..Page::default() };
        if indexes.is_empty() {
            return Ok(page);
        }
        let reading = Reading::new(query, indexes);
        let mut runs = reading.runs(query.limit);
        let (mut looked_at, mut cuts, mut bytes) = (0, 0, 0);
        while page.jobs.len() < query.limit && looked_at < query.limit + SCAN && cuts < MAX_CUTS {
            let wanted = (query.limit - page.jobs.len()).min(BATCH);
            let mut ahead = self.take(&reading, &mut runs, wanted).await?;
            if ahead.is_empty() {
                page.next = None;
                break;
            }
            while !ahead.is_empty() && cuts < MAX_CUTS {
                let ids: Vec<_> = ahead.iter().map(|place| place.id.clone()).collect();
                let records = self.reader.read_first(&ids, query.view).await?;
                self.remove_missing_from_lists(&ids, &records, &reading.indexes).await?;
                cuts += usize::from(records.len() < ids.len());
                looked_at += records.len();
                page.next = ahead.drain(..records.len()).next_back();
                let found = records.into_iter().filter_map(Record::found).map(|stored| self.seen(stored, query.now));
                let selects = |job: &Job| filter.matches(job, query.now) && job.is_visible(query.now);
                for stored in found.filter(|stored| selects(&stored.job)) {
                    bytes += stored.job.size();
                    if bytes >= query.max_bytes {
                        page.next = Some(Cursor::of(&stored.job));
                        page.jobs.push(stored);
                        return Ok(page);
                    }
                    page.jobs.push(stored);
                }
            }
            if !ahead.is_empty() {
                return Ok(page);
            }
        }
        if page.next.is_some() && self.take(&reading, &mut runs, 1).await?.is_empty() {
            page.next = None;
        }
        Ok(page)
    }

    /// Returns a version with the expiry of its lease as of `now`, as callers see it. Filters apply to the version that
    /// this returns.
    fn seen(&self, mut stored: Stored, now: Timestamp) -> Stored {
        let partition = Partition::of(&stored.job.id).index();
        stored.job = self.presence.with_running_lease(partition, &stored.job, now);
        stored
    }

    /// Removes from the indexes the ids whose records are missing: evicted, or deleted by hand.
    async fn remove_missing_from_lists(
        &self,
        ids: &[JobId],
        records: &[Record],
        read: &[IndexKey<'_>],
    ) -> Result<(), Fault> {
        let missing: Vec<_> = ids.iter().zip(records).filter(|(_, record)| matches!(record, Record::Missing)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let states = State::ALL.map(IndexKey::State);
        let others = [IndexKey::Created, IndexKey::Expire, IndexKey::Lease];
        let mut leaving: Vec<_> = states.into_iter().chain(others).collect();
        leaving.extend(read.iter().filter(|key| matches!(key, IndexKey::Owner(_) | IndexKey::Kind(_))));
        for (id, _) in missing {
            for part in leaving.chunks(LEAVING_MAX) {
                Write::removal(id, None, part).run(None, self.client.bulk(), self.client.keys()).await?;
            }
            self.listener.on_missing_record(id);
        }
        Ok(())
    }

    /// Returns the number of jobs in each state.
    pub async fn counts(&self) -> Result<[u64; State::ALL.len()], Fault> {
        let cards = self.cards(&State::ALL.map(IndexKey::State)).await?;
        Ok(std::array::from_fn(|state| cards[state]))
    }

    /// Returns the number of jobs of an owner.
    pub async fn count(&self, owner: &str) -> Result<u64, Fault> {
        Ok(self.cards(&[IndexKey::Owner(owner)]).await?[0])
    }

    /// Returns the number of members of each set, summed over all partitions; each partition is counted at one moment.
    async fn cards(&self, indexes: &[IndexKey<'_>]) -> Result<Vec<u64>, Fault> {
        let of = |partition| {
            let mut command = cmd("EVAL");
            command.arg(CARDS).arg(indexes.len());
            for place in indexes {
                command.arg(self.client.keys().index(partition, *place));
            }
            async move { self.client.bulk().query::<Vec<u64>>(&command).await }
        };
        let mut sums = vec![0; indexes.len()];
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
        let exact = filter.is_indexed() && choices.len() <= 1;
        if *confined {
            choices.truncate(1);
        }
        if choices.is_empty() {
            choices.push(vec![IndexKey::Created]);
        }
        let all: Vec<_> = choices.iter().flatten().copied().collect();
        let (sums, due) = tokio::try_join!(self.cards(&all), self.is_anything_due(*now))?;
        let mut sums = sums.into_iter();
        let sized = choices.into_iter().map(|indexes| (sums.by_ref().take(indexes.len()).sum::<u64>(), indexes));
        let (size, indexes) = sized.min_by_key(|(size, _)| *size).unwrap_or_default();
        Ok((indexes, Some(size).filter(|_| exact && !due)))
    }

    /// Returns whether the indexes may still contain expired jobs, which pages leave out.
    async fn is_anything_due(&self, now: Timestamp) -> Result<bool, Fault> {
        let of = |partition| async move {
            let mut command = cmd("ZCOUNT");
            command.arg(self.client.keys().index(partition, IndexKey::Expire)).arg("-inf").arg(now.as_micros());
            self.client.bulk().query::<u64>(&command).await
        };
        Ok(try_join_all(Partition::all().map(of)).await?.into_iter().any(|count| count > 0))
    }

    /// Takes up to `wanted` positions off the runs, in the order of the list.
    async fn take(&self, reading: &Reading<'_>, runs: &mut [Run], wanted: usize) -> Result<Vec<Cursor>, Fault> {
        let mut taken = Vec::with_capacity(wanted);
        while taken.len() < wanted {
            let empty = runs.iter_mut().filter(|run| run.ahead.is_empty() && !run.exhausted);
            let refills = join_all(empty.map(|run| self.refill(reading, run))).await;
            if !refills.is_empty() {
                refills.into_iter().collect::<Result<(), _>>()?;
                continue;
            }
            let waiting = runs.iter_mut().filter(|run| !run.ahead.is_empty());
            let first = waiting.min_by(|one, other| reading.order.compare(&one.ahead[0], &other.ahead[0]));
            let Some(run) = first else { break };
            taken.extend(run.ahead.pop_front());
        }
        Ok(taken)
    }

    /// Reads ahead in one partition.
    async fn refill(&self, reading: &Reading<'_>, run: &mut Run) -> Result<(), Fault> {
        let first = |one: &Cursor, other: &Cursor| reading.order.compare(one, other);
        let mut entries = Vec::new();
        let mut frontier = None;
        let sets: Vec<Vec<(String, f64)>> = self.client.bulk().query(&reading.ranges(self.client.keys(), run)).await?;
        run.exhausted = true;
        for set in sets {
            let is_full = set.len() == run.chunk;
            let set = cursors(set);
            if is_full {
                // This set may have more entries after the last one that was read.
                run.exhausted = false;
                frontier = frontier.into_iter().chain(set.last().cloned()).min_by(first);
            }
            entries.extend(set);
        }
        entries.retain(|entry| frontier.as_ref().is_none_or(|frontier| first(entry, frontier).is_le()));
        entries.retain(|entry| run.after.as_ref().is_none_or(|after| first(entry, after).is_gt()));
        entries.sort_unstable_by(first);
        entries.dedup();
        match entries.last() {
            Some(last) => run.after = Some(last.clone()),
            // More jobs have the same creation time than one chunk contains, and all entries of the chunk were returned
            // before: a larger chunk is read.
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
        Some(Cursor { create_time: time_of(score), id })
    };
    entries.into_iter().filter_map(place).collect()
}
