//! Which cards there are, and whether the driver below can use them.

use super::driver::Below;
use super::probe::Answer;
use super::report::Finding;
use std::fs;
use std::path::{Path, PathBuf};
use zerogpu_abi::CUresult;
use zerogpu_settings::Driver;

const TOPIC: &str = "cards";

/// Signs of NVIDIA hardware and its kernel driver.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Cards that the kernel driver shows: `/dev/nvidia0` and so on, or WSL's `/dev/dxg`.
    nodes: Vec<PathBuf>,
    /// Device files that this user may not open.
    closed: Vec<PathBuf>,
    /// NVIDIA cards on the PCI bus.
    on_bus: usize,
    /// Version of the kernel driver.
    kernel: Option<String>,
}

impl Present {
    /// On this machine, as far as this container shows it.
    pub fn on_machine() -> Present {
        Present::under(Path::new("/"))
    }

    fn under(root: &Path) -> Present {
        let listed = |folder: &str| {
            let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_card = |path: &Path| name(path) == "dxg" || name(path).strip_prefix("nvidia").is_some_and(is_number);
        let devices: Vec<PathBuf> =
            listed("dev").into_iter().filter(|path| is_card(path) || name(path) == "nvidiactl").collect();
        let mut nodes: Vec<PathBuf> = devices.iter().filter(|path| is_card(path)).cloned().collect();
        nodes.sort();
        let refused = |path: &PathBuf| {
            let opened = fs::OpenOptions::new().read(true).write(true).open(path);
            opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let closed = devices.into_iter().filter(refused).collect();
        // Vendor 0x10de, class 0x03: a display or 3D controller.
        let reads = |device: &Path, file: &str, start: &str| {
            fs::read_to_string(device.join(file)).is_ok_and(|text| text.starts_with(start))
        };
        let is_nvidia = |device: &&PathBuf| reads(device, "vendor", "0x10de") && reads(device, "class", "0x03");
        let on_bus = listed("sys/bus/pci/devices").iter().filter(is_nvidia).count();
        let version = fs::read_to_string(root.join("proc/driver/nvidia/version")).ok();
        let kernel = version.and_then(|text| text.split_whitespace().find(|word| is_version(word)).map(str::to_string));
        Present { nodes, closed, on_bus, kernel }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_version(word: &str) -> bool {
    word.contains('.') && word.split('.').all(is_number)
}

/// What can be said of the cards, given what the driver below answered.
pub fn findings(below: &Below, present: &Present) -> Vec<Finding> {
    let mut findings = Vec::new();
    if below.chosen == Driver::None {
        return findings;
    }
    let path = below.path.as_ref().ok().and_then(Option::as_ref);
    let answer = below.answer.as_ref().and_then(|answer| answer.as_ref().ok());
    match (path, answer) {
        (Some(path), Some(Answer { init: Some(code), names, version, .. })) => {
            findings.push(initialised(path, *code, names, *version, present));
        }
        (None, _) if !present.nodes.is_empty() => findings.push(Finding::problem(
            TOPIC,
            format!("{} is here, but no driver library for it", present.nodes[0].display()),
            "start the container with --gpus all (or the NVIDIA runtime), or mount the host's libcuda.so.1",
        )),
        (None, _) if present.on_bus > 0 => findings.push(Finding::problem(
            TOPIC,
            format!("NVIDIA cards are on the bus ({}), but their driver is not installed", present.on_bus),
            "install NVIDIA's driver",
        )),
        (None, _) => findings.push(Finding::note(TOPIC, "this machine has no NVIDIA card")),
        // Why it did not answer is told with the driver.
        (Some(_), _) => {}
    }
    if !present.closed.is_empty() {
        let closed = present.closed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let text = format!("this user may not open {closed}");
        findings.push(Finding::problem(
            TOPIC,
            text,
            "add the user to the device's group, or let the container have the device",
        ));
    }
    findings
}

fn initialised(path: &Path, code: u32, names: &[String], version: Option<i32>, present: &Present) -> Finding {
    let kernel = present.kernel.as_ref().map(|version| format!(" (kernel driver {version})")).unwrap_or_default();
    let version = version.map(|version| format!("CUDA {}.{}", version / 1000, version % 1000 / 10)).unwrap_or_default();
    match code {
        0 => Finding::ok(TOPIC, format!("{}: {}{kernel}", names.len(), names.join(", "))),
        100 if present.nodes.is_empty() && present.on_bus == 0 => {
            let text = format!("driver installed, no card: {} ({version}) answers CUDA_ERROR_NO_DEVICE", path.display());
            Finding::note(TOPIC, text).fix("use --driver soft to have launches recorded, or a machine with a card")
        }
        100 => Finding::problem(
            TOPIC,
            format!("a card is here, but {} answers CUDA_ERROR_NO_DEVICE{kernel}", path.display()),
            "load the kernel module (nvidia-smi does), and let the container have /dev/nvidia0, /dev/nvidiactl and /dev/nvidia-uvm",
        ),
        803 => Finding::problem(
            TOPIC,
            format!("{} does not fit the kernel driver{kernel} (803)", path.display()),
            "use the library of the same version: restart after a driver update, and mount no other one into containers",
        ),
        code => {
            let known = zerogpu_abi::describe(CUresult(code));
            let (name, text) = known.unwrap_or((c"an unknown code", c"no description"));
            let text = format!("cuInit of {} answers {} ({code}): {}", path.display(), name.to_string_lossy(), text.to_string_lossy());
            Finding::problem(TOPIC, text, "check the card with nvidia-smi")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::report::Level;

    fn below(init: Option<u32>) -> Below {
        let answer = Answer { init, version: Some(12020), names: vec!["NVIDIA H100".into()], error: None };
        let (path, answer) = match init {
            Some(_) => (Some(PathBuf::from("/d")), Some(Ok(answer))),
            None => (None, None),
        };
        Below { chosen: Driver::Auto, path: Ok(path), refused: Vec::new(), answer }
    }

    fn node() -> Present {
        Present { nodes: vec!["/dev/nvidia0".into()], ..Present::default() }
    }

    #[test]
    fn each_case_has_one_clear_line() {
        let bus = || Present { on_bus: 2, ..Present::default() };
        let closed = || Present { closed: vec!["/dev/nvidiactl".into()], ..node() };
        let cases = [
            (Some(0), node(), Level::Ok, "1: NVIDIA H100"),
            (
                Some(100),
                Present::default(),
                Level::Note,
                "driver installed, no card: /d (CUDA 12.2) answers CUDA_ERROR_NO_DEVICE",
            ),
            (Some(100), node(), Level::Problem, "a card is here, but /d answers CUDA_ERROR_NO_DEVICE"),
            (Some(803), node(), Level::Problem, "does not fit the kernel driver"),
            (Some(999), node(), Level::Problem, "CUDA_ERROR_UNKNOWN (999)"),
            (Some(123456), node(), Level::Problem, "an unknown code (123456)"),
            (None, Present::default(), Level::Note, "no NVIDIA card"),
            (None, node(), Level::Problem, "/dev/nvidia0 is here, but no driver library"),
            (None, bus(), Level::Problem, "NVIDIA cards are on the bus (2)"),
            (Some(0), closed(), Level::Problem, "may not open /dev/nvidiactl"),
        ];
        for (init, present, level, text) in cases {
            let findings = findings(&below(init), &present);
            let finding = findings.last().unwrap();
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(text), "{finding:?}");
            assert!(finding.level != Level::Problem || finding.remedy.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn who_wants_no_driver_hears_nothing_of_cards() {
        let below = Below { chosen: Driver::None, ..below(None) };
        assert_eq!(findings(&below, &node()), []);
    }

    #[test]
    fn hardware_is_recognised_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Present::under(root.path()), Present::default());
        for name in ["nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia", "null"] {
            file(&format!("dev/{name}"), "");
        }
        file(
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\nGCC version: 12.2.0\n",
        );
        for (slot, vendor, class) in
            [("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")]
        {
            file(&format!("sys/bus/pci/devices/{slot}/vendor"), vendor);
            file(&format!("sys/bus/pci/devices/{slot}/class"), class);
        }
        let present = Present::under(root.path());
        assert_eq!(present.nodes, ["dev/nvidia0", "dev/nvidia1"].map(|path| root.path().join(path)));
        assert_eq!((present.on_bus, present.kernel.as_deref()), (1, Some("535.309.01")));
        assert!(present.closed.is_empty());
    }
}
