//! Cubins: ELF files of machine code for one architecture.
//!
//! A kernel is a function symbol with the entry bit. Its needs stand in the records of `.nv.info` and
//! `.nv.info.<kernel>`, in the flags of `.text.<kernel>` (barriers, and registers before ABI 8) and in section sizes:
//! `.nv.shared.<kernel>` is static shared memory, `.nv.constant3` the module's constants. Variables are object symbols
//! in `.nv.global`, `.nv.global.init` and `.nv.constant3`.
use crate::arch::{Arch, Reach};
use crate::image::Image;
use crate::info::{self, Record};
use crate::kernel::{Global, Kernel, Param};
use crate::read::{u16_at, u64_at};
use crate::Error;
use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable, Sym as _, SymbolTable};
use object::read::SectionIndex;
use object::LittleEndian;
use std::cell::Cell;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

type Header = FileHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;
type Symbol = Sym64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// First bytes of an ELF file.
pub(crate) const MAGIC: [u8; 4] = elf::ELFMAG;
/// ELF machine number of CUDA.
pub(crate) const MACHINE: u16 = 190;
/// From this ABI version on (CUDA 13), the flags are laid out anew and registers stand in records only.
const ABI_8: u8 = 8;
/// `st_other`: a kernel.
const STO_ENTRY: u8 = 0x10;
/// `st_other`: a variable in managed memory.
const STO_MANAGED: u8 = 0x04;
/// Symbol type of variables beside `STT_OBJECT`.
const STT_CUDA_OBJECT: u8 = 13;
/// Shared memory of a block that the system keeps for itself from sm_90 on and that `.nv.shared.*` then includes.
const RESERVED_SHARED: u64 = 1 << 10;
/// The stack size of a kernel that recurses.
const STACK_UNKNOWN: u32 = u32::MAX;

const DAMAGED: Error = Error::Malformed("ELF tables of a cubin");
const BAD_RECORD: Error = Error::Malformed("attribute records of a cubin");

/// The architecture a cubin is for.
pub(crate) fn arch(bytes: &[u8]) -> Result<Arch, Error> {
    let header = header(bytes)?;
    let flags = header.e_flags(LE);
    let (sm, exact) = match header.e_ident().abi_version < ABI_8 {
        true => (flags & 0xff, flags & 0x800 != 0),
        false => (flags >> 8 & 0xffff, flags & 0x8 != 0 || has_accelerator_target(header, bytes)?),
    };
    Ok(Arch { sm, reach: if exact { Reach::Exact } else { Reach::Forward } })
}

fn header(bytes: &[u8]) -> Result<&Header, Error> {
    let header = Header::parse(bytes).map_err(|_| Error::Malformed("ELF header"))?;
    match header.e_machine(LE) == MACHINE && header.is_little_endian() {
        true => Ok(header),
        false => Err(Error::Malformed("an ELF file that is no cubin")),
    }
}

/// Whether `.nv.compat` says that the code needs an architecture's own instructions.
fn has_accelerator_target(header: &Header, bytes: &[u8]) -> Result<bool, Error> {
    const ACCELERATOR_TARGET: u8 = 0x09;
    let sections = header.sections(LE, bytes).map_err(|_| DAMAGED)?;
    let Some((_, section)) = sections.section_by_name(LE, b".nv.compat") else { return Ok(false) };
    let data = section.data(LE, bytes).map_err(|_| DAMAGED)?;
    Ok(info::records(data).flatten().any(|record| record.attribute == ACCELERATOR_TARGET && record.value & 0xff != 0))
}

/// Adds what a cubin holds to the image.
pub(crate) fn read(bytes: &[u8], image: &mut Image) -> Result<(), Error> {
    let header = header(bytes)?;
    let sections = header.sections(LE, bytes).map_err(|_| DAMAGED)?;
    let symbols = sections.symbols(LE, bytes, elf::SHT_SYMTAB).map_err(|_| DAMAGED)?;
    let Arch { sm, .. } = arch(bytes)?;
    let abi = header.e_ident().abi_version;
    let unread = Cell::new(bytes.len().saturating_mul(4));
    let cubin = Cubin { bytes, abi, sm, flags: header.e_flags(LE), sections, symbols, unread };
    for kernel in cubin.kernels()? {
        image.add_kernel(kernel);
    }
    cubin.globals(image)
}

struct Cubin<'a> {
    bytes: &'a [u8],
    abi: u8,
    sm: u32,
    flags: u32,
    sections: SectionTable<'a, Header>,
    symbols: SymbolTable<'a, Header>,
    unread: Cell<usize>,
}

/// The kernels of a cubin while its sections are read.
struct Kernels<'a> {
    list: Vec<Kernel>,
    by_name: HashMap<&'a [u8], usize>,
    by_symbol: HashMap<u32, usize>,
}

impl<'a> Cubin<'a> {
    fn kernels(&self) -> Result<Vec<Kernel>, Error> {
        let mut kernels = self.kernel_symbols()?;
        let mut const_size = 0;
        let mut ptx_version = if self.abi < ABI_8 { self.flags >> 16 & 0xff } else { self.sm };
        for section in self.sections.iter() {
            let name = self.sections.section_name(LE, section).map_err(|_| DAMAGED)?;
            match name {
                b".nv.info" => read_module_records(&mut kernels, self.data(section)?)?,
                b".nv.constant3" => const_size = narrow(section.sh_size(LE)),
                b".note.nv.cuinfo" => ptx_version = virtual_arch(self.data(section)?).unwrap_or(ptx_version),
                _ => {}
            }
            let of = |prefix: &[u8]| name.strip_prefix(prefix).and_then(|kernel| kernels.by_name.get(kernel).copied());
            if let Some(at) = of(b".nv.info.") {
                read_kernel_records(&mut kernels.list[at], self.data(section)?)?;
            } else if let Some(at) = of(b".nv.shared.") {
                kernels.list[at].shared_static = self.static_shared(section);
            } else if let Some(at) = of(b".text.") {
                self.read_code_header(&mut kernels.list[at], section);
            }
        }
        for kernel in &mut kernels.list {
            (kernel.const_size, kernel.ptx_version, kernel.binary_version) = (const_size, ptx_version, self.sm);
        }
        Ok(kernels.list)
    }

    fn kernel_symbols(&self) -> Result<Kernels<'a>, Error> {
        let mut kernels = Kernels { list: Vec::new(), by_name: HashMap::new(), by_symbol: HashMap::new() };
        for (index, symbol) in self.symbols.enumerate() {
            if symbol.st_type() == elf::STT_FUNC && symbol.st_other() & STO_ENTRY != 0 && !symbol.is_undefined(LE) {
                let name = symbol.name(LE, self.symbols.strings()).map_err(|_| DAMAGED)?;
                kernels.by_symbol.insert(index.0 as u32, kernels.list.len());
                kernels.by_name.insert(name, kernels.list.len());
                kernels.list.push(Kernel::new(self.name(symbol)?));
            }
        }
        Ok(kernels)
    }

    fn static_shared(&self, section: &Section) -> u32 {
        match section.sh_size(LE) {
            size if self.sm >= 90 && size >= RESERVED_SHARED => narrow(size - RESERVED_SHARED),
            size => narrow(size),
        }
    }

    /// What stands in the header of a kernel's code section: barriers and registers, unless records tell them.
    fn read_code_header(&self, kernel: &mut Kernel, section: &Section) {
        if self.abi >= ABI_8 {
            return;
        }
        kernel.barriers = narrow(section.sh_flags(LE) >> 20 & 0x7f);
        if kernel.registers == 0 {
            kernel.registers = section.sh_info(LE) >> 24;
        }
    }

    fn globals(&self, image: &mut Image) -> Result<(), Error> {
        let relocated = self.relocated_offsets()?;
        let mut kept: HashMap<SectionIndex, Range<usize>> = HashMap::new();
        for (index, symbol) in self.symbols.enumerate() {
            let (elf::STT_OBJECT | STT_CUDA_OBJECT) = symbol.st_type() else { continue };
            let home = self.symbols.symbol_section(LE, symbol, index).map_err(|_| DAMAGED)?;
            let Some(home) = home else { continue };
            let section = self.sections.section(home).map_err(|_| DAMAGED)?;
            let constant = match self.sections.section_name(LE, section).map_err(|_| DAMAGED)? {
                b".nv.constant3" => true,
                b".nv.global" | b".nv.global.init" => false,
                _ => continue,
            };
            let whole = match kept.entry(home) {
                Slot::Occupied(range) => range.get().clone(),
                Slot::Vacant(slot) => slot.insert(image.add_initial(self.data(section)?)).clone(),
            };
            let (start, size) = (symbol.st_value(LE), symbol.st_size(LE));
            let end = start.checked_add(size).filter(|&end| end <= section.sh_size(LE));
            let end = end.ok_or(Error::Malformed("a variable beyond its section"))?;
            image.add_global(Global {
                name: self.name(symbol)?,
                size,
                constant,
                managed: symbol.st_other() & STO_MANAGED != 0,
                relocated: relocated.get(&home).is_some_and(|at| at.range(start..end).next().is_some()),
                // A section without contents (NOBITS) keeps nothing: its variables are zeros.
                initial: (!whole.is_empty()).then(|| whole.start + start as usize..whole.start + end as usize),
            });
        }
        Ok(())
    }

    /// Where the loader writes addresses, by section.
    fn relocated_offsets(&self) -> Result<HashMap<SectionIndex, BTreeSet<u64>>, Error> {
        let mut all: HashMap<SectionIndex, BTreeSet<u64>> = HashMap::new();
        for section in self.sections.iter() {
            let name = self.sections.section_name(LE, section).map_err(|_| DAMAGED)?;
            let (b".rel.nv.global.init" | b".rela.nv.global.init" | b".rel.nv.constant3" | b".rela.nv.constant3") =
                name
            else {
                continue;
            };
            let entry = if section.sh_type(LE) == elf::SHT_RELA { 24 } else { 16 };
            let offsets = self.data(section)?.chunks_exact(entry).filter_map(|entry| u64_at(entry, 0));
            all.entry(section.info_link(LE)).or_default().extend(offsets);
        }
        Ok(all)
    }

    fn name(&self, symbol: &Symbol) -> Result<Arc<str>, Error> {
        let name = symbol.name(LE, self.symbols.strings()).map_err(|_| DAMAGED)?;
        self.spend(name.len())?;
        Ok(String::from_utf8_lossy(name).into())
    }

    fn data(&self, section: &Section) -> Result<&'a [u8], Error> {
        let data = section.data(LE, self.bytes).map_err(|_| DAMAGED)?;
        self.spend(data.len())?;
        Ok(data)
    }

    /// Counts bytes read, so that sections and names that overlap can't add up to more than a few times the file.
    fn spend(&self, bytes: usize) -> Result<(), Error> {
        self.unread.set(self.unread.get().checked_sub(bytes).ok_or(DAMAGED)?);
        Ok(())
    }
}

/// Reads `.nv.info`: records that name the symbol they are about.
fn read_module_records(kernels: &mut Kernels, section: &[u8]) -> Result<(), Error> {
    for record in info::records(section) {
        let record = record.ok_or(BAD_RECORD)?;
        let (info::REGCOUNT | info::FRAME_SIZE | info::MIN_STACK_SIZE) = record.attribute else { continue };
        let (symbol, value) = record.word(0).zip(record.word(1)).ok_or(BAD_RECORD)?;
        let Some(kernel) = kernels.by_symbol.get(&symbol).map(|&at| &mut kernels.list[at]) else { continue };
        match record.attribute {
            info::REGCOUNT => kernel.registers = value,
            // The stack of a kernel that recurses is unknown; its own frame is all there is to say.
            _ if value != STACK_UNKNOWN => kernel.local = kernel.local.max(value),
            _ => {}
        }
    }
    Ok(())
}

/// Reads `.nv.info.<kernel>`.
fn read_kernel_records(kernel: &mut Kernel, section: &[u8]) -> Result<(), Error> {
    let mut params = Vec::new();
    let mut param_bytes = None;
    for record in info::records(section) {
        let record = record.ok_or(BAD_RECORD)?;
        match record.attribute {
            info::KPARAM_INFO | info::KPARAM_INFO_V2 => params.push(param(&record).ok_or(BAD_RECORD)?),
            info::CBANK_PARAM_SIZE => param_bytes = Some(record.value.into()),
            info::MAX_THREADS | info::REQUIRED_THREADS => {
                kernel.max_threads = kernel.max_threads.min(record.volume().ok_or(BAD_RECORD)?);
            }
            info::EXPLICIT_CACHING => kernel.cache_all = true,
            info::NUM_BARRIERS => kernel.barriers = record.value.into(),
            info::EXPLICIT_CLUSTER => kernel.cluster.must_be_set = true,
            info::CTA_PER_CLUSTER => kernel.cluster.required = words(&record).ok_or(BAD_RECORD)?,
            _ => {}
        }
    }
    params.sort_by_key(|param: &Param| param.ordinal);
    let end = params.iter().map(|param| param.offset + param.size).max().unwrap_or(0);
    kernel.param_bytes = param_bytes.unwrap_or(end);
    if end > kernel.param_bytes || params.iter().zip(0..).any(|(param, ordinal)| param.ordinal != ordinal) {
        return Err(BAD_RECORD);
    }
    kernel.params = params.into();
    Ok(())
}

fn words(record: &Record) -> Option<[u32; 3]> {
    Some([record.word(0)?, record.word(1)?, record.word(2)?])
}

/// The payload: an index, the ordinal, the offset, then the size: in the upper 14 bits of a word, or, in the second
/// version (for parameters beyond 16 KiB), in a half word.
fn param(record: &Record) -> Option<Param> {
    let size = match record.attribute {
        info::KPARAM_INFO => record.word(2)? >> 18,
        _ => record.half(4)?.into(),
    };
    // A texture reference has its place among the parameters, but none in their memory: no size, and the offset 0xffff.
    let offset = if size == 0 { 0 } else { record.half(3)?.into() };
    Some(Param { ordinal: record.half(2)?.into(), offset, size })
}

/// The architecture that the PTX was for, from the note that ABI 8 has in place of a field of the flags: behind a head of
/// 24 bytes a half word for the note's version, then the architecture.
fn virtual_arch(note: &[u8]) -> Option<u32> {
    note.get(12..24).filter(|owner| owner == b"NVIDIA Corp\0")?;
    u16_at(note, 26).map(u32::from)
}

fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
