//! Checks that replicas return after a fault.

use std::{ops::Range, time::Duration};

use super::{
    check::Violation,
    record::{Act, At, Call, Fault, History},
};

/// Maximum time from the repair of a fault until a replica stores changes again.
const RETURN: Duration = Duration::from_secs(15);

/// Additional time for each change that a replica accepted meanwhile.
const RETURN_PER_CHANGE: Duration = Duration::from_millis(5);

/// Minimum number of attempted changes to conclude that a replica does not return.
const WRITES: usize = 20;

/// G16: after each fault every replica stores changes again, while clients continue to change jobs.
pub fn check_returns(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    // Some calls of earlier faults have been forgotten.
    for fault in history.faults.iter().filter(|fault| fault.from >= history.forgotten) {
        for replica in 0..history.replicas {
            let Some(times) = history.return_times(fault, replica) else { continue };
            let tried: Vec<_> = history.changes(replica, &times).collect();
            if tried.len() >= WRITES && !tried.iter().any(|call| is_durable(call)) {
                let what = format!(
                    "none of {} changes was stored between {:?} and {:?}, after {}: the last was {:?}",
                    tried.len(),
                    times.start,
                    times.end,
                    fault.name,
                    tried.last()
                );
                violations.push(Violation { rule: "G16", job: format!("replica {replica}"), what });
            }
        }
    }
    violations
}

impl History {
    /// Returns the time in which a replica may return after a fault; `None` if that time is not over.
    fn return_times(&self, fault: &Fault, replica: usize) -> Option<Range<At>> {
        let from = fault.mended?;
        let accepted = self.changes(replica, &(fault.from..from)).filter(|call| call.made().is_some()).count();
        let count = u32::try_from(accepted).expect("not that many");
        let until = from + RETURN + RETURN_PER_CHANGE * count;
        let until = until + self.stalled(from, until);
        let last = self.calls.iter().map(|call| call.ended).max()?;
        (last >= until).then_some(from..until)
    }

    /// Returns the changes that were attempted within this time.
    fn changes<'a>(&'a self, replica: usize, times: &'a Range<At>) -> impl Iterator<Item = &'a Call> {
        let changes = |call: &&Call| !matches!(call.act, Act::Get | Act::Watch | Act::Oversized);
        let within = move |call: &&Call| call.begun >= times.start && call.begun < times.end;
        self.calls.iter().filter(changes).filter(move |call| call.replica == replica).filter(within)
    }

    /// Returns whether each replica has stored a change that was attempted after this moment.
    pub fn all_store_since(&self, since: At) -> bool {
        let times = since..At::MAX;
        (0..self.replicas).all(|replica| self.changes(replica, &times).any(is_durable))
    }
}

fn is_durable(call: &Call) -> bool {
    call.made().is_some_and(|made| made.durable)
}
