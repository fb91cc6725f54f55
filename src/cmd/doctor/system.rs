//! What the machine and its limits allow: each thing the shim does is tried, not guessed.

use super::report::{Finding, Level};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};
use nix::sys::statvfs::statvfs;
use nix::unistd::AccessFlags;
use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zerogpu_cards::Cards;
use zerogpu_settings::{Driver, Settings, SoftSettings};

const TOPIC: &str = "system";

/// The oldest glibc that our objects run on.
const GLIBC: (u32, u32) = (2, 28);

/// The range of device addresses.
const ARENA: usize = 0x7000_0000_0000;
const ARENA_BYTES: usize = 128 << 30;

const CONTAINER: &str = "if this is a container, its seccomp profile or runtime (gVisor) refuses it: allow it there";

/// Everything about the machine.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![glibc(&glibc_version()), memory_file(), arena()];
    let proc = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).unwrap_or_default();
    findings.extend(overcommit(&proc("sys/vm/overcommit_memory")));
    findings.extend(host_memory(&proc("meminfo"), cgroup_limit()));
    findings.extend(open_files());
    findings.extend(shared_memory());
    findings.extend(membarrier());
    let trouble = findings.iter().any(|finding| finding.level == Level::Problem);
    findings.extend(seccomp(&proc("self/status"), trouble));
    findings.extend(ptrace(&proc("sys/kernel/yama/ptrace_scope")));
    findings.push(software_cards());
    findings
}

fn glibc_version() -> String {
    // SAFETY: glibc gives a string that lives for ever.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned()
}

fn glibc(version: &str) -> Finding {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= GLIBC {
        return Finding::ok(TOPIC, format!("glibc {version}"));
    }
    let text = format!("glibc {version} is older than {}.{}", GLIBC.0, GLIBC.1);
    Finding::problem(TOPIC, text, "use a system of 2019 or later (Debian 10, Ubuntu 20.04, RHEL 8)")
}

/// Parked device memory lies in a memfd.
fn memory_file() -> Finding {
    let tried = memfd_create(c"zerogpu-doctor", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from).and_then(|file| {
        let mut file = fs::File::from(file);
        file.set_len(1 << 30)?;
        file.write_all(b"zerogpu")
    });
    match tried {
        Ok(()) => Finding::ok(TOPIC, "memory files (memfd) can be made"),
        Err(error) => Finding::problem(TOPIC, format!("no memory file (memfd) can be made: {error}"), CONTAINER),
    }
}

/// The device's addresses are reserved, without memory, at their place.
fn arena() -> Finding {
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
    let (address, length) = (NonZeroUsize::new(ARENA), NonZeroUsize::new(ARENA_BYTES).expect("not 0"));
    // SAFETY: MAP_FIXED_NOREPLACE takes nothing from anyone, and nothing uses the range before it is unmapped below.
    let tried = unsafe { mmap_anonymous(address, length, ProtFlags::PROT_NONE, flags) };
    if let Ok(at) = tried {
        // SAFETY: the range was mapped above, by nobody else.
        if let Err(error) = unsafe { munmap(at, ARENA_BYTES) } {
            return Finding::problem(TOPIC, format!("reserved addresses can't be given back: {error}"), CONTAINER);
        }
        if at.as_ptr() as usize == ARENA {
            return Finding::ok(TOPIC, format!("{} GiB of addresses can be reserved at {ARENA:#x}", ARENA_BYTES >> 30));
        }
    }
    let text = |why: &str| format!("{} GiB of addresses can't be reserved at {ARENA:#x}: {why}", ARENA_BYTES >> 30);
    let limit = getrlimit(Resource::RLIMIT_AS).map_or(RLIM_INFINITY, |(soft, _)| soft);
    match tried {
        Err(_) if limit != RLIM_INFINITY => Finding::problem(
            TOPIC,
            text(&format!("this process may have {} bytes", limit)),
            "run ulimit -v unlimited, or raise the limit where it is set",
        ),
        Err(Errno::EEXIST) | Ok(_) => {
            Finding::problem(TOPIC, text("something is there"), "report this, with cat /proc/self/maps")
        }
        Err(error) => Finding::problem(TOPIC, text(error.desc()), CONTAINER),
    }
}

fn overcommit(mode: &str) -> Option<Finding> {
    let strict = mode.trim() == "2";
    strict.then(|| {
        Finding::note(TOPIC, "memory is not overcommitted (vm.overcommit_memory = 2): big programs may fail to fork")
            .fix("set vm.overcommit_memory to 0 or 1, unless it is meant so")
    })
}

/// The limit of the container's memory, if it has one.
fn cgroup_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
    // Version 1 writes "no limit" as a number near 2^63.
    text.trim().parse().ok().filter(|&bytes: &u64| bytes < 1 << 60)
}

fn host_memory(meminfo: &str, limit: Option<u64>) -> Option<Finding> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10;
    let limited =
        limit.map(|bytes| format!(", of which the container may use {:.1} GiB", gibibytes(bytes))).unwrap_or_default();
    let text = format!(
        "{:.1} GiB of host memory are free{limited}: device memory lies there while it is parked",
        gibibytes(available)
    );
    Some(Finding::ok(TOPIC, text))
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn open_files() -> Option<Finding> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft < 256).then(|| {
        Finding::problem(
            TOPIC,
            format!("a process may open only {soft} files"),
            "run ulimit -n 1024, or raise the limit where it is set",
        )
    })
}

/// PyTorch's data loaders and the default place of software cards.
fn shared_memory() -> Option<Finding> {
    let remedy = "mount /dev/shm, in a container with --shm-size=1g or more";
    match statvfs("/dev/shm") {
        Err(error) => Some(Finding::note(TOPIC, format!("/dev/shm can't be used: {error}")).fix(remedy)),
        Ok(found) => {
            let free = found.blocks_available() * found.fragment_size();
            let text = format!("/dev/shm has {} MiB free: PyTorch's data loaders may fail", free >> 20);
            (free < 64 << 20).then(|| Finding::note(TOPIC, text).fix(remedy))
        }
    }
}

fn membarrier() -> Option<Finding> {
    // SAFETY: MEMBARRIER_CMD_QUERY only asks which commands there are.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) };
    let expedited = commands > 0 && commands as i32 & libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED != 0;
    (!expedited).then(|| Finding::note(TOPIC, "membarrier is refused: driver calls take a few ns more").fix(CONTAINER))
}

fn seccomp(status: &str, trouble: bool) -> Option<Finding> {
    let filtered = status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"));
    let text = if trouble {
        "system calls are filtered here (seccomp), which may be why something above is refused"
    } else {
        "system calls are filtered here (seccomp); what zerogpu needs is allowed"
    };
    filtered.then(|| Finding::note(TOPIC, text))
}

fn ptrace(scope: &str) -> Option<Finding> {
    let text = match scope.trim() {
        "" | "0" => return None,
        "1" => "a process may look only into its children (ptrace_scope 1)",
        _ => "processes may not look into each other (ptrace_scope 2 or 3)",
    };
    Some(Finding::note(TOPIC, text).fix("doctor --pid works for root; nothing else needs it"))
}

fn software_cards() -> Finding {
    let path = SoftSettings::from_env().0.cards;
    if let Err(error) = can_be_used(&path) {
        let text = format!("software cards can't be used in {} ({error})", path.display());
        let remedy = "choose a file that this user can write to with SOFTCUDA_CARDS";
        // of no matter to programs of other drivers
        return match Settings::from_env().0.driver {
            Driver::Soft => Finding::problem(TOPIC, text, remedy),
            _ => Finding::note(TOPIC, text).fix(remedy),
        };
    }
    match Cards::look(&path) {
        Ok(cards) => {
            Finding::ok(TOPIC, format!("software cards: {} x {} in {}", cards.count(), cards.name(), path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(TOPIC, format!("software cards: none used yet; they will be in {}", path.display()))
        }
        Err(error) => {
            let text = error.to_string();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "choose another file with SOFTCUDA_CARDS"));
            Finding::problem(TOPIC, what, remedy)
        }
    }
}

/// Whether a file can be read and written, or could be made where it is not. Nothing is left of the try.
///
/// # Errors
/// What the system says.
pub fn can_be_used(path: &Path) -> std::io::Result<()> {
    let mut there = path;
    loop {
        match there.symlink_metadata() {
            Ok(_) if there == path => return OpenOptions::new().read(true).write(true).open(path).map(|_| ()),
            Ok(_) => break,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                there = there.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            }
            Err(e) => return Err(e),
        }
    }
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(there);
    match unnamed {
        // a file system that has no files without a name
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(nix::unistd::access(there, AccessFlags::W_OK)?),
        tried => tried.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc() {
        assert_eq!(glibc("2.28").level, Level::Ok);
        assert_eq!(glibc("2.36").level, Level::Ok);
        assert_eq!(glibc("3.0").level, Level::Ok);
        for old in ["2.27", "2.4", "", "odd"] {
            assert_eq!(glibc(old).level, Level::Problem, "{old}");
        }
        assert_eq!(glibc(&glibc_version()).level, Level::Ok);
    }

    #[test]
    fn this_machine_allows_what_the_tests_need() {
        for finding in [memory_file(), arena()] {
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
        }
        // Given back: a second try finds the range free.
        assert_eq!(arena().level, Level::Ok);
    }

    #[test]
    fn what_proc_says_becomes_a_sentence() {
        assert_eq!(overcommit("0\n"), None);
        assert_eq!(overcommit("2\n").unwrap().level, Level::Note);
        let memory = host_memory("MemTotal: 9 kB\nMemAvailable:   2097152 kB\n", Some(1 << 30)).unwrap().text;
        assert!(
            memory.starts_with("2.0 GiB of host memory are free, of which the container may use 1.0 GiB"),
            "{memory}"
        );
        assert_eq!(host_memory("", None), None);
        assert_eq!(seccomp("Seccomp:\t0\n", false), None);
        assert!(seccomp("Name:\tx\nSeccomp:\t2\n", true).unwrap().text.contains("may be why"));
        assert!(seccomp("Seccomp:\t2\n", false).unwrap().text.contains("is allowed"));
        assert_eq!(ptrace("0\n"), None);
        assert_eq!(ptrace(""), None);
        assert!(ptrace("1\n").is_some() && ptrace("3\n").is_some());
    }
}
