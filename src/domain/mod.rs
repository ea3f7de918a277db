//! Rules of the lifecycle of a job, without I/O: no clock, no runtime, no wire format, no store.
//!
//! Everything here is a value or a pure function. [`Job::apply`] alone implements the rules of the lifecycle, and
//! [`merge`](merge::merge) alone chooses between two versions of a job.

mod access;
mod attempt;
mod branch;
mod cancellation;
mod change;
mod deadline;
mod document;
mod error;
mod failure;
mod job;
mod labels;
mod limits;
mod merge;
mod progress;
mod query;
mod size;
mod time;
mod transition;
mod version;

pub use access::{ANYONE, Identity, IdentityKind, Needed, NoTokenKey, Owners, Role, SharedJobs, Unauthenticated};
pub use attempt::{Attempt, Claim};
pub use branch::{Branch, NextBranch};
pub use cancellation::{Cancellation, Grace};
pub use change::{
    Applied, Change, ChangeContext, Completion, Due, Ignored, Rejected, Report, Retention, Start, TOMBSTONE_LIFE,
    Timeouts,
};
pub use deadline::{Deadline, Lease, Liveness};
pub use document::{Document, Illegal};
pub use error::{JobError, Limit, Resource, Subject, Violation};
pub use failure::{Failure, FailureCode, Outcome, cut};
pub use job::{Job, JobId, NewJob, Progress, Removal, State};
pub use labels::Labels;
pub use limits::*;
pub use merge::{Merged, merge};
pub use query::{Cursor, Filter, ListQuery, Order, View};
pub use time::{MAX_DURATION, Timestamp};
pub use version::{ChangeId, Version};
