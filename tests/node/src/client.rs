//! Speaks the protocol by hand: a client without a card of its own, that does as it is told.
use anyhow::{bail, ensure, Context, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use zerogpu_protocol::*;

/// Compute capability of the cards, which are of softcuda's usual kind.
pub const KIND: (u32, u32) = (8, 0);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A client.
pub struct Client {
    connection: Connection,
    packet: Packet,
    claims: u32,
}

/// A memory file of so many bytes, sealed as a backing must be.
pub fn backing(bytes: u64, sealed: bool) -> Result<OwnedFd> {
    // SAFETY: a name that ends with a NUL; makes a descriptor.
    let fd = unsafe { libc::memfd_create(c"backing".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: new, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: numbers.
    ensure!(unsafe { libc::ftruncate(file.as_raw_fd(), bytes as i64) } == 0, "{}", std::io::Error::last_os_error());
    if sealed {
        seal(file.as_fd())?;
    }
    Ok(file)
}

/// What a Space says first.
pub fn hello(name: &str, role: Role) -> Hello {
    Hello { name: name.into(), vram: 1 << 30, cc: KIND, role, holds: None }
}

impl Client {
    /// Only connects.
    pub fn connect(socket: &Path) -> Result<Client> {
        let connection = Connection::connect(socket, soon()).context("no broker")?;
        Ok(Client { connection, packet: Packet::new(), claims: 0 })
    }

    /// Connects and says hello, with a backing of so many bytes.
    pub fn join(socket: &Path, name: &str, bytes: u64) -> Result<Client> {
        Ok(Client::introduced(socket, &hello(name, Role::Space), bytes)?.0)
    }

    /// The same with a hello of its own; who the broker is.
    pub fn introduced(socket: &Path, hello: &Hello, bytes: u64) -> Result<(Client, Welcome)> {
        let client = Client::connect(socket)?;
        let welcome = client.introduce(hello, bytes)?;
        Ok((client, welcome))
    }

    /// Says hello.
    pub fn introduce(&self, hello: &Hello, bytes: u64) -> Result<Welcome> {
        let file = backing(bytes, true)?;
        let file = matches!(hello.role, Role::Space).then(|| file.as_fd());
        Ok(self.connection.hello(hello, file, soon())?)
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Says something.
    pub fn say(&self, message: &ToBroker) -> Result<()> {
        Ok(self.connection.send(message, soon())?)
    }

    /// Says bytes that need not be a message.
    pub fn say_bytes(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: the bytes are as many as is said.
        let sent = unsafe {
            libc::send(self.connection.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
        };
        ensure!(sent == bytes.len() as isize, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    /// The next message that is not about a place in the queue.
    pub fn hear(&mut self) -> Result<ToClient> {
        Ok(self.hear_with()?.0)
    }

    /// The same, with what came along.
    pub fn hear_with(&mut self) -> Result<(ToClient, Vec<OwnedFd>)> {
        loop {
            let (message, fds) = self.connection.recv(&mut self.packet, soon())?;
            if !matches!(message, ToClient::Queued { .. }) {
                return Ok((message, fds));
            }
        }
    }

    /// Waits for a lease.
    pub fn claim(&mut self, seconds: f64, bytes: u64) -> Result<u64> {
        self.claims += 1;
        self.say(&ToBroker::Claim { id: self.claims, seconds, wait_seconds: 600.0, borrowed: false, bytes })?;
        self.granted()
    }

    /// Waits for the answer to a claim, or for what becomes of the lease that its hello named.
    pub fn granted(&mut self) -> Result<u64> {
        match self.hear()? {
            ToClient::Granted { lease, .. } => Ok(lease),
            other => bail!("a claim was answered {other:?}"),
        }
    }

    /// Lists the slabs of a lease, and waits until their bytes are on the card.
    pub fn fill(&mut self, lease: u64, slabs: &[Range]) -> Result<()> {
        self.fill_with(lease, slabs, &[]).map(drop)
    }

    /// The same, with what the host has written of them; how many bytes were copied, and a descriptor of each slab.
    pub fn fill_with(&mut self, lease: u64, slabs: &[Range], dirty: &[Range]) -> Result<(u64, Vec<OwnedFd>)> {
        for packet in request_packets(lease, slabs, dirty) {
            self.say(&packet)?;
        }
        let mut all = Vec::new();
        loop {
            match self.hear_with()? {
                (ToClient::Ready { bytes, .. }, _) => return Ok((bytes, all)),
                (ToClient::SlabFds { .. }, fds) => all.extend(fds),
                (other, _) => bail!("a list of slabs was answered {other:?}"),
            }
        }
    }

    /// Has the bytes of a lease brought home.
    pub fn drain(&mut self, lease: u64) -> Result<()> {
        self.say(&ToBroker::Drained { lease })?;
        match self.hear()? {
            ToClient::Home { .. } => Ok(()),
            other => bail!("a drain was answered {other:?}"),
        }
    }

    /// Claims, with these slabs, and gives back.
    pub fn round(&mut self, slabs: &[Range]) -> Result<()> {
        let lease = self.claim(10.0, slabs.iter().map(|slab| slab.len).sum())?;
        self.fill(lease, slabs)?;
        self.drain(lease)?;
        self.say(&ToBroker::Released { lease })
    }

    /// Waits until the broker has closed the connection; what it said before.
    pub fn is_dropped(&mut self) -> Result<usize> {
        let mut said = 0;
        loop {
            match self.connection.recv(&mut self.packet, soon()) {
                Ok(_) => said += 1,
                Err(Error::TimedOut) => bail!("it is still connected"),
                Err(_) => return Ok(said),
            }
        }
    }
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + ANSWER)
}
