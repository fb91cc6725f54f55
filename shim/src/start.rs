//! The first driver call of a process: settings, the version of the driver below, the trace, the companions.
use crate::{engine, entry, fault, report};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Once;
use zerogpu_device::memory::Layout;
use zerogpu_device::{api, runtime, Config};
use zerogpu_profile::Profile;
use zerogpu_settings::Settings;

static STARTED: AtomicBool = AtomicBool::new(false);
static ONCE: Once = Once::new();

/// The newest version that we are a driver of.
const NEWEST: i32 = 13000;
/// Where the arena lies (128 GiB; honoured by driver 580 in every process tried, recorded).
pub const ARENA: u64 = 0x7000_0000_0000;
/// Where the app's own reservations come from: 4 TiB.
pub const WINDOW: (u64, u64) = (0x6000_0000_0000, 4 << 40);

/// Starts the shim in this process, once.
#[inline(always)]
pub fn once() {
    if !STARTED.load(Ordering::Acquire) {
        start();
    }
}

/// A child forked while another thread is in here could wait for it for ever: it is refused instead.
extern "C" fn forked_meanwhile() {
    if !STARTED.load(Ordering::Acquire) {
        runtime::refuse();
    }
}

#[cold]
fn start() {
    if runtime::forked() {
        return;
    }
    // by each thread that may be the one to start: the handler may run more than once
    // SAFETY: a plain function that lives as long as the library, which is never unloaded.
    unsafe { libc::pthread_atfork(None, None, Some(forked_meanwhile)) };
    ONCE.call_once(|| {
        let (settings, mut complaints) = Settings::from_env();
        if let Some(trace) = &settings.trace {
            if let Err(e) = zerogpu_trace::start(trace) {
                complaints.push(format!("the trace is off: {e}; docs/trace.md tells what ZEROGPU_TRACE may say"));
            }
        }
        let (profile, complaint) = Profile::chosen(settings.profile.as_deref(), settings.vram);
        complaints.extend(complaint);
        let own = own_path();
        let below = zerogpu_below::locate(&settings, own.as_deref());
        let driver_version = below.version().unwrap_or_else(|e| {
            report::error(e);
            None
        });
        let driver_version = driver_version.map_or(NEWEST, |v| v.min(NEWEST));
        let visible = sees_the_card(settings.visible_devices.as_deref(), &profile);
        let layout = Layout { arena: Some(ARENA), window: Some(WINDOW) };
        let (vram, devices) = (profile.total_bytes, u32::from(visible));
        let config = Config { profile, vram, driver_version, devices, shareable: false, layout };
        api::set_exports(entry::addresses());
        let engine = engine::start(settings, below);
        runtime::install_with(|| (config, engine));
        for c in complaints {
            report::error(&c);
        }
        if let Some(folder) = own.as_deref().and_then(Path::parent) {
            open_companions(folder);
        }
        if zerogpu_trace::on() {
            engine.tell_no_card();
            // SAFETY: a plain function that lives as long as the library, which is never unloaded.
            unsafe { libc::atexit(finish_trace) };
        }
        STARTED.store(true, Ordering::Release);
    });
}

extern "C" fn finish_trace() {
    fault::contained(zerogpu_trace::finish);
}

/// The file that this library was loaded from.
fn own_path() -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr fills the struct for an address of ours; the name it gives lives as long as the library.
    unsafe {
        if libc::dladdr(start as *const libc::c_void, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        (!name.is_null()).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())))
    }
}

/// Loads `libcuda.so` and `libnvidia-ml.so.1` from our folder, where only the shim was preloaded.
fn open_companions(folder: &Path) {
    for names in [["libcuda.so", "libzerogpu_alias.so"], ["libnvidia-ml.so.1", "libzerogpu_nvml.so"]] {
        // SAFETY: looks for a library that is already loaded under this name, and loads none.
        let loaded = CString::new(names[0])
            .is_ok_and(|n| unsafe { !libc::dlopen(n.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD).is_null() });
        if loaded {
            continue;
        }
        let file = names.iter().map(|n| folder.join(n)).find(|p| p.is_file());
        let Some(path) = file.and_then(|p| CString::new(p.as_os_str().as_bytes()).ok()) else {
            report::explain(&format!(
                "{} is not beside the shim: programs that ask for it by name won't find it",
                names[0]
            ));
            continue;
        };
        // SAFETY: our own companion, whose constructors do nothing.
        if unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null() {
            report::explain(&format!("{} can't be loaded", path.to_string_lossy()));
        }
    }
}

/// Whether CUDA_VISIBLE_DEVICES leaves the virtual card visible: its first entry names it by number or uuid. The list ends with
/// the first entry that names no card; one that names a card twice shows none.
fn sees_the_card(list: Option<&str>, profile: &Profile) -> bool {
    let Some(list) = list else { return true };
    let hex: String = profile.uuid.iter().map(|b| format!("{b:02x}")).collect();
    let is_it = |entry: &str| match entry.strip_prefix("GPU-").or_else(|| entry.strip_prefix("MIG-")) {
        Some(prefix) => {
            let prefix = prefix.replace('-', "").to_lowercase();
            !prefix.is_empty() && hex.starts_with(&prefix)
        }
        None => entry.parse() == Ok(0),
    };
    list.split(',').map(str::trim).take_while(|entry| is_it(entry)).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_the_list_decides() {
        let p = Profile::default();
        for (list, seen) in [
            ("0", true),
            ("0,1", true),
            ("", false),
            ("-1", false),
            ("1", false),
            ("no", false),
            ("0,0", false),
            ("0,-1,0", true),
        ] {
            assert_eq!(sees_the_card(Some(list), &p), seen, "{list:?}");
        }
        assert!(sees_the_card(None, &p));
        assert!(sees_the_card(Some(&format!("GPU-{:02x}", p.uuid[0])), &p));
        assert!(!sees_the_card(Some("GPU-"), &p));
    }
}
