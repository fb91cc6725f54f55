//! How our shared objects and the command are linked; for their build scripts ([`cdylib`], [`needs`], [`command`]) and tests
//! ([`built`]).
//!
//! Each object is preloaded into programs that know nothing of it, on machines that we do not know. So it has the
//! SONAME of the library that it stands for, needs nothing but glibc, no newer one than 2.28, and is never unloaded:
//!
//! * std wants `libgcc_s.so.1` for unwinding. The linker finds our own file of that name first: a linker script that
//!   takes the static `libgcc_eh` instead. Its symbols stay inside, so `catch_unwind` works and nobody else's unwinding
//!   changes.
//! * A newer glibc on the build machine would bind `dlsym`, `pthread_create` and others to its newest version. The same
//!   script names stub libraries that have them as glibc 2.28 had (`glibc-2.28.txt`).
//! * What 2.28 lacks altogether is in `runtime.c`.
//!
//! The command is linked the same way: it goes where the objects go.
//!
//! `scripts/check-binaries` looks at the result.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const MOVED: &str = include_str!("../glibc-2.28.txt");
const RUNTIME: Source = ("runtime.c", include_str!("runtime.c"));
const START: Source = ("start.c", include_str!("start.c"));

/// Name and text of a C file.
type Source = (&'static str, &'static str);

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Links the calling package's cdylib as a library whose SONAME is `soname`. To be called from its build script;
/// panics, which stops the build, when the C compiler fails.
pub fn cdylib(soname: &str) {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    assert_eq!(target, TARGET, "zerogpu's libraries exist for this target only");
    let own = [format!("-Wl,-soname,{soname}"), "-Wl,-z,nodelete".to_string()];
    for argument in link_arguments(&out_folder(), &[RUNTIME]).into_iter().chain(own) {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}

/// Links the calling package's executables so that they run on an old glibc as well. To be called from its build script;
/// panics, which stops the build, when the C compiler fails.
pub fn command() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    assert_eq!(target, TARGET, "zerogpu exists for this target only");
    for argument in link_arguments(&out_folder(), &[RUNTIME, START]).into_iter().chain(executable()) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// What the linker is told of an executable besides.
fn executable() -> [String; 3] {
    [
        // the startup code of a glibc since 2.34 asks for a newer version of it: start.c stands between
        "-Wl,--wrap=__libc_start_main".to_string(),
        // 2.29; std asks whether it is there and does without, but lld makes a need of the question
        "-Wl,--defsym=posix_spawn_file_actions_addchdir_np=0".to_string(),
        // glibc's own libraries need more of libm than the stub has
        "-Wl,--allow-shlib-undefined".to_string(),
    ]
}

/// What the linker is told; what it reads lies in `folder`.
fn link_arguments(folder: &Path, sources: &[Source]) -> Vec<String> {
    let mut compiler = compiler(folder);
    for (name, text) in sources {
        write(&folder.join(name), text);
        compiler.file(folder.join(name));
    }
    let runtime = compiler.compile_intermediates();

    let quote = |path: &PathBuf| format!("\"{}\"", path.display());
    let runtime: Vec<_> = runtime.iter().map(quote).collect();
    let stubs = moved_functions().into_iter().map(|(library, versions)| quote(&stub(folder, library, &versions)));
    let stubs: Vec<_> = stubs.collect();
    let script = format!("GROUP ( {} AS_NEEDED ( {} ) -lgcc_eh -lgcc )\n", runtime.join(" "), stubs.join(" "));
    let search = folder.join("search");
    fs::create_dir_all(&search).unwrap_or_else(|e| panic!("{}: {e}", search.display()));
    write(&search.join("libgcc_s.so"), &script);

    let mut arguments = vec![format!("-L{}", search.display())];
    arguments.extend(["now", "relro", "noexecstack"].map(|keyword| format!("-Wl,-z,{keyword}")));
    arguments
}

/// Makes the calling package's cdylib need the library `soname`, which does not have to exist at build time.
pub fn needs(soname: &str) {
    let stub = stub(&out_folder(), soname, &Versions::new());
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-as-needed,{},--as-needed", stub.display());
}

/// For tests: builds the cdylib `library` of `package` in the profile of the calling test, and says where it is. (Cargo
/// builds no cdylib for the tests of its own package.) Panics when that fails.
pub fn built(package: &str, library: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its path");
    let profile = test.ancestors().nth(2).expect("tests lie in <target>/<profile>/deps");
    let name = profile.file_name().and_then(|name| name.to_str()).expect("a profile's folder has a name");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--profile", if name == "debug" { "dev" } else { name }]);
    cargo.arg("--target-dir").arg(profile.parent().expect("a profile's folder lies in the target folder"));
    let status = cargo.status().unwrap_or_else(|e| panic!("{cargo:?}: {e}"));
    assert!(status.success(), "{cargo:?}: {status}");
    profile.join(format!("lib{library}.so"))
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
    let mut linker = compiler(folder).get_compiler().to_command();
    linker.args(["-shared", "-nostdlib", &format!("-Wl,-soname,{soname}"), "-o"]).arg(&path).arg(&source);
    if !versions.is_empty() {
        write(&map, &script);
        linker.arg(format!("-Wl,--version-script,{}", map.display()));
    }
    let status = linker.status().unwrap_or_else(|e| panic!("{linker:?}: {e}"));
    assert!(status.success(), "{linker:?}: {status}");
    path
}

/// The C compiler, whose object files go to `folder`.
fn compiler(folder: &Path) -> cc::Build {
    let mut compiler = cc::Build::new();
    let host = env::var("HOST").unwrap_or_else(|_| TARGET.into());
    compiler.cargo_metadata(false).target(TARGET).host(&host).opt_level(2).out_dir(folder);
    compiler
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

    const PROBE: &str = r#"
        //! A library that unwinds, has threads and looks at a file.
        #[no_mangle]
        pub extern "C" fn probe(fail: bool) -> u64 {
            let work = move || {
                if fail {
                    std::panic::resume_unwind(Box::new(()));
                }
                std::thread::spawn(|| std::fs::metadata("/").map_or(0, |root| root.is_dir() as u64)).join().unwrap_or(0)
            };
            std::panic::catch_unwind(work).unwrap_or(40)
        }
    "#;

    #[test]
    fn a_linked_library_unwinds_by_itself_and_needs_only_an_old_glibc() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = ["-Wl,-soname,libprobe.so.7", "-Wl,-z,nodelete"].map(str::to_string);
        let library = linked(folder.path(), "cdylib", PROBE, &[RUNTIME], own);

        // SAFETY: the library runs no code when it is loaded.
        let loaded = unsafe { libloading::Library::new(&library) }.expect("the library loads");
        // SAFETY: the signature is that of the code above.
        let probe = unsafe { loaded.get::<extern "C" fn(bool) -> u64>(b"probe") }.expect("the library has a function");
        assert_eq!((probe(false), probe(true)), (1, 40));

        let dynamic = readelf("-d", &library);
        assert!(dynamic.contains("Library soname: [libprobe.so.7]"), "{dynamic}");
        for (tag, word) in [("(FLAGS)", "BIND_NOW"), ("(FLAGS_1)", "NODELETE")] {
            assert!(dynamic.lines().any(|line| line.contains(tag) && line.contains(word)), "{tag} {word}:\n{dynamic}");
        }
        let symbols = readelf("--dyn-syms", &library);
        let exported = symbols.lines().filter(|line| line.contains(" GLOBAL ") && !line.contains(" UND "));
        assert_eq!(exported.filter_map(|line| line.split_whitespace().nth(7)).collect::<Vec<_>>(), ["probe"]);
        is_for_an_old_glibc(&library);
    }

    const PROGRAM: &str = r#"
        //! A program with a constructor, which takes arguments, unwinds, and starts another in a folder.
        use std::sync::atomic::{AtomicUsize, Ordering};
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn construct(count: i32) {
            RUNS.fetch_add(count as usize, Ordering::Relaxed);
        }
        #[used]
        #[link_section = ".init_array"]
        static CONSTRUCTOR: extern "C" fn(i32) = construct;

        fn main() {
            let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(()))).is_err();
            let mut other = std::process::Command::new("pwd");
            let folder = other.current_dir("/usr").output().map(|output| String::from_utf8(output.stdout));
            let exp2 = (std::env::args().count() as f64).exp2();
            println!("{} {caught} {exp2} {:?}", RUNS.load(Ordering::Relaxed), folder.unwrap().unwrap());
        }
    "#;

    #[test]
    fn a_linked_program_is_constructed_once_and_needs_only_an_old_glibc() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = linked(folder.path(), "bin", PROGRAM, &[RUNTIME, START], executable());
        let output = Command::new(&program).args(["a", "b"]).output().expect("the program starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3 true 8 \"/usr\\n\"\n", "{output:?}");
        is_for_an_old_glibc(&program);
    }

    /// Compiles and links a file of Rust, without cargo.
    fn linked<const N: usize>(folder: &Path, kind: &str, code: &str, with: &[Source], own: [String; N]) -> PathBuf {
        let (source, made) = (folder.join("probe.rs"), folder.join("probe"));
        write(&source, code);
        let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2021", "-Cstrip=symbols", "--crate-type", kind, "-o"]).arg(&made).arg(&source);
        for argument in link_arguments(folder, with).into_iter().chain(own) {
            rustc.arg(format!("-Clink-arg={argument}"));
        }
        assert!(rustc.status().is_ok_and(|status| status.success()), "{rustc:?}");
        made
    }

    fn readelf(what: &str, file: &Path) -> String {
        let output = Command::new("readelf").args(["-W", what]).arg(file).output().expect("readelf runs");
        String::from_utf8(output.stdout).expect("plain text")
    }

    fn is_for_an_old_glibc(file: &Path) {
        let (dynamic, symbols) = (readelf("-d", file), readelf("--dyn-syms", file));
        assert!(!dynamic.contains("libgcc_s"), "{dynamic}");
        let versions = symbols.split("@GLIBC_2.").skip(1).map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()
                .and_then(|minor| minor.parse::<u32>().ok())
                .unwrap_or(u32::MAX)
        });
        assert!(versions.max().is_some_and(|newest| newest <= 28), "{symbols}");
    }
}
