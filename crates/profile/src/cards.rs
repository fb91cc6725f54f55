//! The cards that the virtual device can look like.

use crate::{Derived, Mig, Pci, Profile, MOST_BYTES};

/// The first is the default.
pub(crate) static CARDS: [Profile; 4] = [
    Profile {
        key: "a100-40gb",
        name: "NVIDIA A100-SXM4-40GB",
        total_bytes: 42_505_273_344,
        cc: (8, 0),
        uuid: uuid("a100-40gb"),
        pci: Pci { domain: 0, bus: 0, device: 4 },
        mig: None,
        // Grows with the multiprocessors: between the MIG slice's 222 MiB at 42 and the H100's 533 MiB at 132.
        idle_overhead: 450 << 20,
        derived: &[A100_40GB, SM_80],
    },
    Profile {
        key: "a100-mig-3g.40gb",
        name: "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        total_bytes: 42_144_366_592,
        cc: (8, 0),
        uuid: uuid("a100-mig-3g.40gb"),
        pci: Pci { domain: 0, bus: 0, device: 4 },
        mig: Some(Mig {
            gpu_name: "NVIDIA A100-SXM4-80GB",
            gpu_uuid: uuid("a100-80gb"),
            gpu_instance: 2,
            compute_instance: 0,
            slices: 3,
            copy_engines: 3,
            decoders: 2,
        }),
        // As the Hugging Face service showed it: cuMemGetInfo (41911451648, 42144366592).
        idle_overhead: 42_144_366_592 - 41_911_451_648,
        derived: &[MIG_3G_40GB, SM_80],
    },
    Profile {
        key: "h100-80gb",
        name: "NVIDIA H100 80GB HBM3",
        total_bytes: 85_017_493_504,
        cc: (9, 0),
        uuid: uuid("h100-80gb"),
        pci: Pci { domain: 0, bus: 0, device: 6 },
        mig: None,
        // Recorded: cuMemGetInfo (84458799104, 85017493504) with one idle context.
        idle_overhead: 85_017_493_504 - 84_458_799_104,
        derived: &[],
    },
    Profile {
        key: "h200",
        name: "NVIDIA H200",
        // As much of its 150109880320 as there are addresses for.
        total_bytes: MOST_BYTES,
        cc: (9, 0),
        uuid: uuid("h200"),
        pci: Pci { domain: 0, bus: 0, device: 6 },
        mig: None,
        // Recorded: cuMemGetInfo (149557477376, 150109880320) with one idle context.
        idle_overhead: 150_109_880_320 - 149_557_477_376,
        derived: &[H200],
    },
];

const fn derived(attribute: usize, value: i32, reason: &'static str) -> Derived {
    Derived { attribute, value, reason }
}

/// What an H200 has otherwise than an H100. "Recorded" is what one answered under driver 580.159.04.
const H200: &[Derived] = &[
    derived(36, 3_201_000, "recorded on an H200"),
    derived(37, 6016, "recorded on an H200"),
    derived(38, 62_914_560, "recorded on an H200"),
    derived(108, 39_321_600, "recorded on an H200"),
    derived(139, 0x2335_10DE, "recorded on an H200"),
    derived(140, 0x18BF_10DE, "recorded on an H200"),
];

/// What every A100 has and an H100 has otherwise. "Published" is NVIDIA's A100 data sheet, the table of compute
/// capabilities in the CUDA programming guide, or the Ampere tuning guide.
const SM_80: &[Derived] = &[
    derived(13, 1_410_000, "published boost clock, kHz"),
    derived(34, 4, "our choice: where a cloud's virtual machine usually has its first card"),
    derived(75, 8, "published compute capability"),
    derived(76, 0, "published compute capability"),
    derived(81, 167_936, "published: 164 KiB of shared memory per multiprocessor"),
    derived(97, 166_912, "published: 163 KiB of shared memory per block at most"),
    derived(119, 1, "file descriptors only: fabric handles came with the H100"),
    derived(120, 0, "published: no thread block clusters before 9.0"),
    derived(126, 1, "published: one memory synchronization domain before 9.0"),
    derived(127, 0, "published: no tensor maps (TMA) before 9.0"),
    derived(128, 0, "fabric handles came with the H100"),
];

/// The 40 GB card.
const A100_40GB: &[Derived] = &[
    derived(16, 108, "published multiprocessor count"),
    derived(36, 1_215_000, "published memory clock, kHz"),
    derived(37, 5120, "published bus width, bits"),
    derived(38, 41_943_040, "published: 40 MiB of L2"),
    derived(108, 26_214_400, "5/8 of the L2 cache, as on the H100"),
    derived(139, 0x20B0_10DE, "PCI id database: A100 SXM4 40GB"),
    derived(140, 0x134F_10DE, "PCI subsystem of NVIDIA's own SXM4 40GB module"),
];

/// Three of seven compute slices and four of eight memory slices of the 80 GB card.
const MIG_3G_40GB: &[Derived] = &[
    derived(16, 42, "published: 14 multiprocessors per compute slice; seen on the Hugging Face service"),
    derived(36, 1_593_000, "published memory clock of the 80 GB card, kHz"),
    derived(37, 2560, "four of eight memory slices of a 5120-bit bus"),
    derived(38, 20_971_520, "four of eight memory slices of 40 MiB"),
    derived(108, 13_107_200, "5/8 of the L2 cache, as on the H100"),
    derived(139, 0x20B2_10DE, "PCI id database: A100 SXM4 80GB"),
    derived(140, 0x1463_10DE, "PCI subsystem of NVIDIA's own SXM4 80GB module"),
];

/// A version 4 UUID that is always the same for the same text: two FNV-1a hashes with the version and variant bits set.
const fn uuid(text: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let mut half = 0;
    while half < 2 {
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ half as u64;
        let mut i = 0;
        while i < text.len() {
            hash = (hash ^ text.as_bytes()[i] as u64).wrapping_mul(0x100_0000_01b3);
            i += 1;
        }
        let bytes = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes();
        let mut i = 0;
        while i < 8 {
            out[8 * half + i] = bytes[i];
            i += 1;
        }
        half += 1;
    }
    out[6] = out[6] & 0x0f | 0x40;
    out[8] = out[8] & 0x3f | 0x80;
    out
}
