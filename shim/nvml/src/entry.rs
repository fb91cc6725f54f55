//! The C border: how a call comes in, and how values go out through the caller's pointers.

use crate::card::{self, Card};
use crate::status::{Answer, Status};
use std::ffi::{c_char, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Declares exported functions that need an initialised library. The first name is the card; the body is an [`Answer`].
macro_rules! answers {
    ($($(#[$meta:meta])* fn $name:ident($card:ident $(, $argument:ident: $type:ty)*) $body:block)*) => {$(
        $(#[$meta])*
        #[no_mangle]
        pub extern "C" fn $name($($argument: $type),*) -> u32 {
            $crate::entry::with_card(|$card| $body)
        }
    )*};
}
pub(crate) use answers;

/// Runs `body` for the card; UNINITIALIZED without one.
pub fn with_card(body: impl FnOnce(&'static Card) -> Answer) -> u32 {
    guarded(|| body(card::current().ok_or(Status::Uninitialized)?))
}

/// Runs `body` and turns its answer, or its panic, into a code.
pub fn guarded(body: impl FnOnce() -> Answer) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Status::Unknown)) {
        Ok(()) => 0,
        Err(status) => status as u32,
    }
}

/// A pointer that a C caller passed for values to be written to or read from. Only the caller makes one, so that it is
/// null or good for the function's contract. Null is an invalid argument.
#[repr(transparent)]
pub struct Ptr<T>(*mut T);

impl<T: Copy> Ptr<T> {
    /// Writes one value.
    pub fn put(&self, value: T) -> Answer {
        self.put_all(&[value])
    }

    /// Writes values from the pointer on; the caller has said that there is room for them.
    pub fn put_all(&self, values: &[T]) -> Answer {
        if self.0.is_null() {
            return Err(Status::InvalidArgument);
        }
        for (i, value) in values.iter().enumerate() {
            // SAFETY: NVML's contract: a pointer that is not null has room for as many values as the caller said.
            unsafe { self.0.add(i).write_unaligned(*value) };
        }
        Ok(())
    }

    /// Reads the value.
    pub fn get(&self) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidArgument);
        }
        // SAFETY: NVML's contract: a pointer that is not null points to a value.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Changes each of `count` values that the caller keeps there.
    pub fn change_all(&self, count: usize, change: impl Fn(&mut T)) -> Answer {
        if self.0.is_null() {
            return Err(Status::InvalidArgument);
        }
        for i in 0..count {
            // SAFETY: NVML's contract: a pointer that is not null points to as many values as the caller said.
            let place = unsafe { self.0.add(i) };
            // SAFETY: as above.
            let mut value = unsafe { place.read_unaligned() };
            change(&mut value);
            // SAFETY: as above.
            unsafe { place.write_unaligned(value) };
        }
        Ok(())
    }
}

impl Ptr<c_char> {
    /// Writes a text and its end into a buffer of `length` bytes.
    pub fn put_text(&self, length: u32, text: &str) -> Answer {
        if self.0.is_null() {
            return Err(Status::InvalidArgument);
        }
        if text.len() >= length as usize {
            return Err(Status::InsufficientSize);
        }
        let bytes: Vec<c_char> = text.bytes().chain([0]).map(|byte| byte as c_char).collect();
        self.put_all(&bytes)
    }
}

/// A text that a C caller passed; only the caller makes one.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The text; none, or one that is not UTF-8, is an invalid argument.
    pub fn get(&self) -> Result<&str, Status> {
        if self.0.is_null() {
            return Err(Status::InvalidArgument);
        }
        // SAFETY: NVML's contract: a pointer that is not null points to a text that ends with 0.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Status::InvalidArgument)
    }
}

/// Hands out a list as NVML does: `count` holds the caller's room and gets the list's length; with too little room
/// nothing else is written.
pub fn put_list<T: Copy>(count: &Ptr<u32>, list: &Ptr<T>, values: &[T]) -> Answer {
    let room = count.get()? as usize;
    count.put(values.len() as u32)?;
    if room < values.len() {
        return Err(Status::InsufficientSize);
    }
    if values.is_empty() {
        return Ok(());
    }
    list.put_all(values)
}
