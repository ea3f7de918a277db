//! The rules of the merge by name.

use jobtrack::domain::{Change, ChangeId, Job, Removal, State, merge};
use uuid::Uuid;

use super::merged;
use crate::support::jobs::{apply, at, change_context, failure, heartbeat, job, plain, success};

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
            assert_eq!(merged.discarded, Some(loser.version.change_id), "{rule}");
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
                assert_eq!(merged.discarded, Some(other.version.change_id), "{other:?}");
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
