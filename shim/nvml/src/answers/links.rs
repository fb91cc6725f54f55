//! What the card is connected to: PCI Express, no NVLink, no other card.

use crate::card::{Card, Device};
use crate::entry::{answers, put_list, Ptr};
use crate::status::{Answer, Status};

const LANES: u32 = 16;

answers! {
    fn nvmlDeviceGetCurrPcieLinkGeneration(card, device: Device, generation: Ptr<u32>) {
        device.whole(card)?;
        generation.put(pcie_generation(card))
    }
    fn nvmlDeviceGetMaxPcieLinkGeneration(card, device: Device, generation: Ptr<u32>) {
        device.whole(card)?;
        generation.put(pcie_generation(card))
    }
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(card, device: Device, generation: Ptr<u32>) {
        device.whole(card)?;
        generation.put(pcie_generation(card))
    }
    fn nvmlDeviceGetCurrPcieLinkWidth(card, device: Device, lanes: Ptr<u32>) {
        device.whole(card)?;
        lanes.put(LANES)
    }
    fn nvmlDeviceGetMaxPcieLinkWidth(card, device: Device, lanes: Ptr<u32>) {
        device.whole(card)?;
        lanes.put(LANES)
    }
    fn nvmlDeviceGetPcieLinkMaxSpeed(card, device: Device, speed: Ptr<u32>) {
        device.whole(card)?;
        speed.put(pcie_generation(card)) // the constants count the generations
    }
    fn nvmlDeviceGetPcieSpeed(card, device: Device, mbps: Ptr<u32>) {
        device.whole(card)?;
        mbps.put(if card.is_hopper() { 32_000 } else { 16_000 })
    }
    fn nvmlDeviceGetPcieThroughput(card, device: Device, _counter: u32, kib_per_s: Ptr<u32>) {
        device.whole(card)?;
        kib_per_s.put(0)
    }
    fn nvmlDeviceGetPcieReplayCounter(card, device: Device, replays: Ptr<u32>) {
        device.whole(card)?;
        replays.put(0)
    }

    fn nvmlDeviceGetNvLinkState(card, device: Device, link: u32, active: Ptr<u32>) {
        link_of(card, device, link)?;
        active.put(0)
    }
    fn nvmlDeviceGetNvLinkCapability(card, device: Device, link: u32, _capability: u32, has: Ptr<u32>) {
        link_of(card, device, link)?;
        has.put(0)
    }
    /// Of a link that is not connected nothing more can be told.
    fn nvmlDeviceGetNvLinkRemoteDeviceType(card, device: Device, link: u32, _kind: Ptr<u32>) {
        link_of(card, device, link)?;
        Err(Status::NotSupported)
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo(card, device: Device, link: u32, _pci: Ptr<u8>) {
        link_of(card, device, link)?;
        Err(Status::NotSupported)
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(card, device: Device, link: u32, _pci: Ptr<u8>) {
        link_of(card, device, link)?;
        Err(Status::NotSupported)
    }

    fn nvmlDeviceGetP2PStatus(card, from: Device, to: Device, _capability: u32, status: Ptr<u32>) {
        const OK: u32 = 0;
        from.whole(card)?;
        to.whole(card)?;
        status.put(OK)
    }
    fn nvmlDeviceOnSameBoard(card, one: Device, other: Device, same: Ptr<i32>) {
        one.whole(card)?;
        other.whole(card)?;
        same.put(1)
    }
    fn nvmlDeviceGetTopologyCommonAncestor(card, one: Device, other: Device, level: Ptr<u32>) {
        const INTERNAL: u32 = 0;
        one.whole(card)?;
        other.whole(card)?;
        level.put(INTERNAL)
    }
    fn nvmlDeviceGetTopologyNearestGpus(card, device: Device, _level: u32, count: Ptr<u32>, list: Ptr<Device>) {
        device.whole(card)?;
        put_list(&count, &list, &[])
    }
}

fn pcie_generation(card: &Card) -> u32 {
    if card.is_hopper() {
        5
    } else {
        4
    }
}

/// Checks for a link that such a card has.
fn link_of(card: &Card, device: Device, link: u32) -> Answer {
    device.whole(card)?;
    let links = if card.is_hopper() { 18 } else { 12 };
    if link >= links {
        return Err(Status::InvalidArgument);
    }
    Ok(())
}
