//! What the virtual card looks like: names, sizes and attributes.
//!
//! A [`Profile`] is one card. Its attributes are the rows that an H100 answered, except where [`Profile::source`] says
//! that a row is derived from what NVIDIA publishes about the card. Used inside the shim: nothing beyond std, and no I/O
//! but one look at /proc and /sys when a card is chosen.

mod cards;
mod limits;
mod machine;
mod recorded;

pub use limits::Limits;

/// A card that the virtual device can look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// What it is called in settings, e.g. `a100-40gb`.
    pub key: &'static str,
    /// The device name as the driver gives it.
    pub name: &'static str,
    /// Memory in bytes, as `cuDeviceTotalMem` gives it.
    pub total_bytes: u64,
    /// Compute capability: major, minor.
    pub cc: (i32, i32),
    /// UUID of the device; the MIG device's, if it is one. The same in every process.
    pub uuid: [u8; 16],
    /// Place on the PCI bus.
    pub pci: Pci,
    /// Set if the device is a part of a card.
    pub mig: Option<Mig>,
    idle_overhead: u64,
    derived: &'static [&'static [Derived]],
}

/// A place on the PCI bus; the function is always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pci {
    /// Domain (attribute 50).
    pub domain: i32,
    /// Bus (attribute 33).
    pub bus: i32,
    /// Device (attribute 34).
    pub device: i32,
}

/// The part of a card that a MIG device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mig {
    /// Name of the whole card.
    pub gpu_name: &'static str,
    /// UUID of the whole card.
    pub gpu_uuid: [u8; 16],
    /// Id of the GPU instance.
    pub gpu_instance: u32,
    /// Id of the compute instance in it.
    pub compute_instance: u32,
    /// Compute slices, of seven.
    pub slices: u32,
    /// Copy engines of the instance.
    pub copy_engines: u32,
    /// Video decoders of the instance.
    pub decoders: u32,
}

/// Where an attribute's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An H100 under driver 580.159.04 answered it.
    Recorded,
    /// Derived; why it has this value.
    Derived(&'static str),
}

/// A row in which a card differs from the recorded ones.
#[derive(Debug, PartialEq, Eq)]
struct Derived {
    attribute: usize,
    value: i32,
    reason: &'static str,
}

/// Memory that a virtual card can have: the arena's addresses.
pub const MOST_BYTES: u64 = 127 << 30;

/// CU_DEVICE_ATTRIBUTE_PCI_BUS_ID.
const PCI_BUS: i32 = 33;
/// CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID.
const PCI_DEVICE: i32 = 34;
/// CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID.
const PCI_DOMAIN: i32 = 50;

impl Profile {
    /// The profile called `key`.
    pub fn by_name(key: &str) -> Option<&'static Profile> {
        cards::CARDS.iter().find(|card| card.key == key)
    }

    /// The profile of the card that its driver calls `name`.
    pub fn by_card_name(name: &str) -> Option<&'static Profile> {
        cards::CARDS.iter().find(|card| card.name == name)
    }

    /// The names that [`Profile::by_name`] knows; the first is the default.
    pub fn names() -> impl Iterator<Item = &'static str> {
        cards::CARDS.iter().map(|card| card.key)
    }

    /// The profile that two settings ask for: a name and a memory size in bytes, each with its default if it is absent.
    /// Without a name it is the kind of the machine's own GPU, with a workload's share of its memory, else the default. It is at a
    /// place on the PCI bus where this machine has a GPU, or nothing: NCCL looks there.
    /// One place for all who must agree about the card (shim, NVML, software driver). An unknown name gives the default,
    /// too much memory the most there is, and both a complaint.
    pub fn chosen(name: Option<&str>, vram: Option<u64>) -> (Profile, Option<String>) {
        let (card, complaint) = match name.map(|name| (name, Profile::by_name(name))) {
            None => (machine::card().unwrap_or_default(), None),
            Some((_, Some(card))) => (*card, None),
            Some((name, None)) => {
                let names = Profile::names().collect::<Vec<_>>().join(", ");
                (Profile::default(), Some(format!("profile '{name}' is unknown; write one of {names}")))
            }
        };
        let too_much = vram.filter(|&bytes| bytes > MOST_BYTES);
        let complaint = complaint.or(too_much.map(|bytes| {
            format!(
                "a card of {} GiB is more than zerogpu has addresses for: it has {} GiB",
                bytes >> 30,
                MOST_BYTES >> 30
            )
        }));
        let card = Profile { pci: machine::place(card.pci), ..card };
        (vram.map_or(card, |bytes| card.with_vram(bytes.min(MOST_BYTES))), complaint)
    }

    /// The same card with `bytes` of memory in all.
    pub fn with_vram(self, bytes: u64) -> Profile {
        Profile { total_bytes: bytes, ..self }
    }

    /// The card as the `ordinal`-th of several in a machine: with an identity and a place of its own. The first is this one.
    pub fn numbered(self, ordinal: u32) -> Profile {
        let own = |mut uuid: [u8; 16]| {
            uuid[15] ^= ordinal as u8;
            uuid
        };
        let pci = Pci { device: self.pci.device + ordinal as i32, ..self.pci };
        let mig = self.mig.map(|mig| Mig { gpu_uuid: own(mig.gpu_uuid), ..mig });
        Profile { uuid: own(self.uuid), pci, mig, ..self }
    }

    /// Bytes that `cuMemGetInfo` counts as used when one idle context is all there is. At most a sixteenth of the
    /// memory, so that a small virtual card is not all overhead.
    pub fn idle_overhead(&self) -> u64 {
        self.idle_overhead.min(self.total_bytes / 16)
    }

    /// The value of a `CUdevice_attribute`. `None`: the driver answers CUDA_ERROR_INVALID_VALUE.
    pub fn attribute(&self, number: i32) -> Option<i32> {
        let recorded = recorded_row(number)?;
        match number {
            PCI_BUS => return Some(self.pci.bus),
            PCI_DEVICE => return Some(self.pci.device),
            PCI_DOMAIN => return Some(self.pci.domain),
            _ => {}
        }
        Some(self.derived_row(number).map_or(recorded, |row| row.value))
    }

    /// Where [`Profile::attribute`] has its value from. `None`: there is no such attribute.
    pub fn source(&self, number: i32) -> Option<Source> {
        recorded_row(number)?;
        Some(self.derived_row(number).map_or(Source::Recorded, |row| Source::Derived(row.reason)))
    }

    fn derived_row(&self, number: i32) -> Option<&'static Derived> {
        self.derived.iter().flat_map(|rows| rows.iter()).find(|row| row.attribute as i32 == number)
    }
}

impl Default for Profile {
    fn default() -> Self {
        cards::CARDS[0]
    }
}

/// The recorded value of attribute `number`; they count from 1.
fn recorded_row(number: i32) -> Option<i32> {
    recorded::RECORDED.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests;
