//! The exported functions without an answer; the build script lists them.

use crate::entry::with_card;
use crate::status::Status;

/// A C caller's arguments do not matter to a function that reads none.
macro_rules! not_supported {
    ($($name:ident)*) => {$(
        #[no_mangle]
        pub extern "C" fn $name() -> u32 {
            with_card(|_| Err(Status::NotSupported))
        }
    )*};
}

include!(concat!(env!("OUT_DIR"), "/not_supported.rs"));
