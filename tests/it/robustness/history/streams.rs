//! Checks of the streams of a job.

use std::time::Duration;

use jobtrack::proto::v1::Event;

use super::{
    check::{LAG, SLACK, Story},
    record::{Act, At, Call, Ending, Heard, Stream},
};

/// Maximum delay until the sweeper stores that a worker is lost.
pub const SWEEP: Duration = Duration::from_secs(5);

impl Story<'_> {
    /// G4, G6 and G12, as far as streams show them.
    pub fn check_streams(&self, object: &mut impl FnMut(&'static str, String)) {
        for stream in &self.streams {
            self.check_order(stream, object);
            check_beginning(stream, object);
            self.check_newest(stream, object);
        }
        self.check_lost(object);
    }

    /// Returns the events of this job in a stream.
    fn heard<'s>(&self, stream: &'s Stream) -> impl DoubleEndedIterator<Item = &'s Heard> {
        stream.events.iter().filter(|heard| heard.shown.as_ref().is_some_and(|shown| shown.id == self.job))
    }

    /// G4: revisions rise within a stream, unless it says that it starts over.
    fn check_order(&self, stream: &Stream, object: &mut impl FnMut(&'static str, String)) {
        let (mut last, mut anew) = (stream.resumed, false);
        for heard in &stream.events {
            // A stream of all jobs that has started over knows only the jobs that it has named since.
            if heard.event == Event::Bookmark && heard.reset {
                last = last.filter(|_| anew);
                anew = false;
            }
            let Some(shown) = heard.shown.as_ref().filter(|shown| shown.id == self.job) else { continue };
            anew = heard.reset;
            // A stream that resumes after a removal shows the removal once more.
            let again = heard.event == Event::Removed && stream.resumed == Some(shown.revision);
            if !heard.reset && !again && last.is_some_and(|last| shown.revision <= last) {
                let on = (&stream.watcher, stream.replica);
                object("G4", format!("revision {last:?}, then {heard:?}, to {on:?} opened at {:?}", stream.opened));
            }
            last = Some(shown.revision);
        }
    }

    /// Returns the last event of this job before a stream was resumed.
    fn known<'s>(&self, stream: &'s Stream) -> Option<&'s Heard> {
        stream.known.iter().find(|heard| heard.shown.as_ref().is_some_and(|shown| shown.id == self.job))
    }

    /// G6: the newest version arrives, and the stream ends with the end of its job.
    fn check_newest(&self, stream: &Stream, object: &mut impl FnMut(&'static str, String)) {
        let last = self.heard(stream).next_back().or_else(|| self.known(stream));
        if let (Some(_), Some((at, Ending::Ok))) = (&stream.job, stream.closed) {
            let ended =
                |heard: &Heard| heard.event == Event::Removed || heard.shown.as_ref().is_some_and(super::Shown::is_end);
            // A stream that resumes after an end shows nothing.
            if !last.map_or(stream.resumed.is_some(), ended) {
                object("G6", format!("{} ended at {at:?} after {last:?}", stream.watcher));
            }
        }
        let Some(audit) = self.audits().next().filter(|_| stream.closed.is_none()) else { return };
        let on = (&stream.watcher, stream.replica, stream.opened);
        let known = last.and_then(|heard| heard.shown.as_ref());
        match (audit.shown(), known) {
            // The auditor's answer may be a moment older.
            (Some(there), Some(known))
                if known.revision > there.revision && last.is_some_and(|last| last.at + LAG > audit.begun) => {}
            (Some(there), Some(known)) if !there.is_same(known) => {
                // A stream of all jobs is limited to one owner.
                let left = stream.job.is_none() && known.owner != there.owner;
                if !left {
                    object("G6", format!("{on:?} was not told of {there:?}, the last was {last:?}"));
                } else if is_unaware(stream, last) {
                    object("G14", format!("{on:?} was not told that {there:?} took its place: {last:?}"));
                }
            }
            (Some(there), None) if stream.resumed.is_none_or(|resumed| resumed != there.revision) => {
                object("G6", format!("{on:?} was told nothing, not even {there:?}"));
            }
            (Some(there), _) if stream.job.is_some() && there.is_end() => {
                object("G6", format!("{on:?} still waits after {there:?}"));
            }
            (None, Some(_)) if self.is_surely_deleted(audit.begun) && is_unaware(stream, last) => {
                object("G6", format!("{on:?} was not told of the deletion, the last was {last:?}"));
            }
            _ => {}
        }
    }

    fn is_surely_deleted(&self, before: At) -> bool {
        let deleted = |call: &&Call| call.act == Act::Delete && call.answer == super::Answer::Done;
        self.calls.iter().filter(|call| deleted(call)).any(|call| call.ended < before && !self.history.is_unknown(call))
    }

    /// G12: watchers are told that the worker is lost, on any replica that runs.
    fn check_lost(&self, object: &mut impl FnMut(&'static str, String)) {
        let reports = || self.calls.iter().filter(|call| matches!(call.act, Act::Report { .. }));
        let Some(report) = reports().next_back().filter(|_| reports().any(|report| report.made().is_some())) else {
            return;
        };
        let Some(lease) = self.lease() else { return };
        let notice = lease + SWEEP + SLACK;
        // A job fails only after the wait for replicas that were away; until then only readers see that its worker is
        // lost.
        let fails = |call: &Call| matches!(&call.act, Act::Create(terms) if terms.fail_when_lost);
        let wait = if self.calls.iter().any(|call| fails(call)) { self.history.grace } else { At::ZERO };
        let Some(due) = self.history.due(report.ended, notice, notice + wait) else { return };
        if self.history.had_lost(report.begun, due) || self.may_be_deleted(due) || self.may_be_expired(due) {
            return;
        }
        for stream in &self.streams {
            // A stream that was opened at the last moment may still be delivering earlier versions.
            let open = stream.opened + SLACK < due && stream.closed.is_none_or(|(at, _)| at > due);
            if !open || !self.has_passed(due) {
                continue;
            }
            let chain = self.streams.iter().filter(|other| other.watcher == stream.watcher);
            let heard = chain.flat_map(|stream| self.heard(stream)).filter(|heard| heard.at <= due);
            let Some(last) = heard.max_by_key(|heard| heard.at) else { continue };
            let ended = last.shown.as_ref().is_some_and(|shown| shown.lost || shown.is_end());
            if !ended && last.event != Event::Removed {
                let on = (&stream.watcher, stream.replica);
                object(
                    "G12",
                    format!("{on:?} was not told by {due:?} that the worker is lost since {:?}", report.ended),
                );
            }
        }
    }

    fn has_passed(&self, at: At) -> bool {
        self.history.quiet.is_some_and(|quiet| quiet > at)
    }
}

/// Returns whether a stream whose last event of a job was this one does not know that the job is no longer in it.
fn is_unaware(stream: &Stream, last: Option<&Heard>) -> bool {
    // A stream of all jobs that has started over no longer contains jobs that it does not name.
    let started_over = |heard: &Heard| heard.event == Event::Bookmark && heard.reset;
    let over = stream.events.iter().rfind(|heard| started_over(heard)).map(|heard| heard.at);
    last.is_some_and(|last| last.event != Event::Removed && over.is_none_or(|over| over < last.at))
}

/// G6: a stream begins with a snapshot, or at the position where it resumes.
fn check_beginning(stream: &Stream, object: &mut impl FnMut(&'static str, String)) {
    let Some(first) = stream.events.first().filter(|_| stream.job.is_some()) else { return };
    let proper = match (stream.resumed, first.event) {
        (None, Event::Snapshot) => !first.reset,
        (Some(_), Event::Bookmark | Event::Removed) => true,
        (Some(_), Event::Snapshot) => first.reset,
        _ => false,
    };
    if !proper {
        object("G6", format!("a stream resumed at {:?} begins with {first:?}", stream.resumed));
    }
}
