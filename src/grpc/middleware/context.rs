//! What is known of a call besides its message.

use std::sync::Arc;

use tonic::{Extensions, Request};

use super::deadline::Deadline;
use crate::{
    auth::Grant,
    domain::{Identity, JobError, Unauthenticated},
};

/// Goes with each call to its handler.
#[derive(Clone)]
pub struct CallContext {
    /// When it must have ended.
    pub deadline: Deadline,
    /// Who calls; `None`: that is of no concern.
    pub grant: Option<Grant>,
}

impl CallContext {
    /// That of the call with these `extensions`.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}

/// Who makes this call.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<Identity>, JobError> {
    let grant = CallContext::of(request.extensions()).and_then(|context| context.grant.as_ref());
    grant.map(|grant| grant.identity.clone()).ok_or(JobError::Unauthenticated(Unauthenticated::Missing))
}
