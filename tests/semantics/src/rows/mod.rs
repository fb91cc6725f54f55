//! The recorded rows: each line of driver-semantics-h100.tsv, replayed in the file's order in one process.
mod device;
mod memory;
mod modules;
mod objects;

use crate::check::Check;
use crate::driver::Driver;
use crate::image;
use std::ffi::{c_void, CStr};
use zerogpu_abi::*;

const RECORDED: &str = include_str!("../../../data/driver-semantics-h100.tsv");
const MIB: usize = 1 << 20;

/// A call and what it answered; `value` is the line below it, which gives what the call returned.
struct Row {
    call: &'static str,
    code: u32,
    name: &'static str,
    value: Option<&'static str>,
}

/// One row's call. The steps stand in the file's order, each with the row's own text.
struct Step {
    call: &'static str,
    run: fn(&mut Program) -> Got,
}

const fn step(call: &'static str, run: fn(&mut Program) -> Got) -> Step {
    Step { call, run }
}

/// What a step saw. `value` is the value line that it would have recorded, with `@` for an address.
struct Got {
    code: CUresult,
    value: Option<String>,
}

impl From<CUresult> for Got {
    fn from(code: CUresult) -> Self {
        Got { code, value: None }
    }
}

impl Got {
    fn value(code: CUresult, value: impl Into<String>) -> Self {
        Got { code, value: Some(value.into()) }
    }
}

/// What the recording program held while it ran.
struct Program<'a> {
    d: &'a Driver,
    image: &'static [u8],
    /// Set-up calls that failed, for the report.
    broken: Vec<String>,
    primary: CUcontext,
    limit: usize,
    /// The `std::vector` of the recording: ordinary host memory, and the target of copies back.
    h: Vec<u8>,
    p: CUdeviceptr,
    q: CUdeviceptr,
    pinned: *mut c_void,
    va: CUdeviceptr,
    physical: CUmemGenericAllocationHandle,
    stream: CUstream,
    events: [CUevent; 3],
    module: CUmodule,
    function: CUfunction,
}

impl<'a> Program<'a> {
    fn new(d: &'a Driver, image: &'static [u8]) -> Self {
        Program {
            d,
            image,
            broken: Vec::new(),
            primary: CUcontext::NULL,
            limit: 0,
            h: vec![7; 4 * MIB],
            p: 0,
            q: 0,
            pinned: std::ptr::null_mut(),
            va: 0,
            physical: 0,
            stream: CUstream::NULL,
            events: [CUevent::NULL; 3],
            module: CUmodule::NULL,
            function: CUfunction::NULL,
        }
    }

    /// A call that the recording made between two rows.
    fn set_up(&mut self, call: &str, result: CUresult) {
        if result.0 != 0 {
            self.broken.push(format!("{call} answered {}", result.0));
        }
    }

    fn host(&mut self) -> *mut c_void {
        self.h.as_mut_ptr().cast()
    }

    /// The address of ordinary host memory, as a device pointer.
    fn host_address(&mut self) -> CUdeviceptr {
        self.host() as CUdeviceptr
    }
}

/// The rows with machine code for the card as the image.
pub fn cubin(d: &Driver, t: &mut Check) {
    replay(d, t, image::CUBIN, &[]);
}

/// The rows with PTX, as they were recorded. Without a compiler the number of registers is an estimate.
pub fn ptx(d: &Driver, t: &mut Check) {
    replay(d, t, image::PTX, &["cuFuncGetAttribute 4"]);
}

fn replay(d: &Driver, t: &mut Check, image: &'static [u8], estimated: &[&str]) {
    let rows = recorded();
    t.same("rows and steps", rows.len(), steps().count());
    let mut program = Program::new(d, image);
    for (row, step) in rows.iter().zip(steps()) {
        if row.call != step.call {
            // the steps after this one belong to other rows
            t.same("the step of a row", step.call, row.call);
            return;
        }
        let got = (step.run)(&mut program);
        let broken = std::mem::take(&mut program.broken);
        t.note(format_args!("{}: set-up", row.call), broken.is_empty(), || broken.join(", "));
        compare(d, t, row, &got, estimated);
    }
}

fn compare(d: &Driver, t: &mut Check, row: &Row, got: &Got, estimated: &[&str]) {
    if t.driver.no_kernels && row.call == "cuLaunchKernel" {
        t.that("cuLaunchKernel fails where nothing can run it", got.code.0 != 0);
        return;
    }
    // what is gone is not looked up: 0 or 400, as it comes (driver 580, recorded)
    if t.driver.real && row.call == "cuModuleUnload twice" {
        t.one_of(row.call, got.code, &[0, 400]);
        return;
    }
    t.code(row.call, got.code, row.code);
    let mut name = std::ptr::null();
    t.code(format_args!("{}: cuGetErrorName", row.call), d.cuGetErrorName(CUresult(row.code), &mut name), 0);
    if !name.is_null() {
        // SAFETY: the driver's answer is a string that lives as long as the driver.
        t.same(format_args!("{}: name", row.call), unsafe { CStr::from_ptr(name) }.to_str(), Ok(row.name));
    }
    if estimated.contains(&row.call) {
        let cell = got.value.as_deref().and_then(|v| v.split('\t').nth(1)?.parse::<i32>().ok());
        t.that(format_args!("{}: an estimate", row.call), cell.is_some_and(|v| v >= 1));
        return;
    }
    // 3/16 of the L2 cache, of which others than an H100 have more or less
    if t.driver.real && row.call == "cuCtxGetLimit 6" {
        return;
    }
    let same = match (row.value, &got.value) {
        (None, None) => true,
        (Some(want), Some(got)) => same_value(want, got),
        _ => false,
    };
    t.note(format_args!("{}: value", row.call), same, || format!("got {:?}, want {:?}", got.value, row.value));
}

/// Whether two value lines agree cell by cell; `@` stands for any address but 0.
fn same_value(want: &str, got: &str) -> bool {
    let (want, got): (Vec<&str>, Vec<&str>) = (want.split('\t').collect(), got.split('\t').collect());
    let is_address = |cell: &str| u64::from_str_radix(cell, 16).is_ok_and(|a| a != 0);
    want.len() == got.len() && want.iter().zip(&got).all(|(w, g)| w == g || (*g == "@" && is_address(w)))
}

/// Reads the file: a line that begins with two spaces belongs to the call above it.
fn recorded() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in RECORDED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(value) = line.strip_prefix("  ") {
            let row = rows.last_mut().expect("a value line follows a call");
            assert!(row.value.is_none(), "two value lines: {line}");
            row.value = Some(value.trim_end_matches('\t'));
        } else {
            let mut cells = line.split('\t');
            let mut next = || cells.next().unwrap_or_else(|| panic!("call, code and name: {line}"));
            let call = next();
            let code = next().parse().unwrap_or_else(|_| panic!("a result code: {line}"));
            rows.push(Row { call, code, name: next(), value: None });
        }
    }
    rows
}

/// The steps in the file's order.
fn steps() -> impl Iterator<Item = &'static Step> {
    [device::STEPS, memory::STEPS, objects::STEPS, modules::STEPS].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_file_has_one_step() {
        let rows = recorded();
        let lines = RECORDED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(lines, rows.len() + rows.iter().filter(|row| row.value.is_some()).count());
        assert_eq!(steps().count(), rows.len());
        for (row, step) in rows.iter().zip(steps()) {
            assert_eq!(step.call, row.call);
        }
    }

    #[test]
    fn an_address_matches_only_an_address() {
        assert!(same_value("addr\t0\t7fdedbe00000", "addr\t0\t@"));
        assert!(!same_value("addr\t0\t0", "addr\t0\t@"));
        assert!(!same_value("addr\t0\t7fdedbe00000", "addr\t1\t@"));
        assert!(!same_value("value\t1", "value\t1\t@"));
    }
}
