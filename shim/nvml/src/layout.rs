//! The structures of nvml.h that we fill.

use std::ffi::c_char;

/// `nvmlPciInfo_t` of `nvmlDeviceGetPciInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoV1 {
    pub bus_id: [c_char; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub device_id: u32,
}

/// `nvmlPciInfo_t` of `nvmlDeviceGetPciInfo_v2`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoV2 {
    pub v1: PciInfoV1,
    pub subsystem_id: u32,
    pub reserved: [u32; 4],
}

/// `nvmlPciInfo_t` of `nvmlDeviceGetPciInfo_v3`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoV3 {
    pub v1: PciInfoV1,
    pub subsystem_id: u32,
    pub bus_id: [c_char; 32],
}

/// `nvmlPciInfoExt_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoExt {
    pub version: u32,
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub device_id: u32,
    pub subsystem_id: u32,
    pub base_class: u32,
    pub sub_class: u32,
    pub bus_id: [c_char; 32],
}

/// `nvmlMemory_t`; bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlMemory_v2_t`; bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemoryV2 {
    pub version: u32,
    pub total: u64,
    pub reserved: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlProcessInfo_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ProcessV1 {
    pub pid: u32,
    pub used: u64,
}

/// `nvmlProcessInfo_v2_t`, which v3 of the functions has too.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ProcessV2 {
    pub v1: ProcessV1,
    pub gpu_instance: u32,
    pub compute_instance: u32,
}

/// `nvmlUtilization_t`; per cent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Utilization {
    pub gpu: u32,
    pub memory: u32,
}

/// `nvmlDeviceAttributes_t`: what a MIG device has.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MigAttributes {
    pub multiprocessors: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub encoders: u32,
    pub jpegs: u32,
    pub ofas: u32,
    pub gpu_slices: u32,
    pub compute_slices: u32,
    pub memory_mib: u64,
}

/// `nvmlFieldValue_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FieldValue {
    pub field: u32,
    pub scope: u32,
    pub timestamp: i64,
    pub latency: i64,
    pub value_type: u32,
    pub status: u32,
    pub value: u64,
}

/// `nvmlTemperature_v1_t`; degrees Celsius.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Temperature {
    pub version: u32,
    pub sensor: u32,
    pub celsius: i32,
}

/// nvml.h's `NVML_STRUCT_VERSION` of a structure.
pub const fn version<T>(number: u32) -> u32 {
    size_of::<T>() as u32 | number << 24
}
