//! Checks of the calls for a job.

use std::time::Duration;

use jobtrack::proto::v1::reconciled_job::Outcome;

use super::{
    check::{LAG, SLACK, Story},
    record::{Act, Answer, At, Call, Entry, Shown},
};

impl Story<'_> {
    /// G1, G2, G15: acknowledged changes exist in the end, or were reported as discarded; replicas agree.
    pub fn check_changes(&self, object: &mut impl FnMut(&'static str, String)) {
        for audit in self.audits() {
            if !(audit.is_not_found() || audit.shown().is_some()) {
                object("G2", format!("healed, and still {:?} on {}", audit.answer, audit.replica));
                return;
            }
            for change in self.lost_changes(audit).filter(|change| !self.is_excused(change)) {
                let durable = change.made().is_some_and(|made| made.durable);
                let rule = match () {
                    () if durable => "G1",
                    () if self.history.stopped_clean(change.replica, change.begun, audit.begun) => "G15",
                    () => "G2",
                };
                object(rule, format!("{change:?} is lost: {:?} on {}", audit.answer, audit.replica));
            }
        }
        self.check_agreement(object);
        self.check_reports(object);
    }

    /// Returns acknowledged changes that the auditor does not see.
    pub fn lost_changes<'s>(&'s self, audit: &'s Call) -> impl Iterator<Item = &'s Call> {
        let expired = self.may_be_expired(audit.ended);
        let gone = self.may_be_deleted(audit.ended) || expired;
        let before = self.calls.iter().copied().filter(|call| call.ended < audit.begun);
        // Creations of clients that can see only jobs of one owner may be rejected and discarded: see `check_owners`.
        before.filter(|call| call.limited_to.is_empty()).filter(move |change| {
            let Some(made) = change.made() else { return false };
            match audit.shown() {
                None => audit.is_not_found() && !gone,
                Some(shown) if expired && shown.incarnation > made.incarnation => false,
                Some(shown) => is_lost(&change.act, made, shown),
            }
        })
    }

    /// G1: durable changes are read, on other replicas at most a moment later.
    pub fn check_reads(&self, object: &mut impl FnMut(&'static str, String)) {
        let durable = |call: &&&Call| call.shown().is_some_and(|shown| shown.durable);
        let reads: Vec<_> = self.calls.iter().filter(durable).filter(|call| call.act == Act::Get).collect();
        for change in self.calls.iter().filter(durable).filter(|change| !self.is_excused(change)) {
            let Some(made) = change.made() else { continue };
            let behind = |read: &&&&Call| {
                let lag = if read.replica == change.replica { At::ZERO } else { LAG + SLACK };
                let is_later = read.begun > change.ended + lag;
                is_later
                    && read
                        .shown()
                        .is_some_and(|shown| shown.incarnation == made.incarnation && shown.revision < made.revision)
            };
            if let Some(read) =
                reads.iter().find(behind).filter(|read| !self.history.had_lost(change.begun, read.ended))
            {
                object("G1", format!("{change:?} is not in what was read later: {read:?}"));
                return;
            }
        }
    }

    fn check_agreement(&self, object: &mut impl FnMut(&'static str, String)) {
        let audits: Vec<_> = self.audits().collect();
        for pair in audits.windows(2) {
            let same = match (pair[0].shown(), pair[1].shown()) {
                (Some(one), Some(other)) => one.is_same(other) && one.durable && other.durable,
                (one, other) => one.is_none() && other.is_none(),
            };
            if !same && !self.may_be_expired(pair[1].ended) {
                object("G2", format!("replicas differ: {:?} and {:?}", pair[0].answer, pair[1].answer));
            }
        }
    }

    /// G2: the report names no conflict if only one side made changes.
    fn check_reports(&self, object: &mut impl FnMut(&'static str, String)) {
        let mut changes = self.calls.iter().filter(|call| !matches!(call.act, Act::Get | Act::Watch));
        let Some(first) = changes.next() else { return };
        let leased = self.calls.iter().filter_map(|call| call.shown()).any(|shown| shown.lease > 0);
        let one_side = !leased
            && !self.may_be_expired(self.history.quiet.unwrap_or_default())
            && changes.all(|call| call.replica == first.replica);
        // After a loss each replica restores the versions in its memory, which may be older than those of another
        // replica.
        let lost = |entry: &Entry| self.history.had_lost(first.begun, entry.at);
        let told = self.reported.iter().find(|entry| entry.outcome == Outcome::Conflicted && !lost(entry));
        if let Some(entry) = told.filter(|_| one_side && self.history.deaths.is_empty()) {
            object("G2", format!("a conflict of one with itself, on {} at {:?}", entry.replica, entry.at));
        }
    }

    /// G3: a request makes one job.
    pub fn check_creations(&self, object: &mut impl FnMut(&'static str, String)) {
        let request = |call: &Call| match &call.act {
            Act::Create(terms) => Some((terms.owner.clone(), terms.request.clone())),
            _ => None,
        };
        let made: Vec<_> = self.calls.iter().filter(|call| request(call).is_some()).collect();
        for (number, first) in made.iter().enumerate() {
            for second in made[number + 1..].iter().filter(|second| request(second) == request(first)) {
                let (Some(one), Some(other)) = (first.shown(), second.shown()) else { continue };
                let (from, until) = (first.begun.min(second.begun), first.ended.max(second.ended));
                let apart = !(one.durable && other.durable) && self.is_told(from);
                let excused = apart
                    || self.may_be_deleted(until)
                    || self.may_be_expired(until)
                    || self.history.had_lost(from, until)
                    || self.history.is_unknown(first)
                    || self.history.is_unknown(second);
                if one.incarnation != other.incarnation && !excused {
                    object("G3", format!("two jobs of one request: {first:?} and {second:?}"));
                }
            }
        }
    }

    /// G5: a durable end never changes.
    pub fn check_ends(&self, object: &mut impl FnMut(&'static str, String)) {
        let mut seen = self.sights.clone();
        seen.retain(|sight| sight.shown.durable);
        seen.sort_by_key(|sight| sight.ended);
        for (number, end) in seen.iter().enumerate().filter(|(_, sight)| sight.shown.is_end()) {
            let later = seen[number + 1..].iter().filter(|sight| sight.shown.incarnation == end.shown.incarnation);
            for other in later.filter(|sight| sight.shown.state != end.shown.state) {
                // The order of two calls that overlapped is unknown, unless both are ends.
                let known = other.shown.is_end() || other.begun > end.ended + SLACK;
                let told = !other.shown.is_end() || self.is_told(end.begun);
                let from = if other.shown.is_end() { end.begun } else { other.begun };
                if known && !(told && self.history.had_lost(from, other.ended)) {
                    object(
                        "G5",
                        format!("{:?} at {:?}, then {:?} at {:?}", end.shown, end.ended, other.shown, other.ended),
                    );
                    return;
                }
            }
        }
    }

    /// G11: deleted and expired jobs stay so.
    pub fn check_deletions(&self, object: &mut impl FnMut(&'static str, String)) {
        let created_since =
            |at: At| self.calls.iter().any(|call| matches!(call.act, Act::Create(_)) && call.ended > at);
        for deletion in self.deletions(None).filter(|call| call.answer == Answer::Done) {
            if created_since(deletion.begun) || self.history.is_unknown(deletion) {
                continue;
            }
            let later = self.calls.iter().filter(|call| call.begun > deletion.ended && call.shown().is_some());
            let back = later.clone().find(|call| {
                let here = call.replica == deletion.replica && !self.history.had_lost(call.begun, call.ended);
                call.client == super::AUDITOR || here
            });
            if let Some(back) = back {
                object("G11", format!("deleted by {deletion:?}, and back: {back:?}"));
            }
        }
        let retentions = self.calls.iter().filter_map(|call| match &call.act {
            Act::Create(terms) => u64::try_from(terms.retention).ok().filter(|retention| *retention > 0),
            _ => None,
        });
        let Some(retention) = retentions.max().map(Duration::from_millis) else { return };
        // An end that is not durable may be lost with its replica.
        let ends = self.sights.iter().filter(|sight| sight.shown.is_end() && sight.shown.durable);
        let ends = ends.map(|sight| sight.ended);
        let Some(ended) = ends.min() else { return };
        for call in self.calls.iter().filter(|call| call.begun > ended + retention + SLACK) {
            if call.shown().is_some() {
                object("G11", format!("expired since {:?}, and still shown: {call:?}", ended + retention));
            }
        }
    }
}

/// Returns whether the change `made` is missing in the version `there`.
fn is_lost(act: &Act, made: &Shown, there: &Shown) -> bool {
    if made.incarnation != there.incarnation {
        return true;
    }
    match act {
        _ if made.is_end() => there.state != made.state,
        Act::Cancel { .. } => !there.cancelled,
        Act::Report { sequence, .. } => there.attempt == made.attempt && there.completed < *sequence,
        _ => false,
    }
}
