//! Reasons for which the server ends a stream: it drains, the caller's deadline passes, or the credentials end.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Extensions;

use super::context::CallContext;
use crate::{
    auth::Grant,
    domain::{JobError, Unauthenticated},
};

/// Reasons for which the server ends a stream.
pub struct Ending {
    drain: CancellationToken,
    deadline: Option<Duration>,
    grant: Option<Grant>,
}

impl Ending {
    /// Returns the reasons for a stream that only `drain` ends.
    #[cfg(test)]
    pub const fn by_drain(drain: CancellationToken) -> Self {
        Self { drain, deadline: None, grant: None }
    }

    /// Returns the reasons for the call with these `extensions`, on a server that drains when `drain` is cancelled.
    pub fn of(extensions: &Extensions, drain: &CancellationToken) -> Self {
        let context = CallContext::of(extensions);
        let deadline = context.and_then(|context| context.deadline.remaining());
        let grant = context.and_then(|context| context.grant.clone()).filter(Grant::can_end);
        Self { drain: drain.clone(), deadline, grant }
    }

    /// Returns the reasons for a call with this `context` that ends after `limit` at the latest.
    pub fn within(limit: Duration, context: &CallContext, drain: &CancellationToken) -> Self {
        let deadline = Some(context.deadline.remaining().map_or(limit, |remaining| remaining.min(limit)));
        Self { drain: drain.clone(), deadline, grant: context.grant.clone() }
    }

    /// Waits until the stream must end. Returns the reason.
    pub async fn reached(self) -> JobError {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        let grant = async {
            match self.grant {
                // Boxed to keep the future small for the other streams: most have no grant that can end.
                Some(grant) => Box::pin(async move { grant.ended().await }).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = grant => JobError::Unauthenticated(Unauthenticated::Ended),
            () = self.drain.cancelled() => JobError::Draining,
            () = deadline => JobError::DeadlineExceeded,
        }
    }
}
