//! Checks the promises of the service that a client can observe, G1 to G18.
//!
//! Only unavoidable losses are excused: changes that only a dead process knew, data that Redis lost until the replicas
//! have restored it, and changes that the report of a reconciliation names as discarded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    time::Duration,
};

use jobtrack::proto::v1::{Event, reconciled_job::Outcome};
use tonic::Code;

use super::{
    record::{Act, Answer, At, Call, Entry, Fault, History, Shown, Stop, Stream},
    returns::check_returns,
    stops::check_stop,
};

/// Maximum duration of a call.
const CALL: Duration = Duration::from_secs(5);

/// Maximum duration of a call while Redis is unavailable.
const CALL_AWAY: Duration = Duration::from_secs(1);

/// Tolerance for a busy machine.
pub const SLACK: Duration = Duration::from_secs(2);

/// Maximum time that an answer may be behind another replica.
pub const LAG: Duration = Duration::from_secs(1);

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub rule: &'static str,
    pub job: String,
    pub what: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule, self.job, self.what)
    }
}

/// Returns all violations of promises that a history shows.
pub fn check(history: &History) -> BTreeSet<Violation> {
    let mut stories: BTreeMap<&str, Story> = BTreeMap::new();
    for call in &history.calls {
        let story = stories.entry(&call.job).or_insert_with(|| Story::new(history, &call.job));
        story.calls.push(call);
        let sight = call.shown().map(|shown| Sight { begun: call.begun, ended: call.ended, shown });
        story.sights.extend(sight);
    }
    for stream in &history.streams {
        // A stream of all jobs counts as a stream of each job that it has shown, also before it was resumed.
        let heard = stream.known.iter().chain(&stream.events);
        let names = stream.job.iter().chain(heard.filter_map(|heard| Some(&heard.shown.as_ref()?.id)));
        for name in names.collect::<BTreeSet<_>>() {
            stories.entry(name).or_insert_with(|| Story::new(history, name)).streams.push(stream);
        }
    }
    for heard in history.streams.iter().flat_map(|stream| &stream.events) {
        // The removed version may be a different one than the last version that was seen.
        let Some(shown) = heard.shown.as_ref().filter(|_| heard.event != Event::Removed) else { continue };
        let sight = Sight { begun: heard.at, ended: heard.at, shown };
        stories.get_mut(shown.id.as_str()).expect("it was heard of").sights.push(sight);
    }
    for entry in &history.reported {
        stories.entry(&entry.job).or_insert_with(|| Story::new(history, &entry.job)).reported.push(entry);
    }
    let mut violations: BTreeSet<_> = stories.values().flat_map(Story::violations).collect();
    violations.extend(history.calls.iter().filter_map(|call| is_slow(history, call)));
    violations.extend(history.calls.iter().filter_map(|call| is_unclear(history, call)));
    let stories: Vec<_> = stories.values().collect();
    violations.extend(history.stops.iter().filter_map(|stop| check_stop(stop, &stories, history)));
    violations.extend(check_returns(history));
    violations
}

/// G9: no call hangs. G18: neither does one that is refused because a limit is reached.
fn is_slow(history: &History, call: &Call) -> Option<Violation> {
    let took = call.ended.saturating_sub(call.begun);
    let away = history.faults.iter().find(|fault| fault.overlaps(call.begun, call.ended));
    let limit = if away.is_some() { CALL_AWAY } else { CALL };
    let during = away.map_or("nothing", |fault| fault.name);
    let what = || format!("{took:?} during {during} for {call:?}");
    let late = took > limit + SLACK / 4 + history.stalled(call.begun, call.ended);
    let refused = matches!(&call.answer, Answer::Refused { code: Code::ResourceExhausted, .. });
    let rule = if refused { "G18" } else { "G9" };
    late.then(|| Violation { rule, job: call.job.clone(), what: what() })
}

/// G18: a rejected call names the reason, unless no server was there to name it.
fn is_unclear(history: &History, call: &Call) -> Option<Violation> {
    let Answer::Refused { code, reason } = &call.answer else { return None };
    let excused = is_transient(*code) && history.was_down(call.replica, call.begun, call.ended);
    let unclear = reason.is_empty() && !excused;
    unclear.then(|| Violation {
        rule: "G18",
        job: call.job.clone(),
        what: format!("refused without a reason: {call:?}"),
    })
}

/// Returns whether the same call may succeed a moment later. A client library generates these codes itself when its
/// connection breaks.
pub fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded)
}

/// The part of a history that concerns one job.
pub struct Story<'a> {
    pub history: &'a History,
    pub job: &'a str,
    pub calls: Vec<&'a Call>,
    pub streams: Vec<&'a Stream>,
    pub reported: Vec<&'a Entry>,
    /// All versions that were shown.
    pub sights: Vec<Sight<'a>>,
}

/// A version that a client was shown.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    pub begun: At,
    pub ended: At,
    pub shown: &'a Shown,
}

impl<'a> Story<'a> {
    fn new(history: &'a History, job: &'a str) -> Self {
        Self { history, job, calls: Vec::new(), streams: Vec::new(), reported: Vec::new(), sights: Vec::new() }
    }

    fn violations(&self) -> Vec<Violation> {
        let mut all = Vec::new();
        let mut object = |rule, what: String| all.push(Violation { rule, job: self.job.to_owned(), what });
        self.check_changes(&mut object);
        self.check_reads(&mut object);
        self.check_creations(&mut object);
        self.check_ends(&mut object);
        self.check_missing(&mut object);
        self.check_held(&mut object);
        self.check_deletions(&mut object);
        self.check_leases(&mut object);
        self.check_decisions(&mut object);
        self.check_owners(&mut object);
        self.check_streams(&mut object);
        all
    }

    /// Returns the last answers to the auditor.
    pub fn audits(&self) -> impl Iterator<Item = &'a Call> {
        let quiet = self.history.quiet;
        self.calls
            .iter()
            .copied()
            .filter(move |call| call.client == super::AUDITOR && quiet.is_some_and(|quiet| call.begun >= quiet))
    }

    /// Returns whether a client that may see all jobs tried to delete the job before.
    pub fn may_be_deleted(&self, before: At) -> bool {
        self.deletions(None).any(|call| call.begun < before)
    }

    /// Returns attempts to delete the job, or its incarnation with this owner, by clients that can.
    pub fn deletions<'s>(&'s self, owner: Option<&'s str>) -> impl Iterator<Item = &'s Call> {
        let may = move |call: &&&Call| call.limited_to.is_empty() || owner == Some(&call.limited_to);
        self.calls.iter().filter(|call| call.act == Act::Delete).filter(may).copied()
    }

    /// Returns whether this incarnation was created by a client that may see only jobs of one owner.
    pub fn is_of_limited(&self, incarnation: i64) -> bool {
        let limited = self.calls.iter().filter(|call| !call.limited_to.is_empty());
        limited.filter_map(|call| call.made()).any(|made| made.incarnation == incarnation)
    }

    /// Returns whether the job may have expired by this time.
    pub fn may_be_expired(&self, by: At) -> bool {
        let brief = |call: &&Call| matches!(&call.act, Act::Create(terms) if terms.retention > 0);
        self.calls.iter().any(brief) || self.may_be_expired_while_active(by)
    }

    fn may_be_expired_while_active(&self, by: At) -> bool {
        let kept = self.history.active_retention;
        let changes = self.calls.iter().filter(|call| call.made().is_some() && call.limited_to.is_empty());
        // Includes times between two changes: the second one may be the creation of the next job under the id.
        let mut times: Vec<_> = changes.map(|call| call.begun).filter(|begun| *begun < by).chain([by]).collect();
        times.sort();
        // If the only replica that knew of an end is gone, the job is still active.
        let ends = self.calls.iter().filter(|call| call.made().is_some_and(Shown::is_end));
        let ends = ends.filter(|end| !self.history.is_unknown(end)).map(|end| end.begun);
        let shown = self.sights.iter().filter(|sight| sight.shown.is_end() && sight.shown.durable);
        let first_end = ends.chain(shown.map(|sight| sight.begun)).min().unwrap_or(At::MAX);
        let is_gap = |pair: &[At]| pair[0] < first_end && pair[0] + kept < pair[1] + SLACK;
        kept > At::ZERO && (times.len() == 1 || times.windows(2).any(is_gap))
    }

    /// Returns whether a report names the job, then or later, as conflicted or dropped. One entry covers a conflict
    /// until it is merged: changes that are acknowledged meanwhile, in the same fault, may lose, too.
    pub fn is_told(&self, since: At) -> bool {
        let faults = self.history.faults.iter().filter(|fault| fault.overlaps(since, since));
        let since = faults.map(|fault| fault.from).fold(since, At::min);
        let is_loser = |entry: &Entry| matches!(entry.outcome, Outcome::Conflicted | Outcome::Dropped);
        self.reported.iter().any(|entry| entry.at >= since && is_loser(entry))
    }

    /// Returns whether an acknowledged change may be lost: a report says so, or the only replica that knew of it died.
    pub fn is_excused(&self, call: &Call) -> bool {
        self.is_told(call.begun) || self.history.is_unknown(call)
    }
}

impl History {
    /// Returns whether the change of this call may have been lost with its replica.
    pub fn is_unknown(&self, call: &Call) -> bool {
        let died = |until| self.died(call.replica, call.begun, until);
        let is_durable = call.shown().is_some_and(|shown| shown.durable);
        let healed = || self.faults.iter().filter_map(|fault| fault.until).find(|until| *until > call.ended);
        let lost = |fault: &Fault| fault.lossy && fault.is_over_after(call.ended) && died(fault.until);
        (!is_durable && died(healed())) || self.faults.iter().any(lost)
    }

    /// Returns whether this replica died between `from` and `until`.
    pub fn died(&self, replica: usize, from: At, until: Option<At>) -> bool {
        self.deaths
            .iter()
            .any(|death| death.replica == replica && death.at >= from && until.is_none_or(|until| death.at <= until))
    }

    /// Returns whether the process of this replica ended between `from` and `until`, with or without a loss.
    pub fn ended(&self, replica: usize, from: At, until: At) -> bool {
        let stopped = |stop: &Stop| stop.replica == replica && stop.ended >= from && stop.at <= until;
        self.died(replica, from, Some(until)) || self.stops.iter().any(stopped)
    }

    /// Returns the times at which this replica did not run, or was stopping.
    pub fn downs(&self, replica: usize) -> impl Iterator<Item = (At, At)> {
        let deaths = self.deaths.iter().map(|death| (death.replica, death.at, death.back));
        let stops = self.stops.iter().map(|stop| (stop.replica, stop.at, stop.back));
        let here = deaths.chain(stops).filter(move |(number, ..)| *number == replica);
        here.map(|(_, from, back)| (from, back.unwrap_or(At::MAX)))
    }

    /// Returns whether this replica was down, about to be, or only just started, at some moment between `from` and
    /// `until`.
    fn was_down(&self, replica: usize, from: At, until: At) -> bool {
        self.downs(replica).any(|(down, up)| down <= until + SLACK && from <= up.saturating_add(SLACK))
    }

    /// Returns whether Redis had lost data between `from` and `until` that was not restored yet.
    pub fn had_lost(&self, from: At, until: At) -> bool {
        self.faults.iter().any(|fault| fault.lossy && fault.overlaps(from, until))
    }
}

impl Fault {
    fn is_over_after(&self, at: At) -> bool {
        self.until.is_none_or(|until| until > at)
    }

    pub fn overlaps(&self, from: At, until: At) -> bool {
        self.from <= until && self.is_over_after(from)
    }
}

impl Call {
    /// Returns the job, if it was shown.
    pub fn shown(&self) -> Option<&Shown> {
        match &self.answer {
            Answer::Job { shown, .. } => Some(shown),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(&self.answer, Answer::Refused { code: Code::NotFound, .. })
    }

    /// Returns the job, if this call changed it.
    pub fn made(&self) -> Option<&Shown> {
        match (&self.act, &self.answer) {
            (Act::Get | Act::Watch | Act::Oversized, _) => None,
            (_, Answer::Job { shown, applied: true }) => Some(shown),
            _ => None,
        }
    }
}
