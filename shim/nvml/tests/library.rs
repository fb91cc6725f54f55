//! The built library, loaded as its users load it. What it says depends on the environment, so that each test runs its
//! checks in a process of its own.

use libloading::Library;
use std::env;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;
use std::process::Command;
use zerogpu_profile::{Pci, Profile};

const OK: u32 = 0;
const UNINITIALIZED: u32 = 1;
const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;
const VERSION_MISMATCH: u32 = 25;

type Handle = *mut c_void;
const NULL: Handle = std::ptr::null_mut();

/// Calls an NVML function by its name: `call!(nvml, nvmlDeviceGetName(device, ...))`.
macro_rules! call {
    ($nvml:expr, $name:ident($($value:expr),*)) => {{
        let name = concat!(stringify!($name), "\0");
        // SAFETY: the values have the types of nvml.h, and outlive the call.
        let function = unsafe { $nvml.0.get::<extern "C" fn($(any!($value)),*) -> u32>(name.as_bytes()) };
        function.expect(name)($($value),*)
    }};
}

/// The type of a value, left to the compiler.
macro_rules! any {
    ($value:expr) => {
        _
    };
}

struct Nvml(Library);

impl Nvml {
    /// Loaded, not initialised.
    fn load() -> Nvml {
        let path = env::var_os(LIBRARY).expect("run by in_process");
        // SAFETY: our library runs no code when it is loaded.
        Nvml(unsafe { Library::new(path) }.expect("the library loads"))
    }

    fn started() -> Nvml {
        let nvml = Nvml::load();
        assert_eq!(call!(nvml, nvmlInit_v2()), OK);
        nvml
    }

    fn device(&self) -> Handle {
        let mut device = NULL;
        assert_eq!(call!(self, nvmlDeviceGetHandleByIndex_v2(0u32, &mut device)), OK);
        device
    }

    fn name(&self, device: Handle) -> String {
        text(|buffer, length| call!(self, nvmlDeviceGetName(device, buffer, length)))
    }

    fn uuid(&self, device: Handle) -> String {
        text(|buffer, length| call!(self, nvmlDeviceGetUUID(device, buffer, length)))
    }
}

fn text(call: impl FnOnce(*mut c_char, u32) -> u32) -> String {
    let mut buffer = [0x55 as c_char; 96];
    assert_eq!(call(buffer.as_mut_ptr(), buffer.len() as u32), OK);
    // SAFETY: the call succeeded, so there is a text.
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().expect("plain text").to_owned()
}

const LIBRARY: &str = "NVML_UNDER_TEST";

/// Runs `body` in a process of its own that has `variables`, and only those, of ours.
fn in_process(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if env::var_os(LIBRARY).is_some() {
        return body();
    }
    let mut child = Command::new(env::current_exe().expect("the test has a path"));
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    for name in ["ZEROGPU_PROFILE", "ZEROGPU_VRAM", "CUDA_VISIBLE_DEVICES"] {
        child.env_remove(name);
    }
    child.env(LIBRARY, zerogpu_linkage::built("zerogpu-nvml", "zerogpu_nvml")).envs(variables.iter().copied());
    let output = child.output().expect("the test can be run again");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{variables:?}:\n{said}");
}

#[test]
fn it_exports_each_name_of_the_list() {
    in_process("it_exports_each_name_of_the_list", &[], || {
        let nvml = Nvml::load();
        let names = include_str!("../symbols.txt").lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
        assert!(names.len() > 380, "{} names", names.len());
        for name in names {
            // SAFETY: only the address is taken.
            let symbol = unsafe { nvml.0.get::<*const c_void>(name.as_bytes()) };
            assert!(symbol.is_ok(), "{name}: {symbol:?}");
        }
    });
}

#[test]
fn nothing_but_versions_and_texts_is_known_before_the_start_and_after_the_end() {
    in_process("nothing_but_versions_and_texts_is_known_before_the_start_and_after_the_end", &[], || {
        let nvml = Nvml::load();
        let count = || {
            let mut count = 77;
            let code = call!(nvml, nvmlDeviceGetCount_v2(&mut count));
            (code, count)
        };
        assert_eq!(count(), (UNINITIALIZED, 77));
        assert_eq!(call!(nvml, nvmlDeviceGetSerial()), UNINITIALIZED, "a function without an answer");
        let version = text(|buffer, length| call!(nvml, nvmlSystemGetNVMLVersion(buffer, length)));
        assert_eq!(version, "13.580.159.04");
        assert_eq!(call!(nvml, nvmlInit()), OK);
        assert_eq!(call!(nvml, nvmlInitWithFlags(1u32)), OK);
        assert_eq!(count(), (OK, 1));
        assert_eq!(call!(nvml, nvmlShutdown()), OK);
        assert_eq!(count(), (OK, 1), "one user is left");
        assert_eq!(call!(nvml, nvmlShutdown()), OK);
        assert_eq!(count(), (UNINITIALIZED, 77));
        assert_eq!(call!(nvml, nvmlShutdown()), OK, "one too many, as driver 535 answers it");
        assert_eq!(call!(nvml, nvmlInit_v2()), OK);
        assert_eq!(count(), (OK, 1));
        assert_eq!(call!(nvml, nvmlDeviceGetSerial()), NOT_SUPPORTED);
    });
}

#[test]
fn the_card_is_the_profile_whatever_cuda_may_see() {
    let variables = [("CUDA_VISIBLE_DEVICES", ""), ("ZEROGPU_PROFILE", "h100-80gb"), ("ZEROGPU_VRAM", "16GiB")];
    in_process("the_card_is_the_profile_whatever_cuda_may_see", &variables, || {
        let nvml = Nvml::started();
        let device = nvml.device();
        assert_eq!(nvml.name(device), "NVIDIA H100 80GB HBM3");
        let uuid = nvml.uuid(device);
        assert_eq!((uuid.len(), &uuid[..4]), (40, "GPU-"));
        let (mut major, mut minor) = (0, 0);
        let (a, b) = (&mut major, &mut minor);
        let code = call!(nvml, nvmlDeviceGetCudaComputeCapability(device, a, b));
        assert_eq!((code, major, minor), (OK, 9, 0));
        let mut memory = [0u64; 3];
        assert_eq!(call!(nvml, nvmlDeviceGetMemoryInfo(device, &mut memory)), OK);
        assert_eq!(memory, [16 << 30, 16 << 30, 0]);
        let mut mode = [9u32; 2];
        let [current, pending] = &mut mode;
        let code = call!(nvml, nvmlDeviceGetMigMode(device, current, pending));
        assert_eq!((code, mode), (OK, [0, 0]));
    });
}

#[test]
fn handles_are_found_by_index_uuid_and_place() {
    in_process("handles_are_found_by_index_uuid_and_place", &[], || {
        let nvml = Nvml::started();
        let device = nvml.device();
        let mut found = NULL;
        let code = call!(nvml, nvmlDeviceGetHandleByIndex_v2(1u32, &mut found));
        assert_eq!((code, found), (INVALID_ARGUMENT, NULL));

        let by_uuid = |uuid: &str| {
            let (uuid, mut found) = (CString::new(uuid).expect("a C text"), NULL);
            let code = call!(nvml, nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &mut found));
            (code, found)
        };
        assert_eq!(by_uuid(&nvml.uuid(device)), (OK, device));
        assert_eq!(by_uuid("GPU-00000000-0000-4000-8000-000000000000").0, NOT_FOUND);

        let by_place = |place: &str| {
            let (place, mut found) = (CString::new(place).expect("a C text"), NULL);
            let code = call!(nvml, nvmlDeviceGetHandleByPciBusId_v2(place.as_ptr(), &mut found));
            (code, found)
        };
        let Pci { domain, bus, device: n } = Profile::chosen(None, None).0.pci;
        // As NVML, NCCL, PyTorch and people write it.
        let names = [
            format!("{domain:08X}:{bus:02X}:{n:02X}.0"),
            format!("{domain:04X}:{bus:02X}:{n:02X}.0"),
            format!("{domain:x}:{bus:x}:{n:x}.0"),
        ];
        let of_domain_0 = [format!("{bus:02X}:{n:02X}.0"), format!("{bus:02X}:{n:02X}")];
        for place in names.iter().chain(of_domain_0.iter().filter(|_| domain == 0)) {
            assert_eq!(by_place(place), (OK, device), "{place}");
        }
        let others = [(domain, bus, n + 1), (domain + 1, bus, n), (domain, bus + 1, n)];
        for (domain, bus, n) in others {
            assert_eq!(by_place(&format!("{domain:04X}:{bus:02X}:{n:02X}.0")).0, NOT_FOUND, "{domain}:{bus}:{n}");
        }
        for place in ["", "x", "4", "00:04.1", "0:0:0:4.0", "00:+4.0", "00:04.", ":04.0", "0000:00:0g.0"] {
            assert_eq!(by_place(place).0, INVALID_ARGUMENT, "{place:?}");
        }
        let serial = call!(nvml, nvmlDeviceGetHandleBySerial(c"1".as_ptr(), &mut found));
        assert_eq!(serial, NOT_FOUND);
    });
}

#[test]
fn bad_arguments_are_refused_and_nothing_is_written() {
    in_process("bad_arguments_are_refused_and_nothing_is_written", &[], || {
        let nvml = Nvml::started();
        let null = NULL;
        let wild = 0x1234_5678 as Handle;
        let mut buffer = [0x55 as c_char; 8];
        for device in [null, wild] {
            let pointer = buffer.as_mut_ptr();
            let code = call!(nvml, nvmlDeviceGetName(device, pointer, 8u32));
            assert_eq!((code, buffer[0]), (INVALID_ARGUMENT, 0x55), "{device:?}");
        }
        let device = nvml.device();
        let pointer = buffer.as_mut_ptr();
        let code = call!(nvml, nvmlDeviceGetName(device, pointer, 8u32));
        assert_eq!((code, buffer[0]), (INSUFFICIENT_SIZE, 0x55), "the name has 21 bytes");
        assert_eq!(call!(nvml, nvmlDeviceGetName(device, null, 96u32)), INVALID_ARGUMENT);
        assert_eq!(call!(nvml, nvmlDeviceGetCount_v2(null)), INVALID_ARGUMENT);
        assert_eq!(call!(nvml, nvmlDeviceGetHandleByUUID(null, null)), INVALID_ARGUMENT);
        let mut major = 7;
        let code = call!(nvml, nvmlDeviceGetCudaComputeCapability(device, &mut major, null));
        assert_eq!((code, major), (INVALID_ARGUMENT, 7));
        let mut celsius = 7;
        let code = call!(nvml, nvmlDeviceGetTemperature(device, 9u32, &mut celsius));
        assert_eq!((code, celsius), (INVALID_ARGUMENT, 7), "there is no sensor 9");
    });
}

/// The layouts of nvml.h, by their bytes.
#[test]
fn structures_have_their_documented_sizes_and_versions() {
    in_process("structures_have_their_documented_sizes_and_versions", &[], || {
        let nvml = Nvml::started();
        let device = nvml.device();
        let written = |call: &dyn Fn(*mut u8) -> u32| {
            let mut bytes = [0xaa; 80];
            assert_eq!(call(bytes.as_mut_ptr()), OK);
            let length = 1 + bytes.iter().rposition(|byte| *byte != 0xaa).expect("something is written");
            (length, bytes)
        };
        let (v1, _) = written(&|pci| call!(nvml, nvmlDeviceGetPciInfo(device, pci)));
        let (v2, _) = written(&|pci| call!(nvml, nvmlDeviceGetPciInfo_v2(device, pci)));
        let (v3, pci) = written(&|pci| call!(nvml, nvmlDeviceGetPciInfo_v3(device, pci)));
        assert_eq!([v1, v2, v3], [32, 52, 68]);
        let Pci { domain, bus, device: n } = Profile::chosen(None, None).0.pci;
        assert_eq!(&pci[..13], format!("{domain:04X}:{bus:02X}:{n:02X}.0\0").as_bytes());
        assert_eq!(&pci[36..53], format!("{domain:08X}:{bus:02X}:{n:02X}.0\0").as_bytes());

        const VERSION_2: u32 = 40 | 2 << 24;
        let mut memory = [u64::from(VERSION_2), 1, 1, 1, 1];
        assert_eq!(call!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &mut memory)), OK);
        assert_eq!(memory[0] as u32, VERSION_2);
        assert_eq!(memory[1..], [42_505_273_344, 0, 42_505_273_344, 0]);
        memory[0] = 40 | 3 << 24;
        let code = call!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &mut memory));
        assert_eq!(code, VERSION_MISMATCH);
    });
}

/// A stand-in for the shim: what it says of used memory and of its version is what NVML says.
const SHIM: &str = "
#include <stdint.h>
#include <stdlib.h>
uint64_t zerogpu_memory_used(void) { return strtoull(getenv(\"USED\"), 0, 10); }
int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
int cuInit(unsigned flags) { abort(); }
";

#[test]
fn memory_processes_and_versions_are_the_shims() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, shim) = (folder.join("shim.c"), folder.join("libshim.so"));
    if env::var_os(LIBRARY).is_none() {
        std::fs::write(&source, SHIM).expect("the folder can be written");
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status();
        assert!(status.is_ok_and(|status| status.success()), "the stand-in compiles");
    }
    let variables = [("LD_PRELOAD", shim.to_str().expect("a plain path")), ("USED", "3221225472")];
    in_process("memory_processes_and_versions_are_the_shims", &variables, || {
        let nvml = Nvml::started();
        let device = nvml.device();
        let mut memory = [0u64; 3];
        assert_eq!(call!(nvml, nvmlDeviceGetMemoryInfo(device, &mut memory)), OK);
        assert_eq!(memory, [42_505_273_344, 42_505_273_344 - (3 << 30), 3 << 30]);
        let mut version = 0;
        assert_eq!(call!(nvml, nvmlSystemGetCudaDriverVersion_v2(&mut version)), OK);
        assert_eq!(version, 12020);
        let driver = text(|buffer, length| call!(nvml, nvmlSystemGetDriverVersion(buffer, length)));
        assert_eq!(driver, "535.54.03");

        let pid = u64::from(std::process::id());
        // As libc10_cuda asks: 16 bytes each.
        let (mut count, mut list) = (0u32, [0u64; 4]);
        let ask = |count: &mut u32, list: &mut [u64; 4]| {
            call!(nvml, nvmlDeviceGetComputeRunningProcesses(device, count, list))
        };
        assert_eq!((ask(&mut count, &mut list), count, list), (INSUFFICIENT_SIZE, 1, [0; 4]));
        count = 2;
        assert_eq!((ask(&mut count, &mut list), count), (OK, 1));
        assert_eq!([list[0] as u32 as u64, list[1], list[2]], [pid, 3 << 30, 0]);
        // As newer libraries ask: 24 bytes each, with the instances.
        for v3 in [false, true] {
            let (mut count, mut list) = (1u32, [0u64; 4]);
            let (n, l) = (&mut count, &mut list);
            let code = if v3 {
                call!(nvml, nvmlDeviceGetComputeRunningProcesses_v3(device, n, l))
            } else {
                call!(nvml, nvmlDeviceGetComputeRunningProcesses_v2(device, n, l))
            };
            assert_eq!((code, count), (OK, 1));
            assert_eq!([list[0] as u32 as u64, list[1], list[2], list[3]], [pid, 3 << 30, u64::MAX, 0]);
        }
        let mut graphics = 1u32;
        let null = NULL;
        let code = call!(nvml, nvmlDeviceGetGraphicsRunningProcesses_v3(device, &mut graphics, null));
        assert_eq!((code, graphics), (OK, 0));
    });
}

#[test]
fn without_the_shim_nobody_uses_the_card() {
    in_process("without_the_shim_nobody_uses_the_card", &[], || {
        let nvml = Nvml::started();
        let (device, null, mut count) = (nvml.device(), NULL, 0u32);
        let code = call!(nvml, nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, null));
        assert_eq!((code, count), (OK, 0));
    });
}

#[test]
fn a_mig_profile_has_one_mig_device() {
    in_process("a_mig_profile_has_one_mig_device", &[("ZEROGPU_PROFILE", "a100-mig-3g.40gb")], || {
        let nvml = Nvml::started();
        let device = nvml.device();
        let (mut current, mut pending) = (9, 9);
        let (a, b) = (&mut current, &mut pending);
        assert_eq!(call!(nvml, nvmlDeviceGetMigMode(device, a, b)), OK);
        assert_eq!((current, pending), (1, 1));
        let mut mig = NULL;
        assert_eq!(call!(nvml, nvmlDeviceGetMigDeviceHandleByIndex(device, 0u32, &mut mig)), OK);
        assert_eq!(nvml.name(device), "NVIDIA A100-SXM4-80GB");
        assert_eq!(nvml.name(mig), "NVIDIA A100-SXM4-80GB MIG 3g.40gb");
        assert!(nvml.uuid(device).starts_with("GPU-") && nvml.uuid(mig).starts_with("MIG-"));
        let mut attributes = [0u32; 10];
        assert_eq!(call!(nvml, nvmlDeviceGetAttributes_v2(mig, &mut attributes)), OK);
        assert_eq!((attributes[0], attributes[6], attributes[8]), (42, 3, 40192));
        let mut parent = NULL;
        let code = call!(nvml, nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig, &mut parent));
        assert_eq!((code, parent), (OK, device));
        let mut rates = [0u32; 2];
        let code = call!(nvml, nvmlDeviceGetUtilizationRates(device, &mut rates));
        assert_eq!(code, NOT_SUPPORTED, "a divided card");
        let mut second = NULL;
        let code = call!(nvml, nvmlDeviceGetMigDeviceHandleByIndex(device, 1u32, &mut second));
        assert_eq!(code, NOT_FOUND);
    });
}

#[test]
fn nvlink_questions_end_as_libc10_cuda_expects() {
    in_process("nvlink_questions_end_as_libc10_cuda_expects", &[], || {
        let nvml = Nvml::started();
        let (device, mut kind, mut pci) = (nvml.device(), 7u32, [0u8; 68]);
        for (link, expected) in [(0, NOT_SUPPORTED), (11, NOT_SUPPORTED), (12, INVALID_ARGUMENT)] {
            let code = call!(nvml, nvmlDeviceGetNvLinkRemoteDeviceType(device, link, &mut kind));
            assert_eq!((code, kind), (expected, 7), "link {link}");
            let code = call!(nvml, nvmlDeviceGetNvLinkRemotePciInfo_v2(device, link, &mut pci));
            assert_eq!((code, pci), (expected, [0; 68]), "link {link}");
        }
        assert_eq!(call!(nvml, nvmlDeviceGetNvLinkState(device, 0u32, &mut kind)), OK);
        assert_eq!(kind, 0, "no link is active");
    });
}

#[test]
fn codes_have_the_genuine_texts() {
    in_process("codes_have_the_genuine_texts", &[], || {
        let nvml = Nvml::load();
        // SAFETY: the signature of nvml.h.
        let string = unsafe { nvml.0.get::<extern "C" fn(c_int) -> *const c_char>(b"nvmlErrorString\0") };
        let string = string.expect("nvmlErrorString");
        for (code, expected) in [
            (0, c"Success"),
            (1, c"Uninitialized"),
            (7, c"Insufficient Size"),
            (27, c"System is not in ready state"),
            (28, c"Unknown Error"),
            (999, c"Unknown Error"),
            (-1, c"Unknown Error"),
        ] {
            // SAFETY: the texts are constants.
            assert_eq!(unsafe { CStr::from_ptr(string(code)) }, expected, "{code}");
        }
    });
}

#[test]
fn process_names_are_the_machines() {
    in_process("process_names_are_the_machines", &[], || {
        let nvml = Nvml::started();
        let own = text(|buffer, length| call!(nvml, nvmlSystemGetProcessName(std::process::id(), buffer, length)));
        let command = env::args().next().expect("a program has a name");
        assert_eq!(own, command.chars().take(95).collect::<String>());
        let mut buffer = [0 as c_char; 8];
        let code = call!(nvml, nvmlSystemGetProcessName(u32::MAX, buffer.as_mut_ptr(), 8u32));
        assert_eq!(code, NOT_FOUND);
    });
}
