//! The records of `.nv.info` sections, in which a cubin tells what its kernels need.
//!
//! A record is a byte for the format, a byte for the attribute, then two bytes: a value, or the size of the payload that
//! follows. Numbers and layouts are those that cuobjdump and nvdisasm print with names (`EIATTR_*`).
use crate::read::{u16_at, u32_at};

pub(crate) const MAX_THREADS: u8 = 0x05;
pub(crate) const REQUIRED_THREADS: u8 = 0x10;
pub(crate) const FRAME_SIZE: u8 = 0x11;
pub(crate) const MIN_STACK_SIZE: u8 = 0x12;
pub(crate) const KPARAM_INFO: u8 = 0x17;
pub(crate) const CBANK_PARAM_SIZE: u8 = 0x19;
pub(crate) const EXPLICIT_CACHING: u8 = 0x21;
pub(crate) const REGCOUNT: u8 = 0x2f;
pub(crate) const CTA_PER_CLUSTER: u8 = 0x3d;
pub(crate) const EXPLICIT_CLUSTER: u8 = 0x3e;
pub(crate) const KPARAM_INFO_V2: u8 = 0x45;
pub(crate) const NUM_BARRIERS: u8 = 0x4c;

/// The format whose payload follows the record's first four bytes.
const FORMAT_SIZED: u8 = 4;
/// The format with a value of one byte.
const FORMAT_BYTE: u8 = 2;

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub attribute: u8,
    /// The value of a record without payload.
    pub value: u16,
    payload: &'a [u8],
}

impl Record<'_> {
    /// The payload's word at that index.
    pub fn word(&self, index: usize) -> Option<u32> {
        u32_at(self.payload, index * 4)
    }

    /// The payload's half word at that index.
    pub fn half(&self, index: usize) -> Option<u16> {
        u16_at(self.payload, index * 2)
    }

    /// The product of three words: threads in x, y and z.
    pub fn volume(&self) -> Option<u32> {
        (0..3).try_fold(1_u32, |all, i| Some(all.saturating_mul(self.word(i)?)))
    }
}

/// The records of a section; None in place of one that is cut short, which is then the last.
pub(crate) fn records(section: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut rest = section;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let next = split(rest);
        rest = next.map_or(&[], |(_, after)| after);
        Some(next.map(|(record, _)| record))
    })
}

fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let [format, attribute, low, high, after @ ..] = bytes else { return None };
    let value = u16::from_le_bytes([*low, *high]);
    let size = if *format == FORMAT_SIZED { value.into() } else { 0 };
    let value = if *format == FORMAT_BYTE { (*low).into() } else { value };
    let payload = after.get(..size)?;
    // Records are aligned to four bytes.
    let after = after.get(size.next_multiple_of(4)..).unwrap_or(&[]);
    Some((Record { attribute: *attribute, value, payload }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_and_without_payload_follow_one_another() {
        let bytes = [4, 0x2f, 8, 0, 7, 0, 0, 0, 24, 0, 0, 0, 3, 0x19, 0x38, 0x01, 2, 0x4c, 5, 9];
        let all: Vec<_> = records(&bytes).map(|r| r.unwrap()).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(
            (all[0].attribute, all[0].word(0), all[0].word(1), all[0].word(2)),
            (REGCOUNT, Some(7), Some(24), None)
        );
        assert_eq!((all[1].attribute, all[1].value), (CBANK_PARAM_SIZE, 0x138));
        assert_eq!((all[2].attribute, all[2].value), (NUM_BARRIERS, 5));
    }

    #[test]
    fn a_record_that_is_cut_short_ends_the_list() {
        let cut: Vec<_> = records(&[4, 0x2f, 8, 0, 7, 0]).collect();
        assert_eq!(cut.len(), 1);
        assert!(cut[0].is_none());
    }
}
