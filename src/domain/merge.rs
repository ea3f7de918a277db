//! Which of two versions of a job stands, where replicas changed it apart from each other.
//!
//! One order over versions, so that replicas that have exchanged what they know agree, in whatever order and however
//! often they exchange it. Among versions of one incarnation the content picked is commutative, associative and
//! idempotent. Between incarnations it is commutative and idempotent.

use std::cmp::{Ordering, max, min};

use super::{ChangeId, Job, Removal, Timestamp, Version, attempt};

/// What a merge came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The version that stands, with the revision it is to be stored under.
    pub job: Job,
    /// The change that gave way, if the two were not versions of the same change.
    pub lost: Option<ChangeId>,
}

/// Which of `a` and `b`, two versions under one id, stands.
pub fn merge(a: &Job, b: &Job) -> Merged {
    debug_assert_eq!(a.id, b.id, "versions of different jobs are never merged");
    let same_incarnation = a.version.incarnation_id == b.version.incarnation_id;
    if same_incarnation && a.version.change_id == b.version.change_id {
        let key = |job: &Job| (job.version.first_revision, job.version.revision, std::cmp::Reverse(taken_since(job)));
        let (winner, loser) = if key(a) >= key(b) { (a, b) } else { (b, a) };
        return Merged { job: with_shared(winner, loser), lost: None };
    }
    if same_incarnation || are_one_request(a, b) {
        let (winner, loser) = if compare_versions(a, b) == Ordering::Less { (b, a) } else { (a, b) };
        let mut job = with_shared(winner, loser);
        job.version = raised(winner, loser);
        // It may have taken the place of a tombstone, in a version that the winner was made apart from.
        job.version.first_revision = max(winner.version.first_revision, loser.version.first_revision);
        if !same_incarnation {
            adopt_identity(&mut job, winner, loser);
        }
        let is_winner = |job: &Job| {
            (job.version.first_revision, &job.cancel, &job.attempts)
                == (winner.version.first_revision, &winner.cancel, &winner.attempts)
        };
        if !is_winner(&job) {
            job.version.revision = max(winner.version.revision, loser.version.revision) + 1;
        }
        return Merged { job, lost: Some(loser.version.change_id) };
    }
    let (winner, loser, revived) = pick_incarnation(a, b);
    let mut job = winner.clone();
    if revived {
        // It takes the place of the other's tombstone, as if it had been created over it.
        let revision = max(winner.version.revision, loser.version.revision) + 1;
        job.version = Version { first_revision: revision, revision, ..winner.version };
        job.since = loser.since.or(winner.since);
    } else {
        job.version = raised(winner, loser);
    }
    Merged { job, lost: Some(loser.version.change_id) }
}

/// The winner's version, with a revision that is new to whoever knows the loser.
fn raised(winner: &Job, loser: &Job) -> Version {
    let (won, lost) = (winner.version, loser.version);
    Version { revision: if won.revision > lost.revision { won.revision } else { lost.revision + 1 }, ..won }
}

/// Whether two replicas made the same job apart from each other, for one request.
fn are_one_request(a: &Job, b: &Job) -> bool {
    let is_live = |job: &Job| job.removal.is_none();
    is_live(a)
        && is_live(b)
        && a.request_id.is_some()
        && (&a.owner, &a.request_id) == (&b.owner, &b.request_id)
        && a.version.first_revision == b.version.first_revision
}

/// Gives `job`, merged from the same request's two jobs, the identity of the one that was recorded first.
fn adopt_identity(job: &mut Job, winner: &Job, loser: &Job) {
    let first = min_by_key(winner, loser, |job| (taken_since(job), job.create_time, job.version.incarnation_id));
    job.version.incarnation_id = first.version.incarnation_id;
    job.since = first.since;
    job.create_time = first.create_time;
}

fn min_by_key<'a, K: Ord>(a: &'a Job, b: &'a Job, key: impl Fn(&Job) -> K) -> &'a Job {
    if key(b) < key(a) { b } else { a }
}

/// Of two versions of one incarnation, the one that stands is the greater.
fn compare_versions(a: &Job, b: &Job) -> Ordering {
    let later = |job: &Job| (job.update_time, job.version.change_id);
    match (a.is_final_tombstone(), b.is_final_tombstone()) {
        (true, true) => later(a).cmp(&later(b)),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            // The expiry of an active job keeps the time of the version that it was made from, and stands over that alone.
            let rank = |job: &Job| (job.update_time, job.removal == Some(Removal::Expired), job.version.change_id);
            compare_ends(a, b)
                .then_with(|| a.attempt.cmp(&b.attempt))
                .then_with(|| attempt_phase(a).cmp(&attempt_phase(b)))
                .then_with(|| rank(a).cmp(&rank(b)))
        }
    }
}

/// Returns the phase of a version's attempt: it runs, it ended in a retry, or the job ended with it. Whoever ended an attempt knew
/// more of it than a report that would have been refused after that.
fn attempt_phase(job: &Job) -> u8 {
    match () {
        () if job.state.is_terminal() => 2,
        () if job.is_between_attempts() => 1,
        () => 0,
    }
}

/// Of two incarnations of one id, the one that stands, the other, and whether it takes the place of the other's tombstone.
fn pick_incarnation<'a>(a: &'a Job, b: &'a Job) -> (&'a Job, &'a Job, bool) {
    if a.since != b.since {
        let (first, later) = if taken_since(a) < taken_since(b) { (a, b) } else { (b, a) };
        let is_freed = first.is_final_tombstone() && !later.is_final_tombstone();
        return if is_freed { (later, first, true) } else { (first, later, false) };
    }
    let is_final = |job: &Job| job.is_final_tombstone();
    let order = (a.version.first_revision.cmp(&b.version.first_revision))
        .then_with(|| is_final(b).cmp(&is_final(a)))
        .then_with(|| compare_ends(a, b))
        .then_with(|| a.is_recorded().cmp(&b.is_recorded()))
        .then_with(|| (b.create_time, b.version.incarnation_id).cmp(&(a.create_time, a.version.incarnation_id)));
    let (winner, loser) = if order == Ordering::Less { (b, a) } else { (a, b) };
    let same_place = winner.version.first_revision == loser.version.first_revision;
    (winner, loser, same_place && !is_final(winner) && is_final(loser))
}

/// When the id was taken, as far as the primary knows: recorded before never recorded, the earlier first.
fn taken_since(job: &Job) -> Timestamp {
    job.since.unwrap_or(Timestamp::MAX)
}

/// An end that is in the primary stands over anything else, the first one over later ones.
fn compare_ends(a: &Job, b: &Job) -> Ordering {
    let key = |job: &Job| job.durable_time.unwrap_or(Timestamp::MAX);
    key(b).cmp(&key(a))
}

/// The winner, with what both versions of one incarnation know: since when it was recorded, who first asked to stop it, and
/// the attempts that ended.
fn with_shared(winner: &Job, loser: &Job) -> Job {
    let mut job = winner.clone();
    job.since = [winner.since, loser.since].into_iter().flatten().reduce(min);
    job.cancel = match (&winner.cancel, &loser.cancel) {
        (Some(one), Some(other)) => Some(Box::new(one.merged(other))),
        (one, other) => one.as_ref().or(other.as_ref()).cloned(),
    };
    if job.is_final_tombstone() {
        job.cancel = job.cancel.map(|cancel| Box::new(cancel.without_reason()));
    }
    if job.attempts != loser.attempts && !job.is_final_tombstone() {
        job.attempts = attempt::union(&winner.attempts, &loser.attempts);
    }
    if winner.version.change_id == loser.version.change_id {
        job.durable_time = [winner.durable_time, loser.durable_time].into_iter().flatten().max();
        job.heard = [winner.heard, loser.heard].into_iter().flatten().max();
    }
    job
}
