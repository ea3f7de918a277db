//! Facts about a call besides its message: its deadline and its caller.

use std::sync::Arc;

use tonic::{Extensions, Request};

use super::deadline::Deadline;
use crate::{
    auth::Grant,
    domain::{Identity, JobError, Unauthenticated},
};

/// Context of a call, which its handler receives with the request.
#[derive(Clone)]
pub struct CallContext {
    /// Deadline of the call.
    pub deadline: Deadline,
    /// Authorization of the caller; `None`: the method needs none.
    pub grant: Option<Grant>,
}

impl CallContext {
    /// Returns the context of the call with these `extensions`.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}

/// Returns the caller of this call.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<Identity>, JobError> {
    grant(request).map(|grant| grant.identity.clone())
}

/// Returns the authorization of the caller of this call.
pub fn grant<T>(request: &Request<T>) -> Result<&Grant, JobError> {
    let grant = CallContext::of(request.extensions()).and_then(|context| context.grant.as_ref());
    grant.ok_or(JobError::Unauthenticated(Unauthenticated::Missing))
}
