//! The broker with real processes. Each test has cards of its own.
use std::time::Duration;
use zerogpu_node_tests::node::Shape;
use zerogpu_node_tests::run::{run, Plan};

/// Three programs, and a card that holds one and a half of them.
#[test]
fn three_spaces_share_one_card() {
    let plan = Plan {
        shape: Shape::default(),
        spaces: 3,
        calls: 6,
        time: Duration::from_millis(1),
        kill_every: None,
        restart_every: None,
        seed: 1,
    };
    let (tally, before, after) = run(&plan, |_| {}).unwrap();
    println!("{tally:?}\n{before:?}\n{after:?}");
    assert_eq!((tally.started, tally.ended), (3, 3));
    assert!(tally.checked > 0 && tally.grants >= 18);
}
