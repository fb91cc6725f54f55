//! Parks at awkward moments. Where the card has to behave in a certain way, the topic runs itself again with settings for it.
use super::faults::{again, part, seen_by_others};
use super::regions::{Kernel, Regions};
use crate::check::Check;
use crate::driver::Driver;
use zerogpu_abi::*;

/// An error after which CUDA answers nothing else ends the device for the process, and the card is left.
pub fn lost(d: &'static Driver, t: &mut Check) {
    let Some(code) = part() else {
        // as cuda.h 13.0 says: "the process must be terminated and relaunched", "the context cannot be used anymore"
        for code in ["226", "700", "702", "710", "714", "715", "716", "717", "718", "719", "721", "810", "911"] {
            again(t, "park_lost", code, &[("SOFTCUDA_FAULT", &format!("cuCtxSynchronize={code}"))]);
        }
        return;
    };
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    t.that("the region ends", r.end(region));
    t.same("the device", r.level().as_deref(), Some("lost"));
    t.that("which is said", r.state().contains("the GPU failed"));
    t.same("every later launch", kernel.launch(d, CUstream::NULL).0.to_string(), code);
    t.same("on the card: bytes and contexts", seen_by_others(), Some((0, 0)));
}
