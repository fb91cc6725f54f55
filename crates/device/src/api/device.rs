//! The device: count, identity, attributes; versions and errors.
use super::*;
use crate::runtime::{config, init, lock};
use std::ffi::{c_char, c_void};
use zerogpu_abi::*;
use zerogpu_profile::{Pci, Profile};

/// What the device of an ordinal looks like.
fn card(dev: CUdevice) -> Res<Profile> {
    Ok(config()?.profile.numbered(dev as u32))
}

pub unsafe fn cuInit(flags: u32) -> CUresult {
    code(if flags != 0 { Err(CUresult::INVALID_VALUE) } else { init() })
}

pub unsafe fn cuDriverGetVersion(version: *mut i32) -> CUresult {
    code((|| out(version, config()?.driver_version))())
}

pub unsafe fn cuDeviceGet(device: *mut CUdevice, ordinal: i32) -> CUresult {
    answer(|| {
        wanted(device)?;
        the_device(ordinal)?;
        out(device, ordinal)
    })
}

pub unsafe fn cuDeviceGetCount(count: *mut i32) -> CUresult {
    answer(|| out(count, config()?.devices as i32))
}

pub unsafe fn cuDeviceGetName(name: *mut c_char, len: i32, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(name)?;
        the_device(dev)?;
        if len <= 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let full = config()?.profile.name.as_bytes();
        let n = full.len().min(len as usize - 1);
        std::ptr::copy_nonoverlapping(full.as_ptr(), name.cast(), n);
        name.add(n).write(0);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetUuid(uuid: *mut CUuuid, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        out(uuid, CUuuid { bytes: card(dev)?.uuid })
    })
}

pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) -> CUresult {
    cuDeviceGetUuid(uuid, dev)
}

pub unsafe fn cuDeviceGetLuid(_luid: *mut c_char, _mask: *mut u32, _dev: CUdevice) -> CUresult {
    // Windows only
    answer(|| Err(CUresult::NOT_SUPPORTED))
}

pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        out(bytes, config()?.vram as usize)
    })
}

pub unsafe fn cuDeviceTotalMem(bytes: *mut u32, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        out(bytes, u32::try_from(config()?.vram).unwrap_or(u32::MAX))
    })
}

pub unsafe fn cuDeviceGetAttribute(value: *mut i32, attrib: u32, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(value)?;
        the_device(dev)?;
        out(value, card(dev)?.attribute(attrib as i32).ok_or(CUresult::INVALID_VALUE)?)
    })
}

pub unsafe fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(minor)?;
        the_device(dev)?;
        let cc = config()?.profile.cc;
        out(major, cc.0 as i32)?;
        out(minor, cc.1 as i32)
    })
}

pub unsafe fn cuDeviceGetProperties(prop: *mut CUdevprop, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        let a = |n| config().ok().and_then(|c| c.profile.attribute(n)).unwrap_or(0);
        out(
            prop,
            CUdevprop {
                maxThreadsPerBlock: a(1),
                maxThreadsDim: [a(2), a(3), a(4)],
                maxGridSize: [a(5), a(6), a(7)],
                sharedMemPerBlock: a(8),
                totalConstantMemory: a(9),
                SIMDWidth: a(10),
                memPitch: a(11),
                regsPerBlock: a(12),
                clockRate: a(13),
                textureAlign: a(14),
            },
        )
    })
}

/// The bus id as text, `0000:00:00.0`.
pub unsafe fn cuDeviceGetPCIBusId(id: *mut c_char, len: i32, dev: CUdevice) -> CUresult {
    answer(|| {
        wanted(id)?;
        the_device(dev)?;
        let Pci { domain, bus, device } = card(dev)?.pci;
        let s = format!("{domain:04X}:{bus:02X}:{device:02X}.0\0");
        if (len as i64) < s.len() as i64 {
            return Err(CUresult::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(s.as_ptr(), id.cast(), s.len());
        Ok(())
    })
}

pub unsafe fn cuDeviceGetByPCIBusId(dev: *mut CUdevice, id: *const c_char) -> CUresult {
    answer(|| {
        wanted(dev)?;
        let asked = text(id)?.to_ascii_uppercase();
        for ordinal in 0..config()?.devices as CUdevice {
            let Pci { domain, bus, device } = card(ordinal)?.pci;
            let forms = [
                format!("{domain:04X}:{bus:02X}:{device:02X}.0"),
                format!("{domain:08X}:{bus:02X}:{device:02X}.0"),
                format!("{domain:04X}:{bus:02X}:{device:02X}"),
                format!("{bus:02X}:{device:02X}.0"),
            ];
            if forms.contains(&asked) {
                return out(dev, ordinal);
            }
        }
        Err(CUresult::INVALID_DEVICE)
    })
}

/// Peer access: these cards do not reach each other's memory.
pub unsafe fn cuDeviceCanAccessPeer(can: *mut i32, dev: CUdevice, peer: CUdevice) -> CUresult {
    answer(|| {
        wanted(can)?;
        the_device(dev)?;
        the_device(peer)?;
        out(can, 0)
    })
}

/// CUdevice_P2PAttribute of CUDA 13.0.
const P2P_ATTRIBUTES: std::ops::RangeInclusive<u32> = 1..=5;

pub unsafe fn cuDeviceGetP2PAttribute(value: *mut i32, attrib: u32, src: CUdevice, dst: CUdevice) -> CUresult {
    answer(|| {
        wanted(value)?;
        the_device(src)?;
        the_device(dst)?;
        // cuda.h: the two devices must differ
        if src == dst {
            return Err(CUresult::INVALID_DEVICE);
        }
        if !P2P_ATTRIBUTES.contains(&attrib) {
            return Err(CUresult::INVALID_VALUE);
        }
        out(value, 0)
    })
}

pub unsafe fn cuDeviceGetExecAffinitySupport(pi: *mut i32, _kind: u32, dev: CUdevice) -> CUresult {
    answer(|| {
        the_device(dev)?;
        out(pi, 0)
    })
}

pub unsafe fn cuDeviceGetTexture1DLinearMaxWidth(
    max: *mut usize,
    _format: u32,
    _channels: u32,
    dev: CUdevice,
) -> CUresult {
    answer(|| {
        the_device(dev)?;
        out(max, config()?.profile.attribute(69).unwrap_or(0) as usize)
    })
}

pub unsafe fn cuDeviceGetNvSciSyncAttributes(_list: *mut c_void, _dev: CUdevice, _flags: i32) -> CUresult {
    answer(|| Err(CUresult::NOT_SUPPORTED))
}

pub unsafe fn cuDeviceGetGraphMemAttribute(dev: CUdevice, attr: u32, value: *mut c_void) -> CUresult {
    answer(|| {
        the_device(dev)?;
        if attr > 3 {
            Err(CUresult::INVALID_VALUE)
        } else {
            out(value.cast::<u64>(), 0)
        }
    })
}

pub unsafe fn cuDeviceSetGraphMemAttribute(dev: CUdevice, attr: u32, _value: *mut c_void) -> CUresult {
    answer(|| {
        the_device(dev)?;
        // only the high marks can be reset
        if attr == 1 || attr == 3 {
            Ok(())
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    })
}

pub unsafe fn cuDeviceGraphMemTrim(dev: CUdevice) -> CUresult {
    answer(|| the_device(dev))
}

pub unsafe fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    answer(|| {
        wanted(free)?;
        wanted(total)?;
        let mut st = lock()?;
        let ctx = st.current()?;
        let device = st.device_of(ctx)?;
        let (f, t) = st.memory_info(device)?;
        out(free, f as usize)?;
        out(total, t as usize)
    })
}

pub unsafe fn cuMemGetInfo(free: *mut u32, total: *mut u32) -> CUresult {
    answer(|| {
        wanted(free)?;
        wanted(total)?;
        let mut st = lock()?;
        let ctx = st.current()?;
        let device = st.device_of(ctx)?;
        let (f, t) = st.memory_info(device)?;
        out(free, u32::try_from(f).unwrap_or(u32::MAX))?;
        out(total, u32::try_from(t).unwrap_or(u32::MAX))
    })
}

pub unsafe fn cuGetErrorName(error: CUresult, text: *mut *const c_char) -> CUresult {
    describe_to(error, text, |d| d.0)
}

pub unsafe fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    describe_to(error, text, |d| d.1)
}

type Description = (&'static std::ffi::CStr, &'static std::ffi::CStr);

unsafe fn describe_to(
    error: CUresult,
    text: *mut *const c_char,
    pick: fn(Description) -> &'static std::ffi::CStr,
) -> CUresult {
    code((|| {
        wanted(text)?;
        match zerogpu_abi::describe(error) {
            Some(d) => out(text, pick(d).as_ptr()),
            None => {
                out(text, std::ptr::null())?;
                Err(CUresult::INVALID_VALUE)
            }
        }
    })())
}
