//! Conditions that end a response: its deadline, and the end of the caller's authorization.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

use crate::{
    auth::Grant,
    domain::{JobError, Unauthenticated},
};

/// Conditions that end a response even if its caller does not read it.
#[derive(Debug, Default)]
pub struct Expiry {
    /// Time by which the response must have ended.
    pub deadline: Option<Instant>,
    /// Authorization of the caller, if it may end before the response.
    pub grant: Option<Grant>,
}

impl Expiry {
    /// Waits until the response must end. Returns the reason.
    pub async fn reached(&self) -> JobError {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let grant = async {
            match &self.grant {
                Some(grant) => grant.ended().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = grant => JobError::Unauthenticated(Unauthenticated::Ended),
            () = deadline => JobError::DeadlineExceeded,
        }
    }
}
