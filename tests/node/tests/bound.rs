//! Spaces that are bound to their context: between two leases the broker has the driver checkpoint them.
//!
//!     cargo build --workspace && cargo test -p zerogpu-node-tests
use std::time::{Duration, Instant};
use zerogpu_node_tests::alone;
use zerogpu_node_tests::node::{Node, Shape, Space, LONG};
use zerogpu_node_tests::run::{run, Plan};
use zerogpu_node_tests::witness::{snapshot, Witness};

/// One card, which is empty as soon as nobody computes.
fn cold() -> Shape {
    Shape { queue: "reconnect = \"500ms\"".into(), memory: "warm = \"0\"".into(), ..Shape::default() }
}

/// A Space with some memory that has been claimed, bound and parked once.
fn bound(node: &Node, seed: u64) -> Space {
    let mut space = node.obedient(seed, 16 << 20).unwrap();
    space.tell("take 5000000").unwrap();
    space.tell("begin 60").unwrap();
    space.tell("launch").unwrap();
    space.tell("bind").unwrap();
    let parked = space.tell("end").unwrap();
    assert_eq!(parked["state"]["left"].as_array().unwrap().len(), 0, "{parked}");
    space
}

/// A whole call, and what it leaves.
fn call(space: &mut Space) {
    for order in ["begin 60", "launch", "steps 10", "end", "check", "steps 10"] {
        space.tell(order).unwrap();
    }
}

/// Contexts of a process on the cards.
fn contexts(node: &Node, pid: u32) -> u64 {
    let cards = snapshot(&node.cards()).unwrap().cards;
    cards.iter().flat_map(|card| &card.processes).filter(|p| p.pid == pid).map(|p| p.contexts).sum()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not in {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_bound_space_and_another_take_turns_on_a_card() {
    let _alone = alone();
    let node = Node::new(cold()).unwrap();
    let broker = node.broker().unwrap();
    let witness = Witness::start(&node.cards()).unwrap();
    witness.broker_is(broker.pid());
    let mut one = bound(&node, 1);
    let mut other = node.obedient(2, 16 << 20).unwrap();
    other.tell("take 5000000").unwrap();
    for _ in 0..5 {
        node.wait_for_empty_cards().unwrap();
        call(&mut one);
        // the other's claim comes while the context of the first is about to leave
        call(&mut other);
        other.tell("begin 60").unwrap();
        other.tell("launch").unwrap();
        one.tell("begin 60").unwrap();
        one.begin("launch").unwrap();
        other.tell("steps 5").unwrap();
        other.tell("end").unwrap();
        assert_eq!(one.line().unwrap()["state"]["level"], "claimed");
        one.tell("steps 5").unwrap();
        one.tell("end").unwrap();
    }
    for mut space in [one, other] {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.log().judge(&witness.faults()).unwrap();
    node.end(broker).unwrap();
}

#[test]
fn it_comes_back_to_its_own_card() {
    let _alone = alone();
    let node = Node::new(Shape { cards: 2, ..cold() }).unwrap();
    let broker = node.broker().unwrap();
    let mut one = bound(&node, 1);
    let mut others: Vec<Space> = (2..4).map(|seed| node.obedient(seed, 16 << 20).unwrap()).collect();
    for other in &mut others {
        other.tell("begin 60").unwrap();
        other.tell("launch").unwrap();
    }
    one.tell("begin 60").unwrap();
    one.begin("launch").unwrap();
    node.log().wait("it waits", |log| log.waiting() == 1).unwrap();
    others.iter_mut().for_each(|other| assert_eq!(other.tell("end").unwrap()["state"]["level"], "parked"));
    assert_eq!(one.line().unwrap()["state"]["level"], "claimed");
    one.tell("end").unwrap();
    one.tell("check").unwrap();
    node.end(broker).unwrap();
}

#[test]
fn whoever_ends_meanwhile_leaves_nothing() {
    let _alone = alone();
    let node = Node::new(cold()).unwrap();
    let broker = node.broker().unwrap();
    let mut other = node.obedient(9, 16 << 20).unwrap();
    for round in 0..8 {
        let one = bound(&node, round);
        if round % 2 == 0 {
            // aside for certain, else at any moment
            until("its context leaves", || contexts(&node, one.pid()) == 0);
        }
        match round % 4 {
            0 | 1 => drop(one.kill().unwrap()),
            _ => drop(one.finish().unwrap()),
        }
        call(&mut other);
    }
    drop(other);
    node.end(broker).unwrap();
}

/// The next broker finds a process that the driver has checkpointed, or only locked.
#[test]
fn a_broker_that_ends_meanwhile() {
    let _alone = alone();
    let locked = "cuCheckpointProcessCheckpoint:1=1,cuCheckpointProcessUnlock:1=1";
    for (faults, upgrade) in [("", false), ("", true), (locked, false)] {
        let node = Node::new(cold()).unwrap();
        let broker = node.faulty_broker(faults).unwrap();
        let mut one = bound(&node, 3);
        match faults {
            "" => until("its context leaves", || contexts(&node, one.pid()) == 0),
            _ => node.log().wait("it is only locked", |log| log.tail().contains("its context stays")).unwrap(),
        }
        match upgrade {
            true => broker.terminate().unwrap(),
            false => broker.kill().unwrap(),
        }
        one.tell("check").unwrap();
        one.tell("begin 60").unwrap();
        one.begin("launch").unwrap();
        let broker = node.broker().unwrap();
        assert_eq!(one.line().unwrap()["state"]["level"], "claimed", "{faults}");
        one.tell("steps 10").unwrap();
        one.tell("end").unwrap();
        call(&mut one);
        node.wait_for_empty_cards().unwrap();
        one.finish().unwrap();
        node.end(broker).unwrap();
    }
}

/// A context that was still there when its broker died is told to the next one, without a claim.
#[test]
fn a_new_broker_hears_of_a_context_that_stayed() {
    let _alone = alone();
    let node = Node::new(cold()).unwrap();
    let broker = node.faulty_broker("cuCheckpointProcessLock=801").unwrap();
    let mut one = bound(&node, 4);
    node.log().wait("it can't", |log| log.tail().contains("drivers from 570 on")).unwrap();
    assert_eq!(contexts(&node, one.pid()), 1);
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    node.wait_for_empty_cards().unwrap();
    call(&mut one);
    node.end(broker).unwrap();
}

#[test]
fn what_fails_is_told_and_loses_nothing() {
    let _alone = alone();
    let faults = [
        "cuCheckpointProcessGetState=801",
        "cuCheckpointProcessLock=801",
        "cuCheckpointProcessLock=600",
        "cuCheckpointProcessCheckpoint=801",
    ];
    for fault in faults {
        let node = Node::new(cold()).unwrap();
        let broker = node.faulty_broker(fault).unwrap();
        let mut one = bound(&node, 5);
        node.log().wait(fault, |log| log.tail().contains("its context stays on the card")).unwrap();
        assert_eq!(contexts(&node, one.pid()), 1, "{fault}");
        let mut other = node.obedient(6, 16 << 20).unwrap();
        call(&mut other);
        call(&mut one);
        call(&mut other);
        one.finish().unwrap();
        node.end(broker).unwrap();
    }
}

#[test]
fn a_context_that_does_not_come_back_fails_the_call() {
    let _alone = alone();
    let node = Node::new(cold()).unwrap();
    let _broker = node.faulty_broker("cuCheckpointProcessRestore:1=2").unwrap();
    let mut one = bound(&node, 7);
    until("its context leaves", || contexts(&node, one.pid()) == 0);
    one.tell("begin 60").unwrap();
    one.begin("launch").unwrap();
    assert!(one.line().is_err(), "the launch fails");
    until("it says why", || one.complaints().contains("could not be brought back to the card"));
}

/// Half of the Spaces are bound; some are killed, and so are brokers.
#[test]
fn bound_spaces_among_others() {
    let _alone = alone();
    let plan = Plan {
        shape: Shape { bound: true, queue: "reconnect = \"3s\"".into(), ..Shape::default() },
        spaces: 4,
        calls: 8,
        time: Duration::from_secs(6),
        at_least: [3, 2],
        kill_every: Some(Duration::from_millis(700)),
        restart_every: Some(Duration::from_secs(3)),
        patience: Duration::from_secs(30),
        seed: 1,
    };
    let (tally, ..) = run(&plan, |_| {}).unwrap();
    println!("{tally:?}");
    assert!(tally.checked > 0);
}
