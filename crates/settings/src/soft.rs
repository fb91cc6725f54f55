//! What the software driver reads.

use crate::parse;
use crate::reader::{Lookup, Reader};
use crate::shim::some_memory;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most software cards of a machine.
pub const MAX_CARDS: u32 = 16;

/// A driver call that fails on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the driver function, as in `cuMemCreate`.
    pub function: String,
    /// Which call of it in this process fails, counted from 1; `None`: each.
    pub nth: Option<u64>,
    /// The CUresult it answers.
    pub code: u32,
}

/// Settings of the software driver. Names and defaults: [`crate::VARIABLES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftSettings {
    /// File that holds the cards.
    pub cards: PathBuf,
    /// How many cards, at most [`MAX_CARDS`]. With 0 the driver is installed but has no card. `None`: as many as there are
    /// in the file, else one.
    pub count: Option<u32>,
    /// Bytes of memory of a card; `None`: the file's, else the profile's.
    pub vram: Option<u64>,
    /// Name of the card to look like; `None`: the file's, else the default profile.
    pub profile: Option<String>,
    /// Whether fresh shareable memory is filled with a pattern.
    pub poison: bool,
    /// Whether pages under registrations of host memory are watched.
    pub strict_pins: bool,
    /// Bytes a second of a copy engine; `None`: as fast as memory.
    pub copy_rate: Option<u64>,
    /// How long making a context takes.
    pub context_time: Duration,
    /// How long a launch takes.
    pub launch_time: Duration,
    /// File to which launches are appended, one JSON object a line.
    pub launch_log: Option<PathBuf>,
    /// File to which the name of each function that is called is appended.
    pub call_log: Option<PathBuf>,
    /// Driver calls that fail on purpose.
    pub faults: Vec<Fault>,
    /// A page in the way of reservations: its address, and during how many of them it is there; `None`: from the first on.
    pub obstacle: Option<(u64, Option<u64>)>,
    /// Functions each call of which forks a child.
    pub forks: Vec<String>,
    /// File to which violations are appended.
    pub strict_log: Option<PathBuf>,
}

impl SoftSettings {
    /// Reads the environment. The second value holds one sentence for each setting that was not understood, with the
    /// way out; such a setting has its default.
    pub fn from_env() -> (SoftSettings, Vec<String>) {
        SoftSettings::from_lookup(&|name| std::env::var_os(name))
    }

    /// [`SoftSettings::from_env`] with the variables taken from `lookup`.
    pub fn from_lookup(lookup: Lookup<'_>) -> (SoftSettings, Vec<String>) {
        let mut reader = Reader::new(lookup);
        let settings = SoftSettings {
            cards: reader.path("SOFTCUDA_CARDS").unwrap_or_else(|| default_cards(lookup)),
            count: reader.parsed("SOFTCUDA_COUNT", count),
            vram: reader.parsed("SOFTCUDA_VRAM", some_memory),
            profile: reader.text("SOFTCUDA_PROFILE"),
            poison: reader.parsed("SOFTCUDA_POISON", switch).unwrap_or(false),
            strict_pins: reader.parsed("SOFTCUDA_STRICT_PINS", switch).unwrap_or(false),
            copy_rate: reader.parsed("SOFTCUDA_GBPS", rate).flatten(),
            context_time: reader.parsed("SOFTCUDA_CONTEXT_MS", |text| time(text, 1e-3)).unwrap_or_default(),
            launch_time: reader.parsed("SOFTCUDA_LAUNCH_US", |text| time(text, 1e-6)).unwrap_or_default(),
            launch_log: reader.path("SOFTCUDA_LAUNCH_LOG"),
            call_log: reader.path("SOFTCUDA_CALL_LOG"),
            faults: reader.parsed("SOFTCUDA_FAULT", faults).unwrap_or_default(),
            obstacle: reader.parsed("SOFTCUDA_OBSTACLE", obstacle),
            forks: reader.parsed("SOFTCUDA_FORK", names).unwrap_or_default(),
            strict_log: reader.path("SOFTCUDA_STRICT_LOG"),
        };
        (settings, reader.complaints)
    }
}

/// The runtime folder is the user's own; without one, a name in shared memory that carries the user.
fn default_cards(lookup: Lookup<'_>) -> PathBuf {
    let runtime = lookup("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir());
    match runtime {
        Some(folder) => folder.join("softcuda-cards"),
        None => Path::new("/dev/shm").join(format!("softcuda-{}", user())),
    }
}

fn user() -> u32 {
    extern "C" {
        fn geteuid() -> u32;
    }
    // SAFETY: geteuid(2) takes nothing, changes nothing and can't fail.
    unsafe { geteuid() }
}

fn count(text: &str) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(count) if count <= MAX_CARDS => Ok(count),
        _ => Err(format!("'{text}' is not a number of cards; write 0 to {MAX_CARDS}")),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!("'{text}' is neither on nor off; write 0 or 1")),
    }
}

fn rate(text: &str) -> Result<Option<u64>, String> {
    // A float beyond u64 becomes u64::MAX: such an engine is as fast as memory.
    let bytes = (parse::number(text)? * 1e9) as u64;
    Ok(Some(bytes).filter(|&bytes| bytes > 0))
}

fn time(text: &str, unit: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(parse::number(text)? * unit)
        .map_err(|_| format!("'{text}' is longer than time lasts; write a smaller number"))
}

fn faults(text: &str) -> Result<Vec<Fault>, String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(fault).collect()
}

fn fault(item: &str) -> Result<Fault, String> {
    let wrong = || format!("'{item}' is not a fault; write function[:nth]=code, as in cuMemCreate:2=2");
    let (call, code) = item.split_once('=').ok_or_else(wrong)?;
    let (function, nth) = match call.split_once(':') {
        Some((function, nth)) => (function, Some(nth.trim().parse().ok().filter(|&nth| nth > 0).ok_or_else(wrong)?)),
        None => (call, None),
    };
    let function = function.trim();
    let code = code.trim().parse().map_err(|_| wrong())?;
    if function.is_empty() {
        return Err(wrong());
    }
    Ok(Fault { function: function.to_string(), nth, code })
}

fn names(text: &str) -> Result<Vec<String>, String> {
    Ok(text.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect())
}

fn obstacle(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || format!("'{text}' is not address[:calls]; write it as in 0x700000000000:3");
    let (address, calls) = match text.trim().split_once(':') {
        Some((address, calls)) => (address, Some(calls.parse().map_err(|_| wrong())?)),
        None => (text.trim(), None),
    };
    let digits = address.strip_prefix("0x").ok_or_else(wrong)?;
    let address = u64::from_str_radix(digits, 16).map_err(|_| wrong())?;
    Ok((address, calls))
}
