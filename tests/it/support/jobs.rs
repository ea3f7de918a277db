//! Jobs made by the state machine, without a server.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use jobtrack::domain::{
    Applied, Change, ChangeContext, ChangeId, Completion, Document, Failure, FailureCode, Job, JobId, NewJob, Progress,
    Rejected, Report, Retention, Start, Timestamp,
};
use uuid::Uuid;

/// Returns second `seconds` of the test's time.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// Returns an id.
pub fn id(raw: &str) -> JobId {
    JobId::parse(raw).expect("a valid id")
}

/// Returns the context of a change at second `seconds`, with a new change id. Jobs are kept for a day after success, an
/// hour after failure, a minute after cancellation, and for ever while active.
pub fn change_context(seconds: i64) -> ChangeContext {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let retention = Retention {
        succeeded: Duration::from_secs(86_400),
        failed: Duration::from_secs(3600),
        cancelled: Duration::from_secs(60),
        active: Duration::ZERO,
    };
    ChangeContext {
        now: at(seconds),
        change_id: ChangeId { process: 1, counter: COUNTER.fetch_add(1, Relaxed) },
        retention,
    }
}

/// Returns the parameters of a plain job.
pub fn plain() -> NewJob {
    NewJob {
        id: None,
        request_id: None,
        kind: "test.work".into(),
        owner: String::new(),
        title: "A job of a test".into(),
        labels: [].into(),
        metadata: None,
        lease_timeout: Duration::ZERO,
        start_timeout: Duration::ZERO,
        fail_when_lost: false,
        retention: None,
    }
}

/// Returns a job created at second `seconds`.
pub fn job(name: &str, seconds: i64) -> Job {
    make(name, seconds, plain())
}

/// Returns a job created at second `seconds` from `new`.
pub fn make(name: &str, seconds: i64, new: NewJob) -> Job {
    Job::create(id(name), new, None, Uuid::new_v4(), &change_context(seconds))
}

/// Applies `change` at second `seconds` to `job`. Returns `None` if it has no effect.
pub fn try_apply(job: &Job, change: &Change, seconds: i64) -> Result<Option<Job>, Rejected> {
    Ok(match job.apply(change, &change_context(seconds))? {
        Applied::Changed(next) | Applied::ChangedIfLost(next) | Applied::Ignored { renewed: Some(next), .. } => {
            Some(*next)
        }
        Applied::Unchanged | Applied::Ignored { renewed: None, .. } => None,
    })
}

/// Applies `change` at second `seconds` to `job`, which must have an effect.
pub fn apply(job: &Job, change: &Change, seconds: i64) -> Job {
    try_apply(job, change, seconds).expect("the change is allowed").expect("the change has something to do")
}

/// Returns a document of this JSON object.
pub fn document(json: &serde_json::Value) -> Option<Document> {
    serde_json::from_value(json.clone()).ok()
}

/// A heartbeat.
pub fn heartbeat() -> Change {
    Change::Report(Report::default())
}

/// A success without a result.
pub fn success() -> Change {
    Change::Complete(Completion { outcome: None, attempt: None, claim: None, expected_revision: None })
}

/// A failure.
pub fn failure() -> Change {
    let outcome =
        Failure { code: FailureCode::UNKNOWN, reason: "BROKEN".into(), message: "it broke".into(), details: None };
    Change::Fail(Completion { outcome, attempt: None, claim: None, expected_revision: None })
}

/// A failure that another attempt follows.
pub fn retry() -> Change {
    let Change::Fail(end) = failure() else { unreachable!("it is a failure") };
    Change::Retry(end)
}

/// A worker's claim of the next attempt.
pub fn start(worker: &str) -> Change {
    Change::Start(Start { worker: worker.into(), ..Start::default() })
}

/// A cancellation request.
pub fn cancel(force: bool) -> Change {
    Change::Cancel { reason: "enough".into(), requester: "someone".into(), force, grace: Duration::ZERO }
}

/// A worker's confirmation of a cancellation.
pub fn confirm() -> Change {
    Change::ConfirmCancel { attempt: None, claim: None, message: None }
}

/// Returns a start that takes the job from its worker.
pub fn takeover() -> Change {
    Change::Start(Start { takeover: true, ..Start::default() })
}

/// Returns the progress of a report.
pub fn percent(percent: f64) -> Progress {
    Progress { percent: Some(percent), ..Progress::default() }
}

/// Returns a new job with a lease of ten seconds.
pub fn leased(fail_when_lost: bool) -> Job {
    make("a", 0, NewJob { lease_timeout: Duration::from_secs(10), fail_when_lost, ..plain() })
}
