//! A program that opens `libcuda.so` finds the functions of the preloaded `libcuda.so.1`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Opens the library as its users do, and prints what the function in it answers.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(void) {
    void *library = dlopen("libcuda.so", RTLD_NOW);
    if (!library) return puts(dlerror()), 1;
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
    if (!init) return puts(dlerror()), 2;
    printf("%d\n", init(40));
}
"#;

/// Stands for the shim.
const SHIM: &str = "int cuInit(unsigned flags) { return flags + 2; }";

fn compile(folder: &Path, name: &str, code: &str, arguments: &[&str]) -> PathBuf {
    let (source, out) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&source, code).expect("the folder can be written");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(&compiler).args(arguments).arg("-o").arg(&out).arg(&source).arg("-ldl").status();
    assert!(status.is_ok_and(|status| status.success()), "{compiler} {name}");
    out
}

#[test]
fn dlopen_of_the_development_name_leads_to_the_preloaded_driver() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = compile(folder, "opens-libcuda", PROGRAM, &[]);
    let shim = compile(folder, "libshim.so", SHIM, &["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]);
    let alias = zerogpu_linkage::built("zerogpu-alias", "zerogpu_alias");
    let run = |preload: &[&Path]| {
        let preload: Vec<_> = preload.iter().map(|path| path.to_str().expect("a plain path")).collect();
        let output = Command::new(&program).env("LD_PRELOAD", preload.join(":")).output().expect("the program runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(run(&[&shim, &alias]), "42\n");
    assert_eq!(run(&[&alias, &shim]), "42\n", "in the other order");
    // Without the alias nothing of the name is found, or the machine's own driver, which knows no flags.
    assert_ne!(run(&[&shim]), "42\n");
}
