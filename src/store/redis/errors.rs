//! Conversion of failures of Redis to errors of the store.

use tracing::{debug, warn};

use super::connection::Fault;
use crate::{domain::JobId, store::StoreError};

/// Logs that a record can't be read, and returns the error.
pub fn corrupt(id: &JobId) -> StoreError {
    warn!(job_id = %id, "the record of this job can't be read");
    StoreError::Corrupt(id.clone())
}

/// Converts a fault with the record of `id` to the error that the caller receives.
pub fn error_of(fault: Fault, id: &JobId) -> StoreError {
    match fault {
        Fault::Refused(error) if error.code() == Some("WRONGTYPE") => corrupt(id),
        fault => fault.into(),
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let Fault::Refused(error) = fault else { return Self::Unavailable };
        debug!(%error, "Redis refused a command");
        match error.code() {
            // Redis is full, can't save, or has lost its replicas.
            Some("OOM" | "MISCONF" | "NOREPLICAS") => Self::ReadOnly,
            _ => Self::Unavailable,
        }
    }
}
