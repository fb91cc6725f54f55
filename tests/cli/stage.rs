//! A made-up installation to run the command in.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The tests of a file, by name.
pub type Tests = &'static [(&'static str, fn())];

/// Lists functions as [`Tests`].
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { pub const TESTS: $crate::stage::Tests = &[$((stringify!($name), $name)),*]; };
}

/// A folder with an installation in it.
pub struct Stage {
    root: TempDir,
}

impl Stage {
    /// The three objects under their names, and the hook.
    pub fn new() -> Stage {
        static COMPILED: OnceLock<Stage> = OnceLock::new();
        let compiled = COMPILED.get_or_init(|| {
            let stage = Stage { root: tempfile::tempdir().unwrap() };
            stage.library("libcuda.so.1", "libcuda.so.1", "int zerogpu_region_begin(void) { return 0; }");
            stage.library("libcuda.so", "libcuda.so", "");
            stage.library("libnvidia-ml.so.1", "libnvidia-ml.so.1", "");
            stage
        });
        let stage = Stage { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(stage.path("lib/python/spaces")).unwrap();
        for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
            fs::copy(compiled.path(name), stage.path("lib").join(name)).unwrap();
        }
        stage
    }

    /// A path in the folder, links resolved.
    pub fn path(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.root.path()).unwrap().join(path)
    }

    /// The folder of the libraries, as text.
    pub fn lib(&self) -> String {
        self.path("lib").to_str().unwrap().to_string()
    }

    /// Compiles a shared object.
    pub fn library(&self, path: &str, soname: &str, code: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let source = path.with_extension("c");
        fs::write(&source, code).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-nostartfiles", "-nostdlib", &format!("-Wl,-soname,{soname}"), "-o"]);
        assert!(compiler.arg(&path).arg(&source).status().unwrap().success());
        fs::remove_file(source).unwrap();
        path
    }

    /// A driver with these functions of cuda.h.
    pub fn driver(&self, version: i32, init: &str) -> PathBuf {
        let code = format!(
            "int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}
             int cuInit(unsigned flags) {{ {init} }}
             int cuDeviceGetCount(int *n) {{ *n = 2; return 0; }}
             int cuDeviceGetName(char *name, int length, int device) {{ name[0] = 'A' + device; name[1] = 0; return 0; }}"
        );
        self.library("driver/libcuda.so.1", "libcuda.so.1", &code)
    }

    /// The command, in an environment without settings of ours.
    pub fn zerogpu(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zerogpu"));
        command.args(arguments).current_dir(self.root.path());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["ZEROGPU_", "SOFTCUDA_", "LD_", "CUDA_", "PYTHONPATH"].iter().any(|start| text.starts_with(start)) {
                command.env_remove(&name);
            }
        }
        command.env("ZEROGPU_LIB", self.lib()).env("SOFTCUDA_CARDS", self.path("cards"));
        // a broker of this machine is none of ours
        command.env("ZEROGPU_SOCKET", "none");
        command
    }

    /// What the command printed, when it ends well.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let output = self.zerogpu(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    }

    /// What the command complains of, when it ends with `code`.
    pub fn complains(&self, code: i32, arguments: &[&str]) -> String {
        complaint(code, &self.zerogpu(arguments).output().unwrap())
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.root.path()
    }
}

/// The standard error of a command that ended with `code`.
pub fn complaint(code: i32, output: &Output) -> String {
    assert_eq!(output.status.code().or(output.status.signal().map(|signal| -signal)), Some(code), "{output:?}");
    text(&output.stderr)
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
