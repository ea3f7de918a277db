//! A job as the fields of a hash, and the notification of a change.
//!
//! | field | content |
//! |---|---|
//! | `v` | the version, as scripts compare it |
//! | `about` | a summary for people |
//! | `job` | the core: [`record`] |
//! | `metadata`, `result`, `details` | the documents, as JSON |
//! | `since`, `heard`, `durable_time` | times of Redis's clock, which the script writes |
//! | `branch` | the branch of the job's history: lineage, id, revision from which it was continued, and parent |
//! | `doc` | only in records of version 0.1: the whole job as JSON |
//! | `rev` | always `newer`, not a number: version 0.1 therefore treats the record as damaged and leaves it alone |

use std::{borrow::Cow, fmt::Write, sync::Arc};

use redis::{FromRedisValue, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{keys::Partition, legacy, record};
use crate::{
    domain::{Branch, ChangeId, Document, Job, JobId, Outcome, State, Timestamp, Version, View},
    offload::{LARGE_BYTES, offload},
    store::{Durability, Record, Source, Stored},
};

/// The fields of a complete job, those of [`READ_BASIC`] first.
pub const READ_FULL: [&str; 10] =
    ["v", "job", "since", "heard", "durable_time", "branch", "doc", "metadata", "result", "details"];

/// The fields of a job without its documents.
pub const READ_BASIC: [&str; 7] = ["v", "job", "since", "heard", "durable_time", "branch", "doc"];

/// The fields with the documents of a job.
const DOCUMENTS: [&str; 3] = ["metadata", "result", "details"];

/// Returns a version as Redis has it.
pub fn stored(job: impl Into<Arc<Job>>) -> Stored {
    Stored { job: job.into(), durability: Durability::Durable, source: Source::Redis }
}

/// Returns the fields to read for a view.
pub fn fields(view: View) -> &'static [&'static str] {
    match view {
        View::Full => &READ_FULL,
        View::Basic => &READ_BASIC,
    }
}

/// Formats a version as scripts compare it: revision, change, first revision, incarnation.
pub fn version(version: Version) -> String {
    let Version { incarnation_id, first_revision, revision, change_id: ChangeId { process, counter } } = version;
    let mut text = String::with_capacity(96);
    push_decimal(&mut text, revision);
    text.push(' ');
    push_hex(&mut text, process);
    text.push('.');
    push_hex(&mut text, counter);
    text.push(' ');
    push_decimal(&mut text, first_revision);
    text.push(' ');
    text.push_str(incarnation_id.simple().encode_lower(&mut Uuid::encode_buffer()));
    text
}

/// Appends a number. Every write formats many numbers, for which `format!` takes several times as long.
fn push_decimal(text: &mut String, number: i64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Appends a number in hexadecimal digits, without leading zeros.
fn push_hex(text: &mut String, number: u64) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = u32::try_from(number >> (4 * place) & 0xf).unwrap_or_default();
        text.push(char::from_digit(digit, 16).unwrap_or_default());
    }
}

/// Parses a version.
pub fn parse_version(text: &str) -> Option<Version> {
    let mut parts = text.splitn(4, ' ');
    let revision = parts.next()?.parse().ok()?;
    let (process, counter) = parts.next()?.split_once('.')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let change_id = ChangeId { process: hex(process)?, counter: hex(counter)? };
    let first_revision = parts.next()?.parse().ok()?;
    Some(Version { incarnation_id: Uuid::parse_str(parts.next()?).ok()?, first_revision, revision, change_id })
}

/// Formats a branch. The lineage comes first, because the script compares it. The parent comes last, because the script
/// may replace it by the record's branch or by the parent of that branch.
pub fn branch(branch: Branch) -> String {
    let Branch { lineage, id, base, parent } = branch;
    let mut text = String::with_capacity(72);
    push_hex(&mut text, lineage);
    text.push(' ');
    push_hex(&mut text, id);
    text.push(' ');
    push_decimal(&mut text, base);
    text.push(' ');
    push_hex(&mut text, parent);
    text
}

/// Parses a branch.
pub fn parse_branch(text: &str) -> Option<Branch> {
    let mut parts = text.splitn(4, ' ');
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (lineage, id) = (hex(parts.next()?)?, hex(parts.next()?)?);
    Some(Branch { lineage, id, base: parts.next()?.parse().ok()?, parent: hex(parts.next()?)? })
}

/// The fields that a write changes.
#[derive(Debug, Default)]
pub struct Fields {
    /// Fields to set, each with its value.
    pub set: Vec<(&'static str, Vec<u8>)>,
    /// Fields to delete.
    pub deleted: Vec<&'static str>,
}

impl Fields {
    /// Returns the fields in which `job` differs from `previous`; all fields if there is no previous version, or if the
    /// record is written as a `whole`.
    pub async fn of(job: &Job, previous: Option<&Job>, whole: bool) -> Self {
        let mut fields = Self::default();
        fields.set.push(("v", version(job.version).into_bytes()));
        fields.set.push(("job", record::encode(job)));
        fields.set.push(("about", about(job).into_bytes()));
        let all = whole || previous.is_none();
        if all {
            fields.set.push(("rev", b"newer".to_vec()));
        }
        for (name, is, was) in DOCUMENTS
            .into_iter()
            .zip(documents(job))
            .zip(previous.filter(|_| !all).map_or([None; 3], documents))
            .map(|((name, is), was)| (name, is, was))
        {
            match (is, was) {
                (Some(is), Some(was)) if Document::ptr_eq(is, was) || is == was => {}
                (Some(is), _) => fields.set.push((name, encode_document(is).await)),
                (None, Some(_)) => fields.deleted.push(name),
                // `previous` may be a basic view, which does not show whether the record has documents.
                (None, None) if !all && job.removal.is_some() => fields.deleted.push(name),
                (None, None) => {}
            }
        }
        if !all && job.durable_time.is_none() && previous.is_some_and(|previous| previous.durable_time.is_some()) {
            fields.deleted.push("durable_time");
        }
        fields
    }
}

fn documents(job: &Job) -> [Option<&Document>; 3] {
    let result = match &job.outcome {
        Some(Outcome::Result(result)) => Some(result),
        Some(Outcome::Failure(_)) | None => None,
    };
    [job.metadata.as_ref(), result, job.progress.details.as_ref()]
}

type Bytes = Option<Vec<u8>>;
type BasicFields = (Option<String>, Bytes, Option<i64>, Option<i64>, Option<String>, Option<String>, Bytes);
type Times = (Option<i64>, Option<i64>, Option<Timestamp>, Option<Branch>);

/// Encodes a document as JSON.
async fn encode_document(document: &Document) -> Vec<u8> {
    if document.encoded().len() >= LARGE_BYTES {
        let shared = document.clone();
        return offload(move || record::encode_document(&shared)).await;
    }
    record::encode_document(document)
}

/// Decodes the fields [`READ_FULL`] or [`READ_BASIC`] of the record of `id`.
pub async fn decode(id: &JobId, values: Value) -> Record {
    if size(&values) < LARGE_BYTES {
        return decode_here(id, values);
    }
    let id = id.clone();
    offload(move || decode_here(&id, values)).await
}

/// Returns the size of a record in bytes.
fn size(values: &Value) -> usize {
    let length = |field: &Value| if let Value::BulkString(bytes) = field { bytes.len() } else { 0 };
    if let Value::Array(fields) = values { fields.iter().map(length).sum() } else { 0 }
}

fn decode_here(id: &JobId, values: Value) -> Record {
    let Ok(mut values) = <Vec<Value>>::from_redis_value(values) else { return Record::Corrupt };
    let documents = values.split_off(READ_BASIC.len().min(values.len()));
    let basic = BasicFields::from_redis_value(Value::Array(values));
    let Ok((version, job, since, heard, durable_time, branch, doc)) = basic else { return Record::Corrupt };
    // Version 0.1 wrote an empty text if there was no time.
    let durable_time = durable_time.and_then(|time| time.parse().ok()).map(Timestamp::from_micros);
    let times = (since, heard, durable_time, branch.as_deref().and_then(parse_branch));
    let found = match (version, job, doc) {
        (None, None, None) => return Record::Missing,
        (None, None, Some(doc)) => legacy::decode(id, &doc, durable_time),
        (Some(version), Some(job), _) => decode_record(id, &version, &job, times, documents),
        _ => None,
    };
    found.map_or(Record::Corrupt, |job| Record::Found(stored(job)))
}

fn decode_record(id: &JobId, version: &str, job: &[u8], times: Times, documents: Vec<Value>) -> Option<Job> {
    let mut job = record::decode(id, parse_version(version)?, job)?;
    let (since, heard, durable_time, branch) = times;
    job.since = Some(since.map_or(job.create_time, Timestamp::from_micros));
    job.heard = Some(heard.map_or(job.update_time, Timestamp::from_micros));
    job.durable_time = durable_time;
    job.branch = branch.map(Arc::new);
    if documents.is_empty() {
        return Some(job);
    }
    let (metadata, result, details) = <(Bytes, Bytes, Bytes)>::from_redis_value(Value::Array(documents)).ok()?;
    // All documents are optional, and a tombstone has none.
    let read = |json: Bytes| match json {
        Some(json) => record::decode_document(&json).map(Some),
        None => Some(None),
    };
    job.metadata = read(metadata)?;
    job.progress.details = read(details)?;
    if let Some(result) = read(result)? {
        job.outcome = Some(Outcome::Result(result));
    }
    Some(job)
}

/// Formats a summary for people who look at a record: state, kind, owner, progress, worker and times.
fn about(job: &Job) -> String {
    let mut line = String::with_capacity(192);
    let state = if job.removal.is_some() { "REMOVED" } else { job.state.name() };
    _ = write!(line, "{state} {}", job.kind);
    if !job.owner.is_empty() {
        _ = write!(line, " owner={}", job.owner);
    }
    if job.removal.is_some() {
        // Kept short, because there may be more tombstones than jobs, and each is kept for a day.
        _ = write!(line, " removed={}", job.update_time.rfc3339());
        return line;
    }
    if job.attempt != 0 {
        _ = write!(line, " attempt={}", job.attempt);
    }
    if let Some(percent) = job.progress.percent {
        _ = write!(line, " {percent:.1}%");
    }
    if let Some(completed) = job.progress.completed {
        _ = write!(line, " completed={completed}");
    }
    if let Some(stage) = &job.progress.stage {
        _ = write!(line, " stage={stage}");
    }
    if !job.worker.is_empty() {
        _ = write!(line, " worker={}", job.worker);
    }
    _ = write!(line, " created={} updated={}", job.create_time.rfc3339(), job.update_time.rfc3339());
    if let Some(end) = job.end_time {
        _ = write!(line, " ended={}", end.rfc3339());
    }
    line
}

/// The notification of a commit: enough to decide whether to read the job, and nothing of its content.
#[derive(Debug, Serialize, Deserialize)]
pub struct NotificationContent<'a> {
    /// Id of the job.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Revision of the version.
    pub rev: i64,
    /// State of the job, for people who read the channel.
    pub state: State,
    /// Kind of the job.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// Owner of the job.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub owner: Cow<'a, str>,
}

impl<'a> NotificationContent<'a> {
    /// Creates the notification of a commit.
    pub fn of(job: &'a Job) -> Self {
        Self {
            id: job.id.as_str().into(),
            rev: job.version.revision,
            state: job.state,
            kind: job.kind.as_str().into(),
            owner: job.owner.as_str().into(),
        }
    }

    /// Encodes the notification of a commit in `partition` as the replica `by` sends it, without the number of the
    /// commit, which the script adds.
    pub fn encode(&self, partition: Partition, by: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(256);
        payload.extend_from_slice(format!("{} {by} ", partition.index()).as_bytes());
        serde_json::to_writer(&mut payload, self).expect("text and numbers can be encoded");
        payload
    }

    /// Parses a notification.
    pub fn decode(message: &'a str) -> Option<Self> {
        serde_json::from_str(message).ok()
    }
}

/// A notification as it was received.
pub struct ReceivedNotification<'a> {
    /// Number of the commit in its partition.
    pub number: i64,
    /// The partition.
    pub partition: Partition,
    /// The replica that committed.
    pub by: &'a str,
    /// Text to parse with [`NotificationContent::decode`].
    pub message: &'a str,
}

impl<'a> ReceivedNotification<'a> {
    /// Splits the payload of a message, which has a line for each notification. A line that is not a notification
    /// becomes `None`.
    pub fn parse_all(payload: &'a [u8]) -> impl Iterator<Item = Option<Self>> {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        text.split('\n').map(Self::parse)
    }

    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(4, ' ');
        let (number, partition) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let partition = Partition::all().nth(partition)?;
        Some(Self { number, partition, by: parts.next()?, message: parts.next()? })
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures_util::poll;

    use super::*;
    use crate::offload::occupy;

    /// A document of `count` numbers.
    fn table(count: usize) -> Document {
        serde_json::from_value(serde_json::json!({ "numbers": vec![0.1; count] })).expect("an object")
    }

    #[tokio::test]
    async fn large_documents_are_written_and_read_on_another_thread() {
        for (count, is_large) in [(10, false), (90_000, true)] {
            let document = table(count);
            let occupied = occupy().await;
            let mut encoding = pin!(encode_document(&document));
            let begun = poll!(&mut encoding);
            assert_eq!(begun.is_pending(), is_large);
            drop(occupied);
            let json = if let Poll::Ready(json) = begun { json } else { encoding.await };
            assert_eq!(record::decode_document(&json).as_ref(), Some(&document));
            let id = JobId::parse("a").expect("an id");
            let _occupied = occupy().await;
            let mut decoding = pin!(decode(&id, Value::Array(vec![Value::BulkString(json)])));
            assert_eq!(poll!(&mut decoding).is_pending(), is_large);
        }
    }
}
