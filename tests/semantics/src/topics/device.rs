//! The device: attributes as recorded, name, identity, memory size.
use crate::check::Check;
use crate::driver::{must, Driver};
use std::ffi::{c_char, CStr};
use std::ptr::null_mut;
use zerogpu_abi::*;

const ATTRIBUTES: &str = include_str!("../../../data/device-attributes-h100.tsv");

/// Each line of the recorded file; on another card only those lines whose code is an error.
pub fn attributes(d: &Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    let same_card = name(d) == card();
    t.that("the profile is the recorded card's", same_card || t.driver.real);
    let mut lines = 0;
    for line in ATTRIBUTES.lines().filter(|line| !line.starts_with(['#', 'n', 't'])) {
        let cells: Vec<i64> = line.split('\t').map(|cell| cell.parse().expect("three numbers")).collect();
        let [attribute, code, want] = cells[..] else { panic!("three numbers: {line}") };
        // a failing call leaves its output alone
        let untouched = -77;
        let mut value = untouched;
        let got = d.cuDeviceGetAttribute(&mut value, attribute as u32, 0);
        if code != 0 || same_card {
            t.code(format_args!("attribute {attribute}"), got, code as u32);
            t.same(
                format_args!("attribute {attribute}: value"),
                value,
                if code == 0 { want as i32 } else { untouched },
            );
        }
        lines += 1;
    }
    t.same("attributes in the file", lines, 169);
}

fn recorded(label: &str) -> Vec<&'static str> {
    let line = ATTRIBUTES.lines().find(|line| line.starts_with(label)).expect("the line is there");
    line.split('\t').collect()
}

fn card() -> &'static str {
    recorded("name")[1]
}

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|b| *b as u8).collect();
    CStr::from_bytes_until_nul(&bytes).expect("a NUL in the answer").to_string_lossy().into_owned()
}

fn name(d: &Driver) -> String {
    let mut bytes = [b'?' as c_char; 256];
    must("cuDeviceGetName", d.cuDeviceGetName(bytes.as_mut_ptr(), 256, 0));
    text(&bytes)
}

/// Everything else that a program asks about a device.
pub fn identity(d: &Driver, t: &mut Check) {
    must("cuInit", d.cuInit(0));
    let (mut count, mut device) = (0, 9);
    t.code("count", d.cuDeviceGetCount(&mut count), 0);
    t.code("device 0", d.cuDeviceGet(&mut device, 0), 0);
    t.same("an ordinal is its handle", device, 0);
    t.that("at least one device", count >= 1);
    t.code("cuDeviceGetCount NULL", d.cuDeviceGetCount(null_mut()), 1);
    t.code("cuDeviceGetAttribute NULL", d.cuDeviceGetAttribute(null_mut(), 1, 0), 1);
    t.code("cuDeviceGetAttribute bad attribute", d.cuDeviceGetAttribute(&mut 0, 100_000, 0), 1);
    t.code("cuDeviceGetAttribute bad device", d.cuDeviceGetAttribute(&mut 0, 1, count), 101);
    names(d, t, count);
    memory(d, t);
    let (mut major, mut minor) = (0, 0);
    t.code("compute capability", d.cuDeviceComputeCapability(&mut major, &mut minor, 0), 0);
    t.same("capability is attributes 75, 76", (major, minor), (d.device_attribute(75), d.device_attribute(76)));
    let mut mode = 0;
    t.code("cuModuleGetLoadingMode", d.cuModuleGetLoadingMode(&mut mode), 0);
    t.same("modules are loaded lazily", mode, 2);
    // cuda.h: the same device twice is an invalid pair
    t.code("P2P attribute of a device with itself", d.cuDeviceGetP2PAttribute(&mut 0, 1, 0, 0), 101);
}

fn names(d: &Driver, t: &mut Check, count: i32) {
    let full = name(d);
    t.that("a name", !full.is_empty() && full.starts_with("NVIDIA"));
    let mut short = [b'?' as c_char; 8];
    t.code("a short buffer for the name", d.cuDeviceGetName(short.as_mut_ptr(), 5, 0), 0);
    t.same("the name is cut, and ended", text(&short), full[..4].to_string());
    t.same("nothing is written behind the buffer", short[5], b'?' as c_char);
    t.code("cuDeviceGetName bad device", d.cuDeviceGetName(short.as_mut_ptr(), 5, count), 101);

    let (mut uuid, mut again) = (CUuuid { bytes: [0; 16] }, CUuuid { bytes: [0; 16] });
    t.code("cuDeviceGetUuid", d.cuDeviceGetUuid(&mut uuid, 0), 0);
    t.code("cuDeviceGetUuid_v2", d.cuDeviceGetUuid_v2(&mut again, 0), 0);
    t.that("a UUID", uuid.bytes != [0; 16] && again.bytes != [0; 16]);

    let mut bus = [0 as c_char; 16];
    t.code("cuDeviceGetPCIBusId", d.cuDeviceGetPCIBusId(bus.as_mut_ptr(), 16, 0), 0);
    let (domain, number, slot) = (d.device_attribute(50), d.device_attribute(33), d.device_attribute(34));
    let at = text(&bus);
    t.that(
        format_args!("bus id {at} is attributes 50, 33, 34"),
        at.eq_ignore_ascii_case(&format!("{domain:04x}:{number:02x}:{slot:02x}.0")),
    );
    let mut found = 9;
    t.code("cuDeviceGetByPCIBusId", d.cuDeviceGetByPCIBusId(&mut found, bus.as_ptr()), 0);
    t.same("the device at that bus id", found, 0);
    let nowhere = d.cuDeviceGetByPCIBusId(&mut found, c"ffff:ff:1f.0".as_ptr());
    t.one_of("no device at a bus id", nowhere, &[1, 101]);
}

fn memory(d: &Driver, t: &mut Check) {
    let mut total = 0;
    t.code("cuDeviceTotalMem", d.cuDeviceTotalMem_v2(&mut total, 0), 0);
    t.code("cuDeviceTotalMem bad device", d.cuDeviceTotalMem_v2(&mut 0, -1), 101);
    d.start();
    let (free, of) = d.memory_info();
    t.same("cuMemGetInfo's total is the device's", of, total);
    if name(d) == card() {
        t.same("recorded total", total.to_string(), recorded("name")[2].to_string());
    }
    // the recorded process saw 533 MiB less with one idle context
    t.that("free is less than total, by a context at most", free < total && total - free < 1 << 30);
    let bytes = 64 << 20;
    let address = d.alloc(bytes);
    let left = d.memory_info().0;
    t.that("free falls by an allocation", free - left >= bytes && free - left < bytes + (4 << 20));
    d.free(address);
    t.same("and rises again", d.memory_info().0, free);
}
