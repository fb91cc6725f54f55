//! Linking at run time. Ours have no linker where there is no card of NVIDIA's: machine code for the card alone passes as it
//! is, all else is refused.
use super::regions::Regions;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::{fat_binary, CUBIN, PTX};
use std::ffi::{c_void, CStr};
use std::ptr::{null, null_mut};
use zerogpu_abi::*;

/// CUjitInputType.
const IS_CUBIN: u32 = 0;
const IS_PTX: u32 = 1;
const IS_FATBINARY: u32 = 2;

/// CU_JIT_*: time, a log with its size for information and one for errors, and a bound on registers.
const OPTIONS: [u32; 6] = [2, 3, 4, 5, 6, 0];
const LOG: usize = 200;

fn create(d: &Driver) -> CUlinkState {
    let mut state = CUlinkState::NULL;
    must("cuLinkCreate", d.cuLinkCreate_v2(0, null_mut(), null_mut(), &mut state));
    state
}

fn add(d: &Driver, state: CUlinkState, kind: u32, bytes: &[u8]) -> CUresult {
    let (data, name) = (bytes.as_ptr().cast_mut().cast(), c"input".as_ptr());
    d.cuLinkAddData_v2(state, kind, data, bytes.len(), name, 0, null_mut(), null_mut())
}

/// The image of a link, and its size.
fn complete(d: &Driver, state: CUlinkState) -> Result<(*mut c_void, usize), CUresult> {
    let (mut image, mut size) = (null_mut(), 0);
    let code = d.cuLinkComplete(state, &mut image, &mut size);
    if code.ok() {
        Ok((image, size))
    } else {
        Err(code)
    }
}

/// Whether an image is a module with the kernel of the tests' image.
fn loads(d: &Driver, image: *const c_void) -> bool {
    let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
    let loaded = d.cuModuleLoadData(&mut module, image).ok()
        && d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()).ok();
    loaded && d.cuModuleUnload(module).ok()
}

/// Code that is linked already, from memory and from a file.
pub fn linked(d: &Driver, t: &mut Check) {
    d.start();
    // driver 580 links nothing that is linked: it has "no binary for this GPU" in it (recorded)
    t.code("a cubin", add(d, create(d), IS_CUBIN, CUBIN), 209);
    if t.driver.real {
        // nor are fat binaries of such code recorded
        return;
    }
    let fat = fat_binary(90);
    let (mut info, mut errors) = ([b'?'; LOG], [b'?'; LOG]);
    let (mut options, room) = (OPTIONS, LOG as *mut c_void);
    let mut values =
        [77 as *mut c_void, info.as_mut_ptr().cast(), room, errors.as_mut_ptr().cast(), room, 64 as *mut c_void];
    let mut state = CUlinkState::NULL;
    let count = OPTIONS.len() as u32;
    t.code("cuLinkCreate", d.cuLinkCreate_v2(count, options.as_mut_ptr(), values.as_mut_ptr(), &mut state), 0);
    t.code("cuLinkAddData", add(d, state, IS_FATBINARY, fat), 0);
    let regions = Regions::find(d);
    let region = regions.map(|r| r.begin());
    let done = complete(d, state);
    t.that("cuLinkComplete", done.is_ok());
    if let (Some(r), Some(region)) = (regions, region) {
        t.that("the region ends", r.end(region));
    }
    let (image, size) = done.unwrap_or((null_mut(), 0));
    t.that("an image", size > 64);
    t.that("which loads, also when no GPU is claimed any more", loads(d, image));
    t.same("asked for again it is the same", complete(d, state), Ok((image, size)));
    let length = |log: &[u8]| CStr::from_bytes_until_nul(log).map(CStr::count_bytes);
    for (what, log, size) in [("information", &info, values[2]), ("errors", &errors, values[4])] {
        let length = length(log);
        t.that(format_args!("{what} end with a NUL: {length:?}"), length.is_ok());
        t.that(format_args!("and their size is told: {size:?}"), size as u32 as usize <= length.unwrap_or(0) + 1);
    }
    t.that("the time is told", values[0] != 77 as *mut c_void);
    t.code("cuLinkDestroy", d.cuLinkDestroy(state), 0);

    let path = std::env::temp_dir().join(format!("zerogpu-link-{}", std::process::id()));
    std::fs::write(&path, fat).expect("the temporary folder is writable");
    let name = std::ffi::CString::new(path.to_str().expect("a plain path")).expect("without a NUL");
    let state = create(d);
    let added = d.cuLinkAddFile_v2(state, IS_FATBINARY, name.as_ptr(), 0, null_mut(), null_mut());
    std::fs::remove_file(&path).expect("the file is ours");
    t.code("a file", added, 0);
    t.that("which may go afterwards", complete(d, state).is_ok_and(|(image, _)| loads(d, image)));
    let missing = c"/nonexistent/file".as_ptr();
    let state = create(d);
    t.code("no file", d.cuLinkAddFile_v2(state, IS_CUBIN, missing, 0, null_mut(), null_mut()), 301);
}

/// What has to be compiled or put together.
pub fn to_be_linked(d: &Driver, t: &mut Check) {
    d.start();
    const NO_COMPILER: u32 = 221;
    let want = if t.driver.real { 0 } else { NO_COMPILER };
    let outcome = |d: &Driver, state| complete(d, state).err().map_or(0, |code| code.0);

    let mut errors = [b'?'; LOG];
    let (mut options, mut values) = ([5, 6], [errors.as_mut_ptr().cast(), LOG as *mut c_void]);
    let mut state = CUlinkState::NULL;
    must("cuLinkCreate", d.cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &mut state));
    must("cuLinkAddData", add(d, state, IS_PTX, PTX));
    t.same("PTX", outcome(d, state), want);
    if !t.driver.real {
        let text = CStr::from_bytes_until_nul(&errors).map_or("".into(), |text| text.to_string_lossy().into_owned());
        t.that(format_args!("the log says why: {text}"), text.contains("PTX can't be compiled"));
        t.same("and how long it is", values[1] as usize, text.len());
    }
    must("cuLinkDestroy", d.cuLinkDestroy(state));
    if t.driver.real {
        return;
    }

    let state = create(d);
    must("cuLinkAddData", add(d, state, IS_FATBINARY, fat_binary(90)));
    must("cuLinkAddData", add(d, state, IS_PTX, PTX));
    // the same symbols twice: no linker takes them
    t.that("two images", outcome(d, state) != 0);
    must("cuLinkDestroy", d.cuLinkDestroy(state));

    let state = create(d);
    must("cuLinkAddData", add(d, state, IS_FATBINARY, fat_binary(80)));
    t.that("code for another card", outcome(d, state) != 0);
    must("cuLinkDestroy", d.cuLinkDestroy(state));
}

/// Bad arguments, and handles that are none.
pub fn refusals(d: &Driver, t: &mut Check) {
    d.start();
    const BAD_HANDLE: u32 = 400;
    let mut state = create(d);
    t.code("into NULL", d.cuLinkCreate_v2(0, null_mut(), null_mut(), null_mut()), 1);
    t.code("options that are not there", d.cuLinkCreate_v2(1, null_mut(), null_mut(), &mut state), 1);
    t.code("no data", d.cuLinkAddData_v2(state, IS_CUBIN, null_mut(), 9, null(), 0, null_mut(), null_mut()), 1);
    t.code("no such kind", add(d, state, 6, CUBIN), 1);
    t.code("no cubin", add(d, state, IS_CUBIN, b"not a cubin at all, but long enough to be looked at"), 200);
    let (mut option, mut value) = ([3], [null_mut()]);
    let data = CUBIN.as_ptr().cast_mut().cast();
    let added =
        d.cuLinkAddData_v2(state, IS_CUBIN, data, CUBIN.len(), null(), 1, option.as_mut_ptr(), value.as_mut_ptr());
    t.code("a log for one input", added, 1);
    t.code("cuLinkDestroy", d.cuLinkDestroy(state), 0);
    if t.driver.real {
        // driver 580 looks at what is gone: 200, and a crash (recorded)
        return;
    }
    let (mut image, mut size) = (55 as *mut c_void, 55);
    t.code("a link that is gone", add(d, state, IS_CUBIN, CUBIN), BAD_HANDLE);
    t.code("its image", d.cuLinkComplete(state, &mut image, &mut size), BAD_HANDLE);
    t.code("its end", d.cuLinkDestroy(state), BAD_HANDLE);
    t.same("outputs are left alone", (image as usize, size), (55, 55));
    let event = d.event(0);
    t.code("what is no link", d.cuLinkDestroy(CUlinkState(event.0)), BAD_HANDLE);
}
