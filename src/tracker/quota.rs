//! Limits how often the list of an owner that has reached its job limit is scanned. A scan removes index entries whose
//! records have vanished from the store; until then they count as jobs of the owner.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::Cursor;

/// Minimum interval between scans of the list of one owner, however often its creations are refused.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of owners whose last scan is remembered.
const MAX_OWNERS: usize = 1000;

/// The last scan of the list of each owner.
#[derive(Debug, Default)]
pub struct QuotaScans(Mutex<HashMap<String, Scan>>);

#[derive(Debug)]
struct Scan {
    at: Instant,
    /// Start of the next scan.
    next: ScanStart,
}

/// The start of a scan in a list; `None` for the beginning of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStart(pub Option<Cursor>);

impl QuotaScans {
    fn scans(&self) -> MutexGuard<'_, HashMap<String, Scan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a scan of the list of `owner`, and returns its start; `None` if the last one began within [`INTERVAL`].
    pub fn begin(&self, owner: &str) -> Option<ScanStart> {
        let mut scans = self.scans();
        let next = match scans.get(owner) {
            Some(scan) if scan.at.elapsed() < INTERVAL => return None,
            Some(scan) => scan.next.clone(),
            None => ScanStart(None),
        };
        if scans.len() >= MAX_OWNERS && !scans.contains_key(owner) {
            let oldest = scans.iter().min_by_key(|(_, scan)| scan.at).map(|(owner, _)| owner.clone());
            oldest.inspect(|oldest| _ = scans.remove(oldest));
        }
        scans.insert(owner.to_owned(), Scan { at: Instant::now(), next: next.clone() });
        Some(next)
    }

    /// Records that a scan of the list of `owner` ended at `next`; `None` if at the end of the list.
    pub fn end(&self, owner: &str, next: Option<Cursor>) {
        if let Some(scan) = self.scans().get_mut(owner) {
            scan.next = ScanStart(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, Timestamp};

    const BEGINNING: ScanStart = ScanStart(None);

    #[tokio::test(start_paused = true)]
    async fn a_list_is_scanned_in_parts_at_most_once_in_an_interval() {
        let scans = QuotaScans::default();
        assert_eq!(scans.begin("a"), Some(BEGINNING));
        assert_eq!((scans.begin("a"), scans.begin("b")), (None, Some(BEGINNING)));
        let position = Cursor { create_time: Timestamp::from_micros(1), id: JobId::lower_bound() };
        scans.end("a", Some(position.clone()));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(scans.begin("a"), Some(ScanStart(Some(position))));
        scans.end("a", None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(scans.begin("a"), Some(BEGINNING));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remembered_owners_is_bounded() {
        let scans = QuotaScans::default();
        for owner in 0..MAX_OWNERS {
            assert!(scans.begin(&owner.to_string()).is_some());
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert_eq!(scans.begin("another"), Some(BEGINNING));
        assert_eq!(scans.scans().len(), MAX_OWNERS);
    }
}
