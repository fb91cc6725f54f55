//! Memory and who uses it, as the virtual device shows it: this process alone.

use crate::card::{Card, Device};
use crate::entry::{answers, put_list, Ptr};
use crate::layout::{version, Memory, MemoryV2, ProcessV1, ProcessV2};
use crate::shim;
use crate::status::Status;

answers! {
    fn nvmlDeviceGetMemoryInfo(card, device: Device, memory: Ptr<Memory>) {
        device.part(card)?;
        memory.put(memory_of(card))
    }
    fn nvmlDeviceGetMemoryInfo_v2(card, device: Device, memory: Ptr<MemoryV2>) {
        device.part(card)?;
        let version = version::<MemoryV2>(2);
        if memory.get()?.version != version {
            return Err(Status::ArgumentVersionMismatch);
        }
        let Memory { total, free, used } = memory_of(card);
        memory.put(MemoryV2 { version, total, reserved: 0, free, used })
    }
    fn nvmlDeviceGetBAR1MemoryInfo(card, device: Device, memory: Ptr<Memory>) {
        device.part(card)?;
        // As on data centre cards, it covers the whole memory.
        let total = card.profile.total_bytes.next_power_of_two();
        memory.put(Memory { total, free: total, used: 0 })
    }
    fn nvmlDeviceGetMemoryBusWidth(card, device: Device, bits: Ptr<u32>) {
        device.whole(card)?;
        bits.put(card.attribute(37))
    }
    fn nvmlDeviceGetComputeRunningProcesses(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV1>) {
        device.part(card)?;
        put_list(&count, &list, this_process().as_slice())
    }
    fn nvmlDeviceGetComputeRunningProcesses_v2(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, this_process().map(|v1| in_instance(card, v1)).as_slice())
    }
    fn nvmlDeviceGetComputeRunningProcesses_v3(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, this_process().map(|v1| in_instance(card, v1)).as_slice())
    }
    fn nvmlDeviceGetGraphicsRunningProcesses(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV1>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV1>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(card, device: Device, count: Ptr<u32>, list: Ptr<ProcessV2>) {
        device.part(card)?;
        put_list(&count, &list, &[])
    }
}

fn memory_of(card: &Card) -> Memory {
    let total = card.profile.total_bytes;
    let used = shim::memory_used().min(total);
    Memory { total, free: total - used, used }
}

/// This process, if it has anything on the virtual device.
fn this_process() -> Option<ProcessV1> {
    let used = shim::memory_used();
    (used > 0).then(|| ProcessV1 { pid: std::process::id(), used })
}

fn in_instance(card: &Card, v1: ProcessV1) -> ProcessV2 {
    const NO_INSTANCE: u32 = u32::MAX;
    let (gpu_instance, compute_instance) =
        card.profile.mig.map_or((NO_INSTANCE, NO_INSTANCE), |mig| (mig.gpu_instance, mig.compute_instance));
    ProcessV2 { v1, gpu_instance, compute_instance }
}
