//! Images at a bare address, as the driver's entry points get them: no length comes with the pointer, so the image
//! itself must tell where it ends.
use crate::fatbin::{self, HEADER};
use crate::read::{u16_at, u32_at, u64_at};
use crate::source::{Content, Source};
use crate::{cubin, ptx, Error};
use bytes::Bytes;
use std::slice;

/// First word of the wrapper around a program's fat binaries.
const WRAPPER: [u8; 4] = 0x4662_43B1_u32.to_le_bytes();
/// The wrapper: magic, version, the fat binary, then (in version 2) the fat binaries that it was linked from.
const WRAPPER_SIZE: usize = 24;
/// No program is linked from more parts than this.
const MAX_PARTS: usize = 1 << 16;
/// No PTX is longer.
const MAX_TEXT: usize = 1 << 30;
/// Size of an ELF header, a section header and a program header.
const ELF_HEADER: usize = 64;
const SECTION_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SHT_NOBITS: u32 = 8;

/// Opens the image at the address that an app gives to `cuModuleLoadData`, `cuModuleLoadFatBinary` or
/// `cuLibraryLoadData`: a wrapper of a fat binary, a fat binary, a cubin, or PTX with a final NUL.
///
/// A wrapper and what it points to are part of a loaded program and are not copied; all else is, as the app may free it.
///
/// # Errors
/// [`Error::NotAnImage`], also for NULL, [`Error::Malformed`], or [`Error::InvalidPtx`] for a text of 1 GiB or more.
///
/// # Safety
/// `image` must be readable as far as the image it holds tells that it goes, and, if that is a wrapper, stay so and
/// unchanged as long as the source and images made from it live.
pub unsafe fn open(image: *const u8) -> Result<Source, Error> {
    // SAFETY: the caller's promise is this function's.
    let source = unsafe { locate(image) }?;
    Ok(match source {
        Located::Wrapper(content) => Source::preserved(content),
        Located::Bytes(bytes) => Source::from_bytes(bytes)?,
    })
}

/// As [`open`], for an app that promises to leave the image in place (`CU_LIBRARY_BINARY_IS_PRESERVED`): copies nothing.
///
/// # Errors
/// As for [`open`].
///
/// # Safety
/// As for [`open`], and the image must stay readable and unchanged, whatever its kind, as long as the source and images
/// made from it live.
pub unsafe fn open_preserved(image: *const u8) -> Result<Source, Error> {
    // SAFETY: the caller's promise is this function's.
    let content = match unsafe { locate(image) }? {
        Located::Wrapper(content) => content,
        Located::Bytes(bytes) if bytes.starts_with(&fatbin::MAGIC) => fatbin(bytes),
        Located::Bytes(bytes) if bytes.starts_with(&cubin::MAGIC) => Content::Cubin(Bytes::from_static(bytes)),
        Located::Bytes(bytes) => Content::Ptx(Bytes::from_static(bytes)),
    };
    Ok(Source::preserved(content))
}

enum Located {
    Wrapper(Content),
    /// A fat binary, a cubin or PTX with its NUL, valid for as long as the caller of `locate` promised.
    Bytes(&'static [u8]),
}

fn fatbin(bytes: &'static [u8]) -> Content {
    Content::Fatbin { main: Bytes::from_static(bytes), linked_from: Vec::new() }
}

/// # Safety
/// As for [`open`].
unsafe fn locate(image: *const u8) -> Result<Located, Error> {
    if image.is_null() {
        return Err(Error::NotAnImage);
    }
    // SAFETY: an image goes at least as far as its first bytes tell; each function below reads only what the bytes
    // before promise to be there.
    unsafe {
        if begins_with(image, &WRAPPER) {
            unwrap(image).map(Located::Wrapper)
        } else if begins_with(image, &fatbin::MAGIC) {
            fatbin_at(image).map(Located::Bytes)
        } else if begins_with(image, &cubin::MAGIC) {
            cubin_at(image).map(Located::Bytes)
        } else {
            text_at(image).map(Located::Bytes)
        }
    }
}

/// # Safety
/// `at` must be readable up to the first byte that differs from `magic`, or as far as `magic` goes.
unsafe fn begins_with(at: *const u8, magic: &[u8]) -> bool {
    // SAFETY: `all` stops at the first difference.
    magic.iter().enumerate().all(|(i, &byte)| unsafe { *at.add(i) } == byte)
}

/// # Safety
/// `at` must be readable for `size` bytes; they must stay valid as long as the caller promises.
unsafe fn bytes_at(at: *const u8, size: usize) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(at, size) }
}

/// # Safety
/// `at` must be a wrapper whose pointers are good.
unsafe fn unwrap(at: *const u8) -> Result<Content, Error> {
    const DAMAGED: Error = Error::Malformed("wrapper of a fat binary");
    // SAFETY: a wrapper has this size.
    let wrapper = unsafe { bytes_at(at, WRAPPER_SIZE) };
    let pointer = |at| Some(u64_at(wrapper, at)? as *const u8).filter(|p| !p.is_null());
    let main = pointer(8).ok_or(DAMAGED)?;
    // SAFETY: the wrapper's first pointer is to a fat binary.
    let main = unsafe { fatbin_at(main) }?;
    let mut linked_from = Vec::new();
    if let (Some(2), Some(list)) = (u32_at(wrapper, 4), pointer(16)) {
        let list = list.cast::<*const u8>();
        for i in 0.. {
            // SAFETY: in version 2 the second pointer is to a list that ends with NULL.
            let part = unsafe { list.add(i).read_unaligned() };
            if part.is_null() {
                break;
            }
            if i == MAX_PARTS {
                return Err(DAMAGED);
            }
            // SAFETY: the list holds pointers to fat binaries.
            linked_from.push(Bytes::from_static(unsafe { fatbin_at(part) }?));
        }
    }
    Ok(Content::Fatbin { main: Bytes::from_static(main), linked_from })
}

/// # Safety
/// `at` must be readable for a fat binary's header and for what that says follows.
unsafe fn fatbin_at(at: *const u8) -> Result<&'static [u8], Error> {
    // SAFETY: the caller's promise.
    let header = unsafe { bytes_at(at, HEADER) };
    let size = fatbin::total_size(header.first_chunk().ok_or(Error::NotAnImage)?)?;
    // SAFETY: the header says that the fat binary has this size.
    Ok(unsafe { bytes_at(at, size) })
}

/// # Safety
/// `at` must be readable for an ELF header and for what that says follows.
unsafe fn cubin_at(at: *const u8) -> Result<&'static [u8], Error> {
    const DAMAGED: Error = Error::Malformed("ELF header");
    // SAFETY: an ELF file has a header of this size.
    let header = unsafe { bytes_at(at, ELF_HEADER) };
    let field = |at| u16_at(header, at).map(u64::from);
    if u16_at(header, 18) != Some(cubin::MACHINE) || header[4] != 2 || header[5] != 1 {
        return Err(Error::Malformed("an ELF file that is no cubin"));
    }
    let (segments, sections) = u64_at(header, 32).zip(u64_at(header, 40)).ok_or(DAMAGED)?;
    let (segment_count, section_count) = field(56).zip(field(60)).ok_or(DAMAGED)?;
    let section_count = match section_count {
        // More sections than the field can tell: the first section header has their number as its size.
        0 if sections != 0 => {
            let first = end(sections, SECTION_HEADER)?;
            // SAFETY: the header says that there is a table of sections, so it has a first entry.
            let file = unsafe { bytes_at(at, first) };
            u64_at(file, sections as usize + 32).ok_or(DAMAGED)?
        }
        count => count,
    };
    let table_end = end(sections, section_count.checked_mul(SECTION_HEADER).ok_or(DAMAGED)?)?;
    let mut size = table_end.max(end(segments, segment_count * PROGRAM_HEADER)?).max(ELF_HEADER);
    // SAFETY: the header says where the table of sections ends.
    let file = unsafe { bytes_at(at, table_end) };
    for header in file.get(sections as usize..).unwrap_or(&[]).chunks_exact(SECTION_HEADER as usize) {
        let (kind, range) = (u32_at(header, 4), u64_at(header, 24).zip(u64_at(header, 32)));
        let (offset, length) = range.ok_or(DAMAGED)?;
        if kind != Some(SHT_NOBITS) {
            size = size.max(end(offset, length)?);
        }
    }
    // SAFETY: the section headers say that the file goes this far.
    Ok(unsafe { bytes_at(at, size) })
}

/// The end of a range of a file, within the largest size of a cubin.
fn end(offset: u64, length: u64) -> Result<usize, Error> {
    let end = offset.checked_add(length).filter(|&end| end <= u32::MAX.into());
    end.map(|end| end as usize).ok_or(Error::Malformed("ELF tables of a cubin"))
}

/// # Safety
/// `at` must be readable up to the first byte that PTX can't have in that place, its final NUL included.
unsafe fn text_at(at: *const u8) -> Result<&'static [u8], Error> {
    // SAFETY: reading stops at the NUL, or sooner, where it can't be PTX.
    let text = (0..MAX_TEXT).map(|i| unsafe { *at.add(i) }).take_while(|&byte| byte != 0);
    if !ptx::begins(text.clone()) {
        return Err(Error::NotAnImage);
    }
    let size = text.count();
    if size == MAX_TEXT {
        return Err(Error::InvalidPtx("too long"));
    }
    // SAFETY: these bytes and the NUL behind them have just been read.
    Ok(unsafe { bytes_at(at, size + 1) })
}
