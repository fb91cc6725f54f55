//! Clients that break the rules, each in its own way.
use crate::client::{backing, hello, Client};
use anyhow::{bail, ensure, Context, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use zerogpu_protocol::*;

const MIB: u64 = 1 << 20;
/// Bytes of their backings.
const BACKING: u64 = 64 * MIB;

/// One way to be bad: its name, and what it does. It fails if the broker puts up with it.
pub type Deed = (&'static str, fn(&Path) -> Result<()>);

/// All of them.
pub const DEEDS: &[Deed] = &[
    ("nonsense for a hello", |socket| {
        let mut client = Client::connect(socket)?;
        client.say_bytes(b"GET / HTTP/1.1\r\n\r\n")?;
        dropped(&mut client)
    }),
    ("a hello of a later age", |socket| {
        let mut client = Client::connect(socket)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend([9, 0, 9, 0, 1, 2, 3]);
        client.say_bytes(&bytes)?;
        dropped(&mut client)
    }),
    ("a Space without a backing", |socket| {
        let mut client = Client::connect(socket)?;
        let mut bytes = Vec::new();
        encode_hello(&hello("naked", Role::Space), VERSIONS, &mut bytes)?;
        client.say_bytes(&bytes)?;
        dropped(&mut client)
    }),
    ("a backing that can be cut off", |socket| refused(socket, &hello("soft", Role::Space), &backing(BACKING, false)?)),
    ("a backing that is no memory file", |socket| {
        refused(socket, &hello("pipe", Role::Space), &OwnedFd::from(std::io::pipe()?.0))
    }),
    ("a backing of half the address space", |socket| {
        refused(socket, &hello("huge", Role::Space), &backing(1 << 47, true)?)
    }),
    ("a Space of another kind of card", |socket| {
        refused(socket, &Hello { cc: (99, 9), ..hello("alien", Role::Space) }, &backing(BACKING, true)?)
    }),
    ("nonsense for a message", |socket| {
        let mut client = join(socket)?;
        client.say_bytes(&[0xFF; 100])?;
        dropped(&mut client)
    }),
    ("a packet of a megabyte", |socket| {
        let mut client = join(socket)?;
        // a socket whose buffer is too small for it refuses it here already
        client.say_bytes(&vec![0; 1 << 20]).or_else(|_| client.say_bytes(&vec![0; 100 << 10]))?;
        dropped(&mut client)
    }),
    ("a message with a descriptor", |socket| {
        let mut client = join(socket)?;
        let mut bytes = Vec::new();
        encode(&ToBroker::Status, &mut bytes)?;
        send(client.connection().as_fd(), &bytes, &[std::io::stderr()])?;
        dropped(&mut client)
    }),
    ("an observer that claims", |socket| {
        let mut client = Client::connect(socket)?;
        client.connection().hello(&hello("looker", Role::Observer), None, None)?;
        client.say(&claim(1))?;
        dropped(&mut client)
    }),
    ("slabs without a lease", |socket| says(socket, &[slabs(7, &[Range::new(0, 2 * MIB)])])),
    ("the end of somebody's lease", |socket| says(socket, &[ToBroker::Released { lease: 1 }])),
    ("a drain of somebody's lease", |socket| says(socket, &[ToBroker::Drained { lease: 1 }])),
    ("more of somebody's memory", |socket| says(socket, &[ToBroker::Grow { lease: 1, slab: Range::new(0, 2 * MIB) }])),
    ("forgetting what lies outside", |socket| {
        says(socket, &[ToBroker::Forget { range: Range::new(BACKING, 2 * MIB) }])
    }),
    ("slabs that overlap", |socket| lists(socket, &[Range::new(0, 4 * MIB), Range::new(2 * MIB, 4 * MIB)])),
    ("slabs out of order", |socket| lists(socket, &[Range::new(8 * MIB, 2 * MIB), Range::new(0, 2 * MIB)])),
    ("slabs outside the backing", |socket| lists(socket, &[Range::new(BACKING - 2 * MIB, 4 * MIB)])),
    ("a list without end", |socket| {
        let mut client = join(socket)?;
        let lease = client.claim(30.0, 0)?;
        let many: Vec<Range> = (0..PACKET_RANGES as u64).map(|i| Range::new(i * 2 * MIB, 2 * MIB)).collect();
        for _ in 0..=SPACE_SLABS / PACKET_RANGES {
            let piece = ToBroker::Slabs { lease, slabs: many.clone(), dirty: vec![], more: true };
            if client.say(&piece).is_err() {
                break;
            }
        }
        dropped(&mut client)
    }),
    ("a drain before the bytes are there", |socket| {
        let mut client = join(socket)?;
        let lease = client.claim(30.0, 0)?;
        client.say(&ToBroker::Drained { lease })?;
        dropped(&mut client)
    }),
    ("a slab twice", |socket| {
        let slab = Range::new(0, 2 * MIB);
        let (mut client, lease) = ready(socket, &[slab])?;
        client.say(&ToBroker::Grow { lease, slab })?;
        dropped(&mut client)
    }),
    ("a slab that it does not have given back", |socket| {
        let (mut client, lease) = ready(socket, &[Range::new(0, 4 * MIB)])?;
        client.say(&ToBroker::Shrink { lease, slabs: vec![Range::new(0, 2 * MIB)] })?;
        dropped(&mut client)
    }),
    ("questions without end, and no ear", |socket| {
        let mut client = join(socket)?;
        for _ in 0..100_000 {
            if client.say(&ToBroker::Status).is_err() {
                break;
            }
        }
        dropped(&mut client)
    }),
    ("a claim to hold a card that somebody else has", |socket| {
        let mut holder = join(socket)?;
        let (lease, card) = granted(&mut holder)?;
        let holds = Some(Holding { card, broker: 1, lease, seconds_left: 1e9, bytes: 1 << 40 });
        let mut liar = Client::connect(socket)?;
        let file = backing(BACKING, true)?;
        liar.connection().hello(&Hello { holds, ..hello("liar", Role::Space) }, Some(file.as_fd()), None)?;
        let answer = liar.hear()?;
        ensure!(matches!(answer, ToClient::Denied { .. }), "it was answered {answer:?}");
        Ok(())
    }),
];

fn join(socket: &Path) -> Result<Client> {
    Client::join(socket, "hostile", BACKING)
}

fn claim(id: u32) -> ToBroker {
    ToBroker::Claim { id, seconds: 30.0, wait_seconds: 600.0, borrowed: false, bytes: 0 }
}

fn slabs(lease: u64, slabs: &[Range]) -> ToBroker {
    ToBroker::Slabs { lease, slabs: slabs.to_vec(), dirty: vec![], more: false }
}

fn granted(client: &mut Client) -> Result<(u64, Uuid)> {
    client.say(&claim(1))?;
    match client.hear()? {
        ToClient::Granted { lease, card, .. } => Ok((lease, card)),
        other => bail!("a claim was answered {other:?}"),
    }
}

/// Joins and says these messages, of which one is too much.
fn says(socket: &Path, messages: &[ToBroker]) -> Result<()> {
    let mut client = join(socket)?;
    messages.iter().try_for_each(|message| client.say(message))?;
    dropped(&mut client)
}

/// Lists slabs that nobody may have.
fn lists(socket: &Path, list: &[Range]) -> Result<()> {
    let mut client = join(socket)?;
    let lease = client.claim(30.0, 0)?;
    client.say(&slabs(lease, list))?;
    dropped(&mut client)
}

/// A client whose bytes are on a card.
fn ready(socket: &Path, list: &[Range]) -> Result<(Client, u64)> {
    let mut client = join(socket)?;
    let lease = client.claim(30.0, list.iter().map(|slab| slab.len).sum())?;
    client.say(&slabs(lease, list))?;
    while !matches!(client.hear()?, ToClient::Ready { .. }) {}
    Ok((client, lease))
}

fn dropped(client: &mut Client) -> Result<()> {
    client.is_dropped().map(|_| ())
}

fn refused(socket: &Path, hello: &Hello, file: &OwnedFd) -> Result<()> {
    let client = Client::connect(socket)?;
    match client.connection().hello(hello, Some(file.as_fd()), None) {
        Err(Error::Refused(refused)) => {
            ensure!(!refused.text.is_empty(), "it was refused without a word");
            Ok(())
        }
        other => bail!("it was answered {other:?}"),
    }
}

/// Does all of it once; how many deeds that were.
///
/// # Errors
/// What the broker put up with.
pub fn all(socket: &Path) -> Result<usize> {
    DEEDS.iter().try_for_each(|(name, deed)| deed(socket).with_context(|| name.to_string()))?;
    Ok(DEEDS.len())
}
