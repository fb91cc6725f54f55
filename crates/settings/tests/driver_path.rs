//! The search for the driver, on made-up machines.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zerogpu_settings::driver_path::{find_in, Places, Refusal};
use zerogpu_settings::Driver;

struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Machine {
        Machine { root: tempfile::tempdir().unwrap() }
    }

    fn file(&self, path: &str) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap()).unwrap();
        path
    }

    fn link(&self, path: &str, to: &Path) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, &path).unwrap();
        path
    }

    fn places(&self, folders: &[&str]) -> Places {
        let folders = folders.iter().map(|folder| self.root.path().join(folder)).collect();
        Places { folders, cache: self.root.path().join("no-cache") }
    }
}

#[test]
fn the_first_folder_that_has_a_driver_wins() {
    let machine = Machine::new();
    let second = machine.file("b/libcuda.so.1");
    machine.file("c/libcuda.so.1");
    let places = machine.places(&["a", "b", "c"]);
    assert_eq!(find_in(&places, &Driver::Auto, None, None), Ok(Some(second)));
    assert_eq!(find_in(&machine.places(&["a"]), &Driver::Auto, None, None), Ok(None));
}

#[test]
fn the_shim_never_finds_itself_by_any_name() {
    let machine = Machine::new();
    let own = machine.file("own/libzerogpu.so");
    machine.link("linked/libcuda.so.1", &own);
    machine.file("own/libcuda.so.1");
    let other = machine.file("other/libcuda.so.1");
    machine.file("other/libsoftcuda.so");
    machine.link("to-other/libcuda.so.1", &other);
    let real = machine.file("real/libcuda.so.550.54");
    let driver = machine.link("real/libcuda.so.1", &real);

    let places = machine.places(&["linked", "other", "to-other", "real"]);
    assert_eq!(find_in(&places, &Driver::Auto, None, Some(&own)), Ok(Some(driver.clone())));
    let refusals: Vec<_> = places.candidates(Some(&own)).into_iter().map(|found| found.refusal).collect();
    // The link to the other installation is the same file, hence one candidate.
    assert_eq!(refusals, [Some(Refusal::Ours), Some(Refusal::Ours), None]);

    let places = machine.places(&["own", "real"]);
    let folder = machine.root.path().join("own");
    assert_eq!(find_in(&places, &Driver::Auto, Some(&folder), None), Ok(Some(driver)));
}

#[test]
fn link_stubs_folders_and_broken_links_are_left_out() {
    let machine = Machine::new();
    machine.file("cuda/lib64/stubs/libcuda.so.1");
    fs::create_dir_all(machine.root.path().join("folder/libcuda.so.1")).unwrap();
    machine.link("broken/libcuda.so.1", Path::new("nowhere"));
    machine.link("loop/libcuda.so.1", Path::new("libcuda.so.1"));
    let places = machine.places(&["cuda/lib64/stubs", "folder", "broken", "loop"]);
    assert_eq!(find_in(&places, &Driver::Auto, None, None), Ok(None));
    let found = places.candidates(None);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].refusal, Some(Refusal::Stub));
}

#[test]
fn a_chosen_path_is_taken_as_it_is_or_refused_with_a_remedy() {
    let machine = Machine::new();
    let places = machine.places(&[]);
    let own = machine.file("lib/libcuda.so.1");
    let soft = machine.file("lib/libsoftcuda.so");
    let chosen = |path: &Path| find_in(&places, &Driver::Path(path.to_path_buf()), None, Some(&own));
    assert_eq!(chosen(&soft), Ok(Some(soft.clone())), "a library beside the shim may be the driver");
    let through_link = machine.link("x/libcuda.so.1", &own);
    for (path, why) in [
        (own.clone(), "the shim itself"),
        (through_link, "the shim itself"),
        (machine.root.path().join("missing.so"), "can't be used"),
        (machine.root.path().join("lib"), "not a file"),
    ] {
        let error = chosen(&path).unwrap_err();
        assert!(error.contains(why) && error.contains("set ZEROGPU_DRIVER"), "{error}");
    }
}

#[test]
fn the_software_driver_is_found_in_the_folder_or_beside_the_shim() {
    let machine = Machine::new();
    let places = machine.places(&[]);
    let soft = machine.file("target/libsoftcuda.so");
    let shim = machine.file("target/libzerogpu.so");
    let link = machine.link("links/libcuda.so.1", &shim);
    let folder = machine.root.path().join("target");
    assert_eq!(find_in(&places, &Driver::Soft, Some(&folder), None), Ok(Some(soft.clone())));
    let found = find_in(&places, &Driver::Soft, None, Some(&link)).unwrap().unwrap();
    assert_eq!(fs::canonicalize(found).unwrap(), fs::canonicalize(soft).unwrap());
    let empty = machine.root.path().join("links");
    assert!(find_in(&places, &Driver::Soft, Some(&empty), None).unwrap_err().contains("set ZEROGPU_LIB"));
    assert!(find_in(&places, &Driver::Soft, None, None).unwrap_err().contains("set ZEROGPU_LIB"));
    assert_eq!(find_in(&places, &Driver::None, Some(&folder), None), Ok(None));
}

#[test]
fn the_search_path_comes_first_and_only_absolute_folders_count() {
    let places = Places::of_machine(Some(OsStr::new("/first::relative:/second")));
    assert_eq!(places.folders[..2], [PathBuf::from("/first"), PathBuf::from("/second")]);
    assert_eq!(places.folders[2], PathBuf::from("/usr/lib/x86_64-linux-gnu"));
    assert_eq!(Places::of_machine(None).folders[0], PathBuf::from("/usr/lib/x86_64-linux-gnu"));
}
