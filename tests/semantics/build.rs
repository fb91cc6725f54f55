//! Generates, from the one list of driver symbols, a method per symbol and the calls of the topics about handles.
use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;
use zerogpu_abi::codegen::implementations;
use zerogpu_abi::list::{symbols, Symbol};

/// Types of parameters that name an object of the driver.
const HANDLES: &[&str] = &[
    "CUarray",
    "CUasyncCallbackHandle",
    "CUcontext",
    "CUdevResourceDesc",
    "CUevent",
    "CUexternalMemory",
    "CUexternalSemaphore",
    "CUfunction",
    "CUgraph",
    "CUgraphExec",
    "CUgraphNode",
    "CUgraphicsResource",
    "CUgreenCtx",
    "CUkernel",
    "CUlibrary",
    "CUlinkState",
    "CUlogsCallbackHandle",
    "CUmemoryPool",
    "CUmipmappedArray",
    "CUmodule",
    "CUstream",
    "CUsurfref",
    "CUtexref",
    "CUuserObject",
];

/// As those, but they are numbers to C.
const NUMBERS: &[&str] = &["CUdeviceptr", "CUmemGenericAllocationHandle"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut methods = String::from("impl Driver {\n");
    let mut calls =
        String::from("/// Each function that takes a handle.\npub const HANDLE_CALLS: &[HandleCall] = &[\n");
    let mut positions = String::from("/// Each place of a handle.\npub const POSITIONS: &[Position] = &[\n");
    let implemented: HashSet<String> = implementations(Path::new("../../crates/device/src/api")).into_iter().collect();
    for s in symbols() {
        for name in [Some(s.name.to_string()), s.twin.map(|t| format!("{}_{}", s.name, t.suffix))].into_iter().flatten()
        {
            method(&mut methods, &name, s);
            handle_call(&mut calls, &name, s);
            let known = implemented.contains(&name) || implemented.contains(s.name);
            (0..s.params.len()).for_each(|at| position(&mut positions, &name, s, at, known));
        }
    }
    methods.push_str("}\n");
    calls.push_str("];\n");
    positions.push_str("];\n");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(format!("{out}/methods.rs"), methods).expect("OUT_DIR is writable");
    std::fs::write(format!("{out}/handle_calls.rs"), calls).expect("OUT_DIR is writable");
    std::fs::write(format!("{out}/positions.rs"), positions).expect("OUT_DIR is writable");
}

fn method(out: &mut String, name: &str, s: &Symbol) {
    let types: Vec<&str> = s.params.iter().map(|(_, t)| *t).collect();
    let params: String = types.iter().enumerate().map(|(i, t)| format!(", a{i}: {t}")).collect();
    let args: Vec<String> = (0..types.len()).map(|i| format!("a{i}")).collect();
    let _ = write!(
        out,
        "    /// `{name}`\n    #[allow(dead_code, clippy::too_many_arguments)]\n    pub(crate) fn {name}(&self{params}) -> CUresult {{
        type Call = unsafe extern \"C\" fn({}) -> CUresult;
        // SAFETY: the signature is the declared one; for what the arguments point to see the module's text.
        unsafe {{ self.symbol::<Call>(c\"{name}\")({}) }}
    }}\n",
        types.join(", "),
        args.join(", ")
    );
}

/// A call of `name` in which each handle and each device address is `bad`, each other pointer leads to scratch memory
/// and each number is small.
fn handle_call(out: &mut String, name: &str, s: &Symbol) {
    let kinds: Vec<String> =
        s.params.iter().filter(|(_, t)| HANDLES.contains(t)).map(|(_, t)| format!("\"{t}\"")).collect();
    if kinds.is_empty() {
        return;
    }
    let args: Vec<String> = s.params.iter().map(|(_, t)| argument(t)).collect();
    let _ = writeln!(
        out,
        "    HandleCall {{ name: \"{name}\", kinds: &[{}], call: |d, bad, scratch| {{ let _ = (bad, scratch); d.{name}({}) }} }},",
        kinds.join(", "),
        args.join(", ")
    );
}

fn argument(t: &str) -> String {
    match t {
        _ if HANDLES.contains(&t) => format!("{t}(bad)"),
        "CUdeviceptr" | "CUmemGenericAllocationHandle" => "bad as u64".into(),
        "CUhostFn" | "CUstreamCallback" | "CUoccupancyB2DSize" => "None".into(),
        "CUmemLocation" => "CUmemLocation { kind: 1, id: 0 }".into(),
        "f32" => "0.0".into(),
        "usize" | "u64" => "1".into(),
        _ if t.starts_with('*') => "scratch.cast()".into(),
        _ => "0".into(),
    }
}

/// A call of `name` in which the argument `at`, if it is a handle or a device address, is `bad` and all others are good.
fn position(out: &mut String, name: &str, s: &Symbol, at: usize, known: bool) {
    let (parameter, kind) = s.params[at];
    if !HANDLES.contains(&kind) && !NUMBERS.contains(&kind) {
        return;
    }
    let args: Vec<String> = s.params.iter().enumerate().map(|(i, (_, t))| good(t, name, i == at)).collect();
    let _ = writeln!(
        out,
        "    Position {{ name: \"{name}\", parameter: \"{parameter}\", kind: \"{kind}\", known: {known}, \
         call: |d, o, bad, n| {{ let _ = (o, bad, n); d.{name}({}) }} }},",
        args.join(", ")
    );
}

fn good(t: &str, name: &str, bad: bool) -> String {
    let handle = if bad { "bad".into() } else { format!("o.get(\"{t}\", \"{name}\")") };
    match t {
        _ if HANDLES.contains(&t) => format!("{t}({handle})"),
        _ if NUMBERS.contains(&t) => format!("{handle} as u64"),
        "CUhostFn" => "Some(no_function)".into(),
        "CUstreamCallback" => "Some(no_callback)".into(),
        "*const CUgraphNode" => "o.nodes()".into(),
        "*mut *mut c_void" => "o.pointers()".into(),
        "*mut CUmemLocation" => "o.location()".into(),
        _ if t.starts_with('*') => "o.scratch()".into(),
        "u32" | "i32" | "u16" | "u8" => "n as _".into(),
        _ => argument(t),
    }
}
