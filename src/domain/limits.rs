//! How large each part of a job may be, from the wire contract. Lengths are UTF-8 bytes.

/// A job id.
pub const MAX_ID: usize = 128;
/// `kind`, `owner`, `worker`, `requester`, `request_id` and `claim`.
pub const MAX_NAME: usize = 128;
/// A job's title.
pub const MAX_TITLE: usize = 256;
/// Owners that one caller is limited to.
pub const MAX_OWNERS: usize = 100;
/// Labels of one job.
pub const MAX_LABELS: usize = 32;
/// A label's key.
pub const MAX_LABEL_KEY: usize = 63;
/// A label's value.
pub const MAX_LABEL_VALUE: usize = 256;
/// Metadata, encoded.
pub const MAX_METADATA: usize = 16 * 1024;
/// A result, encoded.
pub const MAX_RESULT: usize = 1024 * 1024;
/// Details of progress, encoded.
pub const MAX_PROGRESS_DETAILS: usize = 4 * 1024;
/// Details of a failure, encoded.
pub const MAX_FAILURE_DETAILS: usize = 16 * 1024;
/// How deep a document nests.
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
/// The message of a failure that other attempts have followed, but for the last one.
pub const MAX_PAST_FAILURE_MESSAGE: usize = 1024;
/// Attempts that a job remembers.
pub const MAX_ATTEMPTS: usize = 16;
/// The reason of a cancellation.
pub const MAX_CANCEL_REASON: usize = 1024;
/// Jobs of one `BatchGetJobs`.
pub const MAX_BATCH: usize = 100;
/// Ids of one `WatchJobs`.
pub const MAX_WATCHED_IDS: usize = 1000;
/// Jobs on a page, and how many where the caller does not say.
pub const MAX_PAGE: usize = 1000;
/// Jobs on a page where the caller does not say.
pub const DEFAULT_PAGE: usize = 50;
/// Jobs of a page together, in bytes: leaves room in an answer for what is around them.
pub const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;
