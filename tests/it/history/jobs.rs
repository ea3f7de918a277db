//! What calls show of a job.

use jobtrack::proto::v1::{Event, job::State, reconciled_job::Outcome};

use super::{
    check::{LAG, SLACK, Story},
    record::{Act, Answer, At, Call, Heard, Shown},
};

/// A version that somebody was shown.
struct Sight<'a> {
    begun: At,
    ended: At,
    shown: &'a Shown,
}

impl Story<'_> {
    /// G1, G2: what was acknowledged is there in the end, or was told to have given way; replicas agree.
    pub fn check_changes(&self, object: &mut impl FnMut(&'static str, String)) {
        let gone = |audit: &Call| self.may_be_deleted(audit.ended) || self.may_be_expired(audit.ended);
        for audit in self.audits() {
            let changes = self.calls.iter().filter(|call| call.ended < audit.begun && call.made().is_some());
            for change in changes.filter(|change| !self.is_excused(change)) {
                let Some(made) = change.made() else { continue };
                let lost = match &audit.answer {
                    Answer::Refused { .. } if audit.is_not_found() => !gone(audit),
                    Answer::Job { shown, .. } => is_lost(&change.act, made, shown),
                    _ => {
                        object("G2", format!("healed, and still {:?} on {}", audit.answer, audit.replica));
                        return;
                    }
                };
                if lost {
                    let rule = if made.durable { "G1" } else { "G2" };
                    object(rule, format!("{change:?} is lost: {:?} on {}", audit.answer, audit.replica));
                }
            }
        }
        self.check_agreement(object);
        self.check_ledger(object);
    }

    /// G1: what is durable is read, a moment later at most on other replicas.
    pub fn check_reads(&self, object: &mut impl FnMut(&'static str, String)) {
        let durable = |call: &&&Call| call.shown().is_some_and(|shown| shown.durable);
        let reads: Vec<_> = self.calls.iter().filter(durable).filter(|call| call.act == Act::Get).collect();
        for change in self.calls.iter().filter(durable).filter(|change| !self.is_excused(change)) {
            let Some(made) = change.made() else { continue };
            let behind = |read: &&&&Call| {
                let lag = if read.replica == change.replica { At::ZERO } else { LAG + SLACK };
                let is_later = read.begun > change.ended + lag;
                is_later && read.shown().is_some_and(|shown| shown.life == made.life && shown.revision < made.revision)
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

    /// G2: the ledger names no conflict where there were no two sides.
    fn check_ledger(&self, object: &mut impl FnMut(&'static str, String)) {
        let mut changes = self.calls.iter().filter(|call| !matches!(call.act, Act::Get | Act::Watch));
        let Some(first) = changes.next() else { return };
        let leased = self.calls.iter().filter_map(|call| call.shown()).any(|shown| shown.lease > 0);
        let one_side = !leased
            && !self.may_be_expired(self.history.quiet.unwrap_or_default())
            && changes.all(|call| call.replica == first.replica);
        let told = self.ledger.iter().find(|entry| entry.outcome == Outcome::Conflicted);
        if let Some(entry) = told.filter(|_| one_side && self.history.deaths.is_empty()) {
            object("G2", format!("a conflict of one with itself, on {} at {:?}", entry.replica, entry.at));
        }
    }

    /// G3: a request makes one job.
    pub fn check_creations(&self, object: &mut impl FnMut(&'static str, String)) {
        let made: Vec<_> = self.calls.iter().filter(|call| matches!(call.act, Act::Create(_))).collect();
        for (number, first) in made.iter().enumerate() {
            for second in &made[number + 1..] {
                let (Some(one), Some(other)) = (first.shown(), second.shown()) else { continue };
                let (from, until) = (first.begun.min(second.begun), first.ended.max(second.ended));
                let apart = !(one.durable && other.durable) && self.is_told(from);
                let excused = apart
                    || self.may_be_deleted(until)
                    || self.may_be_expired(until)
                    || self.history.had_lost(from, until)
                    || self.history.is_unknown(first)
                    || self.history.is_unknown(second);
                if one.life != other.life && !excused {
                    object("G3", format!("two jobs of one request: {first:?} and {second:?}"));
                }
            }
        }
    }

    /// G5: a durable end never changes.
    pub fn check_ends(&self, object: &mut impl FnMut(&'static str, String)) {
        let calls = self
            .calls
            .iter()
            .filter_map(|call| Some(Sight { begun: call.begun, ended: call.ended, shown: call.shown()? }));
        // What is removed may have been another version than the one that ended.
        let lives = |heard: &&Heard| heard.event != Event::Removed;
        let heard = self.streams.iter().flat_map(|stream| &stream.events).filter(lives);
        let heard =
            heard.filter_map(|heard| Some(Sight { begun: heard.at, ended: heard.at, shown: heard.shown.as_ref()? }));
        let mut seen: Vec<_> = calls.chain(heard.filter(|sight| sight.shown.id == self.job)).collect();
        seen.retain(|sight| sight.shown.durable);
        seen.sort_by_key(|sight| sight.ended);
        for (number, end) in seen.iter().enumerate().filter(|(_, sight)| sight.shown.is_end()) {
            let later = seen[number + 1..].iter().filter(|sight| sight.shown.life == end.shown.life);
            for other in later.filter(|sight| sight.shown.state != end.shown.state) {
                // Of what was on its way meanwhile the order is not known, unless both are ends.
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

    /// G10: who is told that there is no such job was told the truth.
    pub fn check_missing(&self, object: &mut impl FnMut(&'static str, String)) {
        for missing in self.calls.iter().filter(|call| call.is_not_found() && call.client != super::AUDITOR) {
            let (from, until) = (missing.begun, missing.ended);
            if self.may_be_deleted(until) || self.may_be_expired(until) {
                continue;
            }
            let silent = |after: At, before: At| after < from && until < before;
            let unasked = self.history.faults.iter().filter_map(|fault| fault.silent);
            if unasked.clone().any(|(after, before, replica)| {
                silent(after, before) && replica.is_none_or(|replica| replica == missing.replica)
            }) {
                object("G10", format!("nobody could have known: {missing:?}"));
            }
            let known = self.calls.iter().filter(|call| call.ended < from).find(|call| {
                let here = call.replica == missing.replica && !self.history.died(call.replica, call.begun, Some(until));
                call.shown().is_some_and(|shown| shown.durable || here)
                    && !self.history.had_lost(from, until)
                    && !self.is_excused(call)
            });
            if let Some(known) = known {
                object("G10", format!("{missing:?} after {known:?}"));
            }
        }
    }

    /// G11: what is deleted or expired stays so.
    pub fn check_deletions(&self, object: &mut impl FnMut(&'static str, String)) {
        let created_since =
            |at: At| self.calls.iter().any(|call| matches!(call.act, Act::Create(_)) && call.ended > at);
        for deletion in self.calls.iter().filter(|call| call.act == Act::Delete && call.answer == Answer::Done) {
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
        for call in &self.calls {
            let expiry = call.shown().and_then(|shown| shown.expiry);
            if expiry.is_some_and(|expiry| self.history.clock(call.begun) > expiry + micros(SLACK)) {
                object("G11", format!("expired, and still shown: {call:?}"));
            }
        }
    }

    /// G12: a worker that stops reporting shows as lost to whoever reads.
    pub fn check_leases(&self, object: &mut impl FnMut(&'static str, String)) {
        for call in self.calls.iter().filter(|call| call.act == Act::Get) {
            let Some(shown) = call.shown().filter(|shown| shown.state == State::Running && !shown.lost) else {
                continue;
            };
            if shown.lease_end.is_some_and(|end| self.history.clock(call.begun) > end + micros(SLACK)) {
                object("G12", format!("the lease is over, and nobody says so: {call:?}"));
            }
        }
    }
}

/// Whether what was made is not in what is there.
fn is_lost(act: &Act, made: &Shown, there: &Shown) -> bool {
    if made.life != there.life {
        return true;
    }
    match act {
        _ if made.is_end() => there.state != made.state,
        Act::Cancel { .. } => !there.cancelled,
        Act::Report { sequence, .. } => there.attempt == made.attempt && there.completed < *sequence,
        _ => false,
    }
}

fn micros(time: At) -> i64 {
    i64::try_from(time.as_micros()).expect("not that long")
}
