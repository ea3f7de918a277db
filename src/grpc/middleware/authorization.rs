//! The role that each method needs. A method without a rule is not served.

use tonic::Status;

use crate::{
    auth::Grant,
    domain::{JobError, Needed, Role},
    grpc::status::unimplemented,
};

/// Callers that may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All, without credentials.
    Public,
    /// Those with this role, or one above it.
    Needs(Role),
}

/// Returns the rule for a method; `None`: it is not served.
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

/// Returns the role that a call of a method with this `rule` needs; `None`: none.
pub fn needed(rule: Option<Rule>) -> Result<Option<Role>, Status> {
    match rule {
        None => Err(unimplemented()),
        Some(Rule::Public) => Ok(None),
        Some(Rule::Needs(needed)) => Ok(Some(needed)),
    }
}

/// Fails unless the caller has the role that is `needed`.
pub fn authorize(grant: &Grant, needed: Role) -> Result<(), JobError> {
    if grant.identity.role < Some(needed) {
        return Err(JobError::PermissionDenied(Needed::Role(needed)));
    }
    Ok(())
}
