//! Checks of not-found answers.

use super::{
    check::Story,
    record::{Act, Call, Fault},
};

impl Story<'_> {
    /// G10: a not-found answer is correct.
    pub fn check_missing(&self, object: &mut impl FnMut(&'static str, String)) {
        for missing in self.missing().filter(|call| call.client != super::AUDITOR) {
            let (from, until) = (missing.begun, missing.ended);
            if self.may_be_deleted(until) || self.may_be_expired(until) {
                continue;
            }
            let recorded = self.calls.iter().filter(|call| call.ended < from).filter_map(|call| call.shown());
            let recorded = recorded.filter(|shown| shown.durable).any(|shown| !self.is_of_limited(shown.incarnation));
            let withdrawn = self.calls.iter().any(|call| call.act == Act::Delete && call.replica == missing.replica);
            let silent = |fault: &Fault| {
                let here = |replica: Option<usize>| replica.is_none_or(|replica| replica == missing.replica);
                fault.silent.is_some_and(|(after, before, replica)| after < from && until < before && here(replica))
            };
            // A job that was created and deleted here is known to be deleted, unless there was another one before.
            if self.history.faults.iter().any(silent) && (recorded || !withdrawn) {
                object("G10", format!("nobody could have known: {missing:?}"));
            }
            let known = self.calls.iter().filter(|call| call.ended < from).find(|call| {
                let here = call.replica == missing.replica && !self.history.died(call.replica, call.begun, Some(until));
                call.shown().is_some_and(|shown| (shown.durable || here) && !self.is_of_limited(shown.incarnation))
                    && !self.history.had_lost(from, until)
                    && !self.is_excused(call)
            });
            if let Some(known) = known {
                object("G10", format!("{missing:?} after {known:?}"));
            }
        }
    }

    /// G17: a replica never answers not-found for a job that it has shown, and every job in a replica's memory is
    /// restored after a loss.
    pub fn check_held(&self, object: &mut impl FnMut(&'static str, String)) {
        for missing in self.missing() {
            let (from, until) = (missing.begun, missing.ended);
            if self.may_be_deleted(until) || self.may_be_expired(until) {
                continue;
            }
            let last = missing.client == super::AUDITOR && self.history.quiet.is_some_and(|quiet| from >= quiet);
            let shows = |call: &&&Call| call.shown().is_some_and(|shown| !self.is_of_limited(shown.incarnation));
            let held = self.calls.iter().filter(|call| call.ended < from).filter(shows).find(|call| {
                let holds = !self.history.ended(call.replica, call.begun, until);
                let asked = last || call.replica == missing.replica;
                holds && asked && !self.is_told(call.begun)
            });
            if let Some(held) = held {
                object("G17", format!("{missing:?}, though replica {} holds the job since {held:?}", held.replica));
                return;
            }
        }
    }

    /// Returns the not-found answers to clients that may see all jobs.
    fn missing(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().copied().filter(|call| call.is_not_found() && call.limited_to.is_empty())
    }
}
