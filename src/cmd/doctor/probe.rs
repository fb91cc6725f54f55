//! Asks a driver library what it is. A driver may crash, hang or print, so the doctor runs this in a process of its own.

use anyhow::Result;
use libloading::os::unix::{Library, Symbol, RTLD_LOCAL, RTLD_NOW};
use serde::{Deserialize, Serialize};
use std::ffi::{c_char, c_int, c_uint, CStr};
use std::path::PathBuf;

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The driver library
    path: PathBuf,
}

/// What the library answered. Codes are CUresult.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Why it can't be loaded.
    pub error: Option<String>,
    /// What cuDriverGetVersion gave.
    pub version: Option<i32>,
    /// What cuInit answered; `None`: there is no cuInit.
    pub init: Option<u32>,
    /// Names of the devices.
    pub names: Vec<String>,
}

/// Prints the [`Answer`] as JSON.
pub fn run(args: &Args) -> Result<()> {
    println!("{}", serde_json::to_string(&ask(&args.path))?);
    Ok(())
}

fn ask(path: &PathBuf) -> Answer {
    // SAFETY: loading runs the library's initialisers; this process exists to take that risk.
    let library = match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
        Ok(library) => library,
        Err(error) => return Answer { error: Some(error.to_string()), ..Answer::default() },
    };
    let mut answer = Answer::default();
    // SAFETY: the types are those of cuda.h, and each pointer given is to a variable of the type the function fills.
    unsafe {
        let version: Option<Symbol<unsafe extern "C" fn(*mut c_int) -> c_uint>> =
            library.get(b"cuDriverGetVersion\0").ok();
        let mut number = 0;
        answer.version = version.filter(|version| version(&mut number) == 0).map(|_| number);
        let init: Option<Symbol<unsafe extern "C" fn(c_uint) -> c_uint>> = library.get(b"cuInit\0").ok();
        answer.init = init.map(|init| init(0));
        if answer.init == Some(0) {
            answer.names = names(&library).unwrap_or_default();
        }
    }
    answer
}

/// # Safety
/// `library` is a driver whose cuInit has succeeded.
unsafe fn names(library: &Library) -> Result<Vec<String>, libloading::Error> {
    let mut names = Vec::new();
    // SAFETY: the types are those of cuda.h; the buffer is as long as said, and ends with a NUL whatever is written.
    unsafe {
        let count: Symbol<unsafe extern "C" fn(*mut c_int) -> c_uint> = library.get(b"cuDeviceGetCount\0")?;
        let name: Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_uint> =
            library.get(b"cuDeviceGetName\0")?;
        let mut devices = 0;
        if count(&mut devices) != 0 {
            return Ok(names);
        }
        for device in 0..devices {
            let mut text = [0 as c_char; 256];
            if name(text.as_mut_ptr(), 255, device) == 0 {
                names.push(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
            }
        }
    }
    Ok(names)
}
