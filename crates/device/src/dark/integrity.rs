//! INTEGRITY_CHECK\[1\]: what cudart asks three times at start to see that its driver is whole.
use super::slots::guarded;
use super::{md2::hmac_md2, CUDART, INTEGRITY, TABLES};
use crate::runtime::config;
use zerogpu_abi::*;

/// Answers for versions whose last digit is 0 and 1 (recorded).
const FIXED: [[u64; 2]; 2] = [[0x3341181C03CB675C, 0x8ED383AA1F4CD1E8], [0x1841181C03CB675C, 0x8ED383AA1F4CD1E8]];

/// Key of all others (recorded).
const KEY: [u8; 16] = [0x14, 0x6A, 0xDD, 0xAE, 0x53, 0xA9, 0xA7, 0x52, 0xAA, 0x08, 0x41, 0x36, 0x0B, 0xF5, 0x5A, 0x9F];

/// The answer to `version` asked at `seconds`, for these identities of process and thread.
fn answer(version: u32, seconds: u64, pid: u32, thread: u32) -> Res<[u64; 2]> {
    if let Some(fixed) = FIXED.get(version as usize % 10) {
        return Ok(*fixed);
    }
    let c = config()?;
    let mut text = Vec::with_capacity(96);
    for n in [c.driver_version as u32, version, pid, thread] {
        text.extend(n.to_le_bytes());
    }
    let handed_out = |at: usize| TABLES[at].of_version().ok_or(CUresult::UNKNOWN);
    let (cudart, integrity) = (handed_out(CUDART)?, handed_out(INTEGRITY)?);
    for n in [cudart.as_ptr() as u64, integrity.as_ptr() as u64, integrity[1].0 as u64, seconds] {
        text.extend(n.to_le_bytes());
    }
    text.extend(c.profile.uuid);
    for n in [c.profile.pci.domain, c.profile.pci.bus, c.profile.pci.device] {
        text.extend(n.to_le_bytes());
    }
    let mac = hmac_md2(&KEY, &text);
    let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| mac[at + i]));
    Ok([half(0), half(8)])
}

/// `(version, unix seconds, out[2])`.
pub(super) unsafe extern "C" fn check(version: u32, seconds: u64, to: *mut [u64; 2]) -> CUresult {
    guarded(|| {
        // SAFETY: pthread_self has no preconditions.
        let thread = unsafe { libc::pthread_self() } as u32;
        let answer = answer(version, seconds, std::process::id(), thread)?;
        // SAFETY: cudart passes a valid pointer to two words.
        unsafe { super::slots::out(to, answer) }
    })
}
