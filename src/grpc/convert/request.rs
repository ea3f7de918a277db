//! Conversions of requests to values of the domain.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::fields::Fields;
use crate::{
    domain::{
        Change, Claim, Completion, DEFAULT_PAGE, Document, Failure, FailureCode, Filter, Identity, JobError, JobId,
        ListQuery, MAX_BATCH, MAX_CANCEL_REASON, MAX_FAILURE_DETAILS, MAX_FAILURE_MESSAGE, MAX_FAILURE_REASON,
        MAX_METADATA, MAX_NAME, MAX_PAGE, MAX_PAGE_BYTES, MAX_PROGRESS_DETAILS, MAX_PROGRESS_MESSAGE, MAX_RESULT,
        MAX_SHARED_JOBS, MAX_STAGE, MAX_TITLE, MAX_UNIT, MAX_WATCHED_IDS, NewJob, Order, Owners, Progress, Report,
        Start, State, Timeouts, Timestamp, View, cut,
    },
    proto::v1,
    tracker::Purge,
    watch::{Pace, Scope},
};

/// Default interval between bookmarks. It is short, because proxies close silent streams.
const DEFAULT_BOOKMARK_INTERVAL: Duration = Duration::from_secs(20);

/// Default time for which a watch token is valid.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Maximum time for which a watch token is valid.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum percentage that is accepted, and counts as 100: a sum of rounded parts may be a little more than 100.
const PERCENT_MAX: f64 = 100.01;

type Result<T> = std::result::Result<T, JobError>;

/// Reads a `CreateJob` request. `timeouts` are the defaults for a request that names no timeouts.
pub fn create(request: v1::CreateJobRequest, timeouts: Timeouts) -> Result<NewJob> {
    let mut fields = Fields::default();
    let id = (!request.job_id.is_empty()).then(|| fields.id("job_id", &request.job_id));
    let request_id = fields.text("request_id", request.request_id, MAX_NAME);
    if request.kind.is_empty() {
        fields.refuse("kind", "must be given: the sort of work, such as video.render");
    }
    let new = NewJob {
        id,
        request_id: (!request_id.is_empty()).then_some(request_id),
        kind: fields.text("kind", request.kind, MAX_NAME),
        owner: fields.text("owner", request.owner, MAX_NAME),
        title: fields.text("title", request.title, MAX_TITLE),
        labels: fields.labels("labels", request.labels),
        metadata: fields.document("metadata", request.metadata, MAX_METADATA),
        lease_timeout: fields.duration("lease_timeout", request.lease_timeout).unwrap_or(timeouts.lease),
        start_timeout: fields.duration("start_timeout", request.start_timeout).unwrap_or(timeouts.start),
        fail_when_lost: request.fail_when_lost,
        retention: fields.duration("retention", request.retention),
    };
    fields.done(new)
}

/// Reads a `GetJob` request: the id, the minimum revision and the view.
pub fn get(request: &v1::GetJobRequest) -> Result<(JobId, Option<i64>, View)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let revision = fields.number("min_revision", request.min_revision, 0.., "0 or more");
    let view = view(&mut fields, request.view, View::Full);
    fields.done((id, revision, view))
}

/// Reads a `BatchGetJobs` request: each id once, and the view.
pub fn batch_get(request: &v1::BatchGetJobsRequest) -> Result<(Vec<JobId>, View)> {
    let mut fields = Fields::default();
    let ids = distinct(job_ids(&mut fields, &request.job_ids, MAX_BATCH));
    let view = view(&mut fields, request.view, View::Full);
    fields.done((ids, view))
}

/// Reads a `CreateWatchToken` request: each id once, the time for which the token is valid, and the view.
pub fn create_watch_token(request: &v1::CreateWatchTokenRequest) -> Result<(Vec<JobId>, Duration, View)> {
    let mut fields = Fields::default();
    if request.job_ids.is_empty() {
        fields.refuse("job_ids", format!("must name 1 to {MAX_SHARED_JOBS} jobs"));
    }
    let ids = distinct(job_ids(&mut fields, &request.job_ids, MAX_SHARED_JOBS));
    let ttl = fields.duration("ttl", request.ttl);
    if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > TOKEN_TTL_MAX) {
        fields.refuse("ttl", "must be more than 0 and at most 7 days");
    }
    let view = view(&mut fields, request.view, View::Basic);
    fields.done((ids, ttl.unwrap_or(DEFAULT_TOKEN_TTL), view))
}

/// Reads a `ListJobs` request of `caller`.
pub fn list(request: v1::ListJobsRequest, caller: &Identity, now: Timestamp) -> Result<ListQuery> {
    let mut fields = Fields::default();
    let filter = filter(&mut fields, request.filter.unwrap_or_default());
    let limit = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            fields.refuse("page_size", "must be 0 or more");
            DEFAULT_PAGE
        }
    };
    let order = order(&mut fields, request.order);
    let digest = order.bind(filter.digest(caller));
    let after = fields.cursor("page_token", &request.page_token, digest, "a page with the same filter and order");
    let view = view(&mut fields, request.view, View::Basic);
    let max_bytes = MAX_PAGE_BYTES;
    fields.done(ListQuery { filter, order, limit, max_bytes, after, now, confined: false, view })
}

/// Reads a `StartAttempt` request.
pub fn start_attempt(request: v1::StartAttemptRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let request_id = fields.text("request_id", request.request_id, MAX_NAME);
    let start = Start {
        worker: fields.text("worker", request.worker, MAX_NAME),
        request_id: (!request_id.is_empty()).then_some(request_id),
        lease_timeout: fields.duration("lease_timeout", request.lease_timeout),
        takeover: request.takeover,
    };
    fields.done((id, Change::Start(start)))
}

/// Reads an `UpdateProgress` request.
pub fn update(request: v1::UpdateProgressRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let report = Report {
        progress: progress(&mut fields, request.progress.unwrap_or_default()),
        worker: fields.text("worker", request.worker, MAX_NAME),
        sequence: fields.number("sequence", request.sequence, 1.., "1 or more"),
        attempt: attempt(&mut fields, request.attempt),
        claim: claim(&mut fields, request.claim),
        expected_revision: expected_revision(&mut fields, request.expected_revision),
        lease_timeout: fields.duration("lease_timeout", request.lease_timeout),
    };
    fields.done((id, Change::Report(report)))
}

/// Reads a `CompleteJob` request.
pub fn complete(request: v1::CompleteJobRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let end = Completion::<Option<Document>> {
        outcome: fields.document("result", request.result, MAX_RESULT),
        attempt: attempt(&mut fields, request.attempt),
        claim: claim(&mut fields, request.claim),
        expected_revision: expected_revision(&mut fields, request.expected_revision),
    };
    fields.done((id, Change::Complete(end)))
}

/// Reads a `FailJob` request.
pub fn fail(request: v1::FailJobRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    if request.failure.is_none() {
        fields.refuse("failure", "must be given: the reason of the failure");
    }
    let end = Completion {
        outcome: failure(&mut fields, request.failure.unwrap_or_default()),
        attempt: attempt(&mut fields, request.attempt),
        claim: claim(&mut fields, request.claim),
        expected_revision: expected_revision(&mut fields, request.expected_revision),
    };
    fields.done((id, if request.retry { Change::Retry(end) } else { Change::Fail(end) }))
}

/// Reads a `CancelJob` request.
pub fn cancel(request: v1::CancelJobRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let reason = cut(request.reason, MAX_CANCEL_REASON);
    let requester = fields.text("requester", request.requester, MAX_NAME);
    let grace = fields.duration("grace", request.grace).unwrap_or_default();
    fields.done((id, Change::Cancel { reason, requester, force: request.force, grace }))
}

/// Reads a `ConfirmCancel` request.
pub fn confirm_cancel(request: v1::ConfirmCancelRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let attempt = attempt(&mut fields, request.attempt);
    let claim = claim(&mut fields, request.claim);
    let message = request.message.map(|message| cut(message, MAX_PROGRESS_MESSAGE));
    fields.done((id, Change::ConfirmCancel { attempt, claim, message }))
}

/// Reads a `DeleteJob` request.
pub fn delete(request: &v1::DeleteJobRequest) -> Result<(JobId, Change)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    fields.done((id, Change::Delete { force: request.force }))
}

/// Reads a `WatchJob` request: the id, the resume token, the intervals of events, and the view.
pub fn watch_job(request: v1::WatchJobRequest) -> Result<(JobId, String, Pace, View)> {
    let mut fields = Fields::default();
    let id = fields.id("job_id", &request.job_id);
    let pace = pace(&mut fields, request.min_interval, request.bookmark_interval);
    let view = view(&mut fields, request.view, View::Full);
    fields.done((id, request.resume_token, pace, view))
}

/// Reads a `WatchJobs` request: the scope, the resume token, the intervals of events, and the view.
pub fn watch_jobs(request: v1::WatchJobsRequest) -> Result<(Scope, String, Pace, View)> {
    let mut fields = Fields::default();
    let ids = job_ids(&mut fields, &request.job_ids, MAX_WATCHED_IDS).into_iter().collect();
    let filter = filter(&mut fields, request.filter.unwrap_or_default());
    let pace = pace(&mut fields, request.min_interval, request.bookmark_interval);
    let view = view(&mut fields, request.view, View::Full);
    fields.done((Scope { ids, filter, ..Scope::default() }, request.resume_token, pace, view))
}

/// Reads a `PurgeJobs` request: the selection, and the digest that binds a page token of `caller` to the request.
pub fn purge(request: v1::PurgeJobsRequest, caller: &Identity, now: Timestamp) -> Result<(Purge, Uuid)> {
    let mut fields = Fields::default();
    let mut states = fields.states("states", request.states);
    if states.iter().any(|state| !state.is_terminal()) {
        fields.refuse("states", "must be final states: SUCCEEDED, FAILED or CANCELLED; active jobs can't be purged");
    }
    if states.is_empty() {
        states = State::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    }
    let filter = Filter {
        states: states.into_iter().collect(),
        kind: fields.text("kind", request.kind, MAX_NAME),
        owners: owners(&mut fields, "owner", request.owner),
        ..Filter::default()
    };
    let older_than = fields.duration("older_than", request.older_than);
    let digest = purge_digest(&filter, older_than, request.dry_run, caller);
    let after = fields.cursor("page_token", &request.page_token, digest, "an answer to the same request");
    let ended_by = older_than.map(|age| now - age);
    fields.done((Purge { filter, ended_by, dry_run: request.dry_run, after }, digest))
}

fn purge_digest(filter: &Filter, older_than: Option<Duration>, dry_run: bool, caller: &Identity) -> Uuid {
    let rest = format!("purge {:?} {dry_run}", older_than.map(|age| age.as_micros()));
    Uuid::new_v5(&filter.digest(caller), rest.as_bytes())
}

/// Reads a view by its number; `default` if no view is given.
fn view(fields: &mut Fields, number: i32, default: View) -> View {
    match v1::View::try_from(number) {
        Ok(v1::View::Unspecified) => default,
        Ok(v1::View::Basic) => View::Basic,
        Ok(v1::View::Full) => View::Full,
        Err(_) => {
            fields.refuse("view", "must be VIEW_BASIC or VIEW_FULL");
            default
        }
    }
}

/// Reads an order by its number.
fn order(fields: &mut Fields, number: i32) -> Order {
    match v1::Order::try_from(number) {
        Ok(v1::Order::Unspecified | v1::Order::Newest) => Order::Newest,
        Ok(v1::Order::Oldest) => Order::Oldest,
        Err(_) => {
            fields.refuse("order", "must be ORDER_NEWEST or ORDER_OLDEST");
            Order::Newest
        }
    }
}

/// Returns each id once, in the order of their first occurrences.
fn distinct(mut ids: Vec<JobId>) -> Vec<JobId> {
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}

fn job_ids(fields: &mut Fields, raw: &[String], max: usize) -> Vec<JobId> {
    if raw.len() > max {
        fields.refuse("job_ids", format!("must be at most {max} ids, and are {}", raw.len()));
        return Vec::new();
    }
    raw.iter().enumerate().map(|(at, raw)| fields.id(&format!("job_ids[{at}]"), raw)).collect()
}

fn filter(fields: &mut Fields, from: v1::JobFilter) -> Filter {
    Filter {
        states: fields.states("filter.states", from.states).into_iter().collect(),
        kind: fields.text("filter.kind", from.kind, MAX_NAME),
        owners: owners(fields, "filter.owner", from.owner),
        labels: fields.labels("filter.labels", from.labels),
        created_after: fields.timestamp("filter.created_after", from.created_after),
        created_before: fields.timestamp("filter.created_before", from.created_before),
        liveness: fields.liveness("filter.liveness", from.liveness),
        worker: fields.text("filter.worker", from.worker, MAX_NAME),
        id_prefix: fields.id_prefix("filter.id_prefix", from.id_prefix),
        updated_after: fields.timestamp("filter.updated_after", from.updated_after),
    }
}

/// Reads the owner to select; all owners if it is empty.
fn owners(fields: &mut Fields, field: &str, owner: String) -> Owners {
    if owner.is_empty() { Owners::All } else { Owners::one(fields.text(field, owner, MAX_NAME)) }
}

fn progress(fields: &mut Fields, from: v1::Progress) -> Progress {
    let mut text = |field: &str, text: Option<String>, max| text.map(|text| fields.text(field, text, max));
    let unit = text("progress.unit", from.unit, MAX_UNIT);
    let stage = text("progress.stage", from.stage, MAX_STAGE);
    let message = from.message.map(|message| cut(message, MAX_PROGRESS_MESSAGE));
    let percent = fields.number("progress.percent", from.percent, 0.0..=PERCENT_MAX, "a number from 0 to 100");
    Progress {
        percent: percent.map(|percent| percent.min(100.0)),
        completed: fields.number("progress.completed", from.completed, 0.., "0 or more"),
        total: fields.number("progress.total", from.total, 0.., "0 or more"),
        unit,
        stage,
        stage_index: fields.number("progress.stage_index", from.stage_index, 0.., "0 or more"),
        stage_count: fields.number("progress.stage_count", from.stage_count, 0.., "0 or more"),
        message,
        details: fields.document("progress.details", from.details, MAX_PROGRESS_DETAILS),
    }
}

fn failure(fields: &mut Fields, from: v1::Failure) -> Failure {
    let is_kept = |letter: &char| letter.is_ascii_alphanumeric() || "_.:-".contains(*letter);
    let reason = from.reason.chars().map(|letter| Some(letter).filter(is_kept).unwrap_or('_'));
    // Corrected rather than rejected: a failure must not be lost because of its texts or its code.
    Failure {
        code: from.code.and_then(FailureCode::parse).unwrap_or(FailureCode::UNKNOWN),
        reason: reason.take(MAX_FAILURE_REASON).collect(),
        message: cut(from.message, MAX_FAILURE_MESSAGE),
        details: fields.document("failure.details", from.details, MAX_FAILURE_DETAILS),
    }
}

fn attempt(fields: &mut Fields, attempt: Option<i32>) -> Option<i32> {
    fields.number("attempt", attempt, 1.., "1 or more")
}

fn claim(fields: &mut Fields, claim: String) -> Option<Claim> {
    let claim = fields.text("claim", claim, MAX_NAME);
    (!claim.is_empty()).then(|| Claim::parse(&claim))
}

fn expected_revision(fields: &mut Fields, revision: Option<i64>) -> Option<i64> {
    fields.number("expected_revision", revision, 0.., "0 or more")
}

fn pace(
    fields: &mut Fields,
    min_interval: Option<prost_types::Duration>,
    bookmark_interval: Option<prost_types::Duration>,
) -> Pace {
    let min_interval = fields.duration("min_interval", min_interval).unwrap_or_default();
    let given = fields.duration("bookmark_interval", bookmark_interval).filter(|interval| !interval.is_zero());
    if given.is_some_and(|interval| interval < Duration::from_secs(1)) {
        fields.refuse("bookmark_interval", "must be at least 1 s, or 0 for 20 s");
    }
    Pace { min_interval, bookmark_interval: given.unwrap_or(DEFAULT_BOOKMARK_INTERVAL) }
}
