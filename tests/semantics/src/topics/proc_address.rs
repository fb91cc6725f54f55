//! `cuGetProcAddress`: each answer recorded on driver 580, and what is no name.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::collections::BTreeMap;
use std::ffi::{c_void, CString};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

const RECORDED: &str = include_str!("../../../data/procaddress-580.tsv");
const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const TOO_OLD: u32 = 2;
const PER_THREAD: u64 = 2;

/// What a call leaves in its outputs when it touches nothing.
const UNTOUCHED: usize = 5;

fn v2(d: &Driver, name: &str, version: i32, flags: u64) -> (u32, usize, u32) {
    let (mut address, mut status) = (UNTOUCHED as *mut c_void, 77);
    let name = CString::new(name).expect("no NUL in a name");
    let code = d.cuGetProcAddress_v2(name.as_ptr(), &mut address, version, flags, &mut status);
    (code.0, address as usize, status)
}

fn v1(d: &Driver, name: &str, version: i32, flags: u64) -> (u32, usize) {
    let mut address = UNTOUCHED as *mut c_void;
    let name = CString::new(name).expect("no NUL in a name");
    (d.cuGetProcAddress(name.as_ptr(), &mut address, version, flags).0, address as usize)
}

fn exported(d: &Driver, symbol: &str) -> usize {
    d.address(&CString::new(symbol).expect("no NUL in a symbol"))
}

/// The recorded steps of each name and flag: from which version on which symbol.
fn recorded() -> BTreeMap<(&'static str, bool), Vec<(i32, &'static str)>> {
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, per_thread, since, symbol] = cells[..] else { panic!("four cells: {line}") };
        let since = since.parse().unwrap_or_else(|_| panic!("a version: {line}"));
        names.entry((name, per_thread == "1")).or_default().push((since, symbol));
    }
    names
}

/// The versions that were probed, up to the driver's own.
fn probed(driver: i32) -> Vec<i32> {
    let line =
        RECORDED.lines().find_map(|line| line.strip_prefix("# versions probed: ")).expect("the versions are named");
    line.split(' ').map(|v| v.parse().expect("a version")).filter(|version| *version <= driver).collect()
}

/// Every name, flag and version of the recording, before `cuInit`.
pub fn table(d: &Driver, t: &mut Check) {
    let mut driver = 0;
    must("cuDriverGetVersion", d.cuDriverGetVersion(&mut driver));
    t.that("the driver is the recorded one's age", driver == 13_000 || t.driver.real);
    let names = recorded();
    let versions = probed(driver);
    let mut wrong = 0;
    for ((name, per_thread), steps) in &names {
        let flags = if *per_thread { PER_THREAD } else { 0 };
        for version in &versions {
            let symbol = steps.iter().take_while(|(since, _)| since <= version).last().map(|(_, symbol)| *symbol);
            let address = symbol.map_or(0, |symbol| exported(d, symbol));
            let want = match symbol {
                Some(symbol) => {
                    if address == 0 {
                        t.that(format_args!("{symbol} is exported"), false);
                    }
                    ((0, address, FOUND), (0, address))
                }
                None => ((0, 0, TOO_OLD), (500, UNTOUCHED)),
            };
            // flag 1 asks for what no flag asks for
            for flags in [flags, flags | 1] {
                let got = (v2(d, name, *version, flags), v1(d, name, *version, flags));
                if got != want {
                    wrong += 1;
                    t.same(format_args!("{name} version {version} flags {flags}: {symbol:?}"), got, want);
                }
            }
        }
    }
    t.same("wrong answers", wrong, 0);
    t.that("names recorded", names.len() > 800 && versions.len() > 20);
}

/// Names that the recording lacks, and what is no name at all.
pub fn others(d: &Driver, t: &mut Check) {
    let mut driver = 0;
    must("cuDriverGetVersion", d.cuDriverGetVersion(&mut driver));
    for name in
        ["cuGetExportTable", "cuGetErrorName", "cuGetErrorString", "cuGraphInstantiateWithFlags", "cuProfilerStart"]
    {
        t.same(name, v2(d, name, driver, 0), (0, exported(d, name), FOUND));
    }
    let own = [(11_030, "cuGetProcAddress"), (11_080, "cuGetProcAddress"), (12_000, "cuGetProcAddress_v2")];
    for (version, symbol) in own {
        t.same(symbol, v2(d, "cuGetProcAddress", version, 0), (0, exported(d, symbol), FOUND));
    }
    let unknown =
        ["cuNoSuchFunction", "", "cuMemAlloc_v2", "cuInit_ptsz", "cuMemcpy_ptds", "cuinit", "printf", "cuInit "];
    for name in unknown {
        t.same(format_args!("unknown: '{name}'"), v2(d, name, driver, 0), (0, 0, NOT_FOUND));
        t.same(format_args!("unknown, v1: '{name}'"), v1(d, name, driver, 0), (500, UNTOUCHED));
    }
    // cudart 12.4 begins with this
    t.same("no name, version 0", v2(d, "", 0, 0), (0, 0, NOT_FOUND));
    t.same("version too low", v2(d, "cuMemAllocAsync", 11_010, 0), (0, 0, TOO_OLD));
    for version in [driver + 1, driver + 10, i32::MAX] {
        let (code, address, _) = v2(d, "cuInit", version, 0);
        t.same(format_args!("version {version}"), (code, address), (1, UNTOUCHED));
    }
    let (mut address, mut status) = (UNTOUCHED as *mut c_void, 77);
    if t.driver.real {
        // driver 580 crashes (recorded)
        return;
    }
    t.code("NULL name", d.cuGetProcAddress_v2(null(), &mut address, driver, 0, &mut status), 1);
    t.code("NULL name, v1", d.cuGetProcAddress(null(), &mut address, driver, 0), 1);
    t.code("NULL out", d.cuGetProcAddress_v2(c"cuInit".as_ptr(), null_mut(), driver, 0, &mut status), 1);
    t.code("NULL out, v1", d.cuGetProcAddress(c"cuInit".as_ptr(), null_mut(), driver, 0), 1);
    t.code("NULL status", d.cuGetProcAddress_v2(c"cuInit".as_ptr(), &mut address, driver, 0, null_mut()), 0);
    t.same("is no error", address as usize, exported(d, "cuInit"));
    let long = "cu".repeat(100_000);
    t.same("a very long name", v2(d, &long, driver, 0), (0, 0, NOT_FOUND));
}

/// Each symbol of the list is exported.
pub fn exports(d: &Driver, t: &mut Check) {
    let mut missing: Vec<String> = Vec::new();
    for symbol in list::symbols() {
        let twin = symbol.twin.map(|twin| format!("{}_{}", symbol.name, twin.suffix));
        let names = [Some(symbol.name.to_string()), twin].into_iter().flatten();
        missing.extend(names.filter(|name| exported(d, name) == 0));
    }
    t.same("symbols that are not exported", missing, vec![]);
}
