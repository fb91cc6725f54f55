//! A card is leased on only when its holder has let go of it, or has ended; and what a broker remembers of its tenants.
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zerogpu_node_tests::client::Client;
use zerogpu_node_tests::hostile;
use zerogpu_node_tests::node::{Node, Shape, LONG};
use zerogpu_node_tests::witness::Witness;

/// One at a time: each has many processes.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        next.say(&zerogpu_protocol::ToBroker::Released { lease }).unwrap();
        assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL), "{name}");
        node.log().wait("both have ended", |log| log.grants == grants + 2 && log.held() == 0).unwrap();
    }
    let status = node.status().unwrap();
    assert_eq!(status["totals"]["killed"], hostile::CRIMES.len());
    let tail = node.log().look().tail();
    assert!(tail.contains("cause=\"protocol\"") && tail.contains("lease ended: it broke the protocol: "), "{tail}");
    node.wait_for_empty_cards().unwrap();
    node.log().judge(&[]).unwrap();
    broker.terminate().unwrap();
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
    assert!(node.log().look().tail().contains("cause=\"late\""));
    // one whose card is no card of this broker holds nothing here
    let other = node.villain("late", "GPU-00000000-0000-0000-0000-000000000000").unwrap().wait().unwrap();
    assert!(!other.success() && other.signal().is_none(), "{other}");
    holder.tell("steps 10").unwrap();
    holder.tell("end").unwrap();
    holder.tell("check").unwrap();
    holder.finish().unwrap();
    assert_eq!(node.log().look().ended, 1);
    node.wait_for_empty_cards().unwrap();
    node.log().judge(&[]).unwrap();
    broker.terminate().unwrap();
}

/// Whoever keeps memory of a card that it has given back is ended when somebody else needs the room; whose memory comes free
/// later than others' contexts come is not.
#[test]
fn who_keeps_memory_without_a_lease_is_ended_and_nobody_else() {
    const KEPT: u64 = 16 << 20;
    let _alone = alone();
    for (context, ended) in [("1MiB", true), ("10MiB", false)] {
        let node = Node::new(Shape { memory: format!("context = \"{context}\""), ..Shape::default() }).unwrap();
        let broker = node.broker().unwrap();
        let mut villain = node.hoarder(KEPT).unwrap();
        node.log().wait("it has had a lease", |log| log.grants == 1 && log.held() == 0).unwrap();
        let mut next = Client::join(&node.socket(), "next", 64 << 20).unwrap();
        let lease = next.claim(10.0, 20 << 20).unwrap();
        if ended {
            node.log().wait("it is ended", |log| log.tail().contains("cause=\"memory\"")).unwrap();
            assert_eq!(villain.wait().unwrap().signal(), Some(libc::SIGKILL));
        } else {
            let doubt =
                |log: &zerogpu_node_tests::referee::Referee| log.tail().contains("memory of a card did not come free");
            node.log().wait("the doubt is noted", doubt).unwrap();
            assert!(villain.wait().unwrap().success());
        }
        next.say(&zerogpu_protocol::ToBroker::Released { lease }).unwrap();
        drop(next);
        node.wait_for_empty_cards().unwrap();
        assert_eq!(node.status().unwrap()["totals"]["killed"], u64::from(ended));
        node.log().judge(&[]).unwrap();
        broker.terminate().unwrap();
    }
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
    let lease = client.claim(30.0, 0).unwrap();
    // longer than the time between two writes
    std::thread::sleep(Duration::from_millis(5500));
    client.say(&zerogpu_protocol::ToBroker::Released { lease }).unwrap();
    node.log().wait("it is over", |log| log.held() == 0).unwrap();
    broker.kill().unwrap();
    let broker = node.broker().unwrap();
    let used = |node: &Node| node.status().unwrap()["scheduler"]["tenants"][0]["used"].as_f64().unwrap_or(0.0);
    let kept = used(&node);
    assert!((0.4..=6.5).contains(&kept), "{kept}");
    let mut client = Client::join(&node.socket(), "by hand", 64 << 20).unwrap();
    let refused = client.claim(59.9, 0).unwrap_err().to_string();
    assert!(refused.contains("GPU seconds within 24 hours"), "{refused}");
    let lease = client.claim(10.0, 0).unwrap();
    client.say(&zerogpu_protocol::ToBroker::Released { lease }).unwrap();
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
    broker.terminate().unwrap();
    node.log().judge(&[]).unwrap();
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
    node.log().judge(&[]).unwrap();
    broker.terminate().unwrap();
}
