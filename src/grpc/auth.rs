//! Who may make which call. What has no rule here is not served.

use axum::extract::Request;
use tonic::Status;

use super::status::unimplemented;
use crate::{
    auth::{Authenticator, Grant, Peer},
    domain::{JobError, Needed, Role},
};

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Everybody: nothing is asked of the caller.
    Public,
    /// Who has this role, or one above it.
    Needs(Role),
}

/// The rule for each method of each service; `None`: it is not served.
pub fn rule(service: &str, method: &str) -> Option<Rule> {
    let role = match service {
        "jobtrack.v1.JobService" => match method {
            "GetJob" | "BatchGetJobs" | "ListJobs" | "WatchJob" | "WatchJobs" => Role::Reader,
            "CreateJob" | "StartAttempt" | "UpdateProgress" | "CompleteJob" | "FailJob" | "CancelJob"
            | "ConfirmCancel" | "DeleteJob" => Role::Reporter,
            _ => return None,
        },
        "jobtrack.v1.AdminService" if matches!(method, "GetStats" | "PurgeJobs") => Role::Admin,
        "grpc.health.v1.Health" if matches!(method, "Check" | "List" | "Watch") => return Some(Rule::Public),
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection"
            if method == "ServerReflectionInfo" =>
        {
            Role::Reader
        }
        _ => return None,
    };
    Some(Rule::Needs(role))
}

/// Who makes a call of a method with this `rule`, and which role that takes; `None`: anybody may.
pub fn identify(
    rule: Option<Rule>,
    authenticator: &Authenticator,
    request: &Request,
) -> Result<Option<(Grant, Role)>, Status> {
    let needed = match rule {
        None => return Err(unimplemented()),
        Some(Rule::Public) => return Ok(None),
        Some(Rule::Needs(needed)) => needed,
    };
    let grant = authenticator.authenticate(request.headers(), request.extensions().get::<Peer>());
    Ok(Some((grant.map_err(JobError::Unauthenticated)?, needed)))
}

/// Whether a caller has a role that is needed.
pub fn authorize(grant: &Grant, needed: Role) -> Result<(), JobError> {
    if grant.identity.role < Some(needed) {
        return Err(JobError::PermissionDenied(Needed::Role(needed)));
    }
    Ok(())
}
