//! The record of all calls, and its check against the jobs after them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jobtrack::proto::v1::Job;

use super::{
    SOON,
    load::{Call, Heard, number_of},
};
use crate::support::{pace::Pace, reason};

/// Maximum duration of a call, whatever happens to Redis.
const CALL: Duration = Duration::from_secs(1);

/// All calls and their results.
pub struct Record {
    /// The calls on each job, in order.
    pub calls: BTreeMap<String, Vec<Call>>,
    /// Each job after the calls.
    pub last: BTreeMap<String, Job>,
    /// The jobs with a change that the reports name as conflicted or dropped.
    pub reported: BTreeMap<String, &'static str>,
    /// The pace of the machine after the calls.
    pub pace: Pace,
}

impl Record {
    /// Returns the part about these jobs.
    pub fn split(self, ids: &BTreeSet<String>) -> (Self, Self) {
        let (these, others) = self.calls.into_iter().partition(|(id, _)| ids.contains(id));
        let part = |calls| Self { calls, last: self.last.clone(), reported: self.reported.clone(), pace: self.pace };
        (part(these), part(others))
    }

    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.values().flatten()
    }

    /// Returns the number of calls that were answered from memory, or failed.
    pub fn disturbed(&self) -> usize {
        self.calls().filter(|call| call.is_volatile() || call.failure().is_some()).count()
    }

    /// Fails if a call failed: both servers have all jobs in memory. Prints the durations of calls.
    pub fn assert_none_failed(&self, what: &str) {
        let mut failures: BTreeMap<String, usize> = BTreeMap::new();
        for status in self.calls().filter_map(Call::failure) {
            *failures.entry(format!("{:?} {}", status.code(), reason(status))).or_default() += 1;
        }
        let longest = self.calls().map(|call| call.ended - call.begun).max().unwrap_or_default();
        let volatile = self.calls().filter(|call| call.is_volatile()).count();
        let count = self.calls().count();
        println!("{what}: {count} calls, {volatile} volatile, the longest took {longest:?}, failures: {failures:?}");
        assert!(failures.is_empty(), "{what}: {failures:?}");
        assert!(longest < self.pace.scale(CALL), "{what}: a call took {longest:?}");
    }

    /// Accounts for every acknowledged write: the last version contains it, or a report names the job. Prints the time
    /// until writes were durable again.
    pub fn account(&self, what: &str, killed: Instant, elected: Instant) {
        let soon = self.pace.scale(SOON);
        let mut lost = Vec::new();
        let mut good_again = Vec::new();
        for (id, calls) in &self.calls {
            let stands = &self.last[id];
            let newest = calls.iter().rfind(|call| call.stored().is_some()).expect("a report was stored");
            let Heard::Stored { revision, number, .. } = newest.heard else { unreachable!("it was stored") };
            if stands.revision < revision || number_of(stands) < number {
                lost.push((id, newest));
            }
            // Writes that are acknowledged before the fault, or after writes are durable again, are never lost.
            let settled = |call: &Call| call.ended < killed || call.begun > elected + soon;
            for (index, call) in calls.iter().enumerate().filter(|(_, call)| call.durable().is_some()) {
                let later = calls[index + 1..].iter().find(|later| later.disproves(call));
                if later.is_some_and(|later| settled(call) || later.begun > elected + soon) {
                    lost.push((id, call));
                }
            }
            assert_rises(id, calls.iter().filter(|call| call.ended < killed));
            assert_rises(id, calls.iter().filter(|call| call.begun > elected + soon));
            for server in 0..2 {
                let good = |call: &&Call| call.server == server && call.durable().is_some() && call.ended > elected;
                // The last volatile answer shows that Redis became unavailable again.
                let volatile = calls.iter().rposition(|call| call.server == server && call.is_volatile());
                let first = calls[volatile.map_or(0, |index| index + 1)..].iter().find(good);
                let first = first.unwrap_or_else(|| panic!("no write of {id} is durable after the election"));
                good_again.push((first.ended - elected, id, server));
            }
        }
        let acknowledged = self.calls().filter(|call| call.stored().is_some()).count();
        let volatile = self.calls().filter(|call| call.is_volatile()).count();
        let good = good_again.iter().max().expect("there are jobs");
        let unsaid: Vec<_> = lost.iter().filter(|(id, _)| !self.reported.contains_key(*id)).collect();
        println!(
            "{what}: elected {:?} after the fault; durable again at most {:?} after the election ({}, server {}); of \
             {acknowledged} acknowledged writes, {volatile} of them volatile, {} gave way, {} of them unsaid; the \
             reported names {} jobs",
            elected - killed,
            good.0,
            good.1,
            good.2,
            lost.len(),
            unsaid.len(),
            self.reported.len(),
        );
        let unsaid: Vec<_> = unsaid.iter().map(|(id, call)| (id, call.stored(), self.last[*id].revision)).collect();
        assert!(unsaid.is_empty(), "{what}: writes are lost that the reported does not name: {unsaid:?}");
        assert!(good.0 < soon, "{what}: writes of {} are durable only {:?} after the election", good.1, good.0);
    }
}

/// Fails unless these calls, all of them durable, have revisions that rise by one.
fn assert_rises<'a>(id: &str, calls: impl Iterator<Item = &'a Call>) {
    let revisions: Vec<_> = calls.filter_map(Call::durable).collect();
    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{id}: {revisions:?}");
}
