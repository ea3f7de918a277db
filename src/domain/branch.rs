//! Branches of the history of a job, which show whether one version descends from another.
//!
//! As long as the primary loses no data, a version descends from all versions of lower revisions. After a loss, a
//! replica may continue a record from an earlier version than another replica holds. Then a higher revision no longer
//! proves that the record includes the version of that other replica. Each record therefore names its branch, the
//! parent branch, and the last revision that the two have in common. `tests/model/branches.py` explores the rules.
//!
//! A record names only its parent branch. A version of an older branch is not treated as an ancestor, although it may
//! be one. The replica that holds such a version then compares its jobs with the primary once more, and reports the
//! version as discarded.

use super::Job;

/// A branch of the history of a job. A branch begins when the job is created, when a lost record is put back, and with
/// the first change after the lineage has changed. A lineage is a history of the primary's data without a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The lineage of the primary's data in which the record was last put back or merged, or in which the branch began.
    pub lineage: u64,
    /// Random id.
    pub id: u64,
    /// Versions of the parent up to this revision are ancestors of this branch.
    pub base: i64,
    /// Id of the parent branch, from which this one was begun; 0 if there is none.
    pub parent: u64,
}

/// The branch of a record after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextBranch {
    /// Keeps the branch of the record if that has the same lineage as the given branch. Otherwise begins the given
    /// branch.
    Continued(Branch),
    /// This branch, whatever the record has.
    Given(Branch),
}

impl NextBranch {
    /// Returns the branch of the record in which `job` replaces `previous`, in this lineage. If a branch begins, it
    /// gets this id.
    pub fn of(job: &Job, previous: Option<&Job>, lineage: u64, id: u64) -> Self {
        let Some(previous) = previous.filter(|previous| previous.version.incarnation_id == job.version.incarnation_id)
        else {
            let created = Branch { lineage, id, base: job.version.revision, parent: 0 };
            return Self::Given(job.branch.as_deref().copied().unwrap_or(created));
        };
        match job.branch.as_deref() {
            Some(given) if previous.branch.as_deref() != Some(given) => Self::Given(*given),
            _ => {
                let base = previous.version.revision;
                let parent = previous.branch.as_ref().map_or(0, |branch| branch.parent_at(base));
                Self::Continued(Branch { lineage, id, base, parent })
            }
        }
    }
}

impl Branch {
    /// Returns the id of the parent of a new branch that begins at `revision`: this branch, or its own parent if the
    /// revision is not above `base`, because the version at `base` belongs to both.
    pub const fn parent_at(&self, revision: i64) -> u64 {
        if self.parent != 0 && revision <= self.base { self.parent } else { self.id }
    }
}

impl Job {
    /// Returns whether this version descends from `other`, as far as that is known. Without branches, the revisions
    /// decide.
    pub fn descends_from(&self, other: &Self) -> bool {
        if self.version.incarnation_id != other.version.incarnation_id
            || self.version.revision <= other.version.revision
        {
            return false;
        }
        let Some((own, its)) = self.branch.as_ref().zip(other.branch.as_ref()) else { return true };
        // The version at `base` belongs to the parent, too.
        let is_at_base = other.version.revision <= its.base;
        let branches = [Some(its.id), Some(its.parent).filter(|_| is_at_base)];
        let includes = |id| own.id == id || own.parent == id && other.version.revision <= own.base;
        branches.into_iter().flatten().any(includes)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{ChangeContext, ChangeId, JobId, NewJob, Retention, Timestamp};

    /// A version of this revision. `branch`: id, base and parent.
    fn version(revision: i64, branch: Option<(u64, i64, u64)>) -> Job {
        let none = std::time::Duration::ZERO;
        let at = ChangeContext {
            now: Timestamp::from_micros(1),
            change_id: ChangeId { process: 1, counter: 1 },
            retention: Retention { succeeded: none, failed: none, cancelled: none, active: none },
        };
        let id = JobId::parse("a").expect("a valid id");
        let mut job = Job::create(id, NewJob::default(), None, Uuid::nil(), &at);
        job.version.revision = revision;
        job.branch = branch.map(|(id, base, parent)| Branch { lineage: 1, id, base, parent }.into());
        job
    }

    #[test]
    fn branches_show_what_a_version_descends_from() {
        let (root, continued, put_back) = (Some((1, 1, 0)), Some((2, 3, 1)), Some((3, 3, 1)));
        for (revision, branch, before, its, descends) in [
            (4, root, 3, root, true),
            (3, root, 3, root, false),
            (3, root, 4, root, false),
            // A branch that was continued from the third version.
            (5, continued, 3, root, true),
            (5, continued, 4, root, false),
            (5, continued, 4, continued, true),
            // The version at the base of a branch belongs to its parent, and to all branches that begin at it.
            (4, root, 3, put_back, true),
            (5, root, 4, put_back, false),
            (4, continued, 3, put_back, true),
            (5, continued, 4, put_back, false),
            // The relation of these two branches is unknown.
            (5, Some((5, 4, 4)), 3, root, false),
            // A record of a release without branches.
            (5, None, 4, root, true),
            (5, put_back, 4, None, true),
        ] {
            let (job, other) = (version(revision, branch), version(before, its));
            assert_eq!(job.descends_from(&other), descends, "{revision} {branch:?} from {before} {its:?}");
        }
    }

    #[test]
    fn a_new_branch_has_as_parent_the_branch_of_its_base_version() {
        let next = |job: &Job, previous: Option<&Job>| NextBranch::of(job, previous, 7, 6);
        let of = |base, parent| Branch { lineage: 7, id: 6, base, parent };
        let job = version(5, None);
        assert_eq!(next(&job, None), NextBranch::Given(of(5, 0)));
        assert_eq!(next(&job, Some(&version(4, None))), NextBranch::Continued(of(4, 0)));
        for (before, parent) in [((9, 1, 0), 9), ((9, 3, 8), 9), ((9, 4, 8), 8)] {
            let (job, previous) = (version(5, Some(before)), version(4, Some(before)));
            assert_eq!(next(&job, Some(&previous)), NextBranch::Continued(of(4, parent)), "{before:?}");
        }
        let (put_back, there) = (version(5, Some((3, 4, 2))), version(4, Some((9, 1, 0))));
        let given = NextBranch::Given(*put_back.branch.clone().expect("it has one"));
        assert_eq!(next(&put_back, None), given);
        assert_eq!(next(&put_back, Some(&there)), given);
    }
}
