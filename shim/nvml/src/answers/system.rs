//! The library and the machine: start and end, versions, process names.

use crate::card;
use crate::entry::{answers, guarded, Ptr};
use crate::shim;
use crate::status::{text, Answer, Status};
use std::ffi::{c_char, c_int};

#[no_mangle]
pub extern "C" fn nvmlInit_v2() -> u32 {
    guarded(|| {
        card::open();
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn nvmlInit() -> u32 {
    nvmlInit_v2()
}

/// The flags say what may be left out when there is no card; here is one.
#[no_mangle]
pub extern "C" fn nvmlInitWithFlags(_flags: u32) -> u32 {
    nvmlInit_v2()
}

#[no_mangle]
pub extern "C" fn nvmlShutdown() -> u32 {
    card::close();
    0
}

#[no_mangle]
pub extern "C" fn nvmlErrorString(code: c_int) -> *const c_char {
    text(code).as_ptr()
}

/// Answers without nvmlInit too.
#[no_mangle]
pub extern "C" fn nvmlSystemGetNVMLVersion(version: Ptr<c_char>, length: u32) -> u32 {
    guarded(|| {
        let cuda = shim::cuda_version();
        version.put_text(length, &format!("{}.{}", cuda / 1000, driver_version(cuda)))
    })
}

answers! {
    fn nvmlSystemGetDriverVersion(_card, version: Ptr<c_char>, length: u32) {
        version.put_text(length, driver_version(shim::cuda_version()))
    }
    fn nvmlSystemGetDriverBranch(_card, branch: Ptr<c_char>, length: u32) {
        let version = driver_version(shim::cuda_version());
        branch.put_text(length, &format!("r{}", version.split('.').next().unwrap_or(version)))
    }
    fn nvmlSystemGetCudaDriverVersion(_card, version: Ptr<c_int>) {
        version.put(shim::cuda_version())
    }
    fn nvmlSystemGetCudaDriverVersion_v2(_card, version: Ptr<c_int>) {
        version.put(shim::cuda_version())
    }
    fn nvmlSystemGetProcessName(_card, pid: u32, name: Ptr<c_char>, length: u32) {
        process_name(pid, &name, length)
    }
    fn nvmlSystemGetHicVersion(_card, count: Ptr<u32>, _entries: Ptr<u32>) {
        count.put(0)
    }
    fn nvmlUnitGetCount(_card, count: Ptr<u32>) {
        count.put(0)
    }
    fn nvmlGetExcludedDeviceCount(_card, count: Ptr<u32>) {
        count.put(0)
    }
    fn nvmlGetBlacklistDeviceCount(_card, count: Ptr<u32>) {
        count.put(0)
    }
}

/// The first driver that had a CUDA version (NVIDIA's toolkit release notes); for 13.0 the one that was recorded.
fn driver_version(cuda: c_int) -> &'static str {
    const NEWEST: &str = "580.159.04";
    const OLDER: [(c_int, &str); 11] = [
        (11070, "515.43.04"),
        (11080, "520.61.05"),
        (12000, "525.60.13"),
        (12010, "530.30.02"),
        (12020, "535.54.03"),
        (12030, "545.23.06"),
        (12040, "550.54.14"),
        (12050, "555.42.02"),
        (12060, "560.28.03"),
        (12080, "570.26"),
        (12090, "575.51.03"),
    ];
    OLDER.iter().find(|(version, _)| cuda <= *version).map_or(NEWEST, |(_, driver)| driver)
}

/// The first word of the process's command line, cut to the buffer.
fn process_name(pid: u32, name: &Ptr<c_char>, length: u32) -> Answer {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| Status::NotFound)?;
    let word = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let mut end = word.len().min((length as usize).checked_sub(1).ok_or(Status::InvalidArgument)?);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    name.put_text(length, &word[..end])
}
