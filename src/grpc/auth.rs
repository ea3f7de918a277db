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
enum Rule {
    /// Everybody: nothing is asked of the caller.
    Public,
    /// Who has this role, or one above it.
    Needs(Role),
}

/// The rule for each method of each service; `None`: it is not served.
fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let role = match service {
        "jobtrack.v1.JobService" => match method {
            "GetJob" | "BatchGetJobs" | "ListJobs" | "WatchJob" | "WatchJobs" => Role::Reader,
            "CreateJob" | "UpdateProgress" | "CompleteJob" | "FailJob" | "CancelJob" | "ConfirmCancel"
            | "DeleteJob" => Role::Reporter,
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

/// Lets a call pass if its caller may make it. Says who that is, if it matters.
pub fn admit(authenticator: &Authenticator, request: &Request) -> Result<Option<Grant>, Status> {
    let needed = match rule(request.uri().path()) {
        None => return Err(unimplemented()),
        Some(Rule::Public) => return Ok(None),
        Some(Rule::Needs(role)) => role,
    };
    let grant = authenticator
        .authenticate(request.headers(), request.extensions().get::<Peer>())
        .map_err(JobError::Unauthenticated)?;
    if grant.identity.role < Some(needed) {
        return Err(JobError::PermissionDenied(Needed::Role(needed)).into());
    }
    Ok(Some(grant))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_method_that_is_served_has_a_rule() {
        let sets = [
            DESCRIPTORS,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut seen = 0;
        for set in sets {
            for file in FileDescriptorSet::decode(set).expect("the descriptors can be read").file {
                for service in &file.service {
                    for method in &service.method {
                        let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        assert!(rule(&path).is_some(), "{path} has no rule");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 15, "the methods were not found");
    }

    #[test]
    fn what_has_no_rule_is_not_served() {
        let strange = ["", "/", "GetJob", "/jobtrack.v1.JobService", "/jobtrack.v1.JobService/getjob"];
        for path in strange.into_iter().chain(["/jobtrack.v1.JobService/GetJob/", "//jobtrack.v1.JobService/GetJob"]) {
            assert_eq!(rule(path), None, "{path}");
        }
    }
}
