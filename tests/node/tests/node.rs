//! The broker with real processes on software cards. Each test has cards of its own.
//!
//!     cargo build --workspace && cargo test -p zerogpu-node-tests
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zerogpu_node_tests::client::Client;
use zerogpu_node_tests::node::{Node, Shape};
use zerogpu_node_tests::run::{run, settled, Plan};
use zerogpu_node_tests::witness::Witness;
use zerogpu_node_tests::{alone, hostile, kills};
use zerogpu_protocol::{Range, ToBroker};

fn plan(spaces: usize, calls: u64, seconds: f64) -> Plan {
    Plan {
        shape: Shape::default(),
        spaces,
        calls,
        time: Duration::from_secs_f64(seconds),
        at_least: [0, 0],
        kill_every: None,
        restart_every: None,
        patience: Duration::from_secs(30),
        seed: 1,
    }
}

#[test]
fn three_spaces_share_a_card_that_holds_one_of_them() {
    let _alone = alone();
    let (tally, ..) = run(&plan(3, 6, 0.001), |_| {}).unwrap();
    println!("{tally:?}");
    assert_eq!((tally.started, tally.ended), (3, 3));
    assert!(tally.checked > 0 && tally.grants >= 18);
}

#[test]
fn twelve_spaces_on_four_cards_some_of_them_killed() {
    let _alone = alone();
    let plan = Plan {
        shape: Shape { cards: 4, ..Shape::default() },
        kill_every: Some(Duration::from_millis(300)),
        at_least: [4, 0],
        ..plan(12, 6, 6.0)
    };
    let (tally, before, after) = run(&plan, |_| {}).unwrap();
    println!("{tally:?}\n{before:?}\n{after:?}");
    assert!(tally.checked > 0);
}

#[test]
fn spaces_outlive_brokers() {
    let _alone = alone();
    let plan = Plan {
        shape: Shape { cards: 2, queue: "reconnect = \"3s\"".into(), ..Shape::default() },
        restart_every: Some(Duration::from_secs(3)),
        at_least: [0, 3],
        ..plan(4, 25, 6.0)
    };
    let (tally, ..) = run(&plan, |_| {}).unwrap();
    println!("{tally:?}");
    assert_eq!(tally.ended, tally.started);
    assert!(tally.ended >= 4 && tally.checked > 0);
}

#[test]
fn a_killed_space_frees_its_card() {
    let _alone = alone();
    // the longest depends on what else runs on this machine, and in a bad minute all do
    let in_time = (0..3).any(|_| {
        let found = kills::run(100, |_| {}).unwrap();
        println!("{found}");
        found.quantile(0.5) < 100.0
    });
    assert!(in_time, "a card is free late");
}

/// A call that has its card goes on without a broker, and without one brings its bytes home.
#[test]
fn a_claimed_call_ends_without_its_broker() {
    let _alone = alone();
    for (way, upgrade) in [("killed", false), ("asked to end", true)] {
        let node = Node::new(Shape::default()).unwrap();
        let broker = node.broker().unwrap();
        let mut space = node.obedient(5, 16 << 20).unwrap();
        space.tell("take 5000000").unwrap();
        space.tell("begin 60").unwrap();
        space.tell("steps 20").unwrap();
        space.tell("launch").unwrap();
        match upgrade {
            true => broker.terminate().unwrap(),
            false => broker.kill().unwrap(),
        }
        // on the card, with memory that is taken and freed without a broker
        let state = space.tell("steps 30").unwrap();
        assert_eq!(state["state"]["level"], "claimed", "{way}: {state}");
        space.tell("check").unwrap();
        space.tell("end").unwrap();
        space.tell("check").unwrap();
        // the next call waits for the next broker
        space.tell("begin 60").unwrap();
        space.begin("launch").unwrap();
        let broker = node.broker().unwrap();
        assert_eq!(space.line().unwrap()["state"]["level"], "claimed", "{way}");
        space.tell("steps 10").unwrap();
        space.tell("end").unwrap();
        space.tell("check").unwrap();
        space.finish().unwrap();
        node.end(broker).unwrap();
    }
}

/// A new broker hears of a call that goes on, and gives its card to nobody else.
#[test]
fn a_new_broker_takes_a_lease_over() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let witness = Witness::start(&node.cards()).unwrap();
    witness.broker_is(broker.pid());
    let mut first = node.obedient(1, 16 << 20).unwrap();
    first.tell("take 3000000").unwrap();
    first.tell("begin 60").unwrap();
    first.tell("launch").unwrap();
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    witness.broker_is(broker.pid());
    node.log().wait("the lease is taken over", |log| log.adopted == 1).unwrap();
    let mut second = node.obedient(2, 16 << 20).unwrap();
    second.tell("begin 60").unwrap();
    second.begin("launch").unwrap();
    node.log().wait("the other waits", |log| log.waiting() == 1).unwrap();
    first.tell("steps 20").unwrap();
    first.tell("check").unwrap();
    assert_eq!(node.log().look().waiting(), 1, "the other still waits");
    first.tell("end").unwrap();
    assert_eq!(second.line().unwrap()["state"]["level"], "claimed");
    second.tell("end").unwrap();
    for mut space in [first, second] {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.log().judge(&witness.faults()).unwrap();
    node.end(broker).unwrap();
}

/// Bytes that travel home while the broker is killed are kept.
#[test]
fn brokers_killed_while_bytes_go_home() {
    let _alone = alone();
    let node = Node::new(Shape { room: 128 << 20, vram: 96 << 20, ..Shape::default() }).unwrap();
    let mut broker = node.broker().unwrap();
    let mut space = node.obedient(3, 80 << 20).unwrap();
    space.tell("take 64000000").unwrap();
    for round in 0..6 {
        space.tell("begin 60").unwrap();
        space.tell("steps 3").unwrap();
        space.tell("launch").unwrap();
        space.begin("end").unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        broker.kill().unwrap();
        space.line().unwrap();
        space.tell("check").unwrap();
        broker = node.broker().unwrap();
    }
    space.finish().unwrap();
    node.end(broker).unwrap();
}

/// A new broker leases nothing for a while, and hears in that time also of a card whose holder is in the middle of a park that
/// takes longer.
#[test]
fn a_park_that_outlasts_its_broker_keeps_the_card() {
    let _alone = alone();
    // alone it brings 48 MiB home in 5 s
    let soft = vec![("SOFTCUDA_GBPS", "0.01".to_string())];
    let queue = "reconnect = \"3s\"".into();
    let node = Node::new(Shape { room: 80 << 20, vram: 72 << 20, soft, queue, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let (mut first, mut second) = (node.obedient(1, 64 << 20).unwrap(), node.obedient(2, 64 << 20).unwrap());
    first.tell(&format!("take {}", 48 << 20)).unwrap();
    first.tell("begin 60").unwrap();
    first.tell("change 100").unwrap();
    second.tell("begin 60").unwrap();
    second.begin("launch").unwrap();
    node.log().wait("the other waits", |log| log.waiting() == 1).unwrap();
    first.begin("end").unwrap();
    // while its bytes are on their way
    std::thread::sleep(Duration::from_millis(300));
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    assert_eq!(second.line().unwrap()["state"]["level"], "claimed");
    first.line().unwrap();
    second.tell("end").unwrap();
    for mut space in [first, second] {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.log().wait("the lease was taken over", |log| log.adopted == 1).unwrap();
    let log = node.log().look();
    assert_eq!((log.adopted, log.ended), (1, 0), "{}", log.tail());
    drop(log);
    node.end(broker).unwrap();
}

/// Whoever breaks the rules is dropped, and others hardly notice.
#[test]
fn hostile_clients_cost_the_others_nothing() {
    let _alone = alone();
    let node = Node::new(Shape { cards: 2, queue: "grace = \"1s\"".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let good: Vec<_> = (0..2).map(|seed| node.planned(seed, 16 << 20, 40).unwrap()).collect();
    let start = Instant::now();
    hostile::all(&node.socket()).unwrap();
    let ended = hostile::crimes(&node).unwrap();
    hostile::all(&node.socket()).unwrap();
    println!("{} bad clients, {ended} of them ended, in {:?}", 2 * hostile::DEEDS.len() + ended, start.elapsed());
    for space in good {
        println!("{}", space.finish().unwrap());
    }
    let log = node.log();
    log.wait("all are ended", |log| log.ended >= ended as u64).unwrap();
    assert_eq!(log.look().ended, ended as u64, "nobody else is ended");
    // whoever kept a card for the whole of its lease had it for 30 s
    assert!(log.look().longest_wait < 15.0, "{}", log.look().longest_wait);
    node.end(broker).unwrap();
}

/// Whoever sends a descriptor that takes its time to be closed has nobody else wait for that.
#[test]
fn a_descriptor_that_lingers_keeps_nobody_waiting() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut good = Client::join(&node.socket(), "good", 64 << 20).unwrap();
    // it gets them when nobody else has them: whoever closes them last waits
    broker.pause().unwrap();
    let lingering: Vec<_> = (0..3).map(|_| hostile::lingers(&node.socket()).unwrap()).collect();
    broker.go_on().unwrap();
    let start = Instant::now();
    for _ in 0..5 {
        good.round(&[Range::new(0, 2 << 20)]).unwrap();
        drop(Client::join(&node.socket(), "another", 64 << 20).unwrap());
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(lingering);
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop(good);
    node.end(broker).unwrap();
}

/// What a worker has not done yet costs the broker little memory, however much of it a client wants.
#[test]
fn a_flood_is_not_kept() {
    const MOST: u64 = 8 << 20;
    let _alone = alone();
    // 3.4 s for 64 MiB: so long the worker does nothing else
    let soft = vec![("SOFTCUDA_GBPS", "0.02".to_string())];
    let node = Node::new(Shape { room: 80 << 20, vram: 72 << 20, soft, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut good = Client::join(&node.socket(), "good", 128 << 20).unwrap();
    let lease = good.claim(60.0, 64 << 20).unwrap();
    let before = broker.own_memory().unwrap();
    let over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let flood = scope.spawn(|| hostile::flood(&node.socket(), &over));
        good.fill(lease, &[Range::new(0, 64 << 20)]).unwrap();
        let after = broker.own_memory().unwrap();
        over.store(true, Ordering::Relaxed);
        assert!(after < before + MOST, "{before} {after}");
        flood.join().unwrap().unwrap()
    });
    println!("{said} packets of a flood");
    assert!(said > 1000, "{said}: it was no flood");
    good.drain(lease).unwrap();
    good.say(&ToBroker::Released { lease }).unwrap();
    // and whoever says much is listened to again
    good.round(&[Range::new(0, 2 << 20)]).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop(good);
    node.end(broker).unwrap();
}

/// A thousand leases by hand leave nothing behind.
#[test]
fn leases_by_hand_leave_nothing() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let fresh = broker.usage().unwrap();
    Client::join(&node.socket(), "first", 64 << 20).unwrap().round(&[]).unwrap();
    node.log().wait("it left", |log| log.held() == 0).unwrap();
    let before = settled(&broker, fresh, u64::MAX).unwrap();
    let slab = Range::new(2 << 20, 4 << 20);
    for _ in 0..50 {
        let mut client = Client::join(&node.socket(), "by hand", 64 << 20).unwrap();
        for _ in 0..10 {
            client.round(&[]).unwrap();
            client.round(&[slab]).unwrap();
        }
    }
    let after = settled(&broker, before, 8 << 20).unwrap();
    println!("{before:?} {after:?}");
    node.end(broker).unwrap();
}
