//! A program that uses the virtual card and knows each byte that should be there.
//!
//! What a command does follows from the seed alone. Kernels are the project's own `zerogpu_write_bytes`, which softcuda runs
//! by its twin, so bytes really change on the card.
use crate::random::Random;
use anyhow::{bail, ensure, Context, Result};
use std::ffi::c_void;
use std::path::Path;
use std::ptr::{from_mut, null_mut};
use zerogpu_abi::*;
use zerogpu_bench::driver::{must, Driver, Regions};

/// Bytes of a page of the card.
const PAGE: usize = 2 << 20;
const CARD: CUmemLocation = CUmemLocation::device(0);

/// Device memory, and what is in it.
struct Piece {
    at: CUdeviceptr,
    /// The program's own physical handle behind it; None: `cuMemAlloc` gave it.
    handle: Option<CUmemGenericAllocationHandle>,
    bytes: Vec<u8>,
}

/// The program.
pub struct Program {
    d: Driver,
    write: CUfunction,
    random: Random,
    pieces: Vec<Piece>,
    /// Bytes that it may have at once.
    most: usize,
    region: Option<u64>,
}

impl Program {
    /// Opens the shim at `library`; never has more than `most` bytes.
    ///
    /// # Errors
    /// Whatever the driver refuses, here and below; and each byte that is not what it should be.
    pub fn open(library: &Path, seed: u64, most: usize) -> Result<Program> {
        let d = Driver::start(library)?;
        let name = std::ffi::CString::new(zerogpu_hash::WRITE_BYTES)?;
        let write = d.kernel_of(zerogpu_hash::PTX.as_bytes(), &name)?;
        Ok(Program { d, write, random: Random::new(seed), pieces: Vec::new(), most, region: None })
    }

    /// The numbers of the seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn regions(&self) -> Result<&Regions> {
        self.d.regions.as_ref().context("this driver has no regions: it is not the shim")
    }

    /// What the program takes its card for: its name, place and uuid.
    pub fn card(&self) -> Result<String> {
        let (mut name, mut place, mut uuid) =
            ([0 as std::ffi::c_char; 100], [0 as std::ffi::c_char; 32], CUuuid { bytes: [0; 16] });
        // SAFETY: write at most as many characters as is said, and a uuid.
        unsafe {
            must("cuDeviceGetName", (self.d.cuDeviceGetName)(name.as_mut_ptr(), 100, 0))?;
            must("cuDeviceGetPCIBusId", (self.d.cuDeviceGetPCIBusId)(place.as_mut_ptr(), 32, 0))?;
            must("cuDeviceGetUuid", (self.d.cuDeviceGetUuid_v2)(&mut uuid, 0))?;
        }
        let text = |chars: &[std::ffi::c_char]| {
            chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8 as char).collect::<String>()
        };
        Ok(format!("{} at {}, {:?}", text(&name), text(&place), uuid.bytes))
    }

    /// What the shim says about itself.
    pub fn state(&self) -> Result<serde_json::Value> {
        self.regions()?.state()
    }

    /// Opens a region.
    pub fn begin(&mut self, seconds: f64) -> Result<()> {
        ensure!(self.region.is_none(), "a region is open");
        self.region = Some(self.regions()?.begin(seconds)?);
        Ok(())
    }

    /// Ends it, and sees that the card is given back.
    pub fn end(&mut self) -> Result<()> {
        let region = self.region.take().context("no region is open")?;
        self.regions()?.end(region)?;
        let state = self.state()?;
        ensure!(state["level"] == "parked", "the last region has ended, and the card is kept: {state}");
        Ok(())
    }

    /// Does something, with or without a region.
    pub fn step(&mut self) -> Result<()> {
        match self.random.below(13) {
            _ if self.pieces.is_empty() => self.take(),
            0 | 1 => self.take(),
            2 => self.drop_one(),
            3 => self.load_again(),
            4 => self.upload(),
            5 => self.fill(),
            6 => self.copy(),
            7 => self.check_one(),
            // deferred outside a region
            _ => self.launch(),
        }
    }

    /// Calls what the shim only forwards, so that the context is bound from now on: a slot of an undocumented table that
    /// softcuda does not have.
    pub fn bind(&self) -> Result<()> {
        const TABLE: CUuuid = CUuuid { bytes: 0x1734_DC26_800D_4745_8726_C0F1_E7DD_8BCA_u128.to_be_bytes() };
        const SLOT: usize = 5;
        let mut table = std::ptr::null();
        // SAFETY: writes the table's address.
        must("cuGetExportTable", unsafe { (self.d.cuGetExportTable)(&mut table, &TABLE) })?;
        type Slot = Option<unsafe extern "C" fn(u64, u64, u64, u64) -> u64>;
        // SAFETY: a table of C functions behind its size, longer than that; what takes fewer arguments ignores the rest.
        unsafe {
            let slot = std::mem::transmute::<usize, Slot>(*table.cast::<usize>().add(SLOT));
            slot.context("the table ends early")?(0, 0, 0, 16);
        }
        let state = self.state()?;
        ensure!(state["bound_by"].as_array().is_some_and(|by| !by.is_empty()), "nothing was bound: {state}");
        Ok(())
    }

    /// Launches a kernel, so that a region really claims.
    pub fn launch(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            self.take()?;
        }
        let (which, from, len) = self.part(8);
        self.launch_on(which, from, len)
    }

    /// Has a kernel change so much of the first piece, from its begin on; with 0 it runs and changes nothing.
    pub fn change(&mut self, percent: usize) -> Result<()> {
        let len = self.pieces.first().context("there is no memory")?.bytes.len();
        self.launch_on(0, 0, len / 100 * percent / 8 * 8)
    }

    /// Writes on the host side, without a kernel: copies and memsets into what there is.
    pub fn write(&mut self) -> Result<()> {
        match self.random.once_in(2) {
            true => self.upload(),
            false => self.fill(),
        }
    }

    fn launch_on(&mut self, which: usize, from: usize, len: usize) -> Result<()> {
        let (at, seed) = (self.pieces[which].at + from as u64, self.random.word());
        let mut words = [at, len as u64, seed];
        let mut params = words.each_mut().map(|word| from_mut(word).cast::<c_void>());
        // SAFETY: one pointer for each parameter of the kernel.
        let launched = unsafe {
            (self.d.cuLaunchKernel)(self.write, 4, 1, 1, 512, 1, 1, 0, CUstream::NULL, params.as_mut_ptr(), null_mut())
        };
        must("cuLaunchKernel", launched)?;
        zerogpu_hash::write_bytes(&mut self.pieces[which].bytes[from..from + len], seed);
        Ok(())
    }

    /// Takes memory and writes all of it, unless it has as much as it may have.
    pub fn take(&mut self) -> Result<()> {
        // as much as each takes at most: small ones may have a page to themselves
        let has: usize = self.pieces.iter().map(|piece| piece.bytes.len().next_multiple_of(PAGE)).sum();
        let own = self.random.once_in(3);
        let len = match own {
            true => PAGE * self.random.between(1, 2),
            false if self.random.once_in(2) => self.random.between(1, 64) << 10,
            false => self.random.between(1, 3 << 10) << 10,
        };
        if has + len.next_multiple_of(PAGE) > self.most {
            return if has > 0 { self.drop_one() } else { bail!("{} bytes are too few to begin with", self.most) };
        }
        let piece = if own { self.create(len)? } else { self.alloc(len)? };
        self.pieces.push(piece);
        let which = self.pieces.len() - 1;
        self.write_part(which, 0, len)
    }

    /// Takes exactly so much memory in one piece.
    pub fn take_bytes(&mut self, len: usize) -> Result<()> {
        let piece = self.alloc(len)?;
        self.pieces.push(piece);
        self.write_part(self.pieces.len() - 1, 0, len)
    }

    fn alloc(&self, len: usize) -> Result<Piece> {
        let at = self.d.alloc(len)?;
        Ok(Piece { at, handle: None, bytes: vec![0; len] })
    }

    /// Memory of the program's own handles. It is new to this program, so it must not show what others have left.
    fn create(&self, len: usize) -> Result<Piece> {
        let prop = CUmemAllocationProp {
            kind: 1,
            requestedHandleTypes: 0,
            location: CARD,
            win32HandleMetaData: null_mut(),
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        };
        let access = CUmemAccessDesc { location: CARD, flags: 3 };
        let (mut at, mut handle) = (0, 0);
        // SAFETY: writes the address and the handle, reads the structures.
        unsafe {
            must("cuMemAddressReserve", (self.d.cuMemAddressReserve)(&mut at, len, 0, 0, 0))?;
            must("cuMemCreate", (self.d.cuMemCreate)(&mut handle, len, &prop, 0))?;
            must("cuMemMap", (self.d.cuMemMap)(at, len, 0, handle, 0))?;
            must("cuMemSetAccess", (self.d.cuMemSetAccess)(at, len, &access, 1))?;
        }
        let piece = Piece { at, handle: Some(handle), bytes: vec![0; len] };
        self.compare(&piece).context("fresh memory is not empty")?;
        Ok(piece)
    }

    /// Gives some piece back.
    pub fn drop_one(&mut self) -> Result<()> {
        let which = self.random.below(self.pieces.len());
        self.drop(which)
    }

    /// Gives some piece back and takes its like, often at the same address, with the same bytes: a model that is loaded again.
    fn load_again(&mut self) -> Result<()> {
        let which = self.random.below(self.pieces.len());
        let Piece { handle, bytes, .. } = &self.pieces[which];
        let (own, bytes) = (handle.is_some(), bytes.clone());
        self.drop(which)?;
        let piece = if own { self.create(bytes.len())? } else { self.alloc(bytes.len())? };
        let len = bytes.len();
        self.pieces.push(Piece { bytes, ..piece });
        self.send(self.pieces.len() - 1, 0..len)
    }

    /// Gives a piece back, and looks at its bytes before.
    fn drop(&mut self, which: usize) -> Result<()> {
        let piece = self.pieces.swap_remove(which);
        self.compare(&piece)?;
        let len = piece.bytes.len();
        // SAFETY: memory of this program, which is not used any more.
        unsafe {
            match piece.handle {
                None => must("cuMemFree", (self.d.cuMemFree_v2)(piece.at)),
                Some(handle) => must("cuMemUnmap", (self.d.cuMemUnmap)(piece.at, len))
                    .and_then(|()| must("cuMemAddressFree", (self.d.cuMemAddressFree)(piece.at, len)))
                    .and_then(|()| must("cuMemRelease", (self.d.cuMemRelease)(handle))),
            }
        }
    }

    /// A part of some piece: which, where it begins and how long it is, in multiples of `unit`.
    fn part(&mut self, unit: usize) -> (usize, usize, usize) {
        let which = self.random.below(self.pieces.len());
        let units = self.pieces[which].bytes.len() / unit;
        let from = self.random.below(units);
        let len = self.random.between(1, (units - from).min((256 << 10) / unit));
        (which, from * unit, len * unit)
    }

    fn write_part(&mut self, which: usize, from: usize, len: usize) -> Result<()> {
        let mut seed = Random::new(self.random.word());
        let piece = &mut self.pieces[which];
        let part = &mut piece.bytes[from..from + len];
        for word in part.chunks_mut(8) {
            word.copy_from_slice(&seed.word().to_le_bytes()[..word.len()]);
        }
        self.send(which, from..from + len)
    }

    /// Sends bytes that a piece should have to the card.
    fn send(&self, which: usize, part: std::ops::Range<usize>) -> Result<()> {
        let piece = &self.pieces[which];
        let (at, bytes) = (piece.at + part.start as u64, &piece.bytes[part]);
        // SAFETY: as many bytes on both sides.
        must("cuMemcpyHtoD", unsafe { (self.d.cuMemcpyHtoD_v2)(at, bytes.as_ptr().cast(), bytes.len()) })
    }

    fn upload(&mut self) -> Result<()> {
        let (which, from, len) = self.part(1);
        self.write_part(which, from, len)
    }

    fn fill(&mut self) -> Result<()> {
        let (which, from, len) = self.part(1);
        let byte = self.random.word() as u8;
        let piece = &mut self.pieces[which];
        piece.bytes[from..from + len].fill(byte);
        // SAFETY: inside of the piece.
        must("cuMemsetD8", unsafe { (self.d.cuMemsetD8_v2)(piece.at + from as u64, byte, len) })
    }

    fn copy(&mut self) -> Result<()> {
        let ((from, at, len), (to, start, room)) = (self.part(1), self.part(1));
        let len = len.min(room);
        if from == to && at < start + len && start < at + len {
            return Ok(());
        }
        let bytes = self.pieces[from].bytes[at..at + len].to_vec();
        self.pieces[to].bytes[start..start + len].copy_from_slice(&bytes);
        let (source, target) = (self.pieces[from].at + at as u64, self.pieces[to].at + start as u64);
        // SAFETY: inside of the pieces, and apart.
        must("cuMemcpyDtoD", unsafe { (self.d.cuMemcpyDtoD_v2)(target, source, len) })
    }

    fn check_one(&mut self) -> Result<()> {
        let which = self.random.below(self.pieces.len());
        self.compare(&self.pieces[which])
    }

    /// Compares each byte with what it should be; how many there are.
    pub fn check(&self) -> Result<usize> {
        self.pieces.iter().try_for_each(|piece| self.compare(piece))?;
        Ok(self.pieces.iter().map(|piece| piece.bytes.len()).sum())
    }

    fn compare(&self, piece: &Piece) -> Result<()> {
        let len = piece.bytes.len();
        let mut found = vec![0x5Au8; len];
        // SAFETY: as many bytes on both sides.
        must("cuMemcpyDtoH", unsafe { (self.d.cuMemcpyDtoH_v2)(found.as_mut_ptr().cast(), piece.at, len) })?;
        let wrong = found.iter().zip(&piece.bytes).filter(|(a, b)| a != b).count();
        if let Some(first) = found.iter().zip(&piece.bytes).position(|(a, b)| a != b) {
            bail!(
                "{wrong} of {len} bytes are wrong in {} at {:#x}, the first at {first:#x}: {:#04x} for {:#04x}",
                if piece.handle.is_some() { "a handle" } else { "an allocation" },
                piece.at,
                found[first],
                piece.bytes[first]
            );
        }
        Ok(())
    }
}
