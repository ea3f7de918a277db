//! Checks of ids that several creations claim.

use super::{
    check::{Sight, Story},
    record::{Act, Answer, Call},
};

impl Story<'_> {
    /// G14: the incarnation that was recorded first wins, and a creation that lost to it is reported.
    pub fn check_owners(&self, object: &mut impl FnMut(&'static str, String)) {
        let mut seen = self.sights.clone();
        seen.retain(|sight| sight.shown.durable);
        seen.sort_by_key(|sight| sight.ended);
        let Some(first) = seen.first() else { return };
        for sight in &seen[1..] {
            if sight.shown.incarnation == first.shown.incarnation && sight.shown.owner != first.shown.owner {
                object("G14", format!("the owner changed: {:?}, then {:?}", first.shown, sight.shown));
                return;
            }
            let taken =
                sight.shown.incarnation != first.shown.incarnation && self.was_volatile(sight.shown.incarnation);
            if taken && !self.may_be_replaced(first, sight) {
                let times = (first.ended, sight.ended);
                object("G14", format!("{:?} took the place of {:?}, at {times:?}", sight.shown, first.shown));
                return;
            }
        }
        self.check_losers(object);
    }

    /// Returns whether this incarnation was made by a creation that could not be checked against Redis.
    fn was_volatile(&self, incarnation: i64) -> bool {
        self.unchecked().any(|(_, other)| other == incarnation)
    }

    /// Returns the creations that were accepted without being checked, and the incarnations that they made.
    fn unchecked(&self) -> impl Iterator<Item = (&Call, i64)> {
        let creations = self.calls.iter().copied().filter(|call| matches!(call.act, Act::Create(_)));
        creations.filter_map(|call| Some((call, call.made().filter(|made| !made.durable)?.incarnation)))
    }

    /// Returns whether a recorded incarnation may have been removed when another one was shown in its place.
    fn may_be_replaced(&self, first: &Sight, other: &Sight) -> bool {
        self.deletions(Some(&first.shown.owner)).any(|call| call.begun < other.ended)
            || self.may_be_expired(other.ended)
            || self.history.had_lost(first.begun, other.ended)
    }

    /// G14: the report names a creation that lost.
    fn check_losers(&self, object: &mut impl FnMut(&'static str, String)) {
        let Some((audit, last)) = self.audits().find_map(|audit| Some((audit, audit.shown()?))) else { return };
        for (creation, _) in self.unchecked().filter(|(_, incarnation)| *incarnation != last.incarnation) {
            let withdrawn = self.calls.iter().any(|call| {
                let done = call.act == Act::Delete && call.answer == Answer::Done;
                done && call.ended > creation.begun
                    && ["", creation.limited_to.as_str()].contains(&call.limited_to.as_str())
            });
            let expired = self.may_be_expired(audit.ended);
            if !withdrawn && !expired && !self.is_excused(creation) {
                object("G14", format!("{creation:?} lost to {last:?}, and no report says so"));
                return;
            }
        }
    }
}
