//! Turns the list of symbols into the exports of a driver library. Called by build scripts.
//!
//! An implementation is a `pub unsafe fn` (or `pub fn`) named like the symbol, anywhere under one of the given source
//! folders, whose module re-exports it. What has none gets the default: it is named once, leaves its outputs alone and
//! answers NOT_SUPPORTED.
use crate::list::{symbols, Symbol};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Where implementations are found: a folder to scan, and the Rust path under which they are reachable.
/// Earlier sources win.
pub struct Source<'a> {
    /// Folder with `.rs` files, scanned recursively.
    pub folder: &'a Path,
    /// For example `crate::entry` or `zerogpu_device::api`.
    pub path: &'a str,
}

/// Generates the exports. `macro_name!(ID, symbol_name, [(param, type)...], path::to::implementation)` wraps each call,
/// `default_name!(ID, symbol_name, [(param, type)...])` gives the body of what is not implemented.
pub fn exports(sources: &[Source], call_macro: &str, default_macro: &str) -> String {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for s in sources.iter().rev() {
        for name in implementations(s.folder) {
            found.insert(name.clone(), format!("{}::{name}", s.path));
        }
    }
    let known: std::collections::HashSet<String> = symbols().iter().flat_map(names).collect();
    for (name, path) in &found {
        assert!(known.contains(name), "{path} implements no symbol of driver.abi");
    }
    let mut out = String::from("// Generated from crates/abi/driver.abi.\n");
    let mut addresses = String::new();
    let mut id = 0;
    for s in symbols() {
        for name in names(s) {
            // a twin without an implementation of its own is the plain function, its default stream the thread's own
            let own = found.get(&name);
            let imp = own.or_else(|| found.get(s.name));
            let borrowed = own.is_none();
            emit(
                &mut out,
                s,
                &name,
                borrowed && name != s.name,
                id,
                imp.map(String::as_str),
                call_macro,
                default_macro,
            );
            let _ = writeln!(addresses, "    {name} as *const (),");
            id += 1;
        }
    }
    let _ = writeln!(
        out,
        "/// Addresses of the exports; the twin of a symbol follows it.\npub static EXPORTS: [FnPtr; {id}] = ["
    );
    let _ = writeln!(out, "{}];", addresses.replace("    ", "    FnPtr(").replace(" as *const (),", " as *const ()),"));
    out
}

#[allow(clippy::too_many_arguments)]
fn emit(
    out: &mut String,
    s: &Symbol,
    name: &str,
    as_twin: bool,
    id: usize,
    imp: Option<&str>,
    call: &str,
    default: &str,
) {
    let params: Vec<String> = s.params.iter().map(|(n, t)| format!("{n}: {t}")).collect();
    let _ = writeln!(
        out,
        "#[no_mangle]\n#[doc = \"`{name}`\"]\npub unsafe extern \"C\" fn {name}({}) -> CUresult {{",
        params.join(", ")
    );
    let args: Vec<String> = s.params.iter().map(|(n, t)| format!("({n}, {t})")).collect();
    match imp {
        Some(path) => {
            for (n, _) in s.params.iter().filter(|(_, t)| as_twin && *t == "CUstream") {
                let _ = writeln!(out, "    let {n} = if {n}.0 == 0 {{ CU_STREAM_PER_THREAD }} else {{ {n} }};");
            }
            let _ = writeln!(out, "    {call}!({id}, {name}, [{}], {path})", args.join(", "));
        }
        None => {
            let _ = writeln!(out, "    {default}!({id}, {name}, [{}])", args.join(", "));
        }
    }
    out.push_str("}\n");
}

/// The names that a symbol exports: its own and its twin's.
pub fn names(s: &Symbol) -> Vec<String> {
    let mut v = vec![s.name.to_string()];
    if let Some(t) = s.twin {
        v.push(format!("{}_{}", s.name, t.suffix));
    }
    v
}

/// Names of the functions in `folder` that look like driver functions.
pub fn implementations(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).collect();
    entries.sort_by_key(|e| e.as_ref().map(|e| e.path()).ok());
    for e in entries {
        let path = e.expect("readable folder").path();
        println!("cargo:rerun-if-changed={}", path.display());
        if path.is_dir() {
            names.extend(implementations(&path));
        } else if path.extension().is_some_and(|x| x == "rs") {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for line in text.lines() {
                let line = line.trim_start();
                let rest = line.strip_prefix("pub unsafe fn ").or_else(|| line.strip_prefix("pub fn "));
                if let Some(rest) = rest {
                    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if name.starts_with("cu") && name.as_bytes().get(2).is_some_and(|b| b.is_ascii_uppercase()) {
                        names.push(name);
                    }
                }
            }
        }
    }
    names
}
