//! Jobs as protobuf messages.

use std::time::Duration;

use super::values::{duration, state, timestamp};
use crate::{
    domain::{Cancellation, Document, Failure, Job, Liveness, MAX_ATTEMPTS, Outcome, Progress, State, Timestamp, View},
    proto::{EncodedStruct, v1},
    store::{Durability, Stored},
};

/// Returns a job as it is at `now`, with the fields of `view`.
pub fn job(stored: &Stored, now: Timestamp, view: View) -> v1::Job {
    let Job { metadata, outcome, .. } = &*stored.job;
    let mut whole = basic_job(stored, now);
    if view == View::Basic {
        return whole;
    }
    whole.metadata = metadata.as_ref().map(document);
    if let Some(progress) = &mut whole.progress {
        progress.details = stored.job.progress.details.as_ref().map(document);
    }
    match (outcome, &mut whole.outcome) {
        (Some(Outcome::Result(result)), outcome) => *outcome = Some(v1::job::Outcome::Result(document(result))),
        (Some(Outcome::Failure(failure)), Some(v1::job::Outcome::Failure(basic))) => {
            basic.details = failure.details.as_ref().map(document);
        }
        _ => {}
    }
    if let (Some(last), Some(basic)) = (stored.job.last_failure(), &mut whole.last_failure) {
        basic.details = last.details.as_ref().map(document);
    }
    whole
}

/// Returns a document without copying it.
fn document(from: &Document) -> EncodedStruct {
    EncodedStruct::Shared(from.encoded().clone())
}

/// Returns a job as it is at `now`, without `result`, `metadata` and the details of progress and failures.
fn basic_job(stored: &Stored, now: Timestamp) -> v1::Job {
    let job = &*stored.job;
    let limit = |time: Duration| (!time.is_zero()).then(|| duration(time));
    let expire_time = |state| job.lease.expire_time.filter(|_| job.state == state).map(timestamp);
    v1::Job {
        id: job.id.to_string(),
        kind: job.kind.clone(),
        owner: job.owner.clone(),
        labels: job.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        metadata: None,
        state: state(job.state).into(),
        attempt: job.attempt,
        progress: Some(progress(&job.progress)),
        worker: job.worker.clone(),
        cancel: job.cancel.as_deref().map(cancellation),
        lease_timeout: limit(job.lease.timeout),
        lease_expire_time: expire_time(State::Running),
        liveness: liveness(job.liveness(now)).into(),
        create_time: Some(timestamp(job.create_time)),
        start_time: job.start_time.map(timestamp),
        update_time: Some(timestamp(job.update_time)),
        end_time: job.end_time.map(timestamp),
        expire_time: job.expire_time.map(timestamp),
        outcome: job.outcome.as_ref().and_then(failed),
        revision: job.version.revision,
        durability: durability(stored.durability).into(),
        title: job.title.to_string(),
        progress_time: job.progress_time.map(timestamp),
        last_failure: job.last_failure().map(failure),
        attempts: attempts(job),
        start_timeout: limit(job.lease.start_timeout),
        start_expire_time: expire_time(State::Pending),
    }
}

/// Returns the failure of an outcome; a result is not part of the basic view.
fn failed(outcome: &Outcome) -> Option<v1::job::Outcome> {
    match outcome {
        Outcome::Failure(from) => Some(v1::job::Outcome::Failure(failure(from))),
        Outcome::Result(_) => None,
    }
}

fn durability(from: Durability) -> v1::Durability {
    match from {
        Durability::Durable => v1::Durability::Durable,
        Durability::Volatile => v1::Durability::Volatile,
    }
}

/// Returns the attempts of a job, including the current one.
fn attempts(job: &Job) -> Vec<v1::Attempt> {
    let last = job.attempt_start_time.map(|start| v1::Attempt {
        number: job.attempt,
        worker: job.worker.clone(),
        start_time: Some(timestamp(start)),
        end_time: job.end_time.map(timestamp),
        failure: match &job.outcome {
            Some(Outcome::Failure(from)) => Some(failure(from)),
            Some(Outcome::Result(_)) | None => None,
        },
    });
    // Most jobs have one attempt.
    if job.attempts.is_empty() {
        return last.into_iter().collect();
    }
    let past = job.past_attempts().map(|attempt| v1::Attempt {
        number: attempt.number,
        worker: attempt.worker.clone(),
        start_time: Some(timestamp(attempt.start_time)),
        end_time: Some(timestamp(attempt.end_time)),
        failure: attempt.failure.as_ref().map(failure),
    });
    let mut all: Vec<_> = past.chain(last).collect();
    all.drain(..all.len().saturating_sub(MAX_ATTEMPTS));
    all
}

fn liveness(from: Liveness) -> v1::Liveness {
    match from {
        Liveness::Unspecified => v1::Liveness::Unspecified,
        Liveness::Live => v1::Liveness::Live,
        Liveness::Lost => v1::Liveness::Lost,
    }
}

/// Returns the progress without its details.
fn progress(from: &Progress) -> v1::Progress {
    v1::Progress {
        percent: from.percent,
        completed: from.completed,
        total: from.total,
        unit: from.unit.clone(),
        stage: from.stage.clone(),
        stage_index: from.stage_index,
        stage_count: from.stage_count,
        message: from.message.clone(),
        details: None,
    }
}

fn cancellation(from: &Cancellation) -> v1::Cancellation {
    v1::Cancellation {
        reason: from.reason.clone(),
        requester: from.requester.clone(),
        request_time: Some(timestamp(from.request_time)),
        force_time: from.grace.map(|grace| timestamp(grace.time())),
    }
}

/// Returns the failure without its details.
fn failure(from: &Failure) -> v1::Failure {
    v1::Failure {
        code: Some(from.code.get()),
        reason: from.reason.clone(),
        message: from.message.clone(),
        details: None,
    }
}
