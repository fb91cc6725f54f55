//! The machine's own GPU, as NVIDIA's kernel module tells it in /proc, and its PCI bus: no driver call, no context.
use crate::{Pci, Profile};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel module lists the GPUs, one folder each.
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// Where the kernel lists the devices of the PCI bus, each called as its place.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Places on a bus.
const PLACES: i32 = 32;
/// Bytes that a workload sees of a larger card unless it is told otherwise: those of a 40 GB card.
const SHARE: u64 = 42_505_273_344;

/// The profile of the first GPU's kind, cut to a workload's share. None: there is no GPU, or the first is of no kind we know.
pub(crate) fn card() -> Option<Profile> {
    let text = gpus().iter().find_map(|f| fs::read_to_string(f.join("information")).ok())?;
    let card = Profile::by_name(key(model(&text)?)?)?;
    Some(card.with_vram(card.total_bytes.min(SHARE)))
}

/// The folders of its GPUs, each called as its place on the PCI bus, in that order.
fn gpus() -> Vec<PathBuf> {
    let mut folders: Vec<_> = fs::read_dir(GPUS).into_iter().flatten().flatten().map(|e| e.path()).collect();
    folders.sort();
    folders
}

/// Where a card that would like to be at `wanted` is: where the first GPU is, else at the next place where no device is.
pub(crate) fn place(wanted: Pci) -> Pci {
    let first = gpus().iter().find_map(|folder| parse(folder.file_name()?.to_str()?));
    first.unwrap_or_else(|| free(wanted, |place| Path::new(DEVICES).join(written(place)).exists()))
}

/// The first place from `wanted` on where nothing is on its bus; `wanted` if the bus is full.
fn free(wanted: Pci, is_taken: impl Fn(Pci) -> bool) -> Pci {
    let mut places = (wanted.device..PLACES).map(|device| Pci { device, ..wanted });
    places.find(|&place| !is_taken(place)).unwrap_or(wanted)
}

/// A place as the kernel writes it.
fn written(Pci { domain, bus, device }: Pci) -> String {
    format!("{domain:04x}:{bus:02x}:{device:02x}.0")
}

/// The same, read.
fn parse(text: &str) -> Option<Pci> {
    let (place, _function) = text.split_once('.')?;
    let numbers = place.split(':').map(|part| i32::from_str_radix(part, 16).ok()).collect::<Option<Vec<_>>>()?;
    let [domain, bus, device] = numbers[..] else { return None };
    Some(Pci { domain, bus, device })
}

/// The text behind `Model:`.
fn model(information: &str) -> Option<&str> {
    information.lines().find_map(|line| line.strip_prefix("Model:")).map(str::trim)
}

/// The profile of the same architecture as a model.
fn key(model: &str) -> Option<&'static str> {
    let has = |name| model.contains(name);
    match () {
        () if has("H200") => Some("h200"),
        () if has("H100") => Some("h100-80gb"),
        () if has("A100") => Some("a100-40gb"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_where_nothing_else_is() {
        let wanted = Pci { domain: 0, bus: 0, device: 4 };
        let at = |device| Pci { device, ..wanted };
        assert_eq!(free(wanted, |_| false), wanted);
        assert_eq!(free(wanted, |place| [4, 5, 7].contains(&place.device)), at(6));
        assert_eq!(free(wanted, |_| true), wanted);
    }

    #[test]
    fn places_are_written_as_the_kernel_does() {
        let place = Pci { domain: 1, bus: 0x3b, device: 0x1e };
        assert_eq!(written(place), "0001:3b:1e.0");
        assert_eq!(parse("0001:3b:1e.0"), Some(place));
        for bad in ["", "0000:00:04", "00:04.0", "0000:zz:04.0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_model_tells_the_profile() {
        let text = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 103\nGPU UUID: \t GPU-0\n";
        assert_eq!(model(text), Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(model(text).and_then(key), Some("h100-80gb"));
        assert_eq!(key("NVIDIA H200"), Some("h200"));
        assert_eq!(key("NVIDIA A100-SXM4-80GB"), Some("a100-40gb"));
        assert_eq!(key("Tesla T4"), None);
        assert_eq!(model("IRQ: 1"), None);
    }
}
