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
    /// All callers, even without credentials.
    Public,
    /// Callers with this role or a higher one.
    Needs(Role),
    /// Readers, and holders of watch tokens. The handler must restrict the holder of a watch token to the jobs of the
    /// token.
    Follows,
}

/// Returns the rule for a method; `None`: it is not served.
pub fn rule(service: &str, method: &str) -> Option<Rule> {
    let role = match service {
        "jobtrack.v1.JobService" => match method {
            "GetJob" | "WatchJob" | "WatchJobs" => return Some(Rule::Follows),
            "BatchGetJobs" | "ListJobs" | "CreateWatchToken" => Role::Reader,
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

/// Returns whether holders of watch tokens may call a method of `jobtrack.v1`, such as `JobService/GetJob`.
pub fn takes_watch_tokens(name: &str) -> bool {
    let (service, method) = name.split_once('/').unwrap_or_default();
    rule(&format!("jobtrack.v1.{service}"), method) == Some(Rule::Follows)
}

/// Returns the rule of a method that is served.
pub fn served(rule: Option<Rule>) -> Result<Rule, Status> {
    rule.ok_or_else(unimplemented)
}

/// Fails unless the caller satisfies `rule`.
pub fn authorize(grant: &Grant, rule: Rule) -> Result<(), JobError> {
    let needed = match rule {
        Rule::Public => return Ok(()),
        Rule::Needs(_) if grant.identity.shared.is_some() => {
            return Err(JobError::PermissionDenied(Needed::Identity));
        }
        Rule::Needs(needed) => needed,
        Rule::Follows => Role::Reader,
    };
    if grant.identity.role < Some(needed) {
        return Err(JobError::PermissionDenied(Needed::Role(needed)));
    }
    Ok(())
}
