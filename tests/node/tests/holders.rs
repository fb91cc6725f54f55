//! A card is leased on only when its holder has let go of it, or has ended; and what a broker remembers of its tenants.
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use zerogpu_node_tests::client::{hello, Client};
use zerogpu_node_tests::hostile::GUISES;
use zerogpu_node_tests::node::{Node, Shape, LONG};
use zerogpu_node_tests::referee::Referee;
use zerogpu_node_tests::witness::Witness;
use zerogpu_node_tests::{alone, hostile};
use zerogpu_protocol::{Hello, Holding, Range, Reason, Role, ToBroker, ToClient};

const MIB: u64 = 1 << 20;

fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

/// Whoever breaks the rules while it holds a card is ended, and the card is the next one's when it is gone.
#[test]
fn a_holder_that_breaks_the_rules_is_ended_first() {
    let _alone = alone();
    let node = Node::new(Shape { queue: "grace = \"1s\"".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    for (name, _) in hostile::CRIMES {
        let grants = node.log().look().grants;
        let mut villain = node.villain("deed", name).unwrap();
        node.log().wait("it holds the card", |log| log.grants > grants).unwrap();
        let mut next = Client::join(&node.socket(), "next", 64 << 20).unwrap();
        let lease = next.claim(10.0, 0).unwrap();
        let there = std::fs::read_to_string(format!("/proc/{}/stat", villain.id())).unwrap_or_default();
        assert!(
            is_gone(villain.id()),
            "{name}: the card was leased on while its process was there: {there}\n{}",
            node.log().look().tail()
        );
        next.say(&ToBroker::Released { lease }).unwrap();
        assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL), "{name}");
        node.log().wait("both have ended", |log| log.grants == grants + 2 && log.held() == 0).unwrap();
    }
    let status = node.status().unwrap();
    assert_eq!(status["totals"]["killed"], hostile::CRIMES.len());
    let tail = node.log().look().tail();
    assert!(tail.contains("cause=\"protocol\"") && tail.contains("lease ended: it broke the protocol: "), "{tail}");
    node.end(broker).unwrap();
}

/// Who says too late that it holds a card has it, if nobody else does, and is ended otherwise.
#[test]
fn a_late_holder_keeps_a_free_card_and_is_ended_over_anothers() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let card = node.status().unwrap()["cards"][0]["uuid"].as_str().unwrap().to_owned();
    assert!(node.villain("late", &card).unwrap().wait().unwrap().success());
    node.log().wait("its lease is over", |log| log.adopted == 1 && log.held() == 0).unwrap();
    let mut holder = node.obedient(1, 16 << 20).unwrap();
    holder.tell("take 5000000").unwrap();
    holder.tell("begin 60").unwrap();
    holder.tell("launch").unwrap();
    let late = node.villain("late", &card).unwrap().wait().unwrap();
    assert_eq!(late.signal(), Some(libc::SIGKILL), "{late}");
    node.log().wait("it is said why", |log| log.tail().contains("cause=\"late\"")).unwrap();
    // one whose card is no card of this broker holds nothing here
    let other = node.villain("late", "GPU-00000000-0000-0000-0000-000000000000").unwrap().wait().unwrap();
    assert!(!other.success() && other.signal().is_none(), "{other}");
    holder.tell("steps 10").unwrap();
    holder.tell("end").unwrap();
    holder.tell("check").unwrap();
    holder.finish().unwrap();
    assert_eq!(node.log().look().ended, 1);
    node.end(broker).unwrap();
}

/// Whoever keeps memory of a card that it has given back is ended when somebody else needs the room; whose memory comes free
/// later than others' contexts come is not.
#[test]
fn who_keeps_memory_without_a_lease_is_ended_and_nobody_else() {
    const KEPT: u64 = 16 << 20;
    let _alone = alone();
    for (context, ended) in [("1MiB", true), ("10MiB", false)] {
        let (memory, queue) = (format!("context = \"{context}\""), "grace = \"500ms\"".into());
        let node = Node::new(Shape { memory, queue, ..Shape::default() }).unwrap();
        let broker = node.broker().unwrap();
        let mut villain = node.hoarder(KEPT, GUISES[0]).unwrap();
        node.log().wait("it has had a lease", |log| log.grants == 1 && log.held() == 0).unwrap();
        let mut next = Client::join(&node.socket(), "next", 64 << 20).unwrap();
        let lease = next.claim(10.0, 20 << 20).unwrap();
        if ended {
            node.log().wait("it is ended", |log| log.tail().contains("cause=\"memory\"")).unwrap();
            assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL));
        } else {
            let doubt = |log: &Referee| log.tail().contains("memory of a card did not come free");
            node.log().wait("the doubt is noted", doubt).unwrap();
            assert!(villain.wait().unwrap().success());
        }
        next.say(&ToBroker::Released { lease }).unwrap();
        drop(next);
        assert_eq!(node.status().unwrap()["totals"]["killed"], u64::from(ended));
        node.end(broker).unwrap();
    }
}

/// Whoever keeps memory of a card is ended for it, also when it has left, and nobody is watched whose memory has come free.
#[test]
fn who_leaves_with_memory_of_a_card_is_ended() {
    const KEPT: u64 = 16 << 20;
    let _alone = alone();
    let (memory, queue) = ("context = \"1MiB\"".into(), "grace = \"500ms\"".into());
    let node = Node::new(Shape { memory, queue, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    for (ended, guise) in (1..).zip(&GUISES[1..]) {
        let mut villain = node.hoarder(KEPT, guise).unwrap();
        // it would let go at the end of its input
        let _open = villain.stdin.take();
        node.log().wait(guise, |log| log.tail().matches("cause=\"memory\"").count() == ended).unwrap();
        assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL), "{guise}");
    }
    // who leaves in order, and lives on
    visit(&node, KEPT);
    let watched = || {
        std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().filter(|fd| {
            let name = fd.as_ref().ok().and_then(|fd| std::fs::read_link(fd.path()).ok());
            name.is_some_and(|name| name.to_string_lossy().contains("[pidfd]"))
        })
    };
    node.wait_for_empty_cards().unwrap();
    let end = Instant::now() + LONG;
    while watched().count() > 0 {
        assert!(Instant::now() < end, "{}", node.log().look().tail());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.status().unwrap()["totals"]["killed"], GUISES.len() - 1);
    node.end(broker).unwrap();
}

/// A Space that has a lease, gives it back warm, and leaves.
fn visit(node: &Node, bytes: u64) {
    let mut client = Client::join(&node.socket(), "guest", 64 << 20).unwrap();
    let lease = client.claim(10.0, bytes).unwrap();
    client.fill(lease, &[Range::new(0, bytes)]).unwrap();
    client.drain(lease).unwrap();
    client.say(&ToBroker::Released { lease }).unwrap();
}

/// Memory of a Space that has left, which the driver did not take back at once, is tried again.
#[test]
fn what_the_driver_keeps_of_who_has_left_is_given_back() {
    let _alone = alone();
    for fault in ["cuMemUnmap:1=999", "cuMemRelease:1=999", "cuMemRelease:1=999,cuMemRelease:2=999"] {
        let node = Node::new(Shape { faults: fault.into(), ..Shape::default() }).unwrap();
        let broker = node.broker().unwrap();
        visit(&node, 16 << 20);
        node.log().wait("it has left", |log| log.tail().contains("Space left")).unwrap();
        // with the next one's memory at the latest
        visit(&node, 16 << 20);
        node.wait_for_empty_cards().unwrap();
        assert_eq!(node.status().unwrap()["totals"]["killed"], 0, "{fault}");
        node.end(broker).unwrap();
    }
}

/// Faults of a card that is full when the second program's slab is made, one of the broker's own being there, and so many times.
fn full(times: u32) -> String {
    (3..3 + times).map(|nth| format!("cuMemCreate:{nth}=2")).collect::<Vec<_>>().join(",")
}

/// A card's free memory tells nobody's name: whose memory is only missed for a while, since it comes free later or others have
/// taken room meanwhile, is not ended.
#[test]
fn whose_memory_comes_free_late_is_not_ended() {
    const KEPT: u64 = 16 << 20;
    let _alone = alone();
    let node = Node::new(Shape { queue: "grace = \"20s\"".into(), faults: full(3), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut late = node.hoarder(KEPT, GUISES[0]).unwrap();
    node.log().wait("it has had a lease", |log| log.grants == 1 && log.held() == 0).unwrap();
    let mut next = Client::join(&node.socket(), "next", 64 << 20).unwrap();
    let lease = next.claim(60.0, 20 << 20).unwrap();
    // who comes has no room at first
    next.say(&ToBroker::Slabs { lease, slabs: vec![Range::new(0, 20 << 20)], dirty: vec![], more: false }).unwrap();
    let missed = |log: &Referee| log.tail().contains("memory of a card is missed") || log.ended > 0;
    node.log().wait("its memory is missed", missed).unwrap();
    node.log().wait("the next one waits", |log| log.tail().contains("waits for memory that is missed")).unwrap();
    late.stdin.as_mut().unwrap().write_all(b"let go\n").unwrap();
    while !matches!(next.hear().unwrap(), ToClient::Ready { .. }) {}
    node.log().wait("it is seen", |log| log.tail().contains("it came free after all")).unwrap();
    next.drain(lease).unwrap();
    next.say(&ToBroker::Released { lease }).unwrap();
    assert!(late.wait().unwrap().success());
    assert_eq!(node.status().unwrap()["totals"]["killed"], 0);
    drop(next);
    node.end(broker).unwrap();
}

/// A claim that waits for memory which is missed does not keep the broker from its end.
#[test]
fn a_broker_that_ends_waits_for_no_missed_memory() {
    let _alone = alone();
    let node = Node::new(Shape { queue: "grace = \"60s\"".into(), faults: full(300), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let late = node.hoarder(16 << 20, GUISES[0]).unwrap();
    node.log().wait("it has had a lease", |log| log.grants == 1 && log.held() == 0).unwrap();
    let mut next = Client::join(&node.socket(), "next", 64 << 20).unwrap();
    let lease = next.claim(60.0, 20 << 20).unwrap();
    next.say(&ToBroker::Slabs { lease, slabs: vec![Range::new(0, 20 << 20)], dirty: vec![], more: false }).unwrap();
    node.log().wait("it waits", |log| log.tail().contains("a claim waits for memory that is missed")).unwrap();
    let start = Instant::now();
    broker.terminate().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let heard = next.hear().unwrap();
    assert!(matches!(heard, ToClient::Denied { reason: Reason::Memory, .. }), "{heard:?}");
    late.wait_with_output().unwrap();
}

/// A broker that can't bring bytes home lets their owner do it, which keeps the card meanwhile.
#[test]
fn a_holder_that_the_broker_failed_keeps_its_card_until_its_bytes_are_home() {
    let _alone = alone();
    let node = Node::new(Shape { faults: "cuMemcpyDtoHAsync_v2:1=999".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let witness = Witness::start(&node.cards()).unwrap();
    witness.broker_is(broker.pid());
    let mut first = node.obedient(1, 16 << 20).unwrap();
    first.tell("take 5000000").unwrap();
    first.tell("begin 60").unwrap();
    first.tell("launch").unwrap();
    let mut second = node.obedient(2, 16 << 20).unwrap();
    second.tell("begin 60").unwrap();
    second.begin("launch").unwrap();
    node.log().wait("the other waits", |log| log.waiting() == 1).unwrap();
    first.tell("end").unwrap();
    first.tell("check").unwrap();
    assert_eq!(second.line().unwrap()["state"]["level"], "claimed");
    second.tell("end").unwrap();
    for mut space in [first, second] {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.wait_for_empty_cards().unwrap();
    node.log().wait("the lease was taken over", |log| log.adopted == 1).unwrap();
    let log = node.log().look();
    let failed = |fault: &&String| fault.contains("copying memory home failed");
    assert_eq!((log.faults.iter().filter(failed).count(), log.faults.len()), (1, 1), "{:?}", log.faults);
    assert_eq!((log.adopted, log.ended), (1, 0), "{}", log.tail());
    assert!(witness.faults().is_empty(), "{:?}", witness.faults());
}

/// A tenant's day goes on over the death of a broker, but for the last seconds; a file that is broken is none.
#[test]
fn what_a_tenant_has_used_outlives_the_broker() {
    let _alone = alone();
    let node = Node::new(Shape { tenant: "gpu-seconds-per-day = 60.0".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut client = Client::join(&node.socket(), "by hand", 64 << 20).unwrap();
    let since = Instant::now();
    let lease = client.claim(30.0, 0).unwrap();
    let file = node.socket().with_extension("sock.use");
    let written = || {
        let page: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()?;
        page["tenants"]
            .as_object()?
            .values()
            .flat_map(|uses| uses.as_array())
            .flatten()
            .map(|one| one[1].as_f64())
            .sum::<Option<f64>>()
    };
    while written().is_none_or(|used| used < 0.4) {
        assert!(since.elapsed() < Duration::from_secs(25), "nothing is written");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.say(&ToBroker::Released { lease }).unwrap();
    node.log().wait("it is over", |log| log.held() == 0).unwrap();
    let most = since.elapsed().as_secs_f64();
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    let used = |node: &Node| node.status().unwrap()["scheduler"]["tenants"][0]["used"].as_f64().unwrap_or(0.0);
    let kept = used(&node);
    assert!((0.4..=most).contains(&kept), "{kept}");
    let mut client = Client::join(&node.socket(), "by hand", 64 << 20).unwrap();
    let refused = client.claim(59.9, 0).unwrap_err().to_string();
    assert!(refused.contains("GPU seconds within 24 hours"), "{refused}");
    let lease = client.claim(10.0, 0).unwrap();
    client.say(&ToBroker::Released { lease }).unwrap();
    node.log().wait("it is over", |log| log.held() == 0).unwrap();
    // one that ends in order loses nothing
    let before = used(&node);
    broker.terminate().unwrap();
    let broker = node.broker().unwrap();
    assert!((used(&node) - before).abs() < 0.01);
    broker.terminate().unwrap();
    let mut file = node.socket().into_os_string();
    file.push(".use");
    std::fs::write(&file, "{\"form\": 3").unwrap();
    let broker = node.broker().unwrap();
    assert_eq!(node.log().look().tail().matches("is not understood").count(), 1);
    assert_eq!(used(&node), 0.0);
    node.end(broker).unwrap();
}

/// A process that holds a card can't shed its lease by a second connection: whatever that one says, nobody else has the card
/// before the process lets go.
#[test]
fn a_second_connection_never_frees_the_card() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let socket = node.socket();
    let card = node.card().unwrap();
    let (mut first, welcome) = Client::introduced(&socket, &hello("holder", Role::Space), 64 * MIB).unwrap();
    let lease = first.claim(60.0, 4 * MIB).unwrap();
    first.fill(lease, &[Range::new(0, 4 * MIB)]).unwrap();
    let mut next = Client::join(&socket, "next", 64 * MIB).unwrap();
    next.say(&ToBroker::Claim { id: 1, seconds: 1.0, wait_seconds: 600.0, borrowed: false, bytes: 0 }).unwrap();
    node.log().wait("the next one waits", |log| log.grants == 1 && log.waiting() == 1).unwrap();
    let holds = Holding { card, broker: welcome.broker, lease, seconds_left: 60.0, bytes: 4 * MIB };
    let tries = [
        ("an observer", Hello { holds: Some(holds.clone()), ..hello("holder", Role::Observer) }, 64 * MIB),
        ("another kind", Hello { holds: Some(holds.clone()), cc: (9, 0), ..hello("holder", Role::Space) }, 64 * MIB),
        ("another quota", Hello { holds: Some(holds.clone()), vram: 1, ..hello("holder", Role::Space) }, 64 * MIB),
        (
            "no card",
            Hello { holds: Some(Holding { card: [0; 16], ..holds.clone() }), ..hello("holder", Role::Space) },
            64 * MIB,
        ),
        ("a strange backing", Hello { holds: Some(holds.clone()), ..hello("holder", Role::Space) }, 1 << 46),
    ];
    for (what, hello, bytes) in tries {
        assert!(Client::introduced(&socket, &hello, bytes).is_err(), "{what}");
        let status = node.status().unwrap();
        let holders = &status["scheduler"]["cards"][0]["holders"];
        assert_eq!((holders.as_array().unwrap().len(), node.log().look().waiting()), (1, 1), "{what}: {status}");
        assert_eq!(holders[0]["lease"], lease, "{what}");
    }
    // the connection that has the lease has noticed nothing
    first.say(&ToBroker::Grow { lease, slab: Range::new(4 * MIB, 2 * MIB) }).unwrap();
    assert!(matches!(first.hear().unwrap(), ToClient::Grown { .. }));
    // one that is the same program takes the lease over, and no moment is between
    let hello = Hello { holds: Some(holds), ..hello("holder", Role::Space) };
    let (mut second, _) = Client::introduced(&socket, &hello, 64 * MIB).unwrap();
    let number = second.granted().unwrap();
    assert_ne!(number, lease);
    assert_eq!(first.is_dropped().unwrap(), 0);
    assert_eq!(node.log().look().waiting(), 1);
    // its memory is its own: there is nothing for the broker to bring home
    second.drain(lease).unwrap();
    second.say(&ToBroker::Released { lease: number }).unwrap();
    let granted = next.granted().unwrap();
    next.say(&ToBroker::Released { lease: granted }).unwrap();
    // and the Space goes on as any
    second.round(&[Range::new(0, 8 * MIB)]).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    assert_eq!(node.status().unwrap()["totals"]["killed"], 0);
    drop((second, next));
    node.end(broker).unwrap();
}

/// Nobody is ended for its time while the broker itself brings its bytes home, however long that takes.
#[test]
fn a_holder_is_not_ended_while_its_bytes_travel() {
    let _alone = alone();
    // 3.4 s each way for 64 MiB, and less than that of grace
    let soft = vec![("SOFTCUDA_GBPS", "0.02".to_string())];
    let queue = "grace = \"2500ms\"".into();
    let node = Node::new(Shape { room: 80 * MIB, vram: 72 * MIB, soft, queue, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut space = node.obedient(1, 72 << 20).unwrap();
    space.tell(&format!("take {}", 64 * MIB)).unwrap();
    space.tell("begin 7").unwrap();
    space.tell("change 100").unwrap();
    // its time ends, and its bytes go home
    node.log().wait("it has the card", |log| log.grants == 1).unwrap();
    node.log().wait("its time is over", |log| log.held() == 0).unwrap();
    assert!(!space.has_ended().unwrap(), "{}", node.log().look().tail());
    space.tell("end").unwrap();
    space.tell("check").unwrap();
    let log = node.log().look();
    assert!(log.tail().contains("revoked=true") && log.ended == 0, "{}", log.tail());
    drop(log);
    space.finish().unwrap();
    // nor while they go to the card, which it can't leave before
    let mut client = Client::join(&node.socket(), "by hand", 128 * MIB).unwrap();
    let lease = client.claim(0.5, 64 * MIB).unwrap();
    client.say(&ToBroker::Slabs { lease, slabs: vec![Range::new(0, 64 * MIB)], dirty: vec![], more: false }).unwrap();
    while !matches!(client.hear().unwrap(), ToClient::Ready { .. }) {}
    client.drain(lease).unwrap();
    client.say(&ToBroker::Released { lease }).unwrap();
    node.log().wait("it has let go", |log| log.held() == 0).unwrap();
    // but whoever has them brought home again and again is
    let grants = node.log().look().grants;
    let mut villain = node.villain("deed", "a drain without end").unwrap();
    node.log().wait("it has the card", |log| log.grants > grants).unwrap();
    node.log().wait("it is ended", |log| log.held() == 0).unwrap();
    assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL));
    drop(client);
    node.end(broker).unwrap();
}

/// Nor while it brings them home itself, its broker being gone, as long as it gets on.
#[test]
fn a_holder_that_brings_its_bytes_home_itself_is_not_ended_while_it_gets_on() {
    const BYTES: u64 = 320 * MIB;
    let _alone = alone();
    // 6.7 s each way, 1.3 s for each piece, and 4 s of grace
    let soft = vec![("SOFTCUDA_GBPS", "0.05".to_string())];
    let queue = "grace = \"4s\"".into();
    let node = Node::new(Shape { room: 400 * MIB, vram: 1024 * MIB, soft, queue, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut space = node.obedient(1, BYTES + 8 * MIB).unwrap();
    space.tell(&format!("take {BYTES}")).unwrap();
    space.tell("begin 11").unwrap();
    space.tell("change 100").unwrap();
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    node.log().wait("the lease is taken over", |log| log.adopted == 1).unwrap();
    node.log().wait("its time is over", |log| log.held() == 0).unwrap();
    assert!(!space.has_ended().unwrap(), "{}", node.log().look().tail());
    space.tell("end").unwrap();
    space.tell("check").unwrap();
    let log = node.log().look();
    assert!(log.tail().contains("revoked=true") && log.ended == 0, "{}", log.tail());
    drop(log);
    space.finish().unwrap();
    node.end(broker).unwrap();
}

/// Memory that came after the rest went home is no secret of the worker's: it leaves when others need the room.
#[test]
fn memory_that_grows_after_all_is_home_is_counted() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut first = Client::join(&node.socket(), "first", 64 * MIB).unwrap();
    let lease = first.claim(60.0, 2 * MIB).unwrap();
    first.fill(lease, &[Range::new(0, 2 * MIB)]).unwrap();
    first.drain(lease).unwrap();
    first.say(&ToBroker::Grow { lease, slab: Range::new(2 * MIB, 20 * MIB) }).unwrap();
    assert!(matches!(first.hear().unwrap(), ToClient::Grown { .. }));
    first.say(&ToBroker::Released { lease }).unwrap();
    let mut next = Client::join(&node.socket(), "next", 64 * MIB).unwrap();
    next.round(&[Range::new(0, 20 * MIB)]).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop((first, next));
    node.end(broker).unwrap();
}

/// The node's host memory is spoken for by whoever has slabs, whether it asked before or not; who has none left is told so.
#[test]
fn host_memory_has_a_budget_for_those_who_do_not_ask() {
    let _alone = alone();
    let node =
        Node::new(Shape { room: 96 * MIB, vram: 96 * MIB, top: "host-memory = \"64MiB\"".into(), ..Shape::default() })
            .unwrap();
    let broker = node.broker().unwrap();
    let mut first = Client::join(&node.socket(), "first", 128 * MIB).unwrap();
    first.round(&[Range::new(0, 40 * MIB)]).unwrap();
    let mut second = Client::join(&node.socket(), "second", 128 * MIB).unwrap();
    let lease = second.claim(10.0, 40 * MIB).unwrap();
    let refused = second.fill(lease, &[Range::new(0, 40 * MIB)]).unwrap_err().to_string();
    assert!(refused.contains("of the node's 64 MiB are spoken for"), "{refused}");
    // what it may have it gets, and no more while it computes
    let lease = second.claim(10.0, 20 * MIB).unwrap();
    second.fill(lease, &[Range::new(0, 20 * MIB)]).unwrap();
    second.say(&ToBroker::Grow { lease, slab: Range::new(20 * MIB, 20 * MIB) }).unwrap();
    assert!(matches!(second.hear().unwrap(), ToClient::NotGrown { .. }));
    second.drain(lease).unwrap();
    second.say(&ToBroker::Released { lease }).unwrap();
    // the first needs less
    first.say(&ToBroker::Reserve { bytes: 2 * MIB }).unwrap();
    assert!(matches!(first.hear().unwrap(), ToClient::Reserved { .. }));
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop((first, second));
    node.end(broker).unwrap();
}

/// What a program has freed others can have, and what a parked one has counts still.
#[test]
fn host_memory_that_is_freed_is_anothers() {
    let _alone = alone();
    let shape = Shape { room: 96 * MIB, vram: 64 * MIB, top: "host-memory = \"64MiB\"".into(), ..Shape::default() };
    let node = Node::new(shape).unwrap();
    let broker = node.broker().unwrap();
    let (mut first, mut second) = (node.obedient(1, 64 << 20).unwrap(), node.obedient(2, 64 << 20).unwrap());
    let take = format!("take {}", 40 * MIB);
    first.tell(&take).unwrap();
    let refused = format!("{:#}", second.tell(&take).unwrap_err());
    assert!(refused.contains("cuMemAlloc") && refused.contains('2'), "{refused}");
    first.tell("drop").unwrap();
    let mut third = node.obedient(3, 64 << 20).unwrap();
    third.tell(&take).unwrap();
    third.tell("check").unwrap();
    for space in [first, third] {
        space.finish().unwrap();
    }
    drop(second);
    node.end(broker).unwrap();
}

/// A child of a process that had opened a region, and not said cuInit, has a watcher of its own: what it borrows is given back.
#[test]
fn a_child_gives_back_what_it_borrowed() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    for seed in 1..4 {
        let mut space = node.forked(seed, 16 << 20).unwrap();
        space.tell("take 5000000").unwrap();
        space.tell("launch").unwrap();
        let borrowed = space.tell("check").unwrap();
        assert_eq!(borrowed["state"]["borrows"], 1, "{borrowed}");
        let end = Instant::now() + LONG;
        while space.tell("steps 0").unwrap()["state"]["level"] != "parked" {
            assert!(Instant::now() < end, "it is not given back");
            std::thread::sleep(Duration::from_millis(10));
        }
        for order in ["begin 60", "launch", "steps 10", "end", "check"] {
            space.tell(order).unwrap();
        }
        space.finish().unwrap();
    }
    node.end(broker).unwrap();
}
