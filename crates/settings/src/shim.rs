//! What the shim and the command line read.

use crate::parse;
use crate::reader::{Lookup, Reader};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The driver below the virtual device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The machine's own, if it has one.
    Auto,
    /// The software driver of this installation.
    Soft,
    /// None: copies work, launches fail.
    None,
    /// The library at this absolute path.
    Path(PathBuf),
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Driver::Auto),
            "soft" => Ok(Driver::Soft),
            "none" => Ok(Driver::None),
            path if path.contains('/') => match std::path::absolute(path) {
                Ok(path) => Ok(Driver::Path(path)),
                Err(error) => Err(format!("'{path}' can't be made absolute ({error}); write an absolute path")),
            },
            other => Err(format!("'{other}' is no driver; write auto, soft, none or a path with a slash in it")),
        }
    }
}

/// What happens to GPU work outside any marked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// Recorded, and replayed at the next claim.
    Defer,
    /// A GPU is claimed for as long as the work lasts.
    Borrow,
    /// Refused with an error.
    Error,
}

impl FromStr for Outside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "defer" => Ok(Outside::Defer),
            "borrow" => Ok(Outside::Borrow),
            "error" => Ok(Outside::Error),
            other => Err(format!("'{other}' is unknown; write defer, borrow or error")),
        }
    }
}

/// Settings of the shim, its companions and the command line. Names and defaults: [`crate::VARIABLES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The driver below the virtual device.
    pub driver: Driver,
    /// Name of the card to look like; `None`: choose.
    pub profile: Option<String>,
    /// Bytes of the virtual device's memory; `None`: the profile's.
    pub vram: Option<u64>,
    /// `CUDA_VISIBLE_DEVICES` as it stands. `Some("")` hides every device.
    pub visible_devices: Option<String>,
    /// The trace specification, unparsed; `None`: off.
    pub trace: Option<String>,
    /// What happens to GPU work outside any marked call.
    pub outside: Outside,
    /// Bytes of deferred work kept before a GPU is borrowed.
    pub record_limit: u64,
    /// How long a borrowed GPU is kept idle.
    pub idle: Duration,
    /// Bytes from which on a park without a broker copies only what has changed; `None`: it copies all.
    pub hash: Option<u64>,
    /// Socket of the node broker; `None`: solo.
    pub socket: Option<PathBuf>,
    /// How long a claim waits for a card of the broker.
    pub wait: Duration,
    /// What the broker calls this program; `None`: its script's name.
    pub name: Option<String>,
    /// Folder of the libraries.
    pub lib: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            driver: Driver::Auto,
            profile: None,
            vram: None,
            visible_devices: None,
            trace: None,
            outside: Outside::Defer,
            record_limit: 64 << 20,
            idle: Duration::from_millis(200),
            hash: Some(256 << 20),
            socket: None,
            wait: Duration::from_secs(60),
            name: None,
            lib: None,
        }
    }
}

impl Settings {
    /// Reads the environment. The second value holds one sentence for each setting that was not understood, with the
    /// way out; such a setting has its default.
    pub fn from_env() -> (Settings, Vec<String>) {
        Settings::from_lookup(&|name| std::env::var_os(name))
    }

    /// [`Settings::from_env`] with the variables taken from `lookup`.
    pub fn from_lookup(lookup: Lookup<'_>) -> (Settings, Vec<String>) {
        let mut reader = Reader::new(lookup);
        let default = Settings::default();
        let settings = Settings {
            driver: reader.parsed("ZEROGPU_DRIVER", str::parse).unwrap_or(default.driver),
            profile: reader.text("ZEROGPU_PROFILE"),
            vram: reader.parsed("ZEROGPU_VRAM", some_memory),
            // Kept even if empty or odd: CUDA reads an empty list, and one with nonsense in front, as "no device".
            visible_devices: reader.raw("CUDA_VISIBLE_DEVICES").map(|value| value.to_string_lossy().into_owned()),
            trace: reader.text("ZEROGPU_TRACE"),
            outside: reader.parsed("ZEROGPU_OUTSIDE", str::parse).unwrap_or(default.outside),
            record_limit: reader.parsed("ZEROGPU_RECORD", parse::size).unwrap_or(default.record_limit),
            idle: reader.parsed("ZEROGPU_IDLE", parse::duration).unwrap_or(default.idle),
            hash: reader.parsed("ZEROGPU_HASH", size_or_off).unwrap_or(default.hash),
            socket: reader
                .raw("ZEROGPU_SOCKET")
                .filter(|value| value != "none")
                .and_then(|_| reader.path("ZEROGPU_SOCKET")),
            wait: reader.parsed("ZEROGPU_WAIT", parse::duration).unwrap_or(default.wait),
            name: reader.text("ZEROGPU_NAME"),
            lib: reader.path("ZEROGPU_LIB"),
        };
        (settings, reader.complaints)
    }
}

fn size_or_off(text: &str) -> Result<Option<u64>, String> {
    match text {
        "off" => Ok(None),
        size => parse::size(size).map(Some).map_err(|wrong| format!("{wrong}, or off")),
    }
}

/// A size of at least one byte.
///
/// # Errors
/// What is wrong and what may be written, as one clause.
pub fn some_memory(text: &str) -> Result<u64, String> {
    match parse::size(text)? {
        0 => Err("a card needs memory; write a size above 0, as in 40GiB".to_string()),
        bytes => Ok(bytes),
    }
}
