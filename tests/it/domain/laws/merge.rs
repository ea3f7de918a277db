//! Laws of the merge, with random versions.

use std::{fmt::Debug, time::Duration};

use jobtrack::domain::{Attempt, Cancellation, Change, ChangeId, Grace, Job, Removal, State, merge};
use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

use super::merged;
use crate::support::jobs::{at, failure, job};

/// The parts of a version that matter to the merge. The id of its change is its index in the list of all versions, so
/// that it identifies one change.
#[derive(Clone, Debug)]
struct Sketch {
    incarnation: u8,
    removed: bool,
    attempt: i32,
    state: State,
    update: i64,
    revision: i64,
    durable: Option<i64>,
    recorded: bool,
    cancel: Option<(i64, Option<i64>)>,
    /// The attempts that ended, each with whether it failed.
    past: Vec<(i32, bool)>,
}

fn sketch(incarnations: u8) -> impl Strategy<Value = Sketch> {
    let state = prop_oneof![Just(State::Pending), Just(State::Running), Just(State::Succeeded), Just(State::Failed)];
    let parts = (0..incarnations, prop::bool::weighted(0.2), 1..3i32, state, 1..4i64, 1..5i64, any::<bool>());
    let past = vec((1..4i32, any::<bool>()), 0..3);
    (parts, option::of(1..3i64), option::of((1..4i64, option::of(1..4i64))), past).prop_map(
        |((incarnation, removed, attempt, state, update, revision, recorded), durable, cancel, mut past)| {
            let durable = durable.filter(|_| state.is_terminal() && !removed);
            let recorded = recorded || durable.is_some();
            past.sort_unstable();
            past.dedup_by_key(|(number, _)| *number);
            let past = if removed { Vec::new() } else { past };
            Sketch { incarnation, removed, attempt, state, update, revision, durable, recorded, cancel, past }
        },
    )
}

impl Sketch {
    fn version(&self, counter: u64) -> Job {
        let mut job = job("a", i64::from(self.incarnation));
        job.version.incarnation_id = Uuid::from_u128(u128::from(self.incarnation) + 1);
        job.version.revision = self.revision;
        job.version.change_id = ChangeId { process: 1, counter };
        job.removal = self.removed.then_some(Removal::Deleted);
        job.attempt = self.attempt;
        job.state = self.state;
        job.update_time = at(self.update);
        job.durable_time = self.durable.map(at);
        // Each incarnation was recorded at one time.
        job.since = self.recorded.then(|| at(100 + i64::from(self.incarnation)));
        let cancellation = |(time, grace): (i64, Option<i64>)| Cancellation {
            request_time: at(time),
            reason: String::new(),
            requester: String::new(),
            grace: grace.map(|seconds| Grace { since: at(time), length: Duration::from_secs(seconds.unsigned_abs()) }),
        };
        job.cancel = self.cancel.map(cancellation).map(Box::new);
        job.attempt_start_time = Some(at(1)).filter(|_| self.state != State::Pending);
        let Change::Fail(end) = failure() else { unreachable!("it is a failure") };
        let past = |(number, failed): &(i32, bool)| Attempt {
            number: *number,
            worker: String::new(),
            start_time: at(0),
            end_time: at(self.update),
            ended_by: ChangeId { process: 2, counter: counter * 10 + u64::from(number.unsigned_abs()) },
            failure: failed.then(|| end.outcome.clone()),
        };
        job.attempts = self.past.iter().map(past).collect();
        job
    }
}

/// Returns the content of a version, apart from the revision that it is stored under.
fn content(job: &Job) -> impl PartialEq + Debug + use<> {
    let Job { version, removal, state, cancel, attempts, .. } = job;
    (version.incarnation_id, version.change_id, *removal, *state, cancel.clone(), attempts.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn merging_one_incarnation_is_a_semilattice(sketches in vec(sketch(1), 3)) {
        let [a, b, c] = [0, 1, 2].map(|at| sketches[at].version(at as u64));
        prop_assert_eq!(&merged(&a, &a), &a);
        prop_assert_eq!(content(&merged(&a, &b)), content(&merged(&b, &a)));
        prop_assert_eq!(content(&merged(&merged(&a, &b), &b)), content(&merged(&a, &b)));
        prop_assert_eq!(content(&merged(&merged(&a, &b), &c)), content(&merged(&a, &merged(&b, &c))));
    }

    #[test]
    fn merging_incarnations_is_commutative_and_converges(sketches in vec(sketch(3), 2)) {
        let [a, b] = [0, 1].map(|at| sketches[at].version(at as u64));
        prop_assert_eq!(content(&merged(&a, &b)), content(&merged(&b, &a)));
        let once = merged(&a, &b);
        prop_assert_eq!(content(&merged(&once, &b)), content(&once));
        prop_assert_eq!(content(&merged(&once, &a)), content(&once));
    }

    #[test]
    fn a_merge_raises_the_revision_unless_the_winner_has_the_highest(sketches in vec(sketch(2), 2)) {
        let [a, b] = [0, 1].map(|at| sketches[at].version(at as u64));
        let merged = merge(&a, &b);
        let highest = a.version.revision.max(b.version.revision);
        let winner = if merged.job.version.change_id == a.version.change_id { &a } else { &b };
        prop_assert!(merged.job.version.revision >= highest);
        let same = content(&merged.job) == content(winner);
        if merged.job.version.revision == highest {
            prop_assert!(same && winner.version.revision == highest, "{merged:?}");
        }
        let loser = if merged.job.version.change_id == a.version.change_id { &b } else { &a };
        prop_assert_eq!(merged.discarded, Some(loser.version.change_id));
    }
}
