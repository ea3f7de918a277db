//! Size limits of the parts of a job, as in the wire contract. Lengths are UTF-8 bytes.

/// A job id.
pub const MAX_ID: usize = 128;
/// `kind`, `owner`, `worker`, `requester`, `request_id` and `claim`.
pub const MAX_NAME: usize = 128;
/// The title of a job.
pub const MAX_TITLE: usize = 256;
/// Owners that one caller can be restricted to.
pub const MAX_OWNERS: usize = 100;
/// Labels of one job.
pub const MAX_LABELS: usize = 32;
/// The key of a label.
pub const MAX_LABEL_KEY: usize = 63;
/// The value of a label.
pub const MAX_LABEL_VALUE: usize = 256;
/// Metadata, encoded.
pub const MAX_METADATA: usize = 16 * 1024;
/// A result, encoded.
pub const MAX_RESULT: usize = 1024 * 1024;
/// Details of progress, encoded.
pub const MAX_PROGRESS_DETAILS: usize = 4 * 1024;
/// Details of a failure, encoded.
pub const MAX_FAILURE_DETAILS: usize = 16 * 1024;
/// Nesting of a document.
pub const MAX_DEPTH: usize = 16;
/// The unit of progress.
pub const MAX_UNIT: usize = 32;
/// The stage of progress.
pub const MAX_STAGE: usize = 256;
/// The message of progress.
pub const MAX_PROGRESS_MESSAGE: usize = 4 * 1024;
/// The reason of a failure.
pub const MAX_FAILURE_REASON: usize = 63;
/// The message of a failure.
pub const MAX_FAILURE_MESSAGE: usize = 16 * 1024;
/// The message of a past failure, except for the most recent past failure.
pub const MAX_PAST_FAILURE_MESSAGE: usize = 1024;
/// Past attempts that a job records.
pub const MAX_ATTEMPTS: usize = 16;
/// The reason of a cancellation.
pub const MAX_CANCEL_REASON: usize = 1024;
/// Jobs of one `BatchGetJobs`.
pub const MAX_BATCH: usize = 100;
/// Jobs of one watch token.
pub const MAX_SHARED_JOBS: usize = 100;
/// Ids of one `WatchJobs`.
pub const MAX_WATCHED_IDS: usize = 1000;
/// Jobs on a page.
pub const MAX_PAGE: usize = 1000;
/// Jobs on a page if the caller sets no limit.
pub const DEFAULT_PAGE: usize = 50;
/// Total bytes of the jobs on a page. Leaves room in a response for the other fields.
pub const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;
