//! What the card is like, as far as code depends on it.
use crate::runtime::config;
use zerogpu_abi::Res;
use zerogpu_image::occupancy::Device;

/// The card's limits, for attributes and occupancy.
///
/// # Errors
/// As for [`config`].
pub fn device() -> Res<Device> {
    let p = &config()?.profile;
    let a = |n| p.attribute(n).and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    Ok(Device {
        cc: compute_capability()?,
        multiprocessors: a(16),
        threads_per_block: a(1),
        threads_per_multiprocessor: a(39),
        blocks_per_multiprocessor: a(106),
        registers_per_block: a(12),
        registers_per_multiprocessor: a(82),
        shared_per_block: a(8),
        shared_per_block_optin: a(97),
        shared_per_multiprocessor: a(81),
        shared_reserved_per_block: a(111),
    })
}

/// The compute capability that the app is shown.
///
/// # Errors
/// As for [`config`].
pub fn compute_capability() -> Res<(u32, u32)> {
    let cc = config()?.profile.cc;
    Ok((cc.0 as u32, cc.1 as u32))
}
