//! Checks of graceful stops.

use std::time::Duration;

use super::{
    check::{SLACK, Story, Violation},
    record::{At, Call, Fault, History, Stop},
};

/// Maximum duration of a stop.
const DRAIN: Duration = Duration::from_secs(25);

/// G9, G15: a replica stops in time, with everything stored, or reports the number of jobs that are not.
pub fn check_stop(stop: &Stop, stories: &[&Story], history: &History) -> Option<Violation> {
    let violation = |rule, what: &str| {
        let job = format!("replica {}", stop.replica);
        Some(Violation { rule, job, what: format!("{what}: {stop:?}") })
    };
    let took = stop.ended.saturating_sub(stop.at);
    if took > DRAIN + SLACK + history.stalled(stop.at, stop.ended) {
        return violation("G9", "it does not stop in time");
    }
    match (stop.code, stop.left) {
        (Some(0), _) => None,
        (None, _) => violation("G15", "it had to be killed"),
        (Some(_), None) => violation("G15", "the log does not count what is left"),
        (Some(_), Some(_)) if history.took_all(stop) => violation("G15", "Redis would have taken all"),
        (Some(_), Some(left)) => {
            let lost = stories.iter().filter(|story| story.has_lost_at(stop)).count();
            let what = format!("{lost} jobs are lost, more than the log counts");
            if lost > left { violation("G15", &what) } else { None }
        }
    }
}

impl Story<'_> {
    /// Returns whether the auditor misses a change that only this replica had acknowledged when it stopped.
    fn has_lost_at(&self, stop: &Stop) -> bool {
        let before = self.history.last_return(stop.at);
        let alone = |change: &&Call| {
            let then = change.begun > before && change.ended <= stop.ended;
            let volatile = change.made().is_some_and(|made| !made.durable);
            change.replica == stop.replica && then && volatile && !self.is_told(change.begun)
        };
        self.audits().any(|audit| self.lost_changes(audit).any(|change| alone(&change)))
    }
}

impl History {
    /// Returns whether this replica stopped with exit code 0 between `from` and `until`.
    pub fn stopped_clean(&self, replica: usize, from: At, until: At) -> bool {
        let clean = |stop: &Stop| stop.replica == replica && stop.code == Some(0);
        self.stops.iter().any(|stop| clean(stop) && stop.ended >= from && stop.ended <= until)
    }

    /// Returns whether Redis was available during the whole drain.
    fn took_all(&self, stop: &Stop) -> bool {
        let there = |fault: &Fault| {
            let concerned = |replica: Option<usize>| replica.is_none_or(|replica| replica == stop.replica);
            let silent = fault.silent.filter(|(.., replica)| concerned(*replica));
            !fault.lossy && silent.is_none_or(|(from, until, _)| until <= stop.at || from > stop.ended)
        };
        self.faults.iter().filter(|fault| fault.overlaps(stop.at, stop.ended)).all(there)
    }

    /// Returns the last time before this moment at which everything was whole.
    fn last_return(&self, before: At) -> At {
        let healed = self.faults.iter().filter_map(|fault| fault.until).filter(|until| *until < before);
        healed.max().unwrap_or_default()
    }
}
