//! Which of two versions of a job stands, where replicas changed it apart from each other.
//!
//! One order over versions, so that replicas that have exchanged what they know agree, in whatever order and however
//! often they exchange it. Among versions of one creation (`incarnation_id`) the content picked is commutative, associative and
//! idempotent. Between different creations it is commutative and idempotent.

use std::cmp::{Ordering, max};

use super::{ChangeId, Job, Timestamp, Version};

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
    let same_life = a.version.incarnation_id == b.version.incarnation_id;
    if same_life && a.version.change_id == b.version.change_id {
        let higher = (a.version.first_revision, a.version.revision) >= (b.version.first_revision, b.version.revision);
        let (winner, loser) = if higher { (a, b) } else { (b, a) };
        return Merged { job: with_shared(winner, loser), lost: None };
    }
    let order = if same_life { compare_versions(a, b) } else { compare_lives(a, b) };
    let (winner, loser) = if order == Ordering::Less { (b, a) } else { (a, b) };

    let mut job = if same_life { with_shared(winner, loser) } else { winner.clone() };
    job.version = raised(winner, loser);
    if job.cancel != winner.cancel {
        job.version.revision = max(winner.version.revision, loser.version.revision) + 1;
    }
    Merged { job, lost: Some(loser.version.change_id) }
}

/// The winner's version, with a revision that is new to whoever knows the loser.
fn raised(winner: &Job, loser: &Job) -> Version {
    let (won, lost) = (winner.version, loser.version);
    let revived = won.incarnation_id != lost.incarnation_id
        && won.first_revision == lost.first_revision
        && winner.removal.is_none()
        && loser.removal.is_some();
    if revived {
        let revision = max(won.revision, lost.revision) + 1;
        return Version { first_revision: revision, revision, ..won };
    }
    Version { revision: if won.revision > lost.revision { won.revision } else { lost.revision + 1 }, ..won }
}

/// Two versions of one creation.
fn compare_versions(a: &Job, b: &Job) -> Ordering {
    let later = |job: &Job| (job.update_time, job.version.change_id);
    match (a.removal.is_some(), b.removal.is_some()) {
        (true, true) => later(a).cmp(&later(b)),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => compare_ends(a, b)
            .then_with(|| a.attempt.cmp(&b.attempt))
            .then_with(|| a.state.is_terminal().cmp(&b.state.is_terminal()))
            .then_with(|| later(a).cmp(&later(b))),
    }
}

/// Two creations under one id.
fn compare_lives(a: &Job, b: &Job) -> Ordering {
    let live = |job: &Job| job.removal.is_none();
    a.version
        .first_revision
        .cmp(&b.version.first_revision)
        .then_with(|| live(a).cmp(&live(b)))
        .then_with(|| compare_ends(a, b))
        .then_with(|| a.recorded.cmp(&b.recorded))
        .then_with(|| (b.create_time, b.version.incarnation_id).cmp(&(a.create_time, a.version.incarnation_id)))
}

/// An end that is in the store of record stands over anything else, the first one over later ones.
fn compare_ends(a: &Job, b: &Job) -> Ordering {
    let key = |job: &Job| job.durable_time.unwrap_or(Timestamp::MAX);
    key(b).cmp(&key(a))
}

/// The winner, with what both versions of one creation know: that it was recorded, and who first asked to stop it.
fn with_shared(winner: &Job, loser: &Job) -> Job {
    let mut job = winner.clone();
    job.recorded |= loser.recorded;
    job.cancel = [&winner.cancel, &loser.cancel].into_iter().flatten().min().cloned();
    if winner.version.change_id == loser.version.change_id {
        job.durable_time = [winner.durable_time, loser.durable_time].into_iter().flatten().max();
    }
    job
}
