//! Limits how often the list of an owner at its quota is read. Records that have vanished leave the indexes, and so the
//! counts, where a list meets them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::Cursor;

/// Minimum interval between reads of the list of one owner, however often its creations are refused.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of owners that are remembered.
const MAX_OWNERS: usize = 1000;

/// The last read of the list of each owner.
#[derive(Debug, Default)]
pub struct QuotaLooks(Mutex<HashMap<String, Look>>);

#[derive(Debug)]
struct Look {
    at: Instant,
    /// The start of the next one.
    next: Place,
}

/// A place in a list; `None`: its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Option<Cursor>);

impl QuotaLooks {
    fn looks(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read, and returns its start in the list of `owner`; `None` if the last one was just now.
    pub fn begin(&self, owner: &str) -> Option<Place> {
        let mut looks = self.looks();
        let next = match looks.get(owner) {
            Some(look) if look.at.elapsed() < INTERVAL => return None,
            Some(look) => look.next.clone(),
            None => Place(None),
        };
        if looks.len() >= MAX_OWNERS && !looks.contains_key(owner) {
            let oldest = looks.iter().min_by_key(|(_, look)| look.at).map(|(owner, _)| owner.clone());
            oldest.inspect(|oldest| _ = looks.remove(oldest));
        }
        looks.insert(owner.to_owned(), Look { at: Instant::now(), next: next.clone() });
        Some(next)
    }

    /// Ends a read that came as far as `next` in the list of `owner`; `None`: to its end.
    pub fn end(&self, owner: &str, next: Option<Cursor>) {
        if let Some(look) = self.looks().get_mut(owner) {
            look.next = Place(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, Timestamp};

    const BEGINNING: Place = Place(None);

    #[tokio::test(start_paused = true)]
    async fn a_list_is_looked_through_bit_by_bit_and_once_in_an_interval() {
        let looks = QuotaLooks::default();
        assert_eq!(looks.begin("a"), Some(BEGINNING));
        assert_eq!((looks.begin("a"), looks.begin("b")), (None, Some(BEGINNING)));
        let place = Cursor { create_time: Timestamp::from_micros(1), id: JobId::lower_bound() };
        looks.end("a", Some(place.clone()));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(looks.begin("a"), Some(Place(Some(place))));
        looks.end("a", None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(looks.begin("a"), Some(BEGINNING));
    }

    #[tokio::test(start_paused = true)]
    async fn many_owners_take_no_more_memory() {
        let looks = QuotaLooks::default();
        for owner in 0..MAX_OWNERS {
            assert!(looks.begin(&owner.to_string()).is_some());
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert_eq!(looks.begin("another"), Some(BEGINNING));
        assert_eq!(looks.looks().len(), MAX_OWNERS);
    }
}
