//! Linking at run time. Inputs and options are kept as they came, and linked as a whole when the app asks for the result:
//! so a link outlives any number of parks, and needs a GPU only for a moment.
use crate::objects::compute_capability;
use crate::runtime::backend;
use std::ffi::{c_char, c_void, CString};
use std::sync::Arc;
use zerogpu_abi::{CUresult, Res};
use zerogpu_image::{Error, Source};

/// CU_JIT_* options that are looked at here.
pub mod option {
    #![allow(missing_docs)]
    pub const THREADS_PER_BLOCK: u32 = 1;
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG: u32 = 3;
    pub const INFO_LOG_BYTES: u32 = 4;
    pub const ERROR_LOG: u32 = 5;
    pub const ERROR_LOG_BYTES: u32 = 6;
    pub const TARGET_FROM_CONTEXT: u32 = 8;
    pub const TARGET: u32 = 9;
    /// The first of those that name symbols of the app by arrays, and the last: they are not kept.
    pub const GLOBAL_SYMBOLS: std::ops::RangeInclusive<u32> = 17..=19;
    pub const REFERENCED: std::ops::RangeInclusive<u32> = 25..=28;
    /// How many there are in CUDA 13.0.
    pub const COUNT: u32 = 35;
}

/// CU_JIT_INPUT_CUBIN, _FATBINARY, and how many kinds there are.
const CUBIN: u32 = 0;
const FATBINARY: u32 = 2;
const KINDS: u32 = 6;
/// Where an ELF file says what it is, and the value of one that is linked.
const ELF_TYPE: std::ops::Range<usize> = 16..18;
const LINKED: [u8; 2] = [2, 0];

/// An option with its value, as cuda.h casts it to a pointer.
pub type Setting = (u32, usize);

/// One thing to be linked.
pub struct Input {
    /// CUjitInputType.
    pub kind: u32,
    /// The image.
    pub bytes: Vec<u8>,
    /// For messages; None: the app gave none.
    pub name: Option<CString>,
    /// Options of this input alone.
    pub settings: Vec<Setting>,
}

/// All that a linker needs.
#[derive(Clone)]
pub struct Recipe {
    /// The options that the app made the link with. Of those that a linker answers in, the value is the one given.
    pub settings: Arc<[Setting]>,
    /// What is linked, in order.
    pub inputs: Vec<Arc<Input>>,
    /// The app's array of values, into which a linker's answers go; the app keeps it as long as the link lives.
    answers: usize,
}

/// A link that is being put together, or is done.
pub struct Link {
    /// What it is made of.
    pub recipe: Recipe,
    /// Its result, at an address that stays.
    pub output: Option<Box<[u8]>>,
}

/// Whether an option of a module tells the compiler something in its value alone: then it is kept, and said again each time the
/// module is loaded. The others answer (time, logs), or name symbols of the program.
pub fn is_kept(option: u32) -> bool {
    use option::*;
    let answers = (WALL_TIME..=ERROR_LOG_BYTES).contains(&option);
    option < COUNT && !answers && !GLOBAL_SYMBOLS.contains(&option) && !REFERENCED.contains(&option)
}

/// Checks options of which no reference may be kept.
///
/// # Errors
/// INVALID_VALUE for what is no option; NOT_SUPPORTED for those that name symbols.
pub fn check(settings: &[Setting]) -> Res {
    for (option, _) in settings {
        if option::GLOBAL_SYMBOLS.contains(option) || option::REFERENCED.contains(option) {
            if let Ok(b) = backend() {
                b.complain(&format!(
                    "cuLink with option {option}, which names symbols of the program, is not supported by zerogpu: leave it out"
                ));
            }
            return Err(CUresult::NOT_SUPPORTED);
        }
        if *option >= option::COUNT {
            return Err(CUresult::INVALID_VALUE);
        }
    }
    Ok(())
}

impl Input {
    /// Something to be linked.
    ///
    /// # Errors
    /// Those of [`check`]; INVALID_VALUE for another kind than cuda.h has, for no bytes, and for options that concern the
    /// whole link; INVALID_IMAGE for a cubin or fat binary that is none; NO_BINARY_FOR_GPU for a cubin that is linked already
    /// (driver 580, recorded).
    pub fn new(kind: u32, bytes: Vec<u8>, name: Option<CString>, settings: Vec<Setting>) -> Res<Self> {
        use option::*;
        const WHOLE: [u32; 5] = [WALL_TIME, INFO_LOG, ERROR_LOG, TARGET_FROM_CONTEXT, TARGET];
        check(&settings)?;
        if kind >= KINDS || bytes.is_empty() || settings.iter().any(|(option, _)| WHOLE.contains(option)) {
            return Err(CUresult::INVALID_VALUE);
        }
        let begins = zerogpu_image::Input::of(&bytes);
        let good = match kind {
            CUBIN => matches!(begins, Ok(zerogpu_image::Input::Cubin(_))),
            FATBINARY => matches!(begins, Ok(zerogpu_image::Input::Fatbin(_))),
            _ => true,
        };
        if !good {
            return Err(CUresult::INVALID_IMAGE);
        }
        if kind == CUBIN && bytes.get(ELF_TYPE) == Some(&LINKED) {
            return Err(CUresult::NO_BINARY_FOR_GPU);
        }
        Ok(Self { kind, bytes, name, settings })
    }
}

impl Link {
    /// A link of nothing yet. `answers` are the values of the settings, in the app's memory, or 0.
    pub fn new(settings: Vec<Setting>, answers: usize) -> Self {
        Self { recipe: Recipe { settings: settings.into(), inputs: Vec::new(), answers }, output: None }
    }
}

impl Recipe {
    /// What links without a linker: machine code for this card alone, which is linked already. `why` ends the sentence that
    /// tells the human why nothing else does.
    ///
    /// # Errors
    /// JIT_COMPILER_NOT_FOUND where a linker or a compiler is needed; else what the image is refused with.
    pub fn link_alone(&self, why: &str) -> Res<Vec<u8>> {
        let linked = self.linked();
        let said = match linked {
            Err(CUresult::JIT_COMPILER_NOT_FOUND) => {
                format!(
                    "cuLinkComplete: PTX can't be compiled nor several images linked here: {why}; link them beforehand, with nvcc"
                )
            }
            _ => String::new(),
        };
        if let (Ok(b), false) = (backend(), said.is_empty()) {
            b.complain(&said);
        }
        // SAFETY: `answers` is the app's own array, which lives as long as the link.
        unsafe { self.answer_logs(&said) };
        linked
    }

    fn linked(&self) -> Res<Vec<u8>> {
        let cc = compute_capability()?;
        // CUjit_target: the number of the architecture, with marks of its kind above
        let elsewhere = self.setting(option::TARGET).is_some_and(|target| target as u32 & 0xffff != cc.0 * 10 + cc.1);
        let [input] = &self.inputs[..] else { return Err(CUresult::JIT_COMPILER_NOT_FOUND) };
        if ![CUBIN, FATBINARY].contains(&input.kind) || elsewhere {
            return Err(CUresult::JIT_COMPILER_NOT_FOUND);
        }
        let source = Source::from_bytes(input.bytes.clone()).map_err(Error::code)?;
        let image = source.image_for(cc).map_err(Error::code)?;
        if image.is_ptx() {
            return Err(CUresult::JIT_COMPILER_NOT_FOUND);
        }
        let bytes = image.bytes().map_err(Error::code)?;
        if bytes.get(ELF_TYPE) == Some(&LINKED) {
            Ok(bytes.to_vec())
        } else {
            Err(CUresult::JIT_COMPILER_NOT_FOUND)
        }
    }

    fn setting(&self, option: u32) -> Option<usize> {
        self.settings.iter().find(|(o, _)| *o == option).map(|&(_, value)| value)
    }

    /// Answers in the app's array: nothing for the information, `errors` for the errors, no time.
    unsafe fn answer_logs(&self, errors: &str) {
        use option::*;
        for (buffer, bytes, text) in [(INFO_LOG, INFO_LOG_BYTES, ""), (ERROR_LOG, ERROR_LOG_BYTES, errors)] {
            let room = self.setting(bytes).map_or(0, |room| room as u32 as usize);
            let to = self.setting(buffer).unwrap_or(0) as *mut u8;
            let written = text.len().min(room.saturating_sub(1));
            if room > 0 && !to.is_null() {
                // SAFETY: the app gave `room` bytes there, of which `written` and the NUL are used.
                unsafe {
                    std::ptr::copy_nonoverlapping(text.as_ptr(), to, written);
                    to.add(written).write(0);
                }
            }
            // SAFETY: the caller's promise.
            unsafe { self.answer(bytes, written) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.answer(WALL_TIME, 0) };
    }

    /// Answers an option, where the app asked for it.
    ///
    /// # Safety
    /// The app's array is still there: the link lives.
    pub unsafe fn answer(&self, option: u32, value: usize) {
        let values = self.answers as *mut *mut c_void;
        for (i, _) in self.settings.iter().enumerate().filter(|(_, (o, _))| *o == option && !values.is_null()) {
            // SAFETY: the array has a value for each setting.
            unsafe { values.add(i).write_unaligned(value as *mut c_void) };
        }
    }
}

impl Input {
    /// The name as C has it; NULL: none.
    pub fn name(&self) -> *const c_char {
        self.name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr())
    }
}
