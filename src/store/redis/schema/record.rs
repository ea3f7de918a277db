//! The core of a job as a protobuf message: small, quick to decode, and open to fields of later releases. The documents
//! and the version are separate fields of the hash.

use std::time::Duration;

use prost::Message;

use crate::domain::{
    Attempt, Cancellation, ChangeId, Claim, Document, Failure, FailureCode, Grace, Job, JobId, Lease, Outcome,
    Progress, Removal, State, Timestamp, Version,
};

#[derive(Clone, PartialEq, Message)]
struct LabelRecord {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ProgressRecord {
    #[prost(double, optional, tag = "1")]
    percent: Option<f64>,
    #[prost(int64, optional, tag = "2")]
    completed: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    total: Option<i64>,
    #[prost(string, optional, tag = "4")]
    unit: Option<String>,
    #[prost(string, optional, tag = "5")]
    stage: Option<String>,
    #[prost(int32, optional, tag = "6")]
    stage_index: Option<i32>,
    #[prost(int32, optional, tag = "7")]
    stage_count: Option<i32>,
    #[prost(string, optional, tag = "8")]
    message: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct CancellationRecord {
    #[prost(sfixed64, tag = "1")]
    request_time: i64,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(string, tag = "3")]
    requester: String,
    #[prost(sfixed64, optional, tag = "4")]
    grace_since: Option<i64>,
    #[prost(uint64, tag = "5")]
    grace: u64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseRecord {
    #[prost(uint64, tag = "1")]
    timeout: u64,
    #[prost(sfixed64, optional, tag = "2")]
    expire_time: Option<i64>,
    #[prost(bool, tag = "3")]
    lost: bool,
    #[prost(bool, tag = "4")]
    fail_when_lost: bool,
    #[prost(uint64, tag = "5")]
    start_timeout: u64,
    /// Replaces `expire_time` while the job is PENDING: releases of jobtrack that do not know this field would take
    /// `expire_time` for the end of a lease.
    #[prost(sfixed64, optional, tag = "6")]
    start_expire_time: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct FailureRecord {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(bytes = "vec", optional, tag = "4")]
    details: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct AttemptRecord {
    #[prost(int32, tag = "1")]
    number: i32,
    #[prost(string, tag = "2")]
    worker: String,
    #[prost(sfixed64, tag = "3")]
    start_time: i64,
    #[prost(sfixed64, tag = "4")]
    end_time: i64,
    #[prost(fixed64, tag = "5")]
    ended_by_process: u64,
    #[prost(uint64, tag = "6")]
    ended_by_counter: u64,
    #[prost(message, optional, tag = "7")]
    failure: Option<FailureRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct JobRecord {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    owner: String,
    #[prost(message, repeated, tag = "3")]
    labels: Vec<LabelRecord>,
    #[prost(int32, tag = "4")]
    state: i32,
    #[prost(int32, tag = "5")]
    attempt: i32,
    #[prost(int64, optional, tag = "6")]
    sequence: Option<i64>,
    #[prost(message, optional, tag = "7")]
    progress: Option<ProgressRecord>,
    #[prost(string, tag = "8")]
    worker: String,
    #[prost(message, optional, tag = "9")]
    cancel: Option<CancellationRecord>,
    #[prost(message, optional, tag = "10")]
    lease: Option<LeaseRecord>,
    #[prost(uint64, optional, tag = "11")]
    retention: Option<u64>,
    #[prost(sfixed64, tag = "12")]
    create_time: i64,
    #[prost(sfixed64, optional, tag = "13")]
    start_time: Option<i64>,
    #[prost(sfixed64, tag = "14")]
    update_time: i64,
    #[prost(sfixed64, optional, tag = "15")]
    end_time: Option<i64>,
    #[prost(sfixed64, optional, tag = "16")]
    expire_time: Option<i64>,
    #[prost(message, optional, tag = "17")]
    failure: Option<FailureRecord>,
    #[prost(int32, tag = "18")]
    removal: i32,
    #[prost(string, optional, tag = "19")]
    request_id: Option<String>,
    #[prost(sfixed64, optional, tag = "20")]
    report_time: Option<i64>,
    #[prost(sfixed64, optional, tag = "21")]
    forget_time: Option<i64>,
    #[prost(string, tag = "22")]
    title: String,
    #[prost(sfixed64, optional, tag = "23")]
    progress_time: Option<i64>,
    #[prost(sfixed64, optional, tag = "24")]
    attempt_start_time: Option<i64>,
    #[prost(bytes = "vec", tag = "25")]
    claim: Vec<u8>,
    #[prost(message, repeated, tag = "26")]
    attempts: Vec<AttemptRecord>,
    /// Records of older releases have neither this field nor `attempt_start_time`.
    #[prost(bool, tag = "27")]
    between_attempts: bool,
}

/// Encodes the core of `job`: everything except its id, its version, its documents and the times that the script sets.
pub fn encode(job: &Job) -> Vec<u8> {
    let time = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
    let label = |(key, value): (&str, &str)| LabelRecord { key: key.to_owned(), value: value.to_owned() };
    let cancel = |from: &Cancellation| CancellationRecord {
        request_time: from.request_time.as_micros(),
        reason: from.reason.clone(),
        requester: from.requester.clone(),
        grace_since: from.grace.map(|grace| grace.since.as_micros()),
        grace: from.grace.map_or(0, |grace| micros(grace.length)),
    };
    let record = JobRecord {
        kind: job.kind.clone(),
        owner: job.owner.clone(),
        labels: job.labels.iter().map(label).collect(),
        state: job.state as i32,
        attempt: job.attempt,
        sequence: job.sequence,
        progress: Some(progress(&job.progress)),
        worker: job.worker.clone(),
        cancel: job.cancel.as_deref().map(cancel),
        lease: (job.lease != Lease::default()).then(|| lease(&job.lease, job.state)),
        retention: job.retention.map(micros),
        create_time: job.create_time.as_micros(),
        start_time: time(job.start_time),
        update_time: job.update_time.as_micros(),
        end_time: time(job.end_time),
        expire_time: time(job.expire_time),
        failure: match &job.outcome {
            Some(Outcome::Failure(from)) => Some(failure(from)),
            Some(Outcome::Result(_)) | None => None,
        },
        removal: match job.removal {
            None => 0,
            Some(Removal::Deleted) => 1,
            Some(Removal::Expired) => 2,
        },
        request_id: job.request_id.clone(),
        report_time: time(job.report_time),
        forget_time: time(job.forget_time),
        title: job.title.to_string(),
        progress_time: time(job.progress_time),
        attempt_start_time: time(job.attempt_start_time),
        claim: job.claim.map(|claim| claim.as_bytes().to_vec()).unwrap_or_default(),
        attempts: job.attempts.iter().map(attempt).collect(),
        between_attempts: job.is_between_attempts(),
    };
    record.encode_to_vec()
}

/// Decodes the core of the job `id` that [`encode`] wrote; `None` if it is damaged.
pub fn decode(id: &JobId, version: Version, bytes: &[u8]) -> Option<Job> {
    let record = JobRecord::decode(bytes).ok()?;
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    let lease = record.lease.unwrap_or_default();
    let first_start = record.start_time.filter(|_| record.attempt > 0 && !record.between_attempts);
    Some(Job {
        id: id.clone(),
        version,
        request_id: record.request_id,
        kind: record.kind,
        owner: record.owner,
        title: record.title.into(),
        labels: record.labels.into_iter().map(|label| (label.key, label.value)).collect(),
        metadata: None,
        state: *State::ALL.get(usize::try_from(record.state).ok()?)?,
        attempt: record.attempt,
        attempt_start_time: time(record.attempt_start_time.or(first_start)),
        claim: <[u8; 16]>::try_from(record.claim).ok().map(Claim::from_bytes),
        attempts: record.attempts.into_iter().map(read_attempt).collect::<Option<_>>()?,
        sequence: record.sequence,
        progress: read_progress(record.progress.unwrap_or_default()),
        worker: record.worker,
        cancel: record.cancel.map(read_cancel).map(Box::new),
        lease: Lease {
            timeout: Duration::from_micros(lease.timeout),
            start_timeout: Duration::from_micros(lease.start_timeout),
            expire_time: time(lease.expire_time.or(lease.start_expire_time)),
            lost: lease.lost,
            fail_when_lost: lease.fail_when_lost,
        },
        retention: record.retention.map(Duration::from_micros),
        create_time: Timestamp::from_micros(record.create_time),
        start_time: time(record.start_time),
        update_time: Timestamp::from_micros(record.update_time),
        report_time: time(record.report_time),
        progress_time: time(record.progress_time),
        end_time: time(record.end_time),
        expire_time: time(record.expire_time),
        forget_time: time(record.forget_time),
        outcome: match record.failure {
            None => None,
            Some(from) => Some(Outcome::Failure(read_failure(from)?.into())),
        },
        durable_time: None,
        since: None,
        heard: None,
        branch: None,
        removal: match record.removal {
            0 => None,
            1 => Some(Removal::Deleted),
            2 => Some(Removal::Expired),
            _ => return None,
        },
    })
}

/// Encodes a document as JSON, which people can read.
pub fn encode_document(document: &Document) -> Vec<u8> {
    serde_json::to_vec(document).expect("text and finite numbers can be encoded")
}

/// Decodes a document; `None` if it is damaged.
pub fn decode_document(json: &[u8]) -> Option<Document> {
    serde_json::from_slice(json).ok()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn progress(from: &Progress) -> ProgressRecord {
    ProgressRecord {
        percent: from.percent,
        completed: from.completed,
        total: from.total,
        unit: from.unit.clone(),
        stage: from.stage.clone(),
        stage_index: from.stage_index,
        stage_count: from.stage_count,
        message: from.message.clone(),
    }
}

fn read_progress(from: ProgressRecord) -> Progress {
    Progress {
        percent: from.percent,
        completed: from.completed,
        total: from.total,
        unit: from.unit,
        stage: from.stage,
        stage_index: from.stage_index,
        stage_count: from.stage_count,
        message: from.message,
        details: None,
    }
}

fn lease(from: &Lease, state: State) -> LeaseRecord {
    let expire_time = from.expire_time.map(Timestamp::as_micros);
    let is_pending = state == State::Pending;
    LeaseRecord {
        timeout: micros(from.timeout),
        expire_time: expire_time.filter(|_| !is_pending),
        lost: from.lost,
        fail_when_lost: from.fail_when_lost,
        start_timeout: micros(from.start_timeout),
        start_expire_time: expire_time.filter(|_| is_pending),
    }
}

fn read_cancel(from: CancellationRecord) -> Cancellation {
    let length = Duration::from_micros(from.grace);
    Cancellation {
        request_time: Timestamp::from_micros(from.request_time),
        reason: from.reason,
        requester: from.requester,
        grace: from.grace_since.map(|since| Grace { since: Timestamp::from_micros(since), length }),
    }
}

fn attempt(from: &Attempt) -> AttemptRecord {
    AttemptRecord {
        number: from.number,
        worker: from.worker.clone(),
        start_time: from.start_time.as_micros(),
        end_time: from.end_time.as_micros(),
        ended_by_process: from.ended_by.process,
        ended_by_counter: from.ended_by.counter,
        failure: from.failure.as_ref().map(failure),
    }
}

fn read_attempt(from: AttemptRecord) -> Option<Attempt> {
    Some(Attempt {
        number: from.number,
        worker: from.worker,
        start_time: Timestamp::from_micros(from.start_time),
        end_time: Timestamp::from_micros(from.end_time),
        ended_by: ChangeId { process: from.ended_by_process, counter: from.ended_by_counter },
        failure: match from.failure {
            None => None,
            Some(from) => Some(read_failure(from)?),
        },
    })
}

fn failure(from: &Failure) -> FailureRecord {
    FailureRecord {
        code: from.code.get(),
        reason: from.reason.clone(),
        message: from.message.clone(),
        details: from.details.as_ref().map(encode_document),
    }
}

fn read_failure(from: FailureRecord) -> Option<Failure> {
    Some(Failure {
        code: FailureCode::parse(from.code)?,
        reason: from.reason,
        message: from.message,
        details: match from.details {
            None => None,
            Some(json) => Some(decode_document(&json)?),
        },
    })
}
