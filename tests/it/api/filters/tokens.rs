//! The binding of page tokens.

use std::collections::BTreeSet;

use jobtrack::domain::{ANYONE, Cursor, Filter, Liveness, Order, Owners, State};

use crate::support::jobs::{at, id};

/// The tokens were written by a version without orders and without the newer filter criteria.
#[test]
fn page_tokens_of_earlier_versions_stay_valid() {
    let all = Filter::default();
    let some = Filter {
        states: [State::Failed, State::Running].into(),
        kind: "k".into(),
        owners: Owners::one("o"),
        labels: [("l".into(), "v".into())].into(),
        created_after: Some(at(1)),
        ..Filter::default()
    };
    let place = Cursor { create_time: at(16), id: id("a.b") };
    for (filter, digest) in [(all, "2bc33d15fe9f570e86957e7d76aa7056"), (some, "53ea364613765747855105edd0d5e1c9")] {
        let token = format!("{digest}.f42400.a.b");
        let digest = filter.digest(&ANYONE);
        assert_eq!(Cursor::from_token(&token, Order::Newest.bind(digest)), Some(place.clone()), "{filter:?}");
        assert_eq!(Cursor::from_token(&token, Order::Oldest.bind(digest)), None, "{filter:?}");
    }
}

#[test]
fn each_criterion_and_order_binds_tokens() {
    let liveness = |of: &[Liveness]| Filter { liveness: of.iter().copied().collect(), ..Filter::default() };
    let filters = [
        Filter::default(),
        liveness(&[Liveness::Live]),
        liveness(&[Liveness::Lost]),
        liveness(&[Liveness::Live, Liveness::Lost]),
        Filter { worker: "w".into(), ..Filter::default() },
        Filter { id_prefix: "w".into(), ..Filter::default() },
        Filter { worker: "id_prefix".into(), id_prefix: "w".into(), ..Filter::default() },
        Filter { updated_after: Some(at(1)), ..Filter::default() },
        Filter { created_after: Some(at(1)), ..Filter::default() },
        Filter { labels: [("worker".into(), "w".into())].into(), ..Filter::default() },
    ];
    let orders = [Order::Newest, Order::Oldest];
    let digests = filters.iter().flat_map(|filter| orders.map(|order| order.bind(filter.digest(&ANYONE))));
    assert_eq!(digests.collect::<BTreeSet<_>>().len(), 2 * filters.len());
}
