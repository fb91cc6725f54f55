//! The kind of the machine's own GPU, as NVIDIA's kernel module tells it in /proc: no driver call, no context.
use crate::Profile;
use std::fs;

/// Where the kernel module lists the GPUs, one folder each.
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// Bytes that a workload sees of a larger card unless it is told otherwise: those of a 40 GB card.
const SHARE: u64 = 42_505_273_344;

/// The profile of the first GPU's kind, cut to a workload's share. None: there is no GPU, or the first is of no kind we know.
pub(crate) fn card() -> Option<Profile> {
    let mut folders: Vec<_> = fs::read_dir(GPUS).ok()?.flatten().map(|e| e.path()).collect();
    folders.sort();
    let text = folders.iter().find_map(|f| fs::read_to_string(f.join("information")).ok())?;
    let card = Profile::by_name(key(model(&text)?)?)?;
    Some(card.with_vram(card.total_bytes.min(SHARE)))
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
