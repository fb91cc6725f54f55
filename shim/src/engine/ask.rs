//! Questions that only a claimed driver answers: tensor maps, linking, slots of undocumented tables.
use super::forward::is_global;
use super::{claim, outside, Engine, OVER};
use crate::report;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_below::{ok, Driver};
use zerogpu_device::link::{option, Input, Recipe, Setting};
use zerogpu_device::runtime::{lock, State};
use zerogpu_device::tensor::{Tensor, TensorMap, View};
use zerogpu_settings::Outside;

/// Why no GPU is claimed for something.
pub(super) enum Refused {
    /// There is none to be had.
    NoCard(String),
    /// ZEROGPU_OUTSIDE=error.
    Outside,
}

impl Engine {
    /// What speaks against a claim, before it is tried.
    pub(super) fn refused(&self, inside: bool, st: &mut State) -> Option<Refused> {
        // a claim asks for the card itself, and tells why there is none
        let there = |d| if inside { Ok(()) } else { self.cards_there(d, st) };
        if let Err(why) = self.below.driver().map_err(str::to_string).and_then(there) {
            return Some(Refused::NoCard(why));
        }
        (!inside && self.settings.outside == Outside::Error).then_some(Refused::Outside)
    }

    /// Tells the human, and who asks why the open regions have no GPU; what the app is answered.
    pub(super) fn tell(&self, refused: Refused, what: &str) -> CUresult {
        match refused {
            Refused::NoCard(why) => {
                report::error(&format!("{what} can't run: {why}"));
                self.regions.note_claim(Err(format!("No GPU could be claimed: {why}")));
                CUresult::NO_DEVICE
            }
            Refused::Outside => {
                report::error(&outside(what));
                CUresult::NOT_PERMITTED
            }
        }
    }

    /// Does something with the driver of a claimed GPU; one is claimed (or, outside any region, borrowed) if none is. The
    /// context is current and the gate is held meanwhile.
    pub(super) fn with_card<T>(&'static self, what: &str, work: impl Fn(&Driver) -> Res<T>) -> Res<T> {
        loop {
            if let Some(_pass) = self.gate.enter() {
                self.bind()?;
                return work(self.driver()?);
            }
            if self.claimed.load(Ordering::Acquire) {
                // the gate is closing: the park ends first
                self.settle()?;
                continue;
            }
            if self.regions.over() {
                return Err(OVER);
            }
            let inside = self.regions.any();
            let refused = self.refused(inside, &mut *lock()?);
            if let Some(refused) = refused {
                return Err(self.tell(refused, what));
            }
            self.claim(!inside, what)?;
        }
    }

    /// A tensor map, encoded by the driver. NVIDIA's asks for a context.
    pub(super) fn encode_live(&'static self, t: &Tensor) -> Res<TensorMap> {
        warn_of_variable(t.address);
        self.with_card("encoding a tensor map", |d| {
            let address = self.address(t.address, 1)?;
            let mut map = TensorMap([0; 16]);
            ok(encode(d, &mut map, &Tensor { address, ..*t })).map(|()| map)
        })
    }

    /// A tensor map with another address.
    pub(super) fn readdress_live(&'static self, map: &mut TensorMap, address: u64) -> Res {
        warn_of_variable(address);
        let before = *map;
        *map = self.with_card("encoding a tensor map", |d| {
            let (mut map, address) = (before, self.address(address, 1)?);
            // SAFETY: a map of the size and alignment that cuda.h asks for.
            ok(unsafe { (d.cuTensorMapReplaceAddress)((&raw mut map).cast(), address as *mut c_void) }).map(|()| map)
        })?;
        Ok(())
    }

    /// Links code in the driver. Where there is none, or no card, only code that is linked already can be had.
    pub(super) fn link_live(&'static self, recipe: &Recipe) -> Res<Vec<u8>> {
        let card = {
            let mut st = lock()?;
            self.below.driver().map_err(str::to_string).and_then(|d| self.cards_there(d, &mut st))
        };
        match card {
            Err(why) => recipe.link_alone(&why),
            Ok(()) => self.with_card("cuLinkComplete", |d| link(d, recipe)),
        }
    }
}

/// The one address that differs on the card, from claim to claim.
fn warn_of_variable(address: u64) {
    if is_global(address) {
        report::error(
            "a tensor map was made of a module variable, whose address on the card changes with each claim: make the map anew in \
             each @spaces.GPU call",
        );
    }
}

fn encode(d: &Driver, map: &mut TensorMap, t: &Tensor) -> CUresult {
    let map = std::ptr::from_mut(map).cast::<Opaque>();
    let address = t.address as *mut c_void;
    let (dims, strides, steps) = (t.dims.as_ptr(), t.strides.as_ptr(), t.element_strides.as_ptr());
    let (kind, rank, interleave, swizzle) = (t.data_type, t.rank, t.interleave, t.swizzle);
    let (l2, oob) = (t.l2_promotion, t.oob_fill);
    // SAFETY: a map of the size and alignment that cuda.h asks for, and arrays as long as a rank may be.
    unsafe {
        match &t.view {
            View::Tiled { size } => (d.cuTensorMapEncodeTiled)(
                map,
                kind,
                rank,
                address,
                dims,
                strides,
                size.as_ptr(),
                steps,
                interleave,
                swizzle,
                l2,
                oob,
            ),
            View::Im2col { lower, upper, channels, pixels } => (d.cuTensorMapEncodeIm2col)(
                map,
                kind,
                rank,
                address,
                dims,
                strides,
                lower.as_ptr(),
                upper.as_ptr(),
                *channels,
                *pixels,
                steps,
                interleave,
                swizzle,
                l2,
                oob,
            ),
            &View::Im2colWide { lower, upper, channels, pixels, mode } => match d.cuTensorMapEncodeIm2colWide {
                Some(encode) => encode(
                    map, kind, rank, address, dims, strides, lower, upper, channels, pixels, steps, interleave, mode,
                    swizzle, l2, oob,
                ),
                None => CUresult::NOT_SUPPORTED,
            },
        }
    }
}

/// Options and their values as the driver takes them.
fn split(settings: &[Setting]) -> (Vec<u32>, Vec<*mut c_void>) {
    settings.iter().map(|&(option, value)| (option, value as *mut c_void)).unzip()
}

/// One whole link in the driver, whose state ends with it; its image is copied.
fn link(d: &Driver, recipe: &Recipe) -> Res<Vec<u8>> {
    let (mut options, mut values) = split(&recipe.settings);
    let mut state = CUlinkState::NULL;
    // SAFETY: the app's options, whose buffers live as long as its link, with an array of values that outlives the state.
    let made =
        ok(unsafe { (d.cuLinkCreate_v2)(options.len() as u32, options.as_mut_ptr(), values.as_mut_ptr(), &mut state) });
    let linked = made.and_then(|()| {
        let linked = recipe.inputs.iter().try_for_each(|input| add(d, state, input)).and_then(|()| complete(d, state));
        // SAFETY: the state made above. What of it the driver keeps ends with the context.
        if let Err(e) = ok(unsafe { (d.cuLinkDestroy)(state) }) {
            report::explain(&format!("the driver kept a link ({})", claim::name(e)));
        }
        linked
    });
    const ANSWERED: [u32; 4] =
        [option::THREADS_PER_BLOCK, option::WALL_TIME, option::INFO_LOG_BYTES, option::ERROR_LOG_BYTES];
    for (&option, &value) in options.iter().zip(&values).filter(|(option, _)| ANSWERED.contains(option)) {
        // SAFETY: the app's link lives while it completes it.
        unsafe { recipe.answer(option, value as usize) };
    }
    linked
}

fn add(d: &Driver, state: CUlinkState, input: &Input) -> Res {
    let (mut options, mut values) = split(&input.settings);
    let (data, size) = (input.bytes.as_ptr().cast_mut().cast(), input.bytes.len());
    let (count, options, values) = (options.len() as u32, options.as_mut_ptr(), values.as_mut_ptr());
    // SAFETY: a state of this driver, and an image that it only reads.
    ok(unsafe { (d.cuLinkAddData_v2)(state, input.kind, data, size, input.name(), count, options, values) })
}

fn complete(d: &Driver, state: CUlinkState) -> Res<Vec<u8>> {
    let (mut image, mut size) = (null_mut(), 0);
    // SAFETY: a state of this driver; both are written.
    ok(unsafe { (d.cuLinkComplete)(state, &mut image, &mut size) })?;
    if image.is_null() {
        return Err(CUresult::UNKNOWN);
    }
    // SAFETY: the driver's image of that size, which lives as long as the state.
    Ok(unsafe { std::slice::from_raw_parts(image.cast::<u8>(), size) }.to_vec())
}
