//! Which file is the driver below us.
//!
//! The shim's SONAME is `libcuda.so.1`, so the real driver can't be opened by name: it must be found as a file and opened
//! by its absolute path. Search order: `LD_LIBRARY_PATH`, folders where drivers are known to lie, the loader's cache.
//! Left out are our own libraries (however they are linked to) and the toolkit's link stubs. Nothing is opened as a
//! library here, and no ELF is read.

mod cache;

use crate::shim::Driver;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File name of a CUDA driver.
pub const DRIVER_FILE: &str = "libcuda.so.1";

/// File name of the software driver. A folder that holds it is an installation of ours.
pub const SOFT_FILE: &str = "libsoftcuda.so";

/// Where distributions, containers, WSL and NixOS put the driver.
const KNOWN_FOLDERS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib",
    "/run/opengl-driver/lib",
];

/// The places searched for the machine's own driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Folders, in order.
    pub folders: Vec<PathBuf>,
    /// The loader's cache.
    pub cache: PathBuf,
}

impl Places {
    /// The places of this machine, given the value of `LD_LIBRARY_PATH`.
    pub fn of_machine(library_path: Option<&OsStr>) -> Places {
        // An empty or relative entry means the current folder, which must not decide over the driver.
        let listed =
            library_path.map(std::env::split_paths).into_iter().flatten().filter(|folder| folder.is_absolute());
        let folders = listed.chain(KNOWN_FOLDERS.iter().map(PathBuf::from)).collect();
        Places { folders, cache: PathBuf::from("/etc/ld.so.cache") }
    }

    /// Each `libcuda.so.1` in these places, in order, without repetition, with what speaks against it.
    /// `own` is a library of ours, or the folder of our libraries.
    pub fn candidates(&self, own: Option<&Path>) -> Vec<Candidate> {
        let listed = self.folders.iter().map(|folder| folder.join(DRIVER_FILE));
        let cached = fs::read(&self.cache).map(|cache| cache::paths_of(&cache, DRIVER_FILE)).unwrap_or_default();
        let mut found: Vec<Candidate> = Vec::new();
        for path in listed.chain(cached) {
            let Ok(real) = fs::canonicalize(&path) else { continue };
            if real.is_file() && !found.iter().any(|earlier| earlier.real == real) {
                let refusal = refusal(&path, &real, own);
                found.push(Candidate { path, real, refusal });
            }
        }
        found
    }
}

/// A file that may be the machine's driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it was found.
    pub path: PathBuf,
    /// The same with links resolved.
    pub real: PathBuf,
    /// Why it is left out; `None`: it can be used.
    pub refusal: Option<Refusal>,
}

/// Why a `libcuda.so.1` is not the machine's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is a library of zerogpu.
    Ours,
    /// It is the toolkit's link stub, which has no driver in it.
    Stub,
}

/// The driver library to open, as an absolute path; `None` where there is none, by choice or by lack.
/// `lib` is the folder of our libraries and `own` a library of ours that is loaded, as far as they are known.
///
/// # Errors
/// One sentence with a remedy, where a chosen driver is not there or is the shim itself.
pub fn find(driver: &Driver, lib: Option<&Path>, own: Option<&Path>) -> Result<Option<PathBuf>, String> {
    let library_path = std::env::var_os("LD_LIBRARY_PATH");
    find_in(&Places::of_machine(library_path.as_deref()), driver, lib, own)
}

/// [`find`] in given places.
///
/// # Errors
/// As [`find`].
pub fn find_in(
    places: &Places,
    driver: &Driver,
    lib: Option<&Path>,
    own: Option<&Path>,
) -> Result<Option<PathBuf>, String> {
    match driver {
        Driver::None => Ok(None),
        Driver::Auto => {
            let usable = places.candidates(own.or(lib)).into_iter().find(|found| found.refusal.is_none());
            Ok(usable.map(|found| found.path))
        }
        Driver::Path(path) => chosen(path, own).map(Some),
        Driver::Soft => {
            let beside_own = own.and_then(|own| Some(fs::canonicalize(own).ok()?.parent()?.join(SOFT_FILE)));
            let folders = lib.map(|lib| lib.join(SOFT_FILE)).into_iter().chain(beside_own);
            let found = folders.into_iter().find(|path| path.is_file());
            found.map(Some).ok_or_else(|| match lib {
                Some(lib) => {
                    format!("{} is not in {}; set ZEROGPU_LIB to the folder that holds it", SOFT_FILE, lib.display())
                }
                None => {
                    format!("the folder of {SOFT_FILE} is not known; set ZEROGPU_LIB to it, or start with zerogpu run")
                }
            })
        }
    }
}

fn chosen(path: &Path, own: Option<&Path>) -> Result<PathBuf, String> {
    let remedy = "set ZEROGPU_DRIVER to a CUDA driver library, or to auto, soft or none";
    match fs::metadata(path) {
        Err(error) => Err(format!("the driver {} can't be used ({error}); {remedy}", path.display())),
        Ok(meta) if !meta.is_file() => Err(format!("the driver {} is not a file; {remedy}", path.display())),
        Ok(meta) if own.is_some_and(|own| same_file(&meta, own)) => {
            Err(format!("the driver {} is the shim itself; {remedy}", path.display()))
        }
        Ok(_) => Ok(path.to_path_buf()),
    }
}

fn refusal(path: &Path, real: &Path, own: Option<&Path>) -> Option<Refusal> {
    let is_own =
        own.and_then(|own| fs::canonicalize(own).ok()).is_some_and(|own| own == real || real.parent() == Some(&own));
    let installed = [path, real].iter().filter_map(|file| file.parent()).any(|folder| folder.join(SOFT_FILE).exists());
    if is_own || installed {
        return Some(Refusal::Ours);
    }
    let stub = |file: &Path| file.components().any(|part| part.as_os_str() == "stubs");
    (stub(path) || stub(real)).then_some(Refusal::Stub)
}

fn same_file(meta: &fs::Metadata, other: &Path) -> bool {
    fs::metadata(other).is_ok_and(|other| (meta.dev(), meta.ino()) == (other.dev(), other.ino()))
}
