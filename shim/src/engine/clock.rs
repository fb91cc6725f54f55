//! When an event of a claim happened, in the host's time: what is left of it once its context is gone.
use zerogpu_abi::*;
use zerogpu_below::{ok, Driver};
use zerogpu_device::exec::now;

/// The event that all others of a claim are timed against, and the host's time before its record.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    event: CUevent,
    started: u64,
}

impl Clock {
    /// Starts the clock of the current context.
    ///
    /// # Errors
    /// Those of the driver.
    pub(super) fn start(d: &Driver) -> Res<Self> {
        let mut event = CUevent::NULL;
        // SAFETY: writes the new event.
        ok(unsafe { (d.cuEventCreate)(&mut event, 0) })?;
        let started = now();
        // SAFETY: the legacy stream exists with the context.
        unsafe {
            ok((d.cuEventRecord)(event, CU_STREAM_LEGACY))?;
            ok((d.cuEventSynchronize)(event))?;
        }
        Ok(Self { event, started })
    }

    /// When an event that has passed did so, nanoseconds of [`now`].
    ///
    /// # Errors
    /// Those of the driver, for one that keeps no time among them.
    pub(super) fn time_of(self, d: &Driver, passed: CUevent) -> Res<u64> {
        let mut ms = 0f32;
        // SAFETY: both events are live.
        ok(unsafe { (d.cuEventElapsedTime)(&mut ms, self.event, passed) })?;
        Ok(after(self.started, ms, now()))
    }
}

/// `ms` after a start, and no later than now: 32 bits of an hour are 0.2 ms apart and two clocks drift, and an event of the
/// future would count as one that has not passed.
fn after(started: u64, ms: f32, now: u64) -> u64 {
    (started + (f64::from(ms) * 1e6) as u64).min(now)
}

#[cfg(test)]
mod tests {
    use super::after;

    #[test]
    fn an_event_that_has_passed_is_not_in_the_future() {
        let (started, hour) = (17_000_000_000, 3_600_000_000_000);
        for past in (0..1_000_000).step_by(997) {
            let passed = started + hour + past;
            let ms = ((passed - started) as f64 / 1e6) as f32;
            let at = after(started, ms, passed);
            assert!(at <= passed && passed - at < 250_000, "{passed} became {at}");
        }
        assert_eq!(after(started, 1.5, started + hour), started + 1_500_000);
    }
}
