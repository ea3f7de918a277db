//! What holds whatever happens to two replicas and the store of record between them: a random walk without processes.

mod cases;
mod freshness;
mod world;

use proptest::prelude::*;

use self::world::{World, step};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_acknowledged_is_lost_in_silence(steps in prop::collection::vec(step(), 1..40)) {
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
