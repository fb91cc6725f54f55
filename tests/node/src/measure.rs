//! What leases cost.
use crate::client::Client;
use crate::node::{Node, Shape, Space};
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;
use zerogpu_protocol::*;

/// Lease round trips of many clients, all driven by this thread: claim, grant, list, ready, drained, home, released. Each
/// client has so many bytes, which are copied to the card at every lease; of three clients one has no room there.
///
/// # Errors
/// What was answered otherwise.
pub fn rounds(clients: usize, cards: u32, count: u64, bytes: u64) -> Result<Value> {
    let room = (clients as u64 * 2 / 3 / u64::from(cards)).max(1) * bytes;
    let shape = Shape { cards, ..Shape::default() };
    let node = Node::quiet(if bytes == 0 { shape } else { Shape { room, ..shape } })?;
    let broker = node.broker()?;
    let mut crowd = (0..clients).map(|_| Hand::join(&node, bytes)).collect::<Result<Vec<_>>>()?;
    // the first tenth makes what is made once
    let first = drive(&mut crowd, count / 10)?;
    let before = broker.usage()?;
    let start = Instant::now();
    let done = drive(&mut crowd, count)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = broker.usage()?;
    drop(crowd);
    broker.terminate()?;
    Ok(json!({
        "rounds": done, "before": first, "seconds": seconds, "rounds_per_s": done as f64 / seconds,
        "resident_before": before.resident, "resident_after": after.resident,
        "files_before": before.files, "files_after": after.files,
    }))
}

/// A client that goes round and round.
struct Hand {
    client: Client,
    claims: u32,
    packet: Packet,
    /// What it has on the card: one slab, or none.
    slabs: Vec<Range>,
}

impl Hand {
    fn join(node: &Node, bytes: u64) -> Result<Hand> {
        let client = Client::join(&node.socket(), "by hand", 64 << 20)?;
        let slabs = (bytes > 0).then(|| Range::new(0, bytes)).into_iter().collect();
        Ok(Hand { client, claims: 0, packet: Packet::new(), slabs })
    }

    fn claim(&mut self) -> Result<()> {
        self.claims += 1;
        self.client.say(&ToBroker::Claim {
            id: self.claims,
            seconds: 10.0,
            wait_seconds: 600.0,
            borrowed: false,
            bytes: self.slabs.iter().map(|slab| slab.len).sum(),
        })
    }

    /// Answers all that has come; how many rounds that ended.
    fn go_on(&mut self, again: bool) -> Result<u64> {
        let mut ended = 0;
        while let Some((message, _)) = self.client.connection().try_recv(&mut self.packet)? {
            match message {
                // descriptors are closed
                ToClient::Queued { .. } | ToClient::SlabFds { .. } => {}
                ToClient::Granted { lease, .. } => {
                    let (slabs, dirty) = (self.slabs.clone(), self.slabs.clone());
                    self.client.say(&ToBroker::Slabs { lease, slabs, dirty, more: false })?;
                }
                ToClient::Ready { lease, .. } => self.client.say(&ToBroker::Drained { lease })?,
                ToClient::Home { lease, .. } => {
                    self.client.say(&ToBroker::Released { lease })?;
                    ended += 1;
                    if again {
                        self.claim()?;
                    }
                }
                other => bail!("a client was told {other:?}"),
            }
        }
        Ok(ended)
    }
}

/// Has all clients go round until `count` rounds have ended, and then until none is under way.
fn drive(crowd: &mut [Hand], count: u64) -> Result<u64> {
    crowd.iter_mut().try_for_each(Hand::claim)?;
    let (mut ended, mut started) = (0, crowd.len() as u64);
    let mut watched: Vec<libc::pollfd> = crowd
        .iter()
        .map(|hand| libc::pollfd { fd: hand.client.connection().as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    while ended < started {
        // SAFETY: as many entries as is said, which are ours.
        let ready = unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, 60_000) };
        ensure!(ready > 0, "nothing comes from the broker");
        for (hand, entry) in crowd.iter_mut().zip(&watched).filter(|(_, entry)| entry.revents != 0) {
            debug_assert!(entry.fd >= 0);
            let more = hand.go_on(started < count)?;
            ended += more;
            started += if started < count { more } else { 0 };
        }
    }
    Ok(ended)
}

/// What the broker adds to a claim with nobody else there: from the wish to the last word, with 256 MiB that are on the
/// card already.
///
/// # Errors
/// What was answered otherwise.
pub fn warm(count: usize) -> Result<Value> {
    let bytes = 256 << 20;
    let node = Node::quiet(Shape { room: 2 * bytes, vram: bytes, ..Shape::default() })?;
    let broker = node.broker()?;
    let mut client = Client::join(&node.socket(), "warm", bytes)?;
    let slab = Range::new(0, bytes);
    client.round(&[slab])?;
    let mut micros = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let lease = client.claim(10.0, bytes)?;
        client.say(&ToBroker::Slabs { lease, slabs: vec![slab], dirty: vec![], more: false })?;
        loop {
            match client.hear()? {
                ToClient::SlabFds { .. } => {}
                ToClient::Ready { bytes: 0, warm, .. } if warm == bytes => break,
                other => bail!("a warm claim was answered {other:?}"),
            }
        }
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        client.say(&ToBroker::Drained { lease })?;
        while !matches!(client.hear()?, ToClient::Home { .. }) {}
        client.say(&ToBroker::Released { lease })?;
    }
    broker.terminate()?;
    micros.sort_by(f64::total_cmp);
    Ok(
        json!({ "claims": count, "median_us": micros[count / 2], "p99_us": micros[count * 99 / 100], "least_us": micros[0] }),
    )
}

/// Rounds of each kind of claim and park.
const ROUNDS: usize = 5;

/// Claims and parks with so much memory, through the shim: with a broker, and without.
///
/// # Errors
/// A wrong byte, or what could not be measured.
pub fn memory(mib: u64) -> Result<Value> {
    let bytes = mib << 20;
    // what a device shows as free is less than it has: some is its context's
    let node =
        Node::quiet(Shape { room: bytes + (64 << 20), vram: bytes + bytes / 8 + (32 << 20), ..Shape::default() })?;
    let broker = node.broker()?;
    let mut space = node.obedient(1, 2 * bytes)?;
    space.tell(&format!("take {bytes}"))?;
    let mut other = node.obedient(2, 2 * bytes)?;
    other.tell(&format!("take {bytes}"))?;
    call(&mut space, 100)?;
    let mut found = serde_json::Map::new();
    let mut note = |name: &str, times: Vec<[f64; 2]>| {
        let column = |i: usize| {
            let mut values: Vec<f64> = times.iter().map(|time| time[i]).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        found.insert(name.into(), json!({ "claim_ms": column(0), "park_ms": column(1) }));
    };
    // the other needs the whole card
    let cold = |space: &mut Space, other: &mut Space| call(other, 0).and_then(|_| call(space, 0));
    note("cold, unchanged", (0..ROUNDS).map(|_| cold(&mut space, &mut other)).collect::<Result<_>>()?);
    for (name, share) in [("warm, unchanged", 0), ("warm, 10 % changed", 10), ("warm, all changed", 100)] {
        note(name, (0..ROUNDS).map(|_| call(&mut space, share)).collect::<Result<_>>()?);
    }
    for space in [&mut space, &mut other] {
        space.tell("check")?;
    }
    space.finish()?;
    other.finish()?;
    broker.terminate()?;
    let mut solo = node.solo(3, 2 * bytes)?;
    solo.tell(&format!("take {bytes}"))?;
    call(&mut solo, 100)?;
    note("without a broker", (0..ROUNDS).map(|_| call(&mut solo, 0)).collect::<Result<_>>()?);
    solo.tell("check")?;
    solo.finish()?;
    Ok(json!({ "mib": mib, "times": found }))
}

/// A call that changes a share of the bytes; milliseconds of its claim and of its park.
fn call(space: &mut Space, percent: u32) -> Result<[f64; 2]> {
    space.tell("begin 100")?;
    space.tell(&format!("change {percent}"))?;
    let state = space.tell("end")?["state"].clone();
    let time = |name: &str| state[name].as_f64().with_context(|| format!("no {name} in {state}"));
    Ok([time("last_claim_ms")?, time("last_park_ms")?])
}
