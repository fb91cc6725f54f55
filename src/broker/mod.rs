//! The node broker: one daemon that owns the cards' memory and decides who computes.
//!
//! ```text
//!   Spaces, by socket      daemon: one thread decides                       a worker a card: moves bytes
//!   ------------------     ------------------------------------------      -----------------------------
//!   hello, claim, ...  ->  desk     checks what is asked   --- jobs --->    card    its context, one job at a time
//!                          scheduler (zerogpu-lease)                        slabs   memory, hashes, descriptors
//!   granted, ready, .. <-  outcome  carries on what is decided  <- done --  space   the host backing, page-locked
//! ```
//!
//! A Space keeps its bytes in its own host memory, which the broker maps; on a card they lie in slabs that the broker makes
//! and the Space maps. So a Space that dies leaves nothing behind, and a broker that dies takes nothing along.
mod ahead;
mod arriving;
mod bound;
mod card;
mod client;
mod closer;
mod config;
mod daemon;
mod desk;
mod doubt;
mod idle;
mod leaving;
mod ledger;
mod metrics;
mod outcome;
mod slabs;
mod space;
mod status;

pub use config::Config;
#[cfg(test)]
pub use metrics::Totals;
pub use status::Status;
#[cfg(test)]
pub use status::{CardName, Program};

use anyhow::{bail, Context, Result};
use daemon::Daemon;
use idle::Idle;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zerogpu_abi::{CUdevice, CUresult, CUuuid};
use zerogpu_below::{ok, Driver};
use zerogpu_lease::{CardId, CardSpec};
use zerogpu_protocol::Listener;

/// Memory that the broker's own context takes of a card (driver 580 on an H100, recorded), where it can't be asked.
const OWN_CONTEXT: u64 = 640 << 20;

/// A card of this node.
pub struct CardOfNode {
    /// Its number in the scheduler.
    pub id: CardId,
    /// Its ordinal in the driver.
    pub device: CUdevice,
    /// Its identity.
    pub uuid: [u8; 16],
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub kind: (u32, u32),
    /// Bytes in all.
    pub bytes: u64,
}

/// The driver and its cards.
pub struct Node {
    /// The library.
    pub driver: &'static Driver,
    /// Its file.
    pub path: PathBuf,
    /// The cards.
    pub cards: Vec<CardOfNode>,
}

impl Node {
    /// Looks at the cards of a driver.
    pub fn open(path: &Path) -> Result<Node> {
        let driver: &'static Driver = Box::leak(Box::new(Driver::open(path).map_err(anyhow::Error::msg)?));
        let called = |what: &'static str| {
            move |code: CUresult| anyhow::anyhow!("{what} failed (CUDA error {}); run zerogpu doctor", code.0)
        };
        let mut count = 0;
        // SAFETY: plain calls of the driver that write the number asked for.
        unsafe {
            ok((driver.cuInit)(0)).map_err(called("cuInit of the driver"))?;
            ok((driver.cuDeviceGetCount)(&mut count)).map_err(called("counting the cards"))?;
        }
        let cards = (0..count).map(|ordinal| look(driver, ordinal).map_err(called("looking at a card")));
        let cards = cards.collect::<Result<Vec<_>>>()?;
        if cards.is_empty() {
            bail!("{} has no card; use --driver soft for software cards", path.display());
        }
        Ok(Node { driver, path: path.to_owned(), cards })
    }

    /// What the scheduler has to know: a card has room for less than its memory, since the broker has a context there.
    fn specs(&self) -> Vec<CardSpec> {
        let spec = |card: &CardOfNode| CardSpec { kind: card.kind, bytes: card.bytes.saturating_sub(OWN_CONTEXT) };
        self.cards.iter().map(spec).collect()
    }
}

fn look(d: &Driver, ordinal: i32) -> zerogpu_abi::Res<CardOfNode> {
    let (mut device, mut uuid, mut bytes) = (0, CUuuid { bytes: [0; 16] }, 0);
    let mut name = [0u8; 256];
    let attribute = |device, which| {
        let mut value = 0;
        // SAFETY: writes one integer.
        ok(unsafe { (d.cuDeviceGetAttribute)(&mut value, which, device) }).map(|()| value as u32)
    };
    // SAFETY: each writes what it is asked for, the name at most as many bytes as there are.
    unsafe {
        ok((d.cuDeviceGet)(&mut device, ordinal))?;
        ok((d.cuDeviceGetUuid_v2)(&mut uuid, device))?;
        ok((d.cuDeviceTotalMem_v2)(&mut bytes, device))?;
        ok((d.cuDeviceGetName)(name.as_mut_ptr().cast(), name.len() as i32, device))?;
    }
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(CardOfNode {
        id: CardId(ordinal as u32),
        device,
        uuid: uuid.bytes,
        name: String::from_utf8_lossy(name).into_owned(),
        kind: (attribute(device, 75)?, attribute(device, 76)?),
        bytes: bytes as u64,
    })
}

/// Serves until a signal ends it, or nobody needs it. `ready` is called when programs can connect.
///
/// # Errors
/// Why it can't serve, with the way out.
pub fn serve(config: Config, file: Option<PathBuf>, driver: &Path, ready: impl FnOnce()) -> Result<()> {
    raise_limits();
    let signals = daemon::signals()?;
    let activated = Listener::from_activation().context("the socket that systemd passed can't be used")?;
    let path = match &config.socket {
        Some(path) => path.clone(),
        None => zerogpu_protocol::default_socket()?,
    };
    let listener = match activated {
        Some(listener) => listener,
        None => Listener::bind(&path, config.socket_mode()?)
            .with_context(|| format!("no socket can be made at {}", path.display()))?,
    };
    let mark = Mark::at(&path);
    let hold = if mark.is_set() { config.reconnect()? } else { Duration::ZERO };
    let node = Node::open(driver)?;
    for card in &node.cards {
        tracing::info!(card = card.id.0, name = %card.name, bytes = card.bytes, "card");
    }
    let metrics = config.metrics;
    let idle = config.idle_exit()?.map(|after| Idle::new(after, driver)).transpose()?;
    let mut daemon = Daemon::open(config, file, node, listener, signals, hold, idle, &path)?;
    if let Some(address) = metrics {
        daemon.serve_metrics(address)?;
    }
    // from here on a card may be leased
    mark.set()?;
    if hold > Duration::ZERO {
        tracing::warn!("an earlier broker ended with cards in use: no card is leased for {} s", hold.as_secs_f64());
    }
    tracing::info!(socket = %path.display(), driver = %driver.display(), "ready");
    ready();
    if daemon.serve()? {
        mark.clear();
    }
    Ok(())
}

/// A file that stands beside the socket for as long as a Space may hold a card that a new broker would not know of.
struct Mark(PathBuf);

impl Mark {
    fn at(socket: &Path) -> Mark {
        let mut name = socket.as_os_str().to_owned();
        name.push(".inuse");
        Mark(name.into())
    }

    fn is_set(&self) -> bool {
        self.0.symlink_metadata().is_ok()
    }

    fn set(&self) -> Result<()> {
        let made = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.0);
        made.map(|_| ()).with_context(|| format!("{} can't be made; make its folder writable", self.0.display()))
    }

    fn clear(&self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!(
                "{} can't be removed ({e}): the next broker waits for Spaces that hold nothing",
                self.0.display()
            );
        }
    }
}

/// As many descriptors as may be: a slab has one, a Space three.
fn raise_limits() {
    use nix::sys::resource::{getrlimit, setrlimit, Resource};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("the limit of open files can't be raised ({e}): few Spaces fit");
    }
}
