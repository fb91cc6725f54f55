//! Load, clocks, power, temperature, modes and errors: those of a healthy card that has nothing to do. The virtual card
//! has no sensors: what a program may divide by or compare with is believable, the rest is NOT_SUPPORTED.

use crate::card::{Card, Device};
use crate::entry::{answers, put_list, Ptr};
use crate::layout::{version, FieldValue, Temperature, Utilization};
use crate::status::{Answer, Status};

const ENABLED: u32 = 1;
const DISABLED: u32 = 0;
/// Degrees Celsius.
const TEMPERATURE: u32 = 32;
/// Milliwatts.
const IDLE_POWER: u32 = 50_000;

answers! {
    fn nvmlDeviceGetUtilizationRates(card, device: Device, rates: Ptr<Utilization>) {
        divided_is_not_supported(card, device)?;
        rates.put(Utilization { gpu: 0, memory: 0 })
    }
    fn nvmlDeviceGetEncoderUtilization(card, device: Device, per_cent: Ptr<u32>, period: Ptr<u32>) {
        engine_utilization(card, device, &per_cent, &period)
    }
    fn nvmlDeviceGetDecoderUtilization(card, device: Device, per_cent: Ptr<u32>, period: Ptr<u32>) {
        engine_utilization(card, device, &per_cent, &period)
    }

    fn nvmlDeviceGetClockInfo(card, device: Device, kind: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(idle_clock(card, kind)?)
    }
    fn nvmlDeviceGetMaxClockInfo(card, device: Device, kind: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(max_clock(card, kind)?)
    }
    fn nvmlDeviceGetMaxCustomerBoostClock(card, device: Device, kind: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(max_clock(card, kind)?)
    }
    fn nvmlDeviceGetApplicationsClock(card, device: Device, kind: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(max_clock(card, kind)?)
    }
    fn nvmlDeviceGetDefaultApplicationsClock(card, device: Device, kind: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(max_clock(card, kind)?)
    }
    fn nvmlDeviceGetClock(card, device: Device, kind: u32, id: u32, mhz: Ptr<u32>) {
        device.whole(card)?;
        mhz.put(match id {
            0 => idle_clock(card, kind)?,
            1..=3 => max_clock(card, kind)?, // application clock, its default, boost
            _ => return Err(Status::InvalidArgument),
        })
    }
    fn nvmlDeviceGetSupportedMemoryClocks(card, device: Device, count: Ptr<u32>, mhz: Ptr<u32>) {
        device.whole(card)?;
        put_list(&count, &mhz, &[max_clock(card, MEMORY)?])
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(card, device: Device, reasons: Ptr<u64>) {
        device.whole(card)?;
        reasons.put(GPU_IDLE)
    }
    fn nvmlDeviceGetCurrentClocksEventReasons(card, device: Device, reasons: Ptr<u64>) {
        device.whole(card)?;
        reasons.put(GPU_IDLE)
    }
    fn nvmlDeviceGetSupportedClocksThrottleReasons(card, device: Device, reasons: Ptr<u64>) {
        device.whole(card)?;
        reasons.put(GPU_IDLE)
    }
    fn nvmlDeviceGetSupportedClocksEventReasons(card, device: Device, reasons: Ptr<u64>) {
        device.whole(card)?;
        reasons.put(GPU_IDLE)
    }
    fn nvmlDeviceGetPerformanceState(card, device: Device, state: Ptr<u32>) {
        device.whole(card)?;
        state.put(0)
    }
    fn nvmlDeviceGetPowerState(card, device: Device, state: Ptr<u32>) {
        device.whole(card)?;
        state.put(0)
    }

    fn nvmlDeviceGetTemperature(card, device: Device, sensor: u32, celsius: Ptr<u32>) {
        device.whole(card)?;
        if sensor != 0 {
            return Err(Status::InvalidArgument);
        }
        celsius.put(TEMPERATURE)
    }
    fn nvmlDeviceGetTemperatureV(card, device: Device, temperature: Ptr<Temperature>) {
        device.whole(card)?;
        let asked = temperature.get()?;
        if asked.version != version::<Temperature>(1) {
            return Err(Status::ArgumentVersionMismatch);
        }
        if asked.sensor != 0 {
            return Err(Status::InvalidArgument);
        }
        temperature.put(Temperature { celsius: TEMPERATURE as i32, ..asked })
    }
    fn nvmlDeviceGetNumFans(card, device: Device, fans: Ptr<u32>) {
        device.whole(card)?;
        fans.put(0)
    }
    fn nvmlDeviceGetPowerUsage(card, device: Device, milliwatts: Ptr<u32>) {
        device.whole(card)?;
        milliwatts.put(IDLE_POWER)
    }
    fn nvmlDeviceGetPowerManagementMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(ENABLED)
    }
    fn nvmlDeviceGetPowerManagementLimit(card, device: Device, milliwatts: Ptr<u32>) {
        device.whole(card)?;
        milliwatts.put(power_limit(card))
    }
    fn nvmlDeviceGetPowerManagementDefaultLimit(card, device: Device, milliwatts: Ptr<u32>) {
        device.whole(card)?;
        milliwatts.put(power_limit(card))
    }
    fn nvmlDeviceGetEnforcedPowerLimit(card, device: Device, milliwatts: Ptr<u32>) {
        device.whole(card)?;
        milliwatts.put(power_limit(card))
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(card, device: Device, min: Ptr<u32>, max: Ptr<u32>) {
        device.whole(card)?;
        max.get()?; // neither is written if one is null
        min.put(power_limit(card))?;
        max.put(power_limit(card))
    }

    fn nvmlDeviceGetPersistenceMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(ENABLED)
    }
    fn nvmlDeviceGetComputeMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(card.attribute(20))
    }
    fn nvmlDeviceGetDisplayMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(DISABLED)
    }
    fn nvmlDeviceGetDisplayActive(card, device: Device, active: Ptr<u32>) {
        device.whole(card)?;
        active.put(DISABLED)
    }
    fn nvmlDeviceGetAccountingMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(DISABLED)
    }

    fn nvmlDeviceGetEccMode(card, device: Device, current: Ptr<u32>, pending: Ptr<u32>) {
        device.whole(card)?;
        pending.get()?; // neither is written if one is null
        current.put(card.attribute(32))?;
        pending.put(card.attribute(32))
    }
    fn nvmlDeviceGetDefaultEccMode(card, device: Device, mode: Ptr<u32>) {
        device.whole(card)?;
        mode.put(card.attribute(32))
    }
    fn nvmlDeviceGetTotalEccErrors(card, device: Device, _kind: u32, _since: u32, errors: Ptr<u64>) {
        device.whole(card)?;
        errors.put(0)
    }
    fn nvmlDeviceGetMemoryErrorCounter(card, device: Device, _kind: u32, _since: u32, _place: u32, errors: Ptr<u64>) {
        device.whole(card)?;
        errors.put(0)
    }
    fn nvmlDeviceGetRemappedRows(
        card, device: Device, corrected: Ptr<u32>, uncorrected: Ptr<u32>, pending: Ptr<u32>, failed: Ptr<u32>
    ) {
        device.whole(card)?;
        [&corrected, &uncorrected, &pending, &failed].into_iter().try_for_each(|out| out.put(0))
    }

    /// Each value says for itself that it is not supported.
    fn nvmlDeviceGetFieldValues(card, device: Device, count: i32, values: Ptr<FieldValue>) {
        device.part(card)?;
        let count = usize::try_from(count).map_err(|_| Status::InvalidArgument)?;
        values.change_all(count, |value| value.status = Status::NotSupported as u32)
    }
}

const MEMORY: u32 = 2;
const GPU_IDLE: u64 = 1;

/// NVML can't say how busy a card is that is divided into MIG devices.
fn divided_is_not_supported(card: &Card, device: Device) -> Answer {
    device.whole(card)?;
    if card.profile.mig.is_some() {
        return Err(Status::NotSupported);
    }
    Ok(())
}

fn engine_utilization(card: &Card, device: Device, per_cent: &Ptr<u32>, period: &Ptr<u32>) -> Answer {
    const SAMPLING_PERIOD_US: u32 = 167_000;
    divided_is_not_supported(card, device)?;
    period.get()?; // neither is written if one is null
    per_cent.put(0)?;
    period.put(SAMPLING_PERIOD_US)
}

/// MHz; the kinds are graphics, multiprocessors, memory, video.
fn max_clock(card: &Card, kind: u32) -> Result<u32, Status> {
    match kind {
        0 | 1 => Ok(card.attribute(13) / 1000),
        MEMORY => Ok(card.attribute(36) / 1000),
        3 => Ok(if card.is_hopper() { 1545 } else { 1290 }),
        _ => Err(Status::InvalidArgument),
    }
}

/// MHz. The memory of these cards knows one clock only.
fn idle_clock(card: &Card, kind: u32) -> Result<u32, Status> {
    match kind {
        MEMORY => max_clock(card, kind),
        _ => max_clock(card, kind).map(|max| max * 3 / 20),
    }
}

/// Milliwatts, as NVIDIA publishes for the SXM modules.
fn power_limit(card: &Card) -> u32 {
    if card.is_hopper() {
        700_000
    } else {
        400_000
    }
}
