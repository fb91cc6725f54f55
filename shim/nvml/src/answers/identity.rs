//! Which card it is: handles, names, places, kind.

use crate::card::{Card, Device, Part};
use crate::entry::{answers, Ptr, Text};
use crate::layout::{version, PciInfoExt, PciInfoV1, PciInfoV2, PciInfoV3};
use crate::status::{Answer, Status};
use std::ffi::c_char;
use zerogpu_profile::Pci;

answers! {
    fn nvmlDeviceGetCount(_card, count: Ptr<u32>) {
        count.put(1)
    }
    fn nvmlDeviceGetCount_v2(_card, count: Ptr<u32>) {
        count.put(1)
    }
    fn nvmlDeviceGetHandleByIndex(_card, index: u32, device: Ptr<Device>) {
        by_index(index, &device)
    }
    fn nvmlDeviceGetHandleByIndex_v2(_card, index: u32, device: Ptr<Device>) {
        by_index(index, &device)
    }
    fn nvmlDeviceGetHandleByUUID(card, uuid: Text, device: Ptr<Device>) {
        let wanted = uuid.get()?;
        let mut handles = [Some(Device::gpu()), card.profile.mig.map(|_| Device::mig())].into_iter().flatten();
        let is_it = |handle: &Device| {
            handle.part(card).is_ok_and(|part| uuid_text(card, &part).eq_ignore_ascii_case(wanted))
        };
        device.put(handles.find(is_it).ok_or(Status::NotFound)?)
    }
    fn nvmlDeviceGetHandleBySerial(_card, serial: Text, _device: Ptr<Device>) {
        serial.get()?;
        Err(Status::NotFound)
    }
    fn nvmlDeviceGetHandleByPciBusId(card, bus_id: Text, device: Ptr<Device>) {
        by_bus_id(card, &bus_id, &device)
    }
    fn nvmlDeviceGetHandleByPciBusId_v2(card, bus_id: Text, device: Ptr<Device>) {
        by_bus_id(card, &bus_id, &device)
    }
    fn nvmlDeviceGetName(card, device: Device, name: Ptr<c_char>, length: u32) {
        name.put_text(length, match device.part(card)? {
            Part::Gpu => card.profile.mig.map_or(card.profile.name, |mig| mig.gpu_name),
            Part::Mig(_) => card.profile.name,
        })
    }
    fn nvmlDeviceGetUUID(card, device: Device, uuid: Ptr<c_char>, length: u32) {
        uuid.put_text(length, &uuid_text(card, &device.part(card)?))
    }
    fn nvmlDeviceGetIndex(card, device: Device, index: Ptr<u32>) {
        device.part(card)?;
        index.put(0)
    }
    fn nvmlDeviceGetMinorNumber(card, device: Device, minor: Ptr<u32>) {
        device.whole(card)?;
        minor.put(0)
    }
    fn nvmlDeviceGetBrand(card, device: Device, brand: Ptr<u32>) {
        const NVIDIA: u32 = 14;
        device.part(card)?;
        brand.put(NVIDIA)
    }
    fn nvmlDeviceGetArchitecture(card, device: Device, architecture: Ptr<u32>) {
        let (ampere, hopper) = (7, 9);
        device.part(card)?;
        architecture.put(if card.is_hopper() { hopper } else { ampere })
    }
    fn nvmlDeviceGetCudaComputeCapability(card, device: Device, major: Ptr<i32>, minor: Ptr<i32>) {
        device.part(card)?;
        minor.get()?; // neither is written if one is null
        major.put(card.profile.cc.0)?;
        minor.put(card.profile.cc.1)
    }
    fn nvmlDeviceGetNumGpuCores(card, device: Device, cores: Ptr<u32>) {
        device.whole(card)?;
        let per_multiprocessor = if card.is_hopper() { 128 } else { 64 };
        cores.put(card.attribute(16) * per_multiprocessor)
    }
    fn nvmlDeviceGetBusType(card, device: Device, kind: Ptr<u32>) {
        const PCIE: u32 = 2;
        device.whole(card)?;
        kind.put(PCIE)
    }
    fn nvmlDeviceGetPciInfo(card, device: Device, pci: Ptr<PciInfoV1>) {
        device.part(card)?;
        pci.put(pci_v1(card))
    }
    fn nvmlDeviceGetPciInfo_v2(card, device: Device, pci: Ptr<PciInfoV2>) {
        device.part(card)?;
        pci.put(PciInfoV2 { v1: pci_v1(card), subsystem_id: card.attribute(140), reserved: [0; 4] })
    }
    fn nvmlDeviceGetPciInfo_v3(card, device: Device, pci: Ptr<PciInfoV3>) {
        device.part(card)?;
        pci.put(PciInfoV3 { v1: pci_v1(card), subsystem_id: card.attribute(140), bus_id: bus_id(card) })
    }
    fn nvmlDeviceGetPciInfoExt(card, device: Device, pci: Ptr<PciInfoExt>) {
        device.part(card)?;
        if pci.get()?.version != version::<PciInfoExt>(1) {
            return Err(Status::ArgumentVersionMismatch);
        }
        let (display_controller, controller_3d) = (3, 2);
        let PciInfoV1 { domain, bus, device, device_id, .. } = pci_v1(card);
        pci.put(PciInfoExt {
            version: version::<PciInfoExt>(1),
            domain,
            bus,
            device,
            device_id,
            subsystem_id: card.attribute(140),
            base_class: display_controller,
            sub_class: controller_3d,
            bus_id: bus_id(card),
        })
    }
    fn nvmlDeviceGetBoardId(card, device: Device, id: Ptr<u32>) {
        device.whole(card)?;
        id.put((card.profile.pci.bus << 8 | card.profile.pci.device << 3) as u32)
    }
    fn nvmlDeviceGetMultiGpuBoard(card, device: Device, multi: Ptr<u32>) {
        device.whole(card)?;
        multi.put(card.attribute(84))
    }
    fn nvmlDeviceGetVirtualizationMode(card, device: Device, mode: Ptr<u32>) {
        const NONE: u32 = 0;
        device.whole(card)?;
        mode.put(NONE)
    }
}

fn by_index(index: u32, device: &Ptr<Device>) -> Answer {
    if index != 0 {
        return Err(Status::InvalidArgument);
    }
    device.put(Device::gpu())
}

fn by_bus_id(card: &Card, bus_id: &Text, device: &Ptr<Device>) -> Answer {
    if parse_bus_id(bus_id.get()?).ok_or(Status::InvalidArgument)? != card.profile.pci {
        return Err(Status::NotFound);
    }
    device.put(Device::gpu())
}

/// `domain:bus:device.function`; domain and function may be left out, and are 0 then. Our function is 0.
fn parse_bus_id(text: &str) -> Option<Pci> {
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex = |digits: &str| {
        let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(|number| i32::try_from(number).ok())
    };
    let mut parts = place.rsplit(':').map(hex);
    let (device, bus) = (parts.next()??, parts.next()??);
    let domain = parts.next().unwrap_or(Some(0))?;
    (parts.next().is_none() && hex(function)? == 0).then_some(Pci { domain, bus, device })
}

/// `GPU-` or `MIG-` and the UUID.
fn uuid_text(card: &Card, part: &Part) -> String {
    let (kind, bytes) = match (part, card.profile.mig) {
        (Part::Mig(_), _) => ("MIG", card.profile.uuid),
        (Part::Gpu, Some(mig)) => ("GPU", mig.gpu_uuid),
        (Part::Gpu, None) => ("GPU", card.profile.uuid),
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let groups = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].map(hex);
    format!("{kind}-{}", groups.join("-"))
}

fn pci_v1(card: &Card) -> PciInfoV1 {
    let Pci { domain, bus, device } = card.profile.pci;
    let legacy = format!("{domain:04X}:{bus:02X}:{device:02X}.0");
    PciInfoV1 {
        bus_id: chars(&legacy),
        domain: domain as u32,
        bus: bus as u32,
        device: device as u32,
        device_id: card.attribute(139),
    }
}

fn bus_id(card: &Card) -> [c_char; 32] {
    let Pci { domain, bus, device } = card.profile.pci;
    chars(&format!("{domain:08X}:{bus:02X}:{device:02X}.0"))
}

/// A text in a C array, cut to leave room for its end.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    for (place, byte) in out[..N - 1].iter_mut().zip(text.bytes()) {
        *place = byte as c_char;
    }
    out
}
