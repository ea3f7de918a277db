//! Who may connect, who may call, and whose jobs exist for whom.

mod jwt;
mod owners;
mod replaced;
mod revoked;
mod roles;
mod tls;
mod tokens;

use std::time::Duration;

use jobtrack::proto::v1::{GetJobRequest, job_service_client::JobServiceClient};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status, transport::Channel};

use crate::support::error_info;

/// What a read of a missing job says, and so of the caller.
async fn read_as(channel: &Channel, request: Request<GetJobRequest>) -> Status {
    let mut client = JobServiceClient::new(channel.clone());
    client.get_job(request).await.expect_err("there is no such job")
}

/// A read of a job that there is not.
fn missing() -> GetJobRequest {
    GetJobRequest { job_id: "missing".to_owned(), ..GetJobRequest::default() }
}

/// Fails unless a call was refused for its credentials, for this problem.
#[track_caller]
fn assert_unauthenticated(status: &Status, problem: &str) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{status:?}");
    assert_eq!(info.metadata["problem"], problem, "{status:?}");
}

/// Fails unless a call was refused for what the caller may do, and names this as missing.
#[track_caller]
fn assert_denied(status: &Status, needed: (&str, &str)) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"), "{status:?}");
    assert_eq!(info.metadata.get(needed.0).map(String::as_str), Some(needed.1), "{status:?}");
}

/// Waits until `found` finds something, as it must within ten seconds: files are looked at each second.
async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        sleep(Duration::from_millis(20)).await;
    }
}
