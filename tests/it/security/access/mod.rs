//! Authentication, authorization, and the visibility of jobs by owner.

mod jwt;
mod owners;
mod replaced;
mod revoked;
mod roles;
mod tls;
mod tokens;

use jobtrack::proto::v1::{GetJobRequest, job_service_client::JobServiceClient};
use tonic::{Code, Request, Status, transport::Channel};

use crate::support::error_info;

/// Returns the error of a read of a missing job, which shows whether the caller was accepted.
async fn read_as(channel: &Channel, request: Request<GetJobRequest>) -> Status {
    let mut client = JobServiceClient::new(channel.clone());
    client.get_job(request).await.expect_err("there is no such job")
}

/// Returns a read of a job that does not exist.
fn missing() -> GetJobRequest {
    GetJobRequest { job_id: "missing".to_owned(), ..GetJobRequest::default() }
}

/// Fails unless the call was rejected for its credentials, with this problem.
#[track_caller]
fn assert_unauthenticated(status: &Status, problem: &str) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{status:?}");
    assert_eq!(info.metadata["problem"], problem, "{status:?}");
}

/// Fails unless the call was rejected for a missing right, and the error names it.
#[track_caller]
fn assert_denied(status: &Status, needed: (&str, &str)) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"), "{status:?}");
    assert_eq!(info.metadata.get(needed.0).map(String::as_str), Some(needed.1), "{status:?}");
}
