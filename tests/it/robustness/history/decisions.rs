//! Time-driven decisions: workers that count as lost, and active jobs that expire.

use std::{collections::BTreeSet, time::Duration};

use jobtrack::proto::v1::{Event, job::State};

use super::{
    check::{SLACK, Story, is_transient},
    record::{Act, Answer, At, Call, Fault, History},
    streams::SWEEP,
};

/// A call of a worker, which shows that it is alive.
struct Sign {
    begun: At,
    /// Time by which it counts: when it was acknowledged, or at once if no replica could receive it.
    counted: At,
}

impl Story<'_> {
    /// Returns the length of the job's lease.
    pub fn lease(&self) -> Option<Duration> {
        let leases = self.calls.iter().filter_map(|call| call.shown()).map(|shown| shown.lease);
        leases.max().and_then(|lease| u64::try_from(lease).ok()).filter(|lease| *lease > 0).map(Duration::from_millis)
    }

    /// G12: a worker that stops reporting is shown as lost to all readers.
    pub fn check_leases(&self, object: &mut impl FnMut(&'static str, String)) {
        let Some(lease) = self.lease() else { return };
        let Some(report) = self.calls.iter().rfind(|call| is_work(call)) else { return };
        let Some(due) = self.history.due(report.ended, lease + SLACK, lease + SWEEP + SLACK) else { return };
        for call in self.calls.iter().filter(|call| call.act == Act::Get && call.begun > due) {
            let live = call.shown().is_some_and(|shown| shown.state == State::Running && !shown.lost);
            if live && call.shown().is_some_and(|shown| shown.lease > 0) {
                object("G12", format!("the lease is over, and the answer does not say so: {call:?}"));
            }
        }
    }

    /// G13: no time-driven decision harms a job whose worker reports, and a dead worker is noticed.
    pub fn check_decisions(&self, object: &mut impl FnMut(&'static str, String)) {
        if let Some(lease) = self.lease() {
            if let Some(at) = self.worker_lost_at().filter(|at| self.is_heard_until(*at, lease)) {
                object("G13", format!("a worker that reports counts as lost at {at:?}"));
            }
            self.check_gone(lease, object);
        }
        let kept = self.history.active_retention;
        if kept > At::ZERO
            && let Some(at) = self.expired_at().filter(|at| self.is_heard_until(*at, kept))
        {
            object("G13", format!("a job whose worker reports has expired at {at:?}"));
        }
    }

    /// G13: a job whose worker is dead fails within its lease, or within the bound after a disturbance.
    fn check_gone(&self, lease: Duration, object: &mut impl FnMut(&'static str, String)) {
        let fails = |call: &&Call| matches!(&call.act, Act::Create(terms) if terms.fail_when_lost);
        let Some(report) = self.calls.iter().rfind(|call| is_work(call)) else { return };
        let notice = lease + SWEEP + SLACK;
        let Some(due) = self.history.due(report.ended, notice, notice + self.history.grace) else { return };
        let runs = |call: &&&Call| call.shown().is_some_and(|shown| shown.state == State::Running);
        let late = self.calls.iter().filter(|call| call.begun > due).find(runs);
        if let Some(late) = late.filter(|_| self.calls.iter().any(fails)) {
            object("G13", format!("gone since {:?}, due at {due:?}, and not failed: {late:?}", report.ended));
        }
    }

    /// Returns when a client first saw that the job had failed because its worker was lost.
    fn worker_lost_at(&self) -> Option<At> {
        let lost = self.sights.iter().filter(|sight| sight.shown.is_worker_lost()).map(|sight| sight.ended).min()?;
        let refused = |call: &&&Call| match &call.answer {
            Answer::Refused { reason, .. } => is_work(call) && reason == "JOB_FINISHED",
            _ => false,
        };
        let refused = self.calls.iter().filter(refused).map(|call| call.ended).min();
        Some(refused.map_or(lost, |refused| refused.min(lost)))
    }

    /// Returns when a client first saw that the job, while it was active, was gone.
    fn expired_at(&self) -> Option<At> {
        let ended = self.sights.iter().any(|sight| sight.shown.is_end());
        let contested = self.calls.iter().any(|call| !call.limited_to.is_empty());
        // Before a job is recorded, only the replica that accepted it knows it.
        let begun = self.calls.iter().find(|call| call.shown().is_some_and(|shown| shown.durable))?.ended;
        let missing = self.calls.iter().filter(|call| call.is_not_found() && call.limited_to.is_empty());
        let missing = missing.map(|call| (call.begun, call.ended));
        let events = self.streams.iter().flat_map(|stream| &stream.events);
        let removed = events.filter(|heard| heard.event == Event::Removed);
        let removed = removed.filter(|heard| heard.shown.as_ref().is_some_and(|shown| shown.id == self.job));
        let removed = removed.map(|heard| (heard.at, heard.at));
        let gone = missing.chain(removed).filter(|(from, _)| *from > begun).map(|(_, at)| at).min()?;
        let excused = ended || contested || self.may_be_deleted(gone) || self.history.had_lost(begun, gone);
        Some(gone).filter(|_| !excused)
    }

    /// Returns whether the worker gave a sign of life within each `limit`, from its first report until its end or
    /// `until`.
    fn is_heard_until(&self, until: At, limit: Duration) -> bool {
        let ended = |call: &&&Call| self.is_protected(call) && call.made().is_some_and(super::Shown::is_end);
        let ended = self.calls.iter().filter(|call| is_work(call)).find(ended).map(|call| call.ended);
        let until = ended.map_or(until, |ended| ended.min(until));
        let unheard = self.history.unheard();
        let mut signs: Vec<_> = self.calls.iter().filter_map(|call| self.sign(call, &unheard)).collect();
        signs.retain(|sign| sign.begun < until);
        signs.sort_by_key(|sign| sign.begun);
        let Some(last) = signs.last() else { return false };
        let gaps = signs.windows(2).map(|pair| pair[1].counted.saturating_sub(pair[0].begun));
        gaps.chain([until.saturating_sub(last.begun)]).all(|gap| gap < limit)
    }

    fn sign(&self, call: &Call, unheard: &[(At, At)]) -> Option<Sign> {
        let deaf = unheard.iter().any(|(from, until)| *from <= call.begun && call.begun <= *until);
        if call.made().is_some() && is_work(call) && self.is_protected(call) {
            return Some(Sign { begun: call.begun, counted: call.ended });
        }
        let refused = matches!(&call.answer, Answer::Refused { code, .. } if is_transient(*code));
        // Before a job was recorded, only the replica that accepted it can receive reports on it.
        let stored = |other: &Call| other.ended <= call.begun && other.shown().is_some_and(|shown| shown.durable);
        let is_recorded = self.calls.iter().any(|other| stored(other));
        (is_work(call) && refused && deaf && is_recorded).then_some(Sign { begun: call.begun, counted: call.begun })
    }

    /// Returns whether an acknowledged change counts: it was stored, or its replica returned within the grace.
    fn is_protected(&self, call: &Call) -> bool {
        let Some(made) = call.made().filter(|_| !self.history.is_unknown(call)) else { return false };
        let around = |fault: &&Fault| fault.from <= call.ended && fault.until.is_none_or(|until| call.begun <= until);
        made.durable
            || self.history.faults.iter().find(around).is_some_and(|fault| fault.is_over_within(self.history.grace))
    }
}

impl Fault {
    /// Returns whether all replicas returned within `grace`: from the beginning of the fault if it concerned only some
    /// of them.
    fn is_over_within(&self, grace: At) -> bool {
        let for_all = self.silent.is_some_and(|(.., replica)| replica.is_none());
        let from = if for_all { self.mended.unwrap_or(self.from) } else { self.from };
        self.until.is_some_and(|until| until.saturating_sub(from) <= grace)
    }
}

impl History {
    /// Returns the latest time of an event that must happen `within` a time after `from`, and that may take `anew`
    /// after each fault and after each time that a replica considered Redis unavailable on a busy machine; `None` if a
    /// fault is not over. A fault that was over by `from` still counts for the difference of the two: decisions wait
    /// that long for a replica that was killed.
    pub fn due(&self, from: At, within: Duration, anew: Duration) -> Option<At> {
        let mut due = from + within;
        let lasts = |fault: &&Fault| fault.until.is_none_or(|until| until + anew > from + within);
        for fault in self.faults.iter().filter(lasts) {
            if fault.from <= due {
                due = due.max(fault.until? + anew);
            }
        }
        for relapse in self.relapses() {
            if from < relapse && relapse <= due {
                due = due.max(relapse + anew);
            }
        }
        Some(due + self.stalled(from, due))
    }

    /// Returns when streams started over: a replica served from Redis again.
    fn relapses(&self) -> BTreeSet<At> {
        let broad = self.streams.iter().filter(|stream| stream.job.is_none());
        let events = broad.flat_map(|stream| &stream.events);
        events.filter(|heard| heard.event == Event::Bookmark && heard.reset).map(|heard| heard.at).collect()
    }

    /// Returns the times at which no replica could receive a report: Redis did not answer, or no replica ran.
    fn unheard(&self) -> Vec<(At, At)> {
        let silent = self.faults.iter().filter(|fault| fault.silent.is_some_and(|(.., replica)| replica.is_none()));
        let silent = silent.filter_map(|fault| Some((fault.from, fault.mended?)));
        let downs = |replica| self.downs(replica);
        let common = (0..self.replicas).map(downs).map(Iterator::collect::<Vec<_>>).reduce(|one, other| {
            let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
            let both = pairs.map(|(one, other)| (one.0.max(other.0), one.1.min(other.1)));
            both.filter(|(from, until)| from < until).collect()
        });
        silent.chain(common.unwrap_or_default()).collect()
    }
}

/// Returns whether the call is one that a worker makes.
fn is_work(call: &Call) -> bool {
    matches!(call.act, Act::Report { .. } | Act::Complete { .. } | Act::Fail { .. } | Act::Confirm)
}
