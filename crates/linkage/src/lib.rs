//! How our shared objects are linked; for their build scripts.
//!
//! Each object is preloaded into programs that know nothing of it, on machines that we do not know. So it has the SONAME
//! of the library that it stands for, needs nothing but glibc, no newer one than 2.28, and is never unloaded:
//!
//! * std wants `libgcc_s.so.1` for unwinding. The linker finds our own file of that name first: a linker script that takes
//!   the static `libgcc_eh` instead. Its symbols stay inside, so `catch_unwind` works and nobody else's unwinding changes.
//! * A newer glibc on the build machine would bind `dlsym`, `pthread_create` and others to its newest version. The same
//!   script names stub libraries that have them as glibc 2.28 had (`glibc-2.28.txt`).
//! * What 2.28 lacks altogether is in `runtime.c`.
//!
//! `scripts/check-binaries` looks at the result.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

const MOVED: &str = include_str!("../glibc-2.28.txt");
const RUNTIME: &str = include_str!("runtime.c");

/// Links the calling package's cdylib as a library whose SONAME is `soname`. To be called from its build script; panics,
/// which stops the build, when the C compiler fails.
pub fn cdylib(soname: &str) {
    let target = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    assert_eq!(target, "x86_64", "zerogpu's libraries exist for x86-64 only");
    let folder = out_folder();

    let source = folder.join("runtime.c");
    write(&source, RUNTIME);
    let runtime = cc::Build::new().cargo_metadata(false).file(&source).compile_intermediates();

    let quote = |path: &PathBuf| format!("\"{}\"", path.display());
    let runtime: Vec<_> = runtime.iter().map(quote).collect();
    let stubs = moved_functions().into_iter().map(|(library, versions)| quote(&stub(&folder, library, &versions)));
    let stubs: Vec<_> = stubs.collect();
    let script = format!("GROUP ( {} AS_NEEDED ( {} ) -lgcc_eh -lgcc )\n", runtime.join(" "), stubs.join(" "));
    let search = folder.join("search");
    fs::create_dir_all(&search).unwrap_or_else(|e| panic!("{}: {e}", search.display()));
    write(&search.join("libgcc_s.so"), &script);

    println!("cargo:rustc-cdylib-link-arg=-L{}", search.display());
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    for keyword in ["now", "relro", "noexecstack", "nodelete"] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,{keyword}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}

/// Makes the calling package's cdylib need the library `soname`, which does not have to exist at build time.
pub fn needs(soname: &str) {
    let stub = stub(&out_folder(), soname, &Versions::new());
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-as-needed,{},--as-needed", stub.display());
}

/// Version to names.
type Versions<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// The functions of `glibc-2.28.txt`, by library.
fn moved_functions() -> BTreeMap<&'static str, Versions<'static>> {
    let mut libraries = BTreeMap::<_, Versions>::new();
    for line in MOVED.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(library), Some(version)) = (words.next(), words.next()) else { panic!("glibc-2.28.txt: {line:?}") };
        libraries.entry(library).or_default().entry(version).or_default().extend(words);
    }
    libraries
}

/// A library to link against and never to load: a SONAME and empty functions under versions.
fn stub(folder: &Path, soname: &str, versions: &Versions) -> PathBuf {
    let (mut code, mut script) = (String::new(), String::new());
    for (version, names) in versions {
        for name in names {
            writeln!(code, ".globl {name}\n.type {name}, @function\n{name}:").expect("a String takes all");
        }
        writeln!(script, "{version} {{ {}; }};", names.join("; ")).expect("a String takes all");
    }
    let path = folder.join(soname);
    let (source, map) = (folder.join(format!("{soname}.s")), folder.join(format!("{soname}.map")));
    write(&source, &format!("{code}.section .note.GNU-stack,\"\",@progbits\n"));
    let mut linker = cc::Build::new().cargo_metadata(false).get_compiler().to_command();
    linker.args(["-shared", "-nostdlib", &format!("-Wl,-soname,{soname}"), "-o"]).arg(&path).arg(&source);
    if !versions.is_empty() {
        write(&map, &script);
        linker.arg(format!("-Wl,--version-script,{}", map.display()));
    }
    let status = linker.status().unwrap_or_else(|e| panic!("{linker:?}: {e}"));
    assert!(status.success(), "{linker:?}: {status}");
    path
}

fn out_folder() -> PathBuf {
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("linkage");
    fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    folder
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_moved_function_needs_more_than_glibc_2_28_and_each_is_in_one_place() {
        let mut seen = BTreeSet::new();
        for (library, versions) in moved_functions() {
            assert!(library.contains(".so."), "{library} is no SONAME");
            for (version, names) in versions {
                let numbers = version.strip_prefix("GLIBC_").expect("a version of glibc");
                let numbers: Vec<u32> = numbers.split('.').map(|n| n.parse().expect("a number")).collect();
                assert!(numbers[..] <= [2, 28][..], "{version}");
                assert!(!names.is_empty(), "{library} {version}: no names");
                names.iter().for_each(|name| assert!(seen.insert(*name), "{name} stands there twice"));
            }
        }
        assert!(seen.contains("dlsym") && seen.contains("pthread_create"));
    }
}
