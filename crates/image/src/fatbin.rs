//! Fat binaries: a header, then entries, each one image for one architecture, often compressed.
//!
//! | header | bytes | | entry | bytes |
//! |---|---|---|---|---|
//! | magic 0xBA55ED50 | 0..4 | | kind (1 PTX, 2 machine code) | 0..2 |
//! | version | 4..6 | | size of the entry's header | 4..8 |
//! | size of this header | 6..8 | | size of the payload, padded | 8..16 |
//! | size of all entries | 8..16 | | size of the payload, if compressed | 16..20 |
//! | | | | architecture | 28..32 |
//! | | | | flags | 40..48 |
//! | | | | size of the image, if compressed | 56..64 |
//!
//! A header may go on with two texts, each with a NUL and padded to 8 bytes: the name of the source (offset at 32, length
//! at 36), and options (at 20 the offset of two words: offset and length).
//!
//! Since CUDA 13.5 an entry may be a group (kind 0x100): several images compressed as one. Its header goes on with their
//! number, a word for the size of this list, and for each image a header with the image's offset in the group at 4..8.
use crate::arch::{Arch, Rank, Reach};
use crate::read::{u16_at, u32_at, u64_at};
use crate::Error;
use bytes::{Buf, Bytes};
use std::io::Read;
use std::ops::Range;

/// First word of a fat binary.
pub(crate) const MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();
/// Size of a fat binary's header.
pub(crate) const HEADER: usize = 16;
/// Size of an entry's header, at least.
const ENTRY: usize = 64;

const KIND_PTX: u16 = 1;
const KIND_CODE: u16 = 2;
const KIND_GROUP: u16 = 0x100;
/// Where the images of a group are listed in its header.
const GROUP_COUNT: usize = ENTRY;
const GROUP_LIST: usize = ENTRY + 8;

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_EXACT: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;

/// No image is larger than this.
const MAX_IMAGE: u64 = 1 << 30;
/// No fat binary is larger than this.
const MAX_FATBIN: u64 = u32::MAX as u64;
/// LZ4 makes at most this many bytes of one.
const LZ4_RATIO: u64 = 255;

/// Size of the fat binary, its header included, that begins with these [`HEADER`] bytes.
pub(crate) fn total_size(header: &[u8; HEADER]) -> Result<usize, Error> {
    if header[..4] != MAGIC {
        return Err(Error::NotAnImage);
    }
    let (head, body) = (u16_at(header, 6), u64_at(header, 8));
    match (head, body) {
        (Some(head), Some(body)) if usize::from(head) >= HEADER && body <= MAX_FATBIN => {
            Ok(usize::from(head) + body as usize)
        }
        _ => Err(Error::Malformed("header of the fat binary")),
    }
}

/// One image of a fat binary, still packed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// PTX rather than machine code.
    pub ptx: bool,
    pub arch: Arch,
    /// How the payload is compressed, and the size it then unpacks to.
    flags: u64,
    size: u64,
    payload: Bytes,
    /// Which part of the unpacked payload the image is; None: all.
    part: Option<Range<usize>>,
    /// The entry with its header.
    pub whole: Bytes,
}

impl Entry {
    /// How well this image suits a device of that compute capability; None: not at all.
    pub fn rank(&self, cc: (u32, u32)) -> Option<Rank> {
        match self.ptx {
            true => self.arch.rank_ptx(cc),
            false => self.arch.rank_code(cc),
        }
    }

    /// The image, unpacked (shared with the fat binary where it is not compressed).
    pub fn image(&self) -> Result<Bytes, Error> {
        let unpacked = self.unpack()?;
        match &self.part {
            None => Ok(unpacked),
            Some(part) => {
                let part = unpacked.get(part.clone()).ok_or(Error::Malformed("an image of a group"))?;
                Ok(Bytes::copy_from_slice(part))
            }
        }
    }

    fn unpack(&self) -> Result<Bytes, Error> {
        match (self.flags & FLAG_LZ4 != 0, self.flags & FLAG_ZSTD != 0) {
            (false, false) => Ok(self.payload.clone()),
            _ if self.size > MAX_IMAGE => Err(Error::Malformed("size of a compressed image")),
            (true, false) => self.unpack_lz4(),
            (false, true) => self.unpack_zstd(),
            (true, true) => Err(Error::Malformed("compression of an image")),
        }
    }

    fn unpack_lz4(&self) -> Result<Bytes, Error> {
        const DAMAGED: Error = Error::Malformed("LZ4 data of an image");
        if self.size > self.payload.len() as u64 * LZ4_RATIO {
            return Err(DAMAGED);
        }
        let mut image = vec![0; self.size as usize];
        match lz4_flex::block::decompress_into(&self.payload, &mut image) {
            Ok(size) if size == image.len() => Ok(image.into()),
            _ => Err(DAMAGED),
        }
    }

    fn unpack_zstd(&self) -> Result<Bytes, Error> {
        const DAMAGED: Error = Error::Malformed("zstd data of an image");
        let stream = ruzstd::decoding::StreamingDecoder::new(&self.payload[..]).map_err(|_| DAMAGED)?;
        // The claimed size bounds what is read; memory grows with what really comes.
        let mut image = Vec::new();
        stream.take(self.size + 1).read_to_end(&mut image).map_err(|_| DAMAGED)?;
        match image.len() as u64 == self.size {
            true => Ok(image.into()),
            false => Err(DAMAGED),
        }
    }
}

/// The entries of one fat binary, in order; kinds of images that no driver loads (intermediate code) are left out.
pub(crate) fn entries(fatbin: &Bytes) -> Result<Vec<Entry>, Error> {
    const CUT: Error = Error::Malformed("a fat binary that is cut short");
    let header = fatbin.first_chunk().ok_or(CUT)?;
    let end = total_size(header)?;
    let mut rest = fatbin.get(..end).map(|all| fatbin.slice_ref(all)).ok_or(CUT)?;
    rest.advance(u16_at(header, 6).ok_or(CUT)?.into());
    let mut found = Vec::new();
    while !rest.is_empty() {
        let all = split(&mut rest).and_then(|(whole, payload)| images(whole, payload));
        found.extend(all.ok_or(Error::Malformed("an entry of the fat binary"))?);
    }
    Ok(found)
}

/// Takes the first entry off `rest`: all of it, and its payload with padding.
fn split(rest: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let head = usize::try_from(u32_at(rest, 4)?).ok().filter(|&head| head >= ENTRY)?;
    let end = head.checked_add(usize::try_from(u64_at(rest, 8)?).ok()?)?;
    if end > rest.len() {
        return None;
    }
    let whole = rest.split_to(end);
    let payload = whole.slice(head..);
    Some((whole, payload))
}

/// The images of an entry.
fn images(whole: Bytes, mut payload: Bytes) -> Option<Vec<Entry>> {
    let (kind, flags, size) = (u16_at(&whole, 0)?, u64_at(&whole, 40)?, u64_at(&whole, 56)?);
    if flags & (FLAG_LZ4 | FLAG_ZSTD) != 0 {
        let packed = usize::try_from(u32_at(&whole, 16)?).ok()?;
        payload = (packed <= payload.len()).then(|| payload.split_to(packed))?;
    }
    let image = |ptx, described: &[u8], part| {
        let arch = arch(described)?;
        Some(Entry { ptx, arch, flags, size, payload: payload.clone(), part, whole: whole.clone() })
    };
    match kind {
        KIND_PTX | KIND_CODE => Some(vec![image(kind == KIND_PTX, &whole, None)?]),
        KIND_GROUP => {
            let mut list = whole.get(GROUP_LIST..u32_at(&whole, 4)? as usize)?;
            let mut images = Vec::new();
            for _ in 0..u32_at(&whole, GROUP_COUNT)? {
                let header = list.get(..header_size(list)?)?;
                list = &list[header.len()..];
                let start = u32_at(header, 4)? as usize;
                let end = start.checked_add(usize::try_from(u64_at(header, 8)?).ok()?)?;
                if let kind @ (KIND_PTX | KIND_CODE) = u16_at(header, 0)? {
                    images.push(image(kind == KIND_PTX, header, Some(start..end))?);
                }
            }
            Some(images)
        }
        _ => Some(Vec::new()),
    }
}

/// Size of an entry's header with its texts, for a header in a group, which does not tell it.
fn header_size(header: &[u8]) -> Option<usize> {
    let text_end = |offset: u32, length: u32| (offset as usize).checked_add((length as usize + 1).next_multiple_of(8));
    let mut size = ENTRY;
    if let name @ 1.. = u32_at(header, 32)? {
        size = size.max(text_end(name, u32_at(header, 36)?)?);
    }
    if let options @ 1.. = u32_at(header, 20)? {
        let options = header.get(options as usize..)?;
        size = size.max(text_end(u32_at(options, 0)?, u32_at(options, 4)?)?);
    }
    Some(size)
}

/// The architecture in an entry's header.
fn arch(header: &[u8]) -> Option<Arch> {
    let reach = match u64_at(header, 40)? {
        flags if flags & FLAG_EXACT != 0 => Reach::Exact,
        flags if flags & FLAG_FAMILY != 0 => Reach::Family,
        _ => Reach::Forward,
    };
    Some(Arch { sm: u32_at(header, 28)?, reach })
}

/// A fat binary of those entries.
pub(crate) fn of_entries(entries: &[Entry]) -> Bytes {
    let size: usize = entries.iter().map(|entry| entry.whole.len()).sum();
    let mut fatbin = Vec::with_capacity(HEADER + size);
    fatbin.extend_from_slice(&MAGIC);
    fatbin.extend_from_slice(&1_u16.to_le_bytes());
    fatbin.extend_from_slice(&(HEADER as u16).to_le_bytes());
    fatbin.extend_from_slice(&(size as u64).to_le_bytes());
    for entry in entries {
        fatbin.extend_from_slice(&entry.whole);
    }
    fatbin.into()
}
