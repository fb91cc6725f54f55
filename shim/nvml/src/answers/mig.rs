//! MIG: whether the card is divided, and the one MIG device.

use crate::card::{Card, Device, Part};
use crate::entry::{answers, Ptr};
use crate::layout::MigAttributes;
use crate::status::{Answer, Status};
use zerogpu_profile::Mig;

answers! {
    fn nvmlDeviceGetMigMode(card, device: Device, current: Ptr<u32>, pending: Ptr<u32>) {
        device.whole(card)?;
        let enabled = card.profile.mig.is_some() as u32;
        pending.get()?; // neither is written if one is null
        current.put(enabled)?;
        pending.put(enabled)
    }
    fn nvmlDeviceGetMaxMigDeviceCount(card, device: Device, count: Ptr<u32>) {
        device.whole(card)?;
        count.put(if card.profile.mig.is_some() { 7 } else { 0 })
    }
    fn nvmlDeviceIsMigDeviceHandle(card, device: Device, is_mig: Ptr<u32>) {
        is_mig.put(matches!(device.part(card)?, Part::Mig(_)) as u32)
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(card, device: Device, index: u32, mig: Ptr<Device>) {
        device.whole(card)?;
        match card.profile.mig {
            None => Err(Status::NotSupported),
            Some(_) if index == 0 => mig.put(Device::mig()),
            Some(_) if index < 7 => Err(Status::NotFound),
            Some(_) => Err(Status::InvalidArgument),
        }
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(card, mig: Device, device: Ptr<Device>) {
        mig_of(card, mig)?;
        device.put(Device::gpu())
    }
    fn nvmlDeviceGetGpuInstanceId(card, device: Device, id: Ptr<u32>) {
        id.put(mig_of(card, device)?.gpu_instance)
    }
    fn nvmlDeviceGetComputeInstanceId(card, device: Device, id: Ptr<u32>) {
        id.put(mig_of(card, device)?.compute_instance)
    }
    fn nvmlDeviceGetAttributes(card, device: Device, attributes: Ptr<MigAttributes>) {
        attributes_of(card, device, &attributes)
    }
    fn nvmlDeviceGetAttributes_v2(card, device: Device, attributes: Ptr<MigAttributes>) {
        attributes_of(card, device, &attributes)
    }
}

/// The MIG device behind a handle; INVALID_ARGUMENT for the whole card.
fn mig_of(card: &Card, device: Device) -> Result<Mig, Status> {
    match device.part(card)? {
        Part::Mig(mig) => Ok(mig),
        Part::Gpu => Err(Status::InvalidArgument),
    }
}

fn attributes_of(card: &Card, device: Device, attributes: &Ptr<MigAttributes>) -> Answer {
    let Part::Mig(mig) = device.part(card)? else { return Err(Status::NotSupported) };
    attributes.put(MigAttributes {
        multiprocessors: card.attribute(16),
        copy_engines: mig.copy_engines,
        decoders: mig.decoders,
        encoders: 0,
        jpegs: 0,
        ofas: 0,
        gpu_slices: mig.slices,
        compute_slices: mig.slices,
        memory_mib: card.profile.total_bytes >> 20,
    })
}
