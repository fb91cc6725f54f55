//! Clients that break the rules, each in its own way.
//!
//! Whoever does so while it holds a card loses its process: such deeds are done by processes of their own.
use crate::client::{backing, hello, Client};
use crate::node::{Node, LONG};
use anyhow::{bail, ensure, Context, Result};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zerogpu_bench::driver::{must, Driver};
use zerogpu_protocol::*;

const MIB: u64 = 1 << 20;
/// Bytes of their backings.
const BACKING: u64 = 64 * MIB;

/// One way to be bad: its name, and what it does. It fails if the broker puts up with it.
pub type Deed = (&'static str, fn(&Path) -> Result<()>);

/// Those of clients that hold no card: they are dropped, and live.
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
    ("a backing larger than any Space has", |socket| {
        refused(socket, &hello("large", Role::Space), &backing(BACKING_BYTES + 2 * MIB, true)?)
    }),
    ("more host memory than it was shown", |socket| {
        let mut client = Client::connect(socket)?;
        let file = backing(BACKING, true)?;
        client.connection().hello(
            &Hello { vram: 2 * MIB, ..hello("greedy", Role::Space) },
            Some(file.as_fd()),
            None,
        )?;
        client.say(&ToBroker::Reserve { bytes: 1 << 30 })?;
        let answer = client.hear()?;
        ensure!(matches!(answer, ToClient::NotReserved { .. }), "it was answered {answer:?}");
        Ok(())
    }),
    ("a Space of another kind of card", |socket| {
        refused(socket, &Hello { cc: (99, 9), ..hello("alien", Role::Space) }, &backing(BACKING, true)?)
    }),
    ("nonsense for a message", |socket| {
        let mut client = join(socket)?;
        client.say_bytes(&[0xFF; 100])?;
        dropped(&mut client)
    }),
    ("a line of its own for terminals and logs", |socket| {
        let mut client = join(socket)?;
        let mut bytes = Vec::new();
        encode(&ToBroker::Bound { card: [0; 16], by: "xyz".into() }, &mut bytes)?;
        let at = bytes.len() - 2;
        bytes[at] = b'\n';
        client.say_bytes(&bytes)?;
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
        match send(client.connection().as_fd(), &bytes, &[std::io::stderr()]) {
            // from Linux 6.16 on it can't even be sent
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            sent => sent.map_err(Into::into).and_then(|()| dropped(&mut client)),
        }
    }),
    ("an observer that holds a card", |socket| {
        let holds = Some(Holding { card: [0; 16], broker: 1, lease: 1, seconds_left: 60.0, bytes: 0 });
        let client = Client::connect(socket)?;
        let answer = client.connection().hello(&Hello { holds, ..hello("looker", Role::Observer) }, None, None);
        ensure!(answer.is_err(), "it was welcomed");
        Ok(())
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
    ("questions without end, and no ear", |socket| {
        let mut client = join(socket)?;
        for _ in 0..100_000 {
            if client.say(&ToBroker::Status).is_err() {
                break;
            }
        }
        dropped(&mut client)
    }),
    ("a wish with slabs that overlap", |socket| {
        let slabs = vec![Range::new(0, 4 * MIB), Range::new(2 * MIB, 4 * MIB)];
        says(socket, &[ToBroker::Prefetch { seconds: 9.0, slabs, dirty: vec![], more: false }])
    }),
    ("a wish for more than it was shown", |socket| {
        let mut client = Client::connect(socket)?;
        let file = backing(BACKING, true)?;
        client.connection().hello(&Hello { vram: 0, ..hello("greedy", Role::Space) }, Some(file.as_fd()), None)?;
        let slabs = vec![Range::new(0, 2 * MIB)];
        client.say(&ToBroker::Prefetch { seconds: 9.0, slabs: slabs.clone(), dirty: slabs, more: false })?;
        // 2 MiB are within what is overlooked
        client.say(&ToBroker::Status)?;
        while !matches!(client.hear()?, ToClient::Report { more: false, .. }) {}
        client.say_bytes(&[0xFF])?;
        dropped(&mut client)
    }),
    ("a wish without end", |socket| {
        let mut client = join(socket)?;
        let many: Vec<Range> = (0..PACKET_RANGES as u64).map(|i| Range::new(i * 2 * MIB, 2 * MIB)).collect();
        for _ in 0..=SPACE_SLABS / PACKET_RANGES {
            let piece = ToBroker::Prefetch { seconds: 9.0, slabs: many.clone(), dirty: vec![], more: true };
            if client.say(&piece).is_err() {
                break;
            }
        }
        dropped(&mut client)
    }),
];

/// Those of processes that hold a card, which are ended for it. Each returns only if it was put up with.
pub const CRIMES: &[Deed] = &[
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
    ("nonsense while it computes", |socket| {
        let (mut client, _) = ready(socket, &[Range::new(0, 2 * MIB)])?;
        client.say_bytes(&[0xFF; 100])?;
        dropped(&mut client)
    }),
    ("a card kept beyond its time", |socket| {
        let mut client = join(socket)?;
        client.claim(0.5, 0)?;
        // it hears that its time is over, and stays
        while !matches!(client.hear()?, ToClient::Revoked { .. }) {}
        dropped(&mut client)
    }),
    ("a drain without end", |socket| {
        let mut client = join(socket)?;
        let lease = client.claim(0.5, 2 * MIB)?;
        client.say(&slabs(lease, &[Range::new(0, 2 * MIB)]))?;
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            match client.hear() {
                // from the first on its bytes are always on their way
                Ok(ToClient::Ready { .. } | ToClient::Home { .. }) => drop(client.say(&ToBroker::Drained { lease })),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
        bail!("it is never ended")
    }),
    ("a way home without end", |socket| {
        let vram = Hello { vram: BACKING, ..hello("hostile", Role::Space) };
        let (mut client, welcome) = Client::introduced(socket, &vram, BACKING)?;
        client.say(&ToBroker::Claim { id: 1, seconds: 0.5, wait_seconds: 600.0, borrowed: false, bytes: 0 })?;
        let ToClient::Granted { lease, card, .. } = client.hear()? else { bail!("it was granted nothing") };
        client.fill(lease, &[Range::new(0, 2 * MIB)])?;
        drop(client);
        // its memory is its own now, and so is its way home
        let holds = Some(Holding { card, broker: welcome.broker, lease, seconds_left: 0.5, bytes: 2 * MIB });
        let (client, _) = Client::introduced(socket, &Hello { holds, ..vram }, BACKING)?;
        let (end, mut packet) = (Instant::now() + LONG, Packet::new());
        while client.say(&ToBroker::Drained { lease }).is_ok() {
            ensure!(Instant::now() < end, "it is never ended");
            while let Ok(Some(_)) = client.connection().try_recv(&mut packet) {}
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }),
    ("a wish while it computes", |socket| {
        let (mut client, _) = ready(socket, &[Range::new(0, 2 * MIB)])?;
        client.say(&ToBroker::Prefetch { seconds: 9.0, slabs: vec![], dirty: vec![], more: false })?;
        dropped(&mut client)
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

/// Does all that leaves a client alive once; how many deeds that were.
///
/// # Errors
/// What the broker put up with.
pub fn all(socket: &Path) -> Result<usize> {
    DEEDS.iter().try_for_each(|(name, deed)| deed(socket).with_context(|| name.to_string()))?;
    Ok(DEEDS.len())
}

/// Has a process do each of the [`CRIMES`], and sees that it is ended; how many that were.
///
/// # Errors
/// What the broker put up with.
pub fn crimes(node: &Node) -> Result<usize> {
    for (name, _) in CRIMES {
        let status = node.villain("deed", name)?.wait()?;
        ensure!(status.signal() == Some(libc::SIGKILL), "{name}: its process ended with {status}");
    }
    Ok(CRIMES.len())
}

/// What a process does that was told to do the deed of this name.
///
/// # Errors
/// There is none of this name, or the broker put up with it.
pub fn commit(name: &str, socket: &Path) -> Result<()> {
    let (_, deed) = CRIMES.iter().find(|(other, _)| *other == name).context("no such deed")?;
    deed(socket)?;
    // the connection is over; the signal may come a moment later
    std::thread::sleep(LONG);
    bail!("{name}: it was dropped, and lives")
}

/// How a [`keep`]er of memory goes on when it has given its lease back.
pub const GUISES: [&str; 3] = ["stays connected", "closes its connection", "has itself dropped"];

/// Has a slab of `bytes` on a card, gives the lease back in one of the [`GUISES`], and keeps the slab until it is told a line, or
/// its input ends.
///
/// # Errors
/// The broker or the driver does not give it what it asks for.
pub fn keep(bytes: u64, guise: &str, socket: &Path, driver: &Path) -> Result<()> {
    let driver = Driver::start(driver)?;
    let mut client = join(socket)?;
    let lease = client.claim(30.0, bytes)?;
    client.say(&slabs(lease, &[Range::new(0, bytes)]))?;
    let mut kept = Vec::new();
    loop {
        let (message, fds) = client.hear_with()?;
        kept.extend(fds);
        if matches!(message, ToClient::Ready { .. }) {
            break;
        }
    }
    let [fd] = &kept[..] else { bail!("{} descriptors came for a slab", kept.len()) };
    let (mut handle, fd) = (0, fd.as_raw_fd() as usize as *mut _);
    // SAFETY: a descriptor that came for a slab, as a POSIX descriptor; writes the handle, which lives as long as this process.
    must("cuMemImportFromShareableHandle", unsafe { (driver.cuMemImportFromShareableHandle)(&mut handle, fd, 1) })?;
    client.say(&ToBroker::Drained { lease })?;
    ensure!(matches!(client.hear()?, ToClient::Home { .. }), "it was not told that it is home");
    client.say(&ToBroker::Released { lease })?;
    let connection = match guise {
        "stays connected" => Some(client),
        "closes its connection" => {
            drop(client);
            None
        }
        "has itself dropped" => {
            client.say_bytes(&[0xFF; 100])?;
            dropped(&mut client)?;
            Some(client)
        }
        _ => bail!("{guise:?} is no guise"),
    };
    std::io::stdin().read_line(&mut String::new())?;
    // SAFETY: a handle of this process.
    must("cuMemRelease", unsafe { (driver.cuMemRelease)(handle) })?;
    drop(kept);
    println!("it is free");
    std::io::stdin().read_line(&mut String::new())?;
    drop(connection);
    Ok(())
}

/// Says much that the card's worker has to do, without end and without an ear for the answers, until `over`.
///
/// # Errors
/// It could not join.
pub fn flood(socket: &Path, over: &AtomicBool) -> Result<u64> {
    let client = join(socket)?;
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        let forget = ToBroker::Forget { range: Range::new(0, 2 * MIB) };
        // who is not listened to waits, and looks again
        match client.connection().send(&forget, Some(Instant::now() + Duration::from_millis(100))) {
            Ok(()) => said += 1,
            Err(Error::TimedOut) => {}
            Err(_) => break,
        }
    }
    Ok(said)
}

/// Connects to a broker that stands still, with a descriptor that takes half a minute to be closed by whoever is the last to have
/// it, and another behind it.
/// What comes back ends that.
///
/// # Errors
/// There is no such descriptor.
pub fn lingers(socket: &Path) -> Result<(Client, TcpListener, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stuffed = || -> Result<(TcpStream, TcpStream)> {
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        let (peer, _) = listener.accept()?;
        let linger = libc::linger { l_onoff: 1, l_linger: 30 };
        // SAFETY: reads the structure.
        let set = unsafe {
            let size = std::mem::size_of::<libc::linger>() as libc::socklen_t;
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
        };
        ensure!(set == 0, "{}", std::io::Error::last_os_error());
        stream.set_nonblocking(true)?;
        // the peer does not read
        while stream.write(&[0; 1 << 16]).is_ok() {}
        Ok((stream, peer))
    };
    let (first, peer) = stuffed()?;
    let client = Client::connect(socket)?;
    let mut bytes = Vec::new();
    encode_hello(&hello("lingering", Role::Space), VERSIONS, &mut bytes)?;
    send(client.connection().as_fd(), &bytes, &[first.as_fd(), first.as_fd()])?;
    send(client.connection().as_fd(), &bytes, &[first.as_fd()])?;
    drop(first);
    Ok((client, listener, peer))
}

/// Says that this process holds a card since an earlier broker, and waits for what comes of it.
///
/// # Errors
/// It was neither ended nor dropped.
pub fn lie(card: &str, socket: &Path) -> Result<()> {
    let mut bytes = card.trim_start_matches("GPU-").chars().filter(|c| *c != '-').collect::<Vec<_>>();
    ensure!(bytes.len() == 32, "{card} is no uuid");
    let mut card = [0; 16];
    for byte in card.iter_mut().rev() {
        let (low, high) = (bytes.pop().unwrap_or('0'), bytes.pop().unwrap_or('0'));
        *byte = u8::from_str_radix(&format!("{high}{low}"), 16)?;
    }
    let holds = Some(Holding { card, broker: 1, lease: 1, seconds_left: 60.0, bytes: 1 << 40 });
    let mut late = Client::connect(socket)?;
    let file = backing(BACKING, true)?;
    late.connection().hello(&Hello { holds, ..hello("late", Role::Space) }, Some(file.as_fd()), None)?;
    match late.hear()? {
        ToClient::Granted { id: 0, lease, .. } => {
            late.say(&ToBroker::Drained { lease })?;
            ensure!(matches!(late.hear()?, ToClient::Home { .. }), "it was not told that it is home");
            late.say(&ToBroker::Released { lease })?;
            // heard, and not an end by its own connection
            late.say(&ToBroker::Status)?;
            while !matches!(late.hear()?, ToClient::Report { more: false, .. }) {}
            Ok(())
        }
        other => bail!("it was answered {other:?}"),
    }
}
