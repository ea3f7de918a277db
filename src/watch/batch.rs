//! Reading jobs by their ids, a batch at a time.

use std::collections::VecDeque;

use futures_util::{StreamExt, stream};

use super::Scope;
use crate::{
    domain::JobId,
    store::{JobStore, StoreError, Stored},
};

/// Maximum number of jobs that are read at a time.
pub const BATCH: usize = 500;

/// Size of the jobs that are read at a time, in bytes; the last of them may exceed it.
pub const BATCH_BYTES: usize = 1024 * 1024;

/// Number of concurrent reads of jobs by id.
const READ_AHEAD: usize = 16;

/// Reads the jobs of the first of `ids`, and removes these from `ids`.
pub async fn read_some(
    store: &dyn JobStore,
    scope: &Scope,
    ids: &mut VecDeque<JobId>,
) -> Result<Vec<Stored>, StoreError> {
    // A fresh version suffices, because the subscription delivers later ones.
    let read = async |id: &JobId| match store.get_fresh(id) {
        Some(fresh) => Ok(Some(fresh)),
        None => store.get(id).await,
    };
    let mut reads = stream::iter(ids.iter().take(BATCH)).map(read).buffered(READ_AHEAD);
    let (mut found, mut count, mut bytes) = (Vec::new(), 0, 0);
    while bytes < BATCH_BYTES
        && let Some(stored) = reads.next().await
    {
        let stored = stored?;
        count += 1;
        bytes += stored.as_ref().map_or(0, |stored| stored.job.size());
        if let Some(others) = stored.as_ref().filter(|stored| !scope.discloses(&stored.job)) {
            store.confirm_absence(others).await?;
        }
        found.extend(stored);
    }
    drop(reads);
    ids.drain(..count);
    Ok(found)
}
