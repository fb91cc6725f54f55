//! Connections that end and come again while a card is held, spoken by hand.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zerogpu_node_tests::alone;
use zerogpu_node_tests::client::{hello, Client};
use zerogpu_node_tests::node::{Node, Shape};
use zerogpu_protocol::{Hello, Holding, Range, Role, ToBroker, ToClient, Welcome};

const MIB: u64 = 1 << 20;

/// What a Space that holds a card says when it comes back.
fn comes_again(node: &Node, welcome: &Welcome, lease: u64, bytes: u64) -> Hello {
    let holds = Holding { card: node.card().unwrap(), broker: welcome.broker, lease, seconds_left: 60.0, bytes };
    Hello { holds: Some(holds), ..hello("holder", Role::Space) }
}

/// A Space with a lease and so many bytes on the card, and that.
fn holder(node: &Node, seconds: f64, bytes: u64) -> (Client, u64, Hello) {
    let (mut client, welcome) = Client::introduced(&node.socket(), &hello("holder", Role::Space), 128 * MIB).unwrap();
    let lease = client.claim(seconds, bytes).unwrap();
    client.fill(lease, &[Range::new(0, bytes)]).unwrap();
    let hello = comes_again(node, &welcome, lease, bytes);
    (client, lease, hello)
}

fn come_back(node: &Node, hello: &Hello) -> (Client, u64) {
    let (mut client, _) = Client::introduced(&node.socket(), hello, 128 * MIB).unwrap();
    let lease = client.granted().unwrap();
    (client, lease)
}

/// Answers about the lease under its earlier number are no answers to whoever took it over.
#[test]
fn what_was_under_way_ends_with_the_connection() {
    let _alone = alone();
    let soft = vec![("SOFTCUDA_GBPS", "0.08".to_string())];
    let node = Node::new(Shape { room: 80 * MIB, vram: 72 * MIB, soft, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let (mut first, welcome) = Client::introduced(&node.socket(), &hello("holder", Role::Space), 128 * MIB).unwrap();
    let lease = first.claim(60.0, 64 * MIB).unwrap();
    // 840 ms at this bus's speed
    let slabs = vec![Range::new(0, 64 * MIB)];
    first.say(&ToBroker::Slabs { lease, slabs, dirty: vec![], more: false }).unwrap();
    let hello = comes_again(&node, &welcome, lease, 64 * MIB);
    let (mut second, number) = come_back(&node, &hello);
    // the worker comes to this when it is done with that
    second.say(&ToBroker::Forget { range: Range::new(100 * MIB, 2 * MIB) }).unwrap();
    let heard = second.hear().unwrap();
    assert!(matches!(heard, ToClient::Forgotten { .. }), "{heard:?}");
    // its memory is its own: it brings it home itself
    second.drain(number).unwrap();
    second.say(&ToBroker::Released { lease: number }).unwrap();
    second.round(&[Range::new(0, 4 * MIB)]).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop((first, second));
    node.end(broker).unwrap();
}

/// Who claims anew has no card, whatever was granted on a connection that it has lost: it waits for no time of its own to end.
#[test]
fn a_lease_that_was_never_heard_of_ends_with_the_next_claim() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut first = Client::join(&node.socket(), "holder", 64 * MIB).unwrap();
    first.claim(60.0, 2 * MIB).unwrap();
    drop(first);
    let mut second = Client::join(&node.socket(), "holder", 64 * MIB).unwrap();
    let start = Instant::now();
    second.round(&[Range::new(0, 2 * MIB)]).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    assert_eq!(node.log().look().ended, 0);
    drop(second);
    node.end(broker).unwrap();
}

/// Nor has who says hello without one, be the claim given up: it is not ended for a lease that it has never heard of.
#[test]
fn a_lease_that_was_never_heard_of_ends_with_the_next_hello() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut first = Client::join(&node.socket(), "holder", 64 * MIB).unwrap();
    let lease = first.claim(115.0, 2 * MIB).unwrap();
    // whether the broker knows by then that the first connection is over, or not
    broker.pause().unwrap();
    drop(first);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Client::join(&node.socket(), "holder", 64 * MIB).unwrap());
        broker.go_on().unwrap();
        let mut second = second.join().unwrap();
        node.log().wait("it is over", |log| log.held() == 0).unwrap();
        // who had read its grant and not taken it says this, and keeps its connection
        second.say(&ToBroker::Released { lease }).unwrap();
        second.round(&[Range::new(0, 2 * MIB)]).unwrap();
    });
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    assert_eq!(node.log().look().ended, 0);
    node.end(broker).unwrap();
}

/// What a Space has said before its connection ended counts, although the broker finds the end first.
#[test]
fn a_release_that_lies_in_the_socket_is_heard() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let (first, lease, _) = holder(&node, 115.0, 2 * MIB);
    broker.pause().unwrap();
    // what is answered fails, since nobody is there any more
    first.say(&ToBroker::Extend { lease, seconds: 60.0 }).unwrap();
    first.say(&ToBroker::Released { lease }).unwrap();
    drop(first);
    broker.go_on().unwrap();
    node.log().wait("it has let go", |log| log.held() == 0).unwrap();
    node.end(broker).unwrap();
}

/// Who has had memory of a card does not free it by claiming another: its process may have it still.
#[test]
fn a_lease_with_memory_does_not_end_with_the_next_claim() {
    let _alone = alone();
    let node = Node::new(Shape { queue: "grace = \"500ms\"".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let (first, lease, hello) = holder(&node, 60.0, 2 * MIB);
    drop(first);
    let (mut second, _) = Client::introduced(&node.socket(), &Hello { holds: None, ..hello }, 128 * MIB).unwrap();
    let claim = ToBroker::Claim { id: 7, seconds: 10.0, wait_seconds: 600.0, borrowed: false, bytes: 2 * MIB };
    second.say(&claim).unwrap();
    node.log().wait("it waits for itself", |log| log.waiting() == 1 && log.held() == 1).unwrap();
    // until it says that it has let go
    second.say(&ToBroker::Released { lease }).unwrap();
    let second_lease = second.granted().unwrap();
    second.say(&ToBroker::Released { lease: second_lease }).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop(second);
    node.end(broker).unwrap();
}

/// One that hangs up before it has heard its new number comes back by the old one.
#[test]
fn a_holder_comes_back_twice() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let (first, _, hello) = holder(&node, 60.0, 4 * MIB);
    let (second, second_number) = come_back(&node, &hello);
    let (mut third, number) = come_back(&node, &hello);
    assert_ne!(number, second_number);
    assert!(!node.log().look().tail().contains("lease ended"), "it goes on");
    third.drain(number).unwrap();
    third.say(&ToBroker::Released { lease: number }).unwrap();
    node.log().wait("it has let go", |log| log.released == 1).unwrap();
    assert_eq!(node.status().unwrap()["totals"]["killed"], 0);
    let tail = node.log().look().tail();
    assert!(tail.matches("lease ended").count() == 1 && tail.contains("bytes_in=4194304"), "{tail}");
    drop((first, second, third));
    node.end(broker).unwrap();
}

/// Whoever comes back after its time is told so, with what is left of the grace.
#[test]
fn a_lease_past_its_time_is_revoked_again() {
    let _alone = alone();
    let node = Node::new(Shape { queue: "grace = \"30s\"".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let (mut first, lease, hello) = holder(&node, 4.0, 4 * MIB);
    let told = first.hear().unwrap();
    assert!(matches!(told, ToClient::Revoked { lease: of, .. } if of == lease), "{told:?}");
    let (mut second, number) = come_back(&node, &hello);
    let told = second.hear().unwrap();
    let in_time = |grace: f64| (20.0..30.0).contains(&grace);
    assert!(matches!(told, ToClient::Revoked { lease: of, grace, .. } if of == number && in_time(grace)), "{told:?}");
    second.drain(number).unwrap();
    second.say(&ToBroker::Released { lease: number }).unwrap();
    node.log().wait("it has let go", |log| log.held() == 0).unwrap();
    drop((first, second));
    node.end(broker).unwrap();
}

/// What a Space holds is a fact: the broker that comes knows it, whatever its tenant's limits are by then.
#[test]
fn a_holder_is_known_over_its_limits() {
    let _alone = alone();
    let mut node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut first = node.obedient(1, 16 << 20).unwrap();
    first.tell("take 3000000").unwrap();
    first.tell("begin 60").unwrap();
    first.tell("launch").unwrap();
    broker.kill().unwrap();
    node.change(|shape| shape.tenant = "vram = \"2MiB\"".into()).unwrap();
    let broker = node.broker().unwrap();
    node.log().wait("the lease is taken over", |log| log.adopted == 1).unwrap();
    // small enough, and it has to wait
    let small = Hello { vram: MIB, ..hello("small", Role::Space) };
    let (mut second, _) = Client::introduced(&node.socket(), &small, 64 * MIB).unwrap();
    let wait_seconds = 600.0;
    second.say(&ToBroker::Claim { id: 1, seconds: 9.0, wait_seconds, borrowed: false, bytes: 0 }).unwrap();
    node.log().wait("the other waits", |log| log.waiting() == 1).unwrap();
    first.tell("steps 20").unwrap();
    first.tell("end").unwrap();
    let lease = second.granted().unwrap();
    second.say(&ToBroker::Released { lease }).unwrap();
    first.tell("check").unwrap();
    first.finish().unwrap();
    drop(second);
    node.end(broker).unwrap();
}

/// Whoever says so too late, and is beyond its limits, is ended: it has the card without a lease.
#[test]
fn a_late_holder_beyond_its_limits_is_ended() {
    let _alone = alone();
    let node = Node::new(Shape { tenant: "vram = \"2MiB\"".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let card = node.status().unwrap()["cards"][0]["uuid"].as_str().unwrap().to_owned();
    let late = node.villain("late", &card).unwrap().wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&late), Some(libc::SIGKILL), "{late}");
    let told = |tail: String| tail.contains("cause=\"late\"") && tail.contains("may have 2 MiB of GPU memory");
    node.log().wait("it is said why", |log| told(log.tail())).unwrap();
    node.log().wait("its lease is over", |log| log.held() == 0).unwrap();
    node.end(broker).unwrap();
}

/// A Space that lets go while it can reach no broker says so as soon as it can: the broker has kept the card for it.
#[test]
fn a_release_that_was_not_heard_is_said_again() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut space = node.obedient(1, 16 << 20).unwrap();
    space.tell("take 3000000").unwrap();
    space.tell("begin 100").unwrap();
    space.tell("launch").unwrap();
    let away = node.socket().with_extension("away");
    std::fs::rename(node.socket(), &away).unwrap();
    space.cut_off().unwrap();
    space.tell("end").unwrap();
    node.log().wait("the broker keeps the card for it", |log| log.held() == 1).unwrap();
    std::fs::rename(&away, node.socket()).unwrap();
    node.log().wait("it is said again", |log| log.held() == 0).unwrap();
    for order in ["begin 60", "launch", "steps 10", "end", "check"] {
        space.tell(order).unwrap();
    }
    space.finish().unwrap();
    assert_eq!(node.log().look().ended, 0);
    node.end(broker).unwrap();
}

/// What a Space has on a card will be written when it goes home: it can't be given back before.
#[test]
fn host_memory_of_what_is_on_a_card_is_not_given_back() {
    let _alone = alone();
    let node =
        Node::new(Shape { room: 96 * MIB, vram: 96 * MIB, top: "host-memory = \"64MiB\"".into(), ..Shape::default() })
            .unwrap();
    let broker = node.broker().unwrap();
    let (mut first, lease, _) = holder(&node, 60.0, 2 * MIB);
    // made on the card, so that nothing of it is written yet
    first.say(&ToBroker::Grow { lease, slab: Range::new(2 * MIB, 40 * MIB) }).unwrap();
    assert!(matches!(first.hear().unwrap(), ToClient::Grown { .. }));
    first.say(&ToBroker::Reserve { bytes: 0 }).unwrap();
    assert!(matches!(first.hear().unwrap(), ToClient::Reserved { bytes: 0 }));
    let mut second = Client::join(&node.socket(), "second", 128 * MIB).unwrap();
    second.say(&ToBroker::Reserve { bytes: 40 * MIB }).unwrap();
    let refused = second.hear().unwrap();
    assert!(matches!(refused, ToClient::NotReserved { .. }), "{refused:?}");
    first.say(&ToBroker::Shrink { lease, slabs: vec![Range::new(2 * MIB, 40 * MIB)] }).unwrap();
    first.drain(lease).unwrap();
    first.say(&ToBroker::Released { lease }).unwrap();
    second.say(&ToBroker::Reserve { bytes: 40 * MIB }).unwrap();
    assert!(matches!(second.hear().unwrap(), ToClient::Reserved { .. }));
    drop((first, second));
    node.end(broker).unwrap();
}

/// A user with more connections than it may have can open and close more of them as fast as it likes.
#[test]
fn a_flood_of_connections_keeps_nobody_waiting() {
    /// Connections of one user that look on.
    const MANY: usize = 256;
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let socket = node.socket();
    let mut good = Client::join(&socket, "good", 64 * MIB).unwrap();
    let crowd: Vec<_> = (0..MANY).map(|_| Client::introduced(&socket, &hello("looker", Role::Observer), MIB)).collect();
    assert!(crowd.iter().all(Result::is_ok));
    let over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // bounded, should the good one wait for ever
                while !over.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(20) {
                    // refused, or accepted and closed at once
                    drop(Client::connect(&socket));
                }
            });
        }
        for _ in 0..20 {
            good.round(&[Range::new(0, 2 * MIB)]).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let took = start.elapsed();
    println!("20 leases beside a flood took {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop((good, crowd));
    node.end(broker).unwrap();
}
