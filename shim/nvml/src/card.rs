//! The card, read from the settings at the first `nvmlInit`, and the handles that callers hold.

use crate::status::Status;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use zerogpu_profile::{Mig, Profile};
use zerogpu_settings::Settings;

/// What NVML tells about.
pub struct Card {
    pub profile: Profile,
}

/// Set once, never freed: a call may be under way in another thread at the last `nvmlShutdown`. No lock, so that a fork
/// at any moment leaves the child a working library.
static CARD: AtomicPtr<Card> = AtomicPtr::new(ptr::null_mut());
/// How many times `nvmlInit` was called more often than `nvmlShutdown`.
static USERS: AtomicU32 = AtomicU32::new(0);

/// `nvmlInit`.
pub fn open() {
    if CARD.load(Ordering::Acquire).is_null() {
        let (settings, _) = Settings::from_env();
        // What is wrong with the settings is the shim's to say, which reads the same ones.
        let (profile, _) = Profile::chosen(settings.profile.as_deref(), settings.vram);
        let card = Box::into_raw(Box::new(Card { profile }));
        if CARD.compare_exchange(ptr::null_mut(), card, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread was faster, so nobody but us has ever seen this box.
            drop(unsafe { Box::from_raw(card) });
        }
    }
    USERS.fetch_add(1, Ordering::AcqRel);
}

/// `nvmlShutdown`. One too many does no harm, as in driver 535.
pub fn close() {
    let _ = USERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| users.checked_sub(1));
}

/// The card while the library is initialised.
pub fn current() -> Option<&'static Card> {
    if USERS.load(Ordering::Acquire) == 0 {
        return None;
    }
    // SAFETY: set before the first user was counted, and never freed.
    unsafe { CARD.load(Ordering::Acquire).as_ref() }
}

/// A device handle as a C caller passes it: the address of one of [`HANDLES`], or anything at all.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Device(*const c_void);

/// What a device handle stands for.
pub enum Part {
    /// The whole card.
    Gpu,
    /// The MIG device on it.
    Mig(Mig),
}

static HANDLES: [u8; 2] = [0; 2];

impl Device {
    /// The whole card.
    pub fn gpu() -> Device {
        Device(ptr::from_ref(&HANDLES[0]).cast())
    }

    /// The MIG device; valid only for a card that has one.
    pub fn mig() -> Device {
        Device(ptr::from_ref(&HANDLES[1]).cast())
    }

    /// What the handle stands for; INVALID_ARGUMENT if it is none of ours.
    pub fn part(self, card: &Card) -> Result<Part, Status> {
        match card.profile.mig {
            _ if self.0 == Device::gpu().0 => Ok(Part::Gpu),
            Some(mig) if self.0 == Device::mig().0 => Ok(Part::Mig(mig)),
            _ => Err(Status::InvalidArgument),
        }
    }

    /// Checks for the whole card: NVML tells less of a MIG device (NOT_SUPPORTED).
    pub fn whole(self, card: &Card) -> Result<(), Status> {
        match self.part(card)? {
            Part::Gpu => Ok(()),
            Part::Mig(_) => Err(Status::NotSupported),
        }
    }
}

impl Card {
    /// A device attribute of the driver API; 0 if there is no such one.
    pub fn attribute(&self, number: i32) -> u32 {
        self.profile.attribute(number).map_or(0, |value| value as u32)
    }

    /// Whether it is of the Hopper generation (else Ampere).
    pub fn is_hopper(&self) -> bool {
        self.profile.cc.0 >= 9
    }
}
