//! Where our own files are: the folder of the libraries and the folder of the Python hook.

use anyhow::{bail, Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use zerogpu_settings::driver_path::{DRIVER_FILE, SOFT_FILE};

/// A shared object of ours.
pub struct Object {
    /// Its file name where it is installed, and its SONAME.
    pub name: &'static str,
    /// Its file name where cargo builds it.
    built: &'static str,
}

/// The objects that are preloaded, in this order.
pub const OBJECTS: [Object; 3] = [
    Object { name: DRIVER_FILE, built: "libzerogpu.so" },
    Object { name: "libcuda.so", built: "libzerogpu_alias.so" },
    Object { name: "libnvidia-ml.so.1", built: "libzerogpu_nvml.so" },
];

/// Folder of links to what cargo built, under the names that count.
const LINKS: &str = "zerogpu-lib";

/// What a Python installer writes beside the packages of a wheel of this version.
const DIST_INFO: &str = concat!("zerogpu-", env!("CARGO_PKG_VERSION"), ".dist-info");

/// A complete installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Folder that holds the objects under their names.
    pub lib: PathBuf,
    /// Folder that holds the Python package `spaces`.
    pub hook: Option<PathBuf>,
}

impl Install {
    /// The installation in the folder `chosen` (an option or `ZEROGPU_LIB`), else the one that this executable belongs to.
    ///
    /// # Errors
    /// What is missing, where it was looked for, and the way out.
    pub fn find(chosen: Option<&Path>) -> Result<Install> {
        let executable = std::env::current_exe().context("the path of this executable is unknown; set ZEROGPU_LIB")?;
        let beside = executable.parent().unwrap_or(Path::new("/"));
        let lib = match chosen {
            Some(folder) => library_folder(folder)?.with_context(|| {
                let missing = missing(folder).collect::<Vec<_>>().join(", ");
                format!(
                    "{} lacks {missing}; point --lib or ZEROGPU_LIB to the folder that holds them",
                    folder.display()
                )
            })?,
            None => {
                let prefix = beside.parent().unwrap_or(beside);
                let installed = prefix.join("lib/zerogpu");
                let places = [installed.clone()].into_iter().chain(wheels(prefix)).chain([beside.to_path_buf()]);
                let found = places.map(|place| library_folder(&place)).find_map(Result::transpose).transpose()?;
                found.with_context(|| {
                    format!(
                        "{} are neither in {} nor in a wheel's folder nor, as cargo builds them, in {}; install zerogpu \
                         again, run cargo build --workspace, or set ZEROGPU_LIB to their folder",
                        OBJECTS.map(|object| object.name).join(", "),
                        installed.display(),
                        beside.display()
                    )
                })?
            }
        };
        let hook = hook_folder(&lib, &executable);
        Ok(Install { lib, hook })
    }

    /// The files to preload, in order.
    pub fn objects(&self) -> [PathBuf; 3] {
        OBJECTS.map(|object| self.lib.join(object.name))
    }

    /// The same where the folder of the libraries is seen at `at`, with the hook in it.
    pub fn seen_at(&self, at: &Path) -> Install {
        Install { lib: at.to_path_buf(), hook: self.hook.is_some().then(|| at.join("python")) }
    }

    /// The software driver.
    ///
    /// # Errors
    /// It is not installed.
    pub fn software_driver(&self) -> Result<PathBuf> {
        let path = self.lib.join(SOFT_FILE);
        if !path.is_file() {
            bail!(
                "{SOFT_FILE} is not in {}; run cargo build --workspace, or choose another driver",
                self.lib.display()
            );
        }
        Ok(path)
    }
}

/// Where wheels of this version have put the libraries, if an executable in `prefix/bin` came with one: in the folder of a
/// Python's packages, or (`pip install --target`) in `prefix` itself.
fn wheels(prefix: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let pythons = ["lib", "lib64"]
        .into_iter()
        .flat_map(move |lib| below(prefix.join(lib)))
        .filter(|folder| folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3")));
    let packages = pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)));
    packages
        .chain([prefix.to_path_buf()])
        .filter(|packages| packages.join(DIST_INFO).is_dir())
        .map(|packages| packages.join("zerogpu/lib"))
}

/// The folder of the objects under their names: `folder` itself, or links made in it to what cargo built.
fn library_folder(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(folder) = fs::canonicalize(folder) else { return Ok(None) };
    if missing(&folder).next().is_none() {
        return Ok(Some(folder));
    }
    if !OBJECTS.iter().all(|object| folder.join(object.built).is_file()) {
        return Ok(None);
    }
    let links = folder.join(LINKS);
    make_links(&links).with_context(|| {
        format!(
            "{} can't be filled with links; make {} writable, or set ZEROGPU_LIB",
            links.display(),
            folder.display()
        )
    })?;
    Ok(Some(links))
}

fn missing(folder: &Path) -> impl Iterator<Item = &'static str> + '_ {
    OBJECTS.iter().map(|object| object.name).filter(|name| !folder.join(name).is_file())
}

/// Makes each link that is not as it should be. Several processes may do so at once: each link appears whole.
fn make_links(links: &Path) -> std::io::Result<()> {
    fs::create_dir_all(links)?;
    let software_driver = Object { name: SOFT_FILE, built: SOFT_FILE };
    for object in OBJECTS.iter().chain([&software_driver]) {
        let (link, target) = (links.join(object.name), Path::new("..").join(object.built));
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            continue;
        }
        let fresh = links.join(format!(".{}.{}", object.name, std::process::id()));
        match symlink(&target, &fresh) {
            // Left behind by a process that was killed here and had this id.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        fs::rename(&fresh, &link)?;
    }
    Ok(())
}

/// The hook beside the libraries, else in the source tree that the executable or this crate lies in.
fn hook_folder(lib: &Path, executable: &Path) -> Option<PathBuf> {
    let installed = lib.join("python");
    let sources =
        executable.ancestors().chain([Path::new(env!("CARGO_MANIFEST_DIR"))]).map(|root| root.join("shim/python"));
    std::iter::once(installed).chain(sources).find(|folder| folder.join("spaces").is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(folder: &Path, names: impl IntoIterator<Item = &'static str>) {
        fs::create_dir_all(folder).unwrap();
        for name in names {
            fs::write(folder.join(name), name).unwrap();
        }
    }

    #[test]
    fn a_folder_of_installed_objects_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), OBJECTS.map(|object| object.name));
        let lib = fs::canonicalize(root.path()).unwrap();
        assert_eq!(library_folder(root.path()).unwrap(), Some(lib.clone()));
        assert!(!lib.join(LINKS).exists());
        let install = Install { lib: lib.clone(), hook: None };
        assert_eq!(install.objects(), ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"].map(|name| lib.join(name)));
        assert!(install.software_driver().unwrap_err().to_string().contains("cargo build"));
    }

    #[test]
    fn what_cargo_built_is_linked_once_and_repaired() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), OBJECTS.map(|object| object.built));
        fill(root.path(), [SOFT_FILE]);
        let links = library_folder(root.path()).unwrap().unwrap();
        for object in &OBJECTS {
            assert_eq!(fs::read_to_string(links.join(object.name)).unwrap(), object.built);
        }
        assert_eq!(fs::read_to_string(links.join(SOFT_FILE)).unwrap(), SOFT_FILE);

        let made = fs::symlink_metadata(links.join(DRIVER_FILE)).unwrap().modified().unwrap();
        fs::remove_file(links.join("libcuda.so")).unwrap();
        symlink("elsewhere", links.join("libcuda.so")).unwrap();
        assert_eq!(library_folder(root.path()).unwrap(), Some(links.clone()));
        assert_eq!(fs::read_to_string(links.join("libcuda.so")).unwrap(), "libzerogpu_alias.so");
        assert_eq!(fs::symlink_metadata(links.join(DRIVER_FILE)).unwrap().modified().unwrap(), made, "left alone");
        assert_eq!(fs::read_dir(&links).unwrap().count(), 4, "nothing but the links stays");
    }

    #[test]
    fn many_at_once_never_see_a_link_missing() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), OBJECTS.map(|object| object.built));
        fill(root.path(), [SOFT_FILE]);
        let links = library_folder(root.path()).unwrap().unwrap();
        // Not as it should be, so that each round replaces a link that others look at.
        std::thread::scope(|scope| {
            let breaker = scope.spawn(|| {
                for round in 0..200 {
                    let fresh = links.join(format!("broken{round}"));
                    symlink("../libzerogpu_nvml.so", &fresh).unwrap();
                    fs::rename(&fresh, links.join(DRIVER_FILE)).unwrap();
                    make_links(&links).unwrap();
                }
            });
            while !breaker.is_finished() {
                assert!(missing(&links).next().is_none());
            }
        });
    }

    #[test]
    fn an_incomplete_folder_is_none() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), ["libzerogpu.so", "libcuda.so.1"]);
        assert_eq!(library_folder(root.path()).unwrap(), None);
        assert_eq!(library_folder(&root.path().join("nowhere")).unwrap(), None);
        let error = Install::find(Some(root.path())).unwrap_err().to_string();
        assert!(error.contains("lacks libcuda.so, libnvidia-ml.so.1; point --lib"), "{error}");
    }

    #[test]
    fn a_wheel_of_this_version_is_found_in_each_layout() {
        for packages in
            ["lib/python3.11/site-packages", "lib64/python3.9/site-packages", "lib/python3/dist-packages", ""]
        {
            let root = tempfile::tempdir().unwrap();
            let packages = root.path().join(packages);
            let lib = packages.join("zerogpu/lib");
            fs::create_dir_all(&lib).unwrap();
            assert_eq!(wheels(root.path()).count(), 0);
            fs::create_dir(packages.join("zerogpu-0.0.1.dist-info")).unwrap();
            assert_eq!(wheels(root.path()).count(), 0, "another version's libraries are none of ours");
            fs::create_dir(packages.join(DIST_INFO)).unwrap();
            assert_eq!(wheels(root.path()).collect::<Vec<_>>(), [lib]);
        }
    }

    #[test]
    fn the_hook_is_found_beside_the_libraries_before_the_sources() {
        let root = tempfile::tempdir().unwrap();
        let sources = root.path().join("shim/python");
        fs::create_dir_all(sources.join("spaces")).unwrap();
        let executable = root.path().join("target/release/zerogpu");
        assert_eq!(hook_folder(&root.path().join("lib"), &executable), Some(sources));
        let installed = root.path().join("lib/python");
        fs::create_dir_all(installed.join("spaces")).unwrap();
        assert_eq!(hook_folder(&root.path().join("lib"), &executable), Some(installed));
    }
}
