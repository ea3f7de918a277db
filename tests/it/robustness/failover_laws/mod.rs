//! Invariants of two replicas and a primary between them, checked with random operations and without processes.

mod conflicts;
mod decisions;
mod freshness;
mod local_cache;
mod losses;
mod missing_jobs;
mod model_traces;
mod primary;
mod reconciliation;
mod world;

use std::time::Duration;

use jobtrack::{
    domain::ANYONE,
    store::{Durability, JobStore},
};
use proptest::prelude::*;

use self::world::{Op, World, step};
use crate::support::jobs::id;

/// Longer than the life of a tombstone.
const LONG: Duration = Duration::from_secs(24 * 3600 + 1);

/// Returns a world with a serving replica, which has a dirty job whose record alone was lost.
async fn serving_with_a_dirty_job() -> World {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let there = world.there("a").await.expect("it is there");
    world.record.store().delete(&there).await.expect("it answers");
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!(told.durability, Durability::Volatile);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_acknowledged_change_is_lost_unreported(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
            }
            world.heal().await;
        });
    }
}
