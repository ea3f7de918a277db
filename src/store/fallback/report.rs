//! What reconciliations did with which job.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    domain::{JobId, Timestamp},
    store::{ReconcileOutcome, ReconcileReport},
};

/// A reconciliation that begins so soon after another goes on with its ledger: nobody could have read it in between.
const EPISODE: Duration = Duration::from_secs(60);

/// With so many jobs a ledger is not gone on with.
const MANY: usize = 100_000;

/// How many jobs are named to those who ask.
const NAMED: usize = 1000;

/// What is done with jobs, entered when it is sent: it may be carried out even though no answer comes.
#[derive(Debug, Default)]
pub struct ReconcileLog {
    began: bool,
    /// How many parts of the reconciliation are under way.
    under_way: usize,
    end_time: Option<Timestamp>,
    counts: [u64; ReconcileOutcome::ALL.len()],
    by_id: HashMap<JobId, Entry>,
    /// The ids by the place of their entries.
    in_order: BTreeMap<u64, JobId>,
    last_place: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    outcome: ReconcileOutcome,
    reason: &'static str,
    place: u64,
}

impl ReconcileLog {
    /// A reconciliation begins, or a part of one. What was entered a moment ago stays.
    pub fn begin(&mut self, now: Timestamp) {
        let is_over = self.end_time.is_some_and(|end| now.since(end) > EPISODE);
        if is_over || self.by_id.len() >= MANY {
            *self = Self { under_way: self.under_way, ..Self::default() };
        }
        self.began = true;
        self.under_way += 1;
        self.end_time = None;
    }

    /// What began last ends. With that the reconciliation has, if this `is_complete` and nothing else is under way.
    pub fn end(&mut self, now: Timestamp, is_complete: bool) {
        debug_assert!(self.under_way > 0, "what ends has begun");
        self.under_way -= 1;
        if is_complete && self.under_way == 0 {
            self.end_time = Some(now);
        }
    }

    /// Enters what is done with a job, and why, for people. What was worse before stays.
    pub fn enter(&mut self, id: &JobId, outcome: ReconcileOutcome, reason: &'static str) {
        if let Some(before) = self.by_id.get(id).copied() {
            if before.outcome > outcome {
                return;
            }
            self.in_order.remove(&before.place);
            self.counts[before.outcome as usize] -= 1;
        }
        self.last_place += 1;
        let entry = Entry { outcome, reason, place: self.last_place };
        self.by_id.insert(id.clone(), entry);
        self.in_order.insert(entry.place, id.clone());
        self.counts[outcome as usize] += 1;
    }

    /// What is told of it; `None` before the first reconciliation.
    pub fn summary(&self) -> Option<ReconcileReport> {
        let named = self.in_order.values().rev().take(NAMED);
        let jobs = named.filter_map(|id| self.by_id.get(id).map(|entry| (id.clone(), entry.outcome, entry.reason)));
        self.began.then(|| ReconcileReport { end_time: self.end_time, counts: self.counts, jobs: jobs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Timestamp = Timestamp::from_micros(1_000_000);

    fn told(ledger: &ReconcileLog) -> (Vec<(String, ReconcileOutcome)>, [u64; 3]) {
        let summary = ledger.summary().expect("it has begun");
        (summary.jobs.iter().map(|(id, outcome, _)| (id.to_string(), *outcome)).collect(), summary.counts)
    }

    fn enter(ledger: &mut ReconcileLog, id: &str, outcome: ReconcileOutcome) {
        ledger.enter(&JobId::parse(id).expect("a valid id"), outcome, "");
    }

    #[test]
    fn each_job_is_told_once_with_the_worst_the_latest_first() {
        let mut ledger = ReconcileLog::default();
        assert!(ledger.summary().is_none());
        ledger.begin(BEGIN);
        for (id, outcome) in
            [("a", ReconcileOutcome::Merged), ("b", ReconcileOutcome::Conflicted), ("a", ReconcileOutcome::Dropped)]
        {
            enter(&mut ledger, id, outcome);
        }
        enter(&mut ledger, "b", ReconcileOutcome::Merged);
        let (a, b) = (("a".to_owned(), ReconcileOutcome::Dropped), ("b".to_owned(), ReconcileOutcome::Conflicted));
        assert_eq!(told(&ledger), (vec![a.clone(), b.clone()], [0, 1, 1]));
        enter(&mut ledger, "b", ReconcileOutcome::Conflicted);
        assert_eq!(told(&ledger), (vec![b, a], [0, 1, 1]));
    }

    #[test]
    fn it_goes_on_with_what_was_a_moment_ago() {
        let mut ledger = ReconcileLog::default();
        ledger.begin(BEGIN);
        enter(&mut ledger, "a", ReconcileOutcome::Conflicted);
        ledger.end(BEGIN, true);
        ledger.begin(BEGIN + EPISODE);
        assert_eq!(told(&ledger).1, [0, 1, 0]);
        // One that was cut short has not ended.
        ledger.end(BEGIN + EPISODE, false);
        ledger.begin(BEGIN + EPISODE * 3);
        ledger.begin(BEGIN + EPISODE * 3);
        assert_eq!(told(&ledger).1, [0, 1, 0]);
        // Nor has one of which a part is under way.
        ledger.end(BEGIN + EPISODE * 3, true);
        assert!(ledger.summary().is_some_and(|summary| summary.end_time.is_none()));
        ledger.end(BEGIN + EPISODE * 3, true);
        ledger.begin(BEGIN + EPISODE * 5);
        assert_eq!(told(&ledger).1, [0, 0, 0]);
    }
}
