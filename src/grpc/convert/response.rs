//! From the domain's answers to protobuf messages.

use std::{cell::RefCell, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::{
    domain::{
        Cancellation, Cursor, Document, Failure, Identity, Ignored, Job, JobId, ListQuery, Liveness, MAX_ATTEMPTS,
        MAX_PAGE_BYTES, Outcome, Progress, Removal, State, Timestamp, View,
    },
    proto::{EncodedEvent, EncodedStruct, v1},
    store::{
        self, CacheStats, Durability, Page, ReconcileReport, RedisStats, ReplicaStats, Source, StorageMode, Stored,
    },
    tracker::{Effect, Purged, TrackerStats},
    watch::{EventKind, ResumeToken, WatchEvent},
};

/// As much of a job as `view` says, as it is at `now`.
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

/// A document as it is sent: it is not copied.
fn document(from: &Document) -> EncodedStruct {
    EncodedStruct::Shared(from.encoded().clone())
}

/// A job as it is at `now`, without `result`, `metadata` and the details of progress and failures.
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
        outcome: match &job.outcome {
            Some(Outcome::Failure(from)) => Some(v1::job::Outcome::Failure(failure(from))),
            Some(Outcome::Result(_)) | None => None,
        },
        revision: job.version.revision,
        durability: match stored.durability {
            Durability::Durable => v1::Durability::Durable,
            Durability::Volatile => v1::Durability::Volatile,
        }
        .into(),
        title: job.title.to_string(),
        progress_time: job.progress_time.map(timestamp),
        last_failure: job.last_failure().map(failure),
        attempts: attempts(job),
        start_timeout: limit(job.lease.start_timeout),
        start_expire_time: expire_time(State::Pending),
    }
}

/// The attempts of a job, the last one included.
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

/// A page of what `query` selects for `caller`, cut short where more would make it larger than clients take.
pub fn page(page: &Page, query: &ListQuery, caller: &Identity) -> v1::ListJobsResponse {
    let mut size = 0;
    let mut jobs = Vec::with_capacity(page.jobs.len());
    for stored in &page.jobs {
        let job = job(stored, query.now, query.view);
        size += job.encoded_len();
        if size > MAX_PAGE_BYTES && !jobs.is_empty() {
            break;
        }
        jobs.push(job);
    }
    let cut = page.jobs.get(..jobs.len()).filter(|kept| kept.len() < page.jobs.len()).and_then(|kept| kept.last());
    let next = cut.map(|stored| Cursor::of(&stored.job)).or_else(|| page.next.clone());
    let digest = query.order.bind(query.filter.digest(caller));
    v1::ListJobsResponse {
        jobs,
        next_page_token: next.map(|place| place.to_token(digest)).unwrap_or_default(),
        total_size: page.total.map(count),
        partial: page.partial,
    }
}

/// Returns the answer about a part of a purge, with a token that is bound to what has this `digest`.
pub fn purged(purged: &Purged, digest: Uuid) -> v1::PurgeJobsResponse {
    v1::PurgeJobsResponse {
        purged_count: count(purged.count),
        next_page_token: purged.next.as_ref().map(|place| place.to_token(digest)).unwrap_or_default(),
        partial: purged.partial,
    }
}

/// Returns the reason why a report was ignored, if it was.
pub fn ignored(effect: Effect) -> v1::Ignored {
    match effect {
        Effect::Ignored(Ignored::OlderSequence) => v1::Ignored::OlderSequence,
        Effect::Ignored(Ignored::LowerProgress) => v1::Ignored::LowerProgress,
        Effect::Applied | Effect::None => v1::Ignored::Unspecified,
    }
}

/// Returns the source of an answer.
pub fn source(from: Source) -> v1::Source {
    match from {
        Source::Redis => v1::Source::Redis,
        Source::Memory => v1::Source::Memory,
    }
}

/// An event of a stream, with as much of the job as `view` says.
pub fn event(event: WatchEvent, now: Timestamp, view: View) -> EncodedEvent {
    EncodedEvent {
        event: event_kind(event.kind).into(),
        removal: removal(&event).into(),
        job: event.stored.map(|stored| encoded_job(stored, now, view)),
        skipped: event.skipped,
        resume_token: encoded_token(event.resume_token),
        reset: event.reset,
        snapshot_pending: event.snapshot_pending,
    }
}

/// A job that was encoded, and what it was encoded from.
struct Encoded {
    job: Arc<Job>,
    durability: Durability,
    liveness: Liveness,
    bytes: Bytes,
}

thread_local! {
    /// The last one of each view on this thread: those who watch the same job are told of a change one after the other.
    static LAST: RefCell<[Option<Encoded>; 2]> = const { RefCell::new([None, None]) };
    /// And the last token.
    static LAST_TOKEN: RefCell<Option<(ResumeToken, Bytes)>> = const { RefCell::new(None) };
}

/// A token as it is sent.
fn encoded_token(token: ResumeToken) -> Bytes {
    LAST_TOKEN.with_borrow_mut(|last| match last {
        Some((known, bytes)) if *known == token => bytes.clone(),
        _ => {
            let bytes = Bytes::from(token.encode());
            *last = Some((token, bytes.clone()));
            bytes
        }
    })
}

/// As much of a job as `view` says, as it is at `now`, encoded.
fn encoded_job(stored: Stored, now: Timestamp, view: View) -> Bytes {
    let (durability, liveness) = (stored.durability, stored.job.liveness(now));
    LAST.with_borrow_mut(|last| {
        let last = &mut last[view as usize];
        let is_same = |last: &&Encoded| {
            Arc::ptr_eq(&last.job, &stored.job) && (last.durability, last.liveness) == (durability, liveness)
        };
        if let Some(last) = last.as_ref().filter(is_same) {
            return last.bytes.clone();
        }
        let bytes = Bytes::from(job(&stored, now, view).encode_to_vec());
        *last = Some(Encoded { job: stored.job, durability, liveness, bytes: bytes.clone() });
        bytes
    })
}

/// Returns the statistics of a server.
pub fn stats(stats: &TrackerStats) -> v1::GetStatsResponse {
    let counts = stats.store.counts;
    let in_redis = counts.filter(|_| stats.mode == StorageMode::Redis);
    v1::GetStatsResponse {
        storage_mode: match stats.mode {
            StorageMode::Memory => v1::StorageMode::Memory,
            StorageMode::Redis => v1::StorageMode::Redis,
            StorageMode::Degraded => v1::StorageMode::Degraded,
        }
        .into(),
        jobs_in_memory: count(stats.store.held),
        jobs_in_redis: in_redis.map(|counts| count(counts.iter().sum())),
        state_counts: counts
            .map(|counts| State::ALL.iter().zip(counts))
            .into_iter()
            .flatten()
            .map(|(from, number)| v1::StateCount { state: state(*from).into(), count: count(number) })
            .collect(),
        redis: stats.store.redis.map(redis_stats),
        cache: stats.store.cache.map(cache_stats),
        dirty_jobs: count(stats.store.dirty),
        last_reconciliation: stats.store.last_reconciliation.as_ref().map(reconciliation),
        watchers: count(stats.watchers as u64),
        uptime: Some(duration(stats.uptime)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replicas: stats.store.replicas.iter().map(replica).collect(),
        decisions_held_back: stats.store.held_back.is_some(),
        decisions_held_back_reason: stats.store.held_back.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn replica(from: &ReplicaStats) -> v1::Replica {
    v1::Replica {
        id: from.id.clone(),
        version: from.version.clone(),
        last_seen_time: Some(timestamp(from.last_seen)),
        dirty_jobs: count(from.dirty),
    }
}

fn redis_stats(from: RedisStats) -> v1::RedisStats {
    v1::RedisStats {
        reachable: from.ping.is_some(),
        ping: from.ping.map(duration),
        pool_in_use: small(from.in_use),
        pool_idle: small(from.idle),
        pool_waiting: small(from.waiting),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits than a double has")]
fn cache_stats(from: CacheStats) -> v1::CacheStats {
    let reads = from.hits + from.misses;
    v1::CacheStats {
        hits: count(from.hits),
        misses: count(from.misses),
        errors: count(from.errors),
        hit_rate: if reads == 0 { 0.0 } else { from.hits as f64 / reads as f64 },
    }
}

fn reconciliation(from: &ReconcileReport) -> v1::Reconciliation {
    let [merged_count, conflicted_count, dropped_count] = from.counts.map(count);
    let job = |(id, outcome, reason): &(JobId, store::ReconcileOutcome, &str)| v1::ReconciledJob {
        job_id: id.to_string(),
        outcome: match outcome {
            store::ReconcileOutcome::Merged => v1::reconciled_job::Outcome::Merged,
            store::ReconcileOutcome::Conflicted => v1::reconciled_job::Outcome::Conflicted,
            store::ReconcileOutcome::Dropped => v1::reconciled_job::Outcome::Dropped,
        }
        .into(),
        reason: (*reason).to_owned(),
    };
    v1::Reconciliation {
        end_time: from.end_time.map(timestamp),
        merged_count,
        conflicted_count,
        dropped_count,
        jobs: from.jobs.iter().map(job).collect(),
    }
}

fn small(from: u32) -> i32 {
    i32::try_from(from).unwrap_or(i32::MAX)
}

/// A count on the wire.
fn count(from: u64) -> i64 {
    i64::try_from(from).unwrap_or(i64::MAX)
}

fn state(from: State) -> v1::job::State {
    match from {
        State::Pending => v1::job::State::Pending,
        State::Running => v1::job::State::Running,
        State::Succeeded => v1::job::State::Succeeded,
        State::Failed => v1::job::State::Failed,
        State::Cancelled => v1::job::State::Cancelled,
    }
}

fn liveness(from: Liveness) -> v1::Liveness {
    match from {
        Liveness::Unspecified => v1::Liveness::Unspecified,
        Liveness::Live => v1::Liveness::Live,
        Liveness::Lost => v1::Liveness::Lost,
    }
}

fn event_kind(from: EventKind) -> v1::Event {
    match from {
        EventKind::Snapshot => v1::Event::Snapshot,
        EventKind::Update => v1::Event::Update,
        EventKind::Bookmark => v1::Event::Bookmark,
        EventKind::Removed => v1::Event::Removed,
    }
}

fn removal(event: &WatchEvent) -> v1::Removal {
    match event.stored.as_ref().and_then(|stored| stored.job.removal) {
        None => v1::Removal::Unspecified,
        Some(Removal::Deleted) => v1::Removal::Deleted,
        Some(Removal::Expired) => v1::Removal::Expired,
    }
}

/// The progress without its details.
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

/// The failure without its details.
fn failure(from: &Failure) -> v1::Failure {
    v1::Failure {
        code: Some(from.code.get()),
        reason: from.reason.clone(),
        message: from.message.clone(),
        details: None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder of a million, times a thousand, fits")]
fn timestamp(from: Timestamp) -> prost_types::Timestamp {
    let micros = from.as_micros();
    let nanos = micros.rem_euclid(1_000_000) * 1000;
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos: nanos as i32 }
}

#[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below a billion")]
fn duration(from: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: count(from.as_secs()), nanos: from.subsec_nanos() as i32 }
}
