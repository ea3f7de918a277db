//! The choice between two versions of a job that replicas changed independently.
//!
//! Versions are totally ordered, so that replicas that have exchanged their versions agree, in whatever order and
//! however often they exchange them. Between versions of one incarnation the merge of the content is commutative,
//! associative and idempotent. Between incarnations it is commutative and idempotent.

use std::cmp::{Ordering, max, min};

use super::{ChangeId, Job, Removal, Timestamp, Version, attempt};

/// The result of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The winning version, with the revision to store it under.
    pub job: Job,
    /// The change that was discarded; `None` if both are versions of the same change.
    pub discarded: Option<ChangeId>,
}

/// Merges `a` and `b`, two versions under one id.
pub fn merge(a: &Job, b: &Job) -> Merged {
    debug_assert_eq!(a.id, b.id, "versions of different jobs are never merged");
    let merged = merge_versions(a, b);
    debug_assert!(
        merged.discarded.is_none() || merged.job.version.revision >= max(a.version.revision, b.version.revision),
        "revisions only rise"
    );
    merged
}

fn merge_versions(a: &Job, b: &Job) -> Merged {
    let same_incarnation = a.version.incarnation_id == b.version.incarnation_id;
    if same_incarnation && a.version.change_id == b.version.change_id {
        let key = |job: &Job| (job.version.first_revision, job.version.revision, std::cmp::Reverse(taken_since(job)));
        let (winner, loser) = if key(a) >= key(b) { (a, b) } else { (b, a) };
        return Merged { job: with_shared(winner, loser), discarded: None };
    }
    if same_incarnation || are_one_request(a, b) {
        let (winner, loser) = if compare_versions(a, b) == Ordering::Less { (b, a) } else { (a, b) };
        let mut job = with_shared(winner, loser);
        job.version = raised(winner, loser);
        // The loser may have been stored over a tombstone that the winner does not know, and so at a higher first
        // revision.
        job.version.first_revision = max(winner.version.first_revision, loser.version.first_revision);
        if !same_incarnation {
            adopt_incarnation(&mut job, winner, loser);
        }
        let is_winner = |job: &Job| {
            (job.version.first_revision, &job.cancel, &job.attempts)
                == (winner.version.first_revision, &winner.cancel, &winner.attempts)
        };
        if !is_winner(&job) {
            job.version.revision = max(winner.version.revision, loser.version.revision) + 1;
        }
        // If both are versions of one change, with different incarnation ids, no change is discarded.
        let discarded = Some(loser.version.change_id).filter(|discarded| *discarded != winner.version.change_id);
        return Merged { job, discarded };
    }
    let (winner, loser, revived) = pick_incarnation(a, b);
    let mut job = winner.clone();
    if revived {
        // The winner replaces the other incarnation's tombstone, as if it had been created over it.
        let revision = max(winner.version.revision, loser.version.revision) + 1;
        job.version = Version { first_revision: revision, revision, ..winner.version };
        job.since = loser.since.or(winner.since);
    } else {
        job.version = raised(winner, loser);
    }
    Merged { job, discarded: Some(loser.version.change_id) }
}

/// Returns the winner's version, with a revision that is new to every replica that knows the loser.
fn raised(winner: &Job, loser: &Job) -> Version {
    let (won, discarded) = (winner.version, loser.version);
    Version { revision: if won.revision > discarded.revision { won.revision } else { discarded.revision + 1 }, ..won }
}

/// Returns whether two replicas created the same job independently, for retries of one request.
fn are_one_request(a: &Job, b: &Job) -> bool {
    let is_live = |job: &Job| job.removal.is_none();
    is_live(a)
        && is_live(b)
        && a.request_id.is_some()
        && (&a.owner, &a.request_id) == (&b.owner, &b.request_id)
        && a.version.first_revision == b.version.first_revision
}

/// Gives `job`, merged from two jobs of the same request, the identity of the one that was recorded first.
fn adopt_incarnation(job: &mut Job, winner: &Job, loser: &Job) {
    let first = min_by_key(winner, loser, |job| (taken_since(job), job.create_time, job.version.incarnation_id));
    job.version.incarnation_id = first.version.incarnation_id;
    job.since = first.since;
    job.create_time = first.create_time;
}

fn min_by_key<'a, K: Ord>(a: &'a Job, b: &'a Job, key: impl Fn(&Job) -> K) -> &'a Job {
    if key(b) < key(a) { b } else { a }
}

/// Compares two versions of one incarnation; the greater one wins.
fn compare_versions(a: &Job, b: &Job) -> Ordering {
    let later = |job: &Job| (job.update_time, job.version.change_id);
    match (a.is_final_tombstone(), b.is_final_tombstone()) {
        (true, true) => later(a).cmp(&later(b)),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            // The expiry of an active job keeps the time of the version that it was made from, so that it wins over
            // that version only.
            let rank = |job: &Job| (job.update_time, job.removal == Some(Removal::Expired), job.version.change_id);
            compare_ends(a, b)
                .then_with(|| a.attempt.cmp(&b.attempt))
                .then_with(|| attempt_phase(a).cmp(&attempt_phase(b)))
                .then_with(|| rank(a).cmp(&rank(b)))
        }
    }
}

/// Returns the phase of a version's attempt: running, ended in a retry, or ended with the job. The end of an attempt
/// wins over a report, which would have been rejected after that end.
fn attempt_phase(job: &Job) -> u8 {
    match () {
        () if job.state.is_terminal() => 2,
        () if job.is_between_attempts() => 1,
        () => 0,
    }
}

/// Returns the winning and the losing incarnation of one id, and whether the winner replaces the loser's tombstone.
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
    let same_slot = winner.version.first_revision == loser.version.first_revision;
    (winner, loser, same_slot && !is_final(winner) && is_final(loser))
}

/// Returns the time at which the primary first stored the id; an incarnation that was never stored sorts last.
fn taken_since(job: &Job) -> Timestamp {
    job.since.unwrap_or(Timestamp::MAX)
}

/// Compares ends: an end that is stored in the primary wins over all other versions, and the first such end wins over
/// later ones.
fn compare_ends(a: &Job, b: &Job) -> Ordering {
    let key = |job: &Job| job.durable_time.unwrap_or(Timestamp::MAX);
    key(b).cmp(&key(a))
}

/// Returns the winner with the data that both versions contribute to: the time at which the primary first stored the
/// id, the first cancellation request, and the attempts that ended. If both are versions of the same change, also the
/// latest times, on the primary's clock, at which the end and the last report of the job were stored.
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
