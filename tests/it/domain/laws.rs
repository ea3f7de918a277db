//! Invariants of every history: of the state machine, the merge and the tokens.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use jobtrack::{
    clock::{Clock, SteeredClock},
    domain::{
        ANYONE, Applied, Attempt, Cancellation, Change, ChangeId, Completion, Cursor, Filter, Grace, Identity, Job,
        JobId, MAX_ATTEMPTS, NewJob, Order, Owners, Progress, Removal, Report, Start, State, Timestamp, merge,
    },
    watch::{JobToken, JobsToken},
};
use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

use crate::support::jobs::{
    apply, at, cancel, change_context, confirm, document, failure, heartbeat, job, make, plain, retry, success,
    try_apply,
};

fn progress() -> impl Strategy<Value = Progress> {
    let stage = (option::weighted(0.2, "[ab]?"), option::weighted(0.2, 0i32..3));
    let parts = (option::of(0.0..=100.0), option::of(0i64..50), option::of(0i64..50), stage);
    parts.prop_map(|(percent, completed, total, (stage, stage_index))| Progress {
        percent,
        completed,
        total,
        stage,
        stage_index,
        ..Progress::default()
    })
}

fn report() -> impl Strategy<Value = Report> {
    let parts = (progress(), option::of(1i64..20), option::of(1i32..4), option::of(1i64..10), option::of(0u64..30));
    parts.prop_map(|(progress, sequence, attempt, expected_revision, lease)| Report {
        progress,
        worker: String::new(),
        sequence,
        attempt,
        claim: None,
        expected_revision,
        lease_timeout: lease.map(Duration::from_secs),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let end = option::of(1i32..4).prop_map(|attempt| {
        Change::Complete(Completion { outcome: None, attempt, claim: None, expected_revision: None })
    });
    prop_oneof![
        8 => report().prop_map(Change::Report),
        1 => end,
        1 => Just(failure()),
        1 => Just(retry()),
        1 => (any::<bool>(), option::of("[ab]")).prop_map(|(takeover, request_id)| {
            Change::Start(Start { takeover, request_id, ..Start::default() })
        }),
        1 => any::<bool>().prop_map(cancel),
        1 => Just(confirm()),
        1 => any::<bool>().prop_map(|force| Change::Delete { force }),
        1 => Just(Change::LoseWorker),
        1 => Just(Change::Expire),
    ]
}

proptest! {
    #[test]
    fn transitions_keep_the_invariants_of_a_job(lease in 0u64..20, changes in vec((change(), 0i64..20), 1..60)) {
        let mut now = 0;
        let mut job = make("a", 0, NewJob { lease_timeout: Duration::from_secs(lease), ..plain() });
        for (change, pause) in changes {
            now += pause;
            let (next, is_ignored) = match job.apply(&change, &change_context(now)) {
                Ok(Applied::Changed(next) | Applied::ChangedIfLost(next)) => (*next, false),
                Ok(Applied::Ignored { renewed: Some(next), .. }) => (*next, true),
                _ => continue,
            };
            prop_assert_eq!(next.version.revision, job.version.revision + 1);
            prop_assert_eq!(next.version.incarnation_id, job.version.incarnation_id);
            let lost = change == Change::LoseWorker && next.state == job.state;
            let as_it_was = next.update_time == job.update_time;
            prop_assert!((lost || is_ignored) == as_it_was && next.update_time >= job.update_time);
            if is_ignored {
                let said = |job: &Job| (job.progress.clone(), job.sequence, job.worker.clone(), job.attempt);
                prop_assert_eq!(said(&next), said(&job));
            }
            prop_assert!(next.attempt >= job.attempt);
            let numbers: Vec<_> = next.past_attempts().map(|attempt| attempt.number).collect();
            prop_assert!(numbers.is_sorted_by(|one, other| one < other) && numbers.len() <= MAX_ATTEMPTS);
            prop_assert!(next.attempt_start_time.is_none() || numbers.last().is_none_or(|last| *last < next.attempt));
            prop_assert!(next.claim.is_none() || next.attempt > 0);
            if let Some(cancel) = &job.cancel {
                let kept = if next.removal.is_some() { cancel.without_reason() } else { (**cancel).clone() };
                prop_assert_eq!(next.cancel.as_deref(), Some(&kept));
            }
            if job.state.is_terminal() {
                prop_assert!(next.removal.is_some() && next.state == job.state);
            }
            prop_assert_eq!(next.end_time.is_some(), next.state.is_terminal());
            prop_assert!(next.state != State::Running || next.start_time.is_some());
            prop_assert!(next.progress.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)));
            let fell = matches!((job.progress.percent, next.progress.percent), (Some(old), Some(new)) if new < old);
            if let (Change::Report(report), true) = (&change, fell) {
                let stage = |job: &Job| (job.progress.stage.clone(), job.progress.stage_index);
                let starts_again = next.attempt > job.attempt || stage(&next) != stage(&job);
                prop_assert!(
                    starts_again || report.sequence.is_some() || next.progress.total > job.progress.total,
                    "percent fell without cause: {:?} to {:?}", job.progress, next.progress
                );
            }
            job = next;
            if job.removal.is_some() {
                break;
            }
        }
    }

    #[test]
    fn repeated_changes_have_no_effect(changes in vec(change(), 1..30), end in change()) {
        let mut job = job("a", 0);
        for change in changes {
            job = try_apply(&job, &change, 1).ok().flatten().filter(|next| next.removal.is_none()).unwrap_or(job);
        }
        let ends = matches!(end, Change::Complete(_) | Change::Fail(_) | Change::Retry(_) | Change::Cancel { .. } | Change::ConfirmCancel { .. });
        if let (true, Ok(Some(once))) = (ends, try_apply(&job, &end, 2)) {
            prop_assert_eq!(try_apply(&once, &end, 3), Ok(None));
        }
    }

    #[test]
    fn a_job_is_read_from_json_as_it_was_written(lease in 0u64..20, changes in vec(change(), 0..20), number in any::<f64>(), text in "\\PC{0,20}") {
        let number = if number.is_finite() { number } else { 0.0 };
        let metadata = document(&serde_json::json!({ &text: [number, null, true, { "x": &text }] }));
        let labels = [(text.clone(), text.clone())].into();
        let title = text.clone();
        let new = NewJob { lease_timeout: Duration::from_secs(lease), metadata, labels, owner: text, title, ..plain() };
        let mut job = make("a", 0, new);
        for (now, change) in (1..).zip(changes) {
            job = try_apply(&job, &change, now).ok().flatten().unwrap_or(job);
        }
        let json = serde_json::to_string(&job).expect("a job can be written");
        prop_assert_eq!(serde_json::from_str::<Job>(&json).expect("and read"), job);
    }

    #[test]
    fn a_page_token_is_for_its_filter_and_caller(micros in any::<i64>(), name in "[A-Za-z0-9._:-]{1,128}", kind in "[a-z]{0,5}", owner in "[a-z]{0,5}") {
        let filter = Filter { kind: kind.clone(), ..Filter::default() };
        let place = Cursor { create_time: Timestamp::from_micros(micros), id: JobId::parse(&name).expect("valid") };
        let digest = filter.digest(&ANYONE);
        let token = place.to_token(digest);
        prop_assert_eq!(Cursor::from_token(&token, Order::Newest.bind(digest)), Some(place));
        prop_assert_eq!(Cursor::from_token(&token, Order::Oldest.bind(digest)), None);
        let somebody = Identity { name: kind.clone(), ..ANYONE.clone() };
        prop_assert_eq!(Cursor::from_token(&token, filter.digest(&somebody)).is_some(), kind.is_empty());
        let other = Filter { owners: Owners::one(owner.clone()), ..filter.clone() };
        prop_assert_eq!(Cursor::from_token(&token, other.digest(&ANYONE)), None);
        let swapped = Filter { kind: owner.clone(), owners: Owners::one(kind.clone()), ..Filter::default() };
        prop_assert_eq!(swapped.digest(&ANYONE) == other.digest(&ANYONE), kind == owner);
    }

    #[test]
    fn resume_tokens_are_read_as_written(epoch: u64, revision in 1..i64::MAX, process: u64, counter: u64, position: Option<u64>) {
        let id = JobId::parse("a.b:c").expect("valid");
        let token = JobToken { epoch, revision, change_id: ChangeId { process, counter }, id };
        prop_assert_eq!(JobToken::decode(&token.encode()), Some(token));
        let token = JobsToken { epoch, position, scope: Uuid::new_v4() };
        prop_assert_eq!(JobsToken::decode(&token.encode()), Some(token));
    }

    #[test]
    fn no_text_makes_a_token_panic(text in "\\PC*", dotted in "[0-9a-f.]{0,60}") {
        for token in [text, dotted] {
            _ = JobToken::decode(&token);
            _ = JobsToken::decode(&token);
            _ = Cursor::from_token(&token, Filter::default().digest(&ANYONE));
        }
    }
}

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

fn merged(a: &Job, b: &Job) -> Job {
    merge(a, b).job
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
        prop_assert_eq!(merged.lost, Some(loser.version.change_id));
    }
}

/// The rules of the merge by name; the first version wins.
#[test]
fn each_merge_rule_picks_its_winner() {
    let base = apply(&job("a", 0), &heartbeat(), 1);
    let with = |edit: &dyn Fn(&mut Job)| {
        let mut job = apply(&base, &heartbeat(), 2);
        edit(&mut job);
        job
    };
    let ended = |durable: Option<i64>, update: i64| {
        with(&|job| {
            job.state = State::Succeeded;
            job.durable_time = durable.map(at);
            job.update_time = at(update);
        })
    };
    let other_life = |edit: &dyn Fn(&mut Job)| {
        with(&|job| {
            job.version.incarnation_id = Uuid::from_u128(7);
            edit(job);
        })
    };
    let rules: Vec<(&str, (Job, Job))> = vec![
        ("a tombstone over all", (with(&|job| job.removal = Some(Removal::Deleted)), ended(Some(1), 9))),
        ("a durable end over a later one", (ended(Some(1), 2), ended(Some(2), 9))),
        ("a durable end over a higher attempt", (ended(Some(1), 2), with(&|job| job.attempt = 9))),
        ("a higher attempt over an end", (with(&|job| job.attempt = 9), ended(None, 9))),
        ("an end over progress", (ended(None, 2), with(&|job| job.update_time = at(9)))),
        (
            "an attempt that ended over its reports",
            (
                with(&|job| (job.state, job.attempt_start_time) = (State::Pending, None)),
                with(&|job| job.update_time = at(9)),
            ),
        ),
        ("the newer update", (with(&|job| job.update_time = at(9)), with(&|job| job.update_time = at(3)))),
        ("the later born", (other_life(&|job| job.version.first_revision = 2), ended(Some(1), 9))),
        (
            "a live one over another's tombstone",
            (other_life(&|_| ()), with(&|job| job.removal = Some(Removal::Deleted))),
        ),
        ("a recorded one over another", (other_life(&|job| job.since = Some(at(50))), with(&|_| ()))),
        ("the earlier creation", (other_life(&|job| job.create_time = at(-9)), with(&|_| ()))),
    ];
    for (rule, (winner, loser)) in rules {
        for merged in [merge(&winner, &loser), merge(&loser, &winner)] {
            assert_eq!(merged.job.version.change_id, winner.version.change_id, "{rule}");
            assert_eq!(merged.lost, Some(loser.version.change_id), "{rule}");
        }
    }
}

/// The job replaced another one's tombstone, and was changed on a replica that does not know of that yet.
#[test]
fn job_that_took_the_place_of_a_tombstone_keeps_it_through_a_merge() {
    let mut deleted = apply(&apply(&job("a", 0), &heartbeat(), 1), &Change::Delete { force: true }, 2);
    (deleted.version.first_revision, deleted.version.revision, deleted.since) = (3, 4, Some(at(0)));
    let pushed = apply(&job("a", 1), &heartbeat(), 3);
    let in_its_place = merge(&pushed, &deleted).job;
    let changed = apply(&pushed, &heartbeat(), 4);
    for stored in [merge(&changed, &in_its_place).job, merge(&in_its_place, &changed).job] {
        assert_eq!((stored.removal, stored.update_time), (None, changed.update_time));
        for stands in [merge(&stored, &deleted).job, merge(&deleted, &stored).job] {
            assert_eq!(stands.removal, None, "the tombstone stands: {stands:?} of {stored:?}");
        }
    }
}

/// Returns a version of an incarnation of its own, recorded in the primary at this time.
fn incarnation(number: u128, since: Option<i64>, edit: impl FnOnce(&mut Job)) -> Job {
    let mut version = apply(&job("a", 1), &heartbeat(), 2);
    version.version.incarnation_id = Uuid::from_u128(number);
    version.since = since.map(at);
    edit(&mut version);
    version
}

/// An id belongs to the incarnation that was recorded first, whatever the others became.
#[test]
fn incarnation_that_was_recorded_first_stands() {
    let recorded = incarnation(1, Some(50), |_| ());
    let later = |since: Option<i64>, edit: fn(&mut Job)| {
        incarnation(2, since, |job| {
            (job.version.first_revision, job.version.revision, job.update_time) = (8, 9, at(90));
            edit(job);
        })
    };
    for since in [None, Some(60)] {
        let others = [
            later(since, |_| ()),
            later(since, |job| (job.state, job.durable_time) = (State::Succeeded, job.since)),
            later(since, |job| job.attempt = 9),
            later(since, |job| job.removal = Some(Removal::Deleted)),
        ];
        for other in others {
            for merged in [merge(&recorded, &other), merge(&other, &recorded)] {
                assert_eq!(merged.job.version.incarnation_id, recorded.version.incarnation_id, "{other:?}");
                assert_eq!(merged.job.version.revision, 10, "nobody who knows the other one has seen it: {other:?}");
                assert_eq!(merged.lost, Some(other.version.change_id), "{other:?}");
            }
        }
    }
}

/// The result is the same as if the job had been created over the tombstone.
#[test]
fn live_job_takes_the_place_of_a_tombstone_that_was_recorded_first() {
    let deleted = incarnation(1, Some(50), |job| {
        (job.version.revision, job.removal) = (7, Some(Removal::Deleted));
    });
    for since in [None, Some(60)] {
        let live = incarnation(2, since, |_| ());
        for merged in [merged(&deleted, &live), merged(&live, &deleted)] {
            assert_eq!(merged.version.incarnation_id, live.version.incarnation_id);
            assert_eq!((merged.removal, merged.since), (None, deleted.since), "it has the id since the tombstone had");
            assert_eq!((merged.version.first_revision, merged.version.revision), (8, 8));
        }
        // An active job that expired is not a final tombstone: its incarnation still has the id.
        let expired = incarnation(1, Some(50), |job| job.removal = Some(Removal::Expired));
        for merged in [merged(&expired, &live), merged(&live, &expired)] {
            assert_eq!(merged.version.incarnation_id, expired.version.incarnation_id);
        }
    }
}

/// Two replicas created the job for one request, and one of them completed it.
#[test]
fn jobs_of_one_request_become_one() {
    let of_request = |job: &mut Job| (job.owner, job.request_id) = ("o".to_owned(), Some("r".to_owned()));
    let first = incarnation(1, Some(50), of_request);
    let end = |job: &mut Job| {
        of_request(job);
        (job.state, job.create_time, job.update_time) = (State::Succeeded, at(-9), at(90));
    };
    for since in [None, Some(60)] {
        let ended = incarnation(2, since, end);
        for merged in [merged(&first, &ended), merged(&ended, &first)] {
            assert_eq!((merged.state, merged.version.change_id), (State::Succeeded, ended.version.change_id));
            let identity = |job: &Job| (job.version.incarnation_id, job.since, job.create_time);
            assert_eq!(identity(&merged), identity(&first), "the one that was recorded first is the job");
        }
        let of_another = incarnation(2, since, |job| {
            end(job);
            job.owner = "another".to_owned();
        });
        for merged in [merged(&first, &of_another), merged(&of_another, &first)] {
            assert_eq!((merged.state, &*merged.owner), (State::Running, "o"), "it is another request");
        }
    }
}

/// The expiry of an active job was decided for one version: a report that the decision did not know of wins.
#[test]
fn expiry_of_an_active_job_stands_over_its_own_base_alone() {
    let base = apply(&job("a", 1), &heartbeat(), 2);
    // The process that decided may have the lower or the higher id.
    for process in [u64::MIN, u64::MAX] {
        let expired = base.expired(at(90), ChangeId { process, counter: 0 });
        for merged in [merged(&expired, &base), merged(&base, &expired)] {
            assert_eq!((merged.removal, merged.version), (Some(Removal::Expired), expired.version));
        }
    }
    let expired = base.expired(at(90), change_context(90).change_id);
    let reported = apply(&base, &heartbeat(), 3);
    for merged in [merged(&expired, &reported), merged(&reported, &expired)] {
        assert_eq!((merged.removal, merged.version.change_id), (None, reported.version.change_id));
    }
    let ended = apply(&base, &success(), 3);
    let expired = ended.expired(at(90), change_context(90).change_id);
    let other_end = apply(&base, &failure(), 4);
    for merged in [merged(&expired, &other_end), merged(&other_end, &expired)] {
        assert_eq!(merged.removal, Some(Removal::Expired), "the expiry of an ended job is final");
    }
}

/// All incarnations of an id have it since the first one, however often it is deleted and created again.
#[test]
fn job_made_over_a_tombstone_has_the_id_since_the_first_one() {
    let first = Job { since: Some(at(5)), ..job("a", 1) };
    let gone = first.expired(at(2), change_context(2).change_id);
    let second = Job::create(first.id.clone(), plain(), Some(&gone), Uuid::new_v4(), &change_context(7));
    assert_eq!(second.since, first.since);
}

/// The merge keeps the times that either version of one incarnation knows: of the first recording, and of the last
/// report.
#[test]
fn times_of_the_primary_that_either_version_knows_are_kept() {
    let first = job("a", 1);
    let second = apply(&first, &heartbeat(), 2);
    let cases = [(None, Some(5), 5), (Some(7), Some(5), 5), (Some(5), Some(7), 5), (Some(5), None, 5)];
    for (of_second, of_first, since) in cases {
        let [second, first] =
            [(&second, of_second), (&first, of_first)].map(|(job, since)| Job { since: since.map(at), ..job.clone() });
        for merged in [merged(&first, &second), merged(&second, &first)] {
            assert_eq!((merged.version, merged.since), (second.version, Some(at(since))));
        }
    }
    for (one, other, heard) in [(None, Some(5), 5), (Some(5), Some(7), 7)] {
        let [one, other] = [one, other].map(|heard| Job { heard: heard.map(at), ..second.clone() });
        for merged in [merged(&one, &other), merged(&other, &one)] {
            assert_eq!(merged.heard, Some(at(heard)));
        }
    }
}

/// A clock that stands still, an hour ahead of others.
struct Ahead;

impl Ahead {
    const TRUTH: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Self::TRUTH + Duration::from_secs(3600)
    }
}

#[test]
fn concurrently_set_clock_is_right() {
    const SETTERS: usize = 2;
    let clocks: Vec<_> = (0..200_000).map(|_| SteeredClock::new(Arc::new(Ahead))).collect();
    let come = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..SETTERS {
            scope.spawn(|| {
                for (before, some) in clocks.chunks(100).enumerate() {
                    come.fetch_add(1, Relaxed);
                    while come.load(Relaxed) < (before + 1) * SETTERS {
                        thread::yield_now();
                    }
                    for clock in some {
                        clock.steer(Ahead::TRUTH, Duration::ZERO);
                    }
                }
            });
        }
    });
    assert!(clocks.iter().all(|clock| clock.now() == Ahead::TRUTH));
}

struct Settable(AtomicI64);

impl Clock for Settable {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Relaxed))
    }
}

#[test]
fn a_steered_clock_does_not_step_after_a_pause() {
    const HOUR: Duration = Duration::from_secs(3600);
    let base = Arc::new(Settable(AtomicI64::new(Ahead::TRUTH.as_micros())));
    let clock = SteeredClock::new(base.clone());
    clock.steer(Ahead::TRUTH, Duration::ZERO);
    base.0.store((Ahead::TRUTH + HOUR).as_micros(), Relaxed);
    let before = clock.now();
    clock.steer(before + HOUR, Duration::ZERO);
    assert!(clock.now().since(before) <= Duration::from_millis(10), "{before:?}, {:?}", clock.now());
}
