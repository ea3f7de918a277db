//! The local cache in place of the primary, and the running lease of a version.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jobtrack::{
    clock::Clock,
    domain::{Change, JobId, Liveness, NewJob, Report, Timestamp},
    store::{ChangeNotification, FreshnessToken, Listener, LocalCache, Partitioning, Presence, Route},
};
use rstest::rstest;

use super::local_cache::cache;
use crate::support::{
    jobs::{apply, at, heartbeat, job, make, plain},
    stores::{Deaf, recorded},
};

/// A clock that stands still at second 10.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(10)
    }
}

/// Returns the token with which the primary's answer for `id` becomes fresh.
fn freshness(cache: &LocalCache, id: &JobId) -> Option<FreshnessToken> {
    match cache.route_read(id) {
        Route::Primary(token) => token,
        route => panic!("the primary is not asked: {route:?}"),
    }
}

/// Returns a cache with one entry, which is fresh.
fn with_fresh_entry() -> (LocalCache, JobId) {
    let held = cache(100, Arc::new(Deaf));
    assert!(held.set_available(0));
    let entry = job("a", 1);
    held.learn(&recorded(entry.clone()));
    held.mark_fresh(&entry, freshness(&held, &entry.id));
    held.set_notified_until(Instant::now());
    assert!(held.get_fresh(&entry.id).is_some());
    (held, entry.id)
}

#[test]
fn entry_is_no_longer_fresh_after_a_gap_in_the_notifications() {
    let (held, id) = with_fresh_entry();
    held.on_gap();
    assert!(held.get_fresh(&id).is_none(), "nothing was heard since");
    held.set_notified_until(Instant::now());
    assert!(held.get_fresh(&id).is_none(), "a notification may be lost");
}

#[test]
fn entry_is_no_longer_fresh_when_a_newer_version_is_notified() {
    let (held, id) = with_fresh_entry();
    let notify = |revision| {
        held.on_notification(&ChangeNotification { id: &id, revision, kind: "", owner: "", own: false });
        held.set_notified_until(Instant::now());
    };
    notify(1);
    assert!(held.get_fresh(&id).is_some(), "it is this version");
    notify(2);
    assert!(held.get_fresh(&id).is_none());
}

/// The answer belongs to an entry that has been replaced since the request.
#[test]
fn answer_to_an_earlier_request_makes_no_entry_fresh() {
    let held = cache(1, Arc::new(Deaf));
    assert!(held.set_available(0));
    let first = job("a", 1);
    held.learn(&recorded(first.clone()));
    let following = freshness(&held, &first.id);
    held.learn(&recorded(job("b", 1)));
    let revision = apply(&first, &heartbeat(), 2).version.revision;
    held.on_notification(&ChangeNotification { id: &first.id, revision, kind: "", owner: "", own: false });
    held.learn(&recorded(first.clone()));
    held.mark_fresh(&first, following);
    held.set_notified_until(Instant::now());
    assert!(held.get_fresh(&first.id).is_none(), "an outdated entry is served");
}

/// The lease is 5 s long and was renewed at second 2. It has expired at second 10, unless the report reached the
/// primary later, or workers have been able to report only recently.
#[rstest]
#[case::over(2, 1, Liveness::Lost)]
#[case::report_entered_later(6, 1, Liveness::Live)]
#[case::workers_could_not_report(2, 6, Liveness::Live)]
#[case::that_was_long_ago(2, 4, Liveness::Lost)]
fn lease_runs_from_the_time_since_when_workers_can_report(
    #[case] heard: i64,
    #[case] heard_since: i64,
    #[case] expected: Liveness,
) {
    let presence = Arc::new(Presence::new(1));
    presence.set_serving(0, true);
    let held = LocalCache::new(100, Arc::new(Deaf), Arc::new(Still), Partitioning::SINGLE, presence.clone());
    presence.beat_answered(0, at(10), at(heard_since));
    let pending = make("a", 1, NewJob { lease_timeout: Duration::from_secs(5), ..plain() });
    let mut leased = apply(&pending, &Change::Report(Report::default()), 2);
    leased.heard = Some(at(heard));
    assert_eq!(held.with_current_lease(&Arc::new(leased)).liveness(at(10)), expected);
}
