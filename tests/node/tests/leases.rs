//! What a claim can ask of a broker, and what it may not: shares, limits, other cards, second thoughts.
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zerogpu_node_tests::alone;
use zerogpu_node_tests::client::{hello, Client};
use zerogpu_node_tests::node::{Node, Shape};
use zerogpu_node_tests::witness::snapshot;
use zerogpu_protocol::{prefetch_packets, Error, Hello, Range, Reason, Role, ToBroker, ToClient};

const MIB: u64 = 1 << 20;

/// Where the policy lets cards be shared, Spaces that fit together compute at once, and one that does not fit waits.
#[test]
fn spaces_that_fit_share_a_card() {
    let _alone = alone();
    let shape = Shape { room: 48 * MIB, queue: "share = true".into(), ..Shape::default() };
    let node = Node::new(shape).unwrap();
    let broker = node.broker().unwrap();
    let mut spaces: Vec<_> = (1..=3).map(|seed| node.obedient(seed, 24 << 20).unwrap()).collect();
    for space in &mut spaces {
        space.tell(&format!("take {}", 18 * MIB)).unwrap();
        space.tell("begin 60").unwrap();
    }
    for space in &mut spaces[..2] {
        assert_eq!(space.tell("launch").unwrap()["state"]["level"], "claimed");
        space.tell("write 3").unwrap();
    }
    spaces[2].begin("launch").unwrap();
    node.log().wait("the third waits", |log| log.waiting() == 1).unwrap();
    // the broker and two programs
    assert_eq!(snapshot(&node.cards()).unwrap().cards[0].processes.len(), 3);
    let status = node.status().unwrap();
    assert_eq!(status["scheduler"]["cards"][0]["holders"].as_array().unwrap().len(), 2, "{status}");
    spaces[0].tell("end").unwrap();
    assert_eq!(spaces[2].line().unwrap()["state"]["level"], "claimed");
    for space in &mut spaces[1..] {
        space.tell("write 3").unwrap();
        space.tell("end").unwrap();
    }
    for mut space in spaces {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.wait_for_empty_cards().unwrap();
    // not judged: the referee knows of one lease on a card
    broker.terminate().unwrap();
}

/// A Space computes on whichever card is free, and takes it for the one that it has always had.
#[test]
fn a_space_moves_between_cards_and_does_not_notice() {
    let _alone = alone();
    let node = Node::new(Shape { cards: 2, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let holder = |card: usize| node.status().unwrap()["scheduler"]["cards"][card]["holders"][0]["space"].as_u64();
    let mut mover = node.obedient(1, 24 << 20).unwrap();
    let known = mover.tell("take 20000000").unwrap()["card"].clone();
    mover.tell("begin 60").unwrap();
    mover.tell("launch").unwrap();
    let mut home = usize::from(holder(0).is_none());
    mover.tell("end").unwrap();
    let mut others = [2, 3].map(|seed| node.obedient(seed, 24 << 20).unwrap());
    for other in &mut others {
        other.tell("take 20000000").unwrap();
    }
    for _ in 0..4 {
        let mut theirs = [0; 2];
        for (other, card) in others.iter_mut().zip(&mut theirs) {
            let before = [0, 1].map(holder);
            other.tell("begin 60").unwrap();
            other.tell("launch").unwrap();
            *card = (0..2).find(|&card| before[card].is_none() && holder(card).is_some()).unwrap();
        }
        // it finds its own card held, and gets the one that is let go of
        mover.tell("begin 60").unwrap();
        mover.begin("launch").unwrap();
        node.log().wait("it waits", |log| log.waiting() == 1).unwrap();
        let (first, last) = if theirs[0] == home { (1, 0) } else { (0, 1) };
        others[first].tell("end").unwrap();
        let during = mover.line().unwrap();
        assert_eq!((&during["card"], &during["state"]["level"]), (&known, &"claimed".into()), "{during}");
        mover.tell("steps 10").unwrap();
        mover.tell("end").unwrap();
        others[last].tell("end").unwrap();
        assert_eq!(mover.tell("check").unwrap()["card"], known);
        home = theirs[first];
    }
    let log = node.log().look();
    assert!(log.cards["obey-1"].len() == 2, "it stayed on one card: {}", log.tail());
    drop(log);
    for mut space in others.into_iter().chain([mover]) {
        space.tell("check").unwrap();
        space.finish().unwrap();
    }
    node.end(broker).unwrap();
}

/// An administrator takes a card back: the bytes come home, and the program's next call has them.
#[test]
fn a_card_is_taken_back() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let mut space = node.obedient(1, 16 << 20).unwrap();
    space.tell("take 5000000").unwrap();
    let (pid, nobody) = (space.pid(), std::process::id());
    let why = node.revoke(pid).unwrap_err();
    assert_eq!(why, format!("zerogpu: the process {pid} holds no card"));
    let why = node.revoke(nobody).unwrap_err();
    assert!(why.contains(&format!("no program of this broker has the process {nobody}")), "{why}");
    space.tell("begin 60").unwrap();
    space.tell("steps 10").unwrap();
    space.tell("launch").unwrap();
    // whoever is no administrator is told so
    let socket = node.socket();
    let stranger = as_a_stranger(&socket, move |client| {
        client.say(&ToBroker::TakeBack { pid }).unwrap();
        client.hear().unwrap()
    });
    match stranger {
        Some(ToClient::TakenBack { done: false, text }) => {
            assert_eq!(text, "only root and the broker's own user may take a card back; ask one of them");
        }
        // only root can be somebody else
        None => println!("not run: a stranger's try"),
        other => panic!("{other:?}"),
    }
    node.log().wait("it has the card still", |log| log.held() == 1).unwrap();
    let said = node.revoke(pid).unwrap();
    assert!(said.starts_with(&format!("the lease of obey-1 (pid {pid}) on card 0 ends now; its process is")), "{said}");
    node.log().wait("it has let go", |log| log.held() == 0).unwrap();
    space.tell("end").unwrap();
    space.tell("check").unwrap();
    space.complains("an administrator has taken the card back").unwrap();
    for order in ["begin 60", "launch", "steps 10", "end", "check"] {
        space.tell(order).unwrap();
    }
    space.finish().unwrap();
    let log = node.log().look();
    assert!(log.tail().contains("lease revoked by uid ") && log.ended == 0, "{}", log.tail());
    drop(log);
    node.end(broker).unwrap();
}

/// What a client of another user hears; None: this process can't be one.
fn as_a_stranger(socket: &Path, talk: impl FnOnce(&mut Client) -> ToClient + Send + 'static) -> Option<ToClient> {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    std::fs::set_permissions(socket.parent()?, Permissions::from_mode(0o711)).unwrap();
    std::fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
    let socket = socket.to_owned();
    let stranger = std::thread::spawn(move || {
        // SAFETY: numbers; the user of this thread alone, which ends here.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) }, 0);
        let mut client = Client::introduced(&socket, &hello("stranger", Role::Observer), 64 * MIB).unwrap().0;
        talk(&mut client)
    });
    Some(stranger.join().unwrap())
}

/// More Spaces, or larger ones, than a tenant may have are refused with the numbers.
#[test]
fn a_tenant_has_limits() {
    let _alone = alone();
    let node = Node::new(Shape { tenant: "vram = \"2GiB\"".into(), spaces: 2, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let refused = |hello: &Hello| match Client::connect(&node.socket()).unwrap().introduce(hello, 64 * MIB) {
        Err(e) => match e.downcast::<Error>() {
            Ok(Error::Refused(refused)) => (refused.reason, refused.text),
            other => panic!("{other:?}"),
        },
        Ok(_) => panic!("it was welcomed"),
    };
    let (reason, text) = refused(&Hello { vram: 3 << 30, ..hello("large", Role::Space) });
    assert_eq!(reason, Reason::Quota);
    assert!(text.contains("may have 2.0 GiB of GPU memory, and this one wants 3.0 GiB"), "{text}");
    let first = Client::join(&node.socket(), "first", 64 * MIB).unwrap();
    let _second = Client::join(&node.socket(), "second", 64 * MIB).unwrap();
    let (reason, text) = refused(&hello("third", Role::Space));
    assert_eq!(reason, Reason::Quota);
    assert!(text.contains("has 2 of its 2 Spaces"), "{text}");
    drop(first);
    node.log().wait("one has left", |log| log.tail().contains("Space left")).unwrap();
    Client::join(&node.socket(), "third", 64 * MIB).unwrap();
    node.end(broker).unwrap();
}

/// A claim can be taken back while it waits; whoever is behind it moves up.
#[test]
fn a_claim_is_taken_back() {
    let _alone = alone();
    let node = Node::new(Shape::default()).unwrap();
    let broker = node.broker().unwrap();
    let join = |name| Client::join(&node.socket(), name, 64 * MIB).unwrap();
    let (mut first, mut second, mut third) = (join("first"), join("second"), join("third"));
    let lease = first.claim(30.0, 0).unwrap();
    let claim = |id| ToBroker::Claim { id, seconds: 30.0, wait_seconds: 600.0, borrowed: false, bytes: 0 };
    second.say(&claim(7)).unwrap();
    node.log().wait("the second waits", |log| log.waiting() == 1).unwrap();
    third.say(&claim(1)).unwrap();
    node.log().wait("the third waits", |log| log.waiting() == 2).unwrap();
    second.say(&ToBroker::Cancel { id: 7 }).unwrap();
    assert!(matches!(second.hear().unwrap(), ToClient::Denied { id: 7, reason: Reason::Cancelled, .. }));
    first.say(&ToBroker::Released { lease }).unwrap();
    let lease = third.granted().unwrap();
    third.say(&ToBroker::Released { lease }).unwrap();
    // and one that was taken back can be made again
    second.say(&claim(8)).unwrap();
    let lease = second.granted().unwrap();
    second.say(&ToBroker::Released { lease }).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    node.end(broker).unwrap();
}

/// A card on which others have memory has less room than the broker knows of: what is warm leaves, and the claim is served.
#[test]
fn warm_bytes_leave_for_a_claim_that_finds_the_card_full() {
    let _alone = alone();
    // after one of the broker's own the second slab finds no room, and so does the fourth
    let faults = "cuMemCreate:3=2,cuMemCreate:5=2".into();
    let node = Node::new(Shape { room: 96 * MIB, vram: 96 * MIB, faults, ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let slab = [Range::new(0, 40 * MIB)];
    let mut first = Client::join(&node.socket(), "first", 128 * MIB).unwrap();
    first.round(&slab).unwrap();
    let mut second = Client::join(&node.socket(), "second", 128 * MIB).unwrap();
    let lease = second.claim(10.0, 40 * MIB).unwrap();
    assert_eq!(second.fill_with(lease, &slab, &[]).unwrap().0, 40 * MIB);
    node.log().wait("it is told", |log| log.tail().contains("warm bytes leave for a claim")).unwrap();
    let status = node.status().unwrap();
    assert!(status["scheduler"]["cards"][0]["residents"].as_array().unwrap().is_empty(), "{status}");
    // there is nothing warm that could leave
    let wanted = [slab[0], Range::new(40 * MIB, 40 * MIB)];
    second.drain(lease).unwrap();
    second.say(&ToBroker::Released { lease }).unwrap();
    let lease = second.claim(10.0, 80 * MIB).unwrap();
    let refused = second.fill(lease, &wanted).unwrap_err().to_string();
    assert!(refused.contains("making memory on the card failed (CUDA error 2)"), "{refused}");
    // and the next claim works
    second.round(&wanted).unwrap();
    node.log().wait("all have let go", |log| log.held() == 0).unwrap();
    drop((first, second));
    broker.terminate().unwrap();
    let log = node.log().look();
    let [fault] = &log.faults[..] else { panic!("{:?}", log.faults) };
    assert!(fault.contains("making memory on the card failed"), "{fault}");
}

/// A claim of what the card has is answered without its worker, and none that lacks a byte is.
#[test]
fn a_claim_that_lacks_nothing_is_answered_at_once() {
    let _alone = alone();
    let node = Node::new(Shape { memory: "prefetch = false".into(), ..Shape::default() }).unwrap();
    let broker = node.broker().unwrap();
    let mut client = Client::join(&node.socket(), "by hand", 64 * MIB).unwrap();
    let (one, two) = (Range::new(0, 2 * MIB), Range::new(2 * MIB, 4 * MIB));
    // how many bytes were copied, and whether that was at once
    let mut rounds = 0;
    let mut round = |slabs: &[Range], dirty: &[Range]| {
        let before = node.log().look().at_once;
        let lease = client.claim(10.0, slabs.iter().map(|slab| slab.len).sum()).unwrap();
        let (bytes, fds) = client.fill_with(lease, slabs, dirty).unwrap();
        assert_eq!(fds.len(), slabs.len());
        client.drain(lease).unwrap();
        client.say(&ToBroker::Released { lease }).unwrap();
        rounds += 1;
        node.log().wait("it has let go", |log| log.released == rounds).unwrap();
        let at_once = node.log().look().at_once - before;
        (bytes, at_once)
    };
    assert_eq!(round(&[one, two], &[]), (6 * MIB, 0));
    // a worker that has not laid its last job aside yet has this one, too
    let patient = (0..1000).find(|_| match round(&[one, two], &[]) {
        (0, at_once) => at_once == 1,
        (bytes, _) => panic!("{bytes} bytes were copied to where they are"),
    });
    assert!(patient.is_some(), "no claim was answered at once");
    assert_eq!(round(&[one, two], &[Range::new(4 * MIB, 2 * MIB)]), (2 * MIB, 0));
    assert_eq!(round(&[two], &[]), (0, 0));
    assert_eq!(round(&[one, two], &[]), (2 * MIB, 0));
    let (first, rest) = (Range::new(2 * MIB, 2 * MIB), Range::new(4 * MIB, 2 * MIB));
    assert_eq!(round(&[one, first, rest], &[]), (4 * MIB, 0));
    // what was named as a region began is not named again
    for packet in prefetch_packets(10.0, &[one, first, rest], &[rest]) {
        client.say(&packet).unwrap();
    }
    let lease = client.claim(10.0, 6 * MIB).unwrap();
    assert_eq!(client.fill_with(lease, &[one, first, rest], &[]).unwrap().0, 2 * MIB);
    client.drain(lease).unwrap();
    client.say(&ToBroker::Released { lease }).unwrap();
    node.log().wait("it has let go", |log| log.held() == 0).unwrap();
    drop(client);
    node.end(broker).unwrap();
}
