//! Invariants of two replicas and a primary between them, checked with random operations and without processes.

mod cases;
mod freshness;
mod losses;
mod world;

use proptest::prelude::*;

use self::world::{World, step};

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
