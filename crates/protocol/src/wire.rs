//! Messages to bytes and back, strictly: whatever the bytes are, decoding ends with a sound message or an error.
use std::fmt;
use std::ops::RangeInclusive;

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::limits::*;
use crate::message::{Answer, Hello, Range, Refused, Role, ToBroker, ToClient};

/// Why bytes are no message, or a message can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// What can be a packet.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether its values are within the limits.
    ///
    /// # Errors
    /// [`Malformed`], for the first that is not.
    fn check(&self) -> Result<(), Malformed>;

    /// How many descriptors travel with it.
    fn fds(&self) -> RangeInclusive<usize>;
}

/// Writes `message` into `buffer` in place of what is there. Allocates only if the buffer must grow.
///
/// # Errors
/// [`Malformed`] if a value is beyond its limit, or all of it longer than 64 KiB.
pub fn encode<M: Message>(message: &M, buffer: &mut Vec<u8>) -> Result<(), Malformed> {
    buffer.clear();
    append(message, buffer)
}

/// The message that `bytes` are, all of them.
///
/// # Errors
/// [`Malformed`] if they are none, or a value is beyond its limit.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, Malformed> {
    match decode_prefix(bytes)? {
        (message, []) => Ok(message),
        _ => Err(Malformed("bytes follow its end")),
    }
}

/// Writes `message` behind what is in `buffer`, which becomes one packet.
pub(crate) fn append<M: Message>(message: &M, buffer: &mut Vec<u8>) -> Result<(), Malformed> {
    message.check()?;
    postcard::serialize_with_flavor(message, Limited(buffer)).map_err(explain)
}

/// The message that `bytes` begin with, and what follows it.
pub(crate) fn decode_prefix<M: Message>(bytes: &[u8]) -> Result<(M, &[u8]), Malformed> {
    if bytes.len() > PACKET_BYTES {
        return Err(Malformed("it is longer than 64 KiB"));
    }
    let (message, rest) = postcard::take_from_bytes::<M>(bytes).map_err(explain)?;
    message.check()?;
    Ok((message, rest))
}

/// A buffer that grows up to the size of a packet.
struct Limited<'a>(&'a mut Vec<u8>);

impl Flavor for Limited<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.len() + bytes.len() > PACKET_BYTES {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn explain(error: postcard::Error) -> Malformed {
    Malformed(match error {
        postcard::Error::SerializeBufferFull => "it is longer than 64 KiB",
        postcard::Error::DeserializeUnexpectedEnd => "it ends too early",
        postcard::Error::DeserializeBadVarint => "a number is too long",
        postcard::Error::DeserializeBadBool => "a truth value is neither 0 nor 1",
        postcard::Error::DeserializeBadUtf8 => "a text is not UTF-8",
        postcard::Error::DeserializeBadOption => "an optional value is neither there nor absent",
        _ => "a kind or value is unknown",
    })
}

fn text(text: &str) -> Result<(), Malformed> {
    check(text.len() <= TEXT_BYTES, "a text is too long")
}

/// What ends up on terminals and in logs is one line, and no command to them.
fn plain(text: &str, otherwise: &'static str) -> Result<(), Malformed> {
    check(!text.chars().any(char::is_control), otherwise)
}

fn seconds(seconds: f64) -> Result<(), Malformed> {
    check((0.0..=SECONDS).contains(&seconds), "a number of seconds is not from 0 to 1e9")
}

fn range(range: &Range) -> Result<(), Malformed> {
    check(range.off % CHUNK_BYTES == 0 && range.len % CHUNK_BYTES == 0, "a range is not aligned to 2 MiB")?;
    check(range.len != 0, "a range is empty")?;
    let end = range.off.checked_add(range.len);
    check(end.is_some_and(|end| end <= i64::MAX as u64), "a range reaches too far")
}

fn slab(slab: &Range) -> Result<(), Malformed> {
    range(slab)?;
    check(slab.len <= SLAB_BYTES, "a slab is longer than 128 GiB")
}

fn slabs(slabs: &[Range]) -> Result<(), Malformed> {
    slabs.iter().try_for_each(slab)
}

fn count(ranges: usize) -> Result<(), Malformed> {
    check(ranges <= PACKET_RANGES, "too many ranges in one packet")
}

fn check(right: bool, otherwise: &'static str) -> Result<(), Malformed> {
    right.then_some(()).ok_or(Malformed(otherwise))
}

impl Message for Hello {
    fn check(&self) -> Result<(), Malformed> {
        check(self.name.len() <= NAME_BYTES, "the name is too long")?;
        plain(&self.name, "the name has control characters")?;
        self.holds.as_ref().map_or(Ok(()), |holds| seconds(holds.seconds_left))
    }

    fn fds(&self) -> RangeInclusive<usize> {
        match self.role {
            Role::Space => 1..=1,
            Role::Observer => 0..=0,
        }
    }
}

impl Message for Answer {
    fn check(&self) -> Result<(), Malformed> {
        match self {
            Answer::Welcome(_) => Ok(()),
            Answer::Refused(Refused { text: sentence, .. }) => text(sentence),
        }
    }

    fn fds(&self) -> RangeInclusive<usize> {
        0..=0
    }
}

impl Message for ToBroker {
    fn check(&self) -> Result<(), Malformed> {
        use ToBroker::*;
        match self {
            Slabs { slabs: wanted, dirty, .. } | Prefetch { slabs: wanted, dirty, .. } => {
                if let Prefetch { seconds: region, .. } = self {
                    seconds(*region)?;
                }
                count(wanted.len().saturating_add(dirty.len()))?;
                slabs(wanted)?;
                dirty.iter().try_for_each(range)
            }
            Claim { seconds: lease, wait_seconds, .. } => seconds(*lease).and(seconds(*wait_seconds)),
            Extend { seconds: lease, .. } => seconds(*lease),
            Grow { slab: new, .. } => slab(new),
            Shrink { slabs: gone, .. } => count(gone.len()).and_then(|()| slabs(gone)),
            Forget { range: gone } => range(gone),
            Bound { by, .. } => text(by).and_then(|()| plain(by, "what binds it has control characters")),
            Cancel { .. } | Drained { .. } | Released { .. } | Reserve { .. } | Status | TakeBack { .. } => Ok(()),
        }
    }

    fn fds(&self) -> RangeInclusive<usize> {
        0..=0
    }
}

impl Message for ToClient {
    fn check(&self) -> Result<(), Malformed> {
        use ToClient::*;
        match self {
            Queued { seconds: wait, .. } => wait.map_or(Ok(()), seconds),
            Granted { seconds: lease, .. } => seconds(*lease),
            SlabFds { first, .. } => check((*first as usize) < SPACE_SLABS, "too many slabs"),
            Denied { text: sentence, .. }
            | Closing { text: sentence, .. }
            | NotReserved { text: sentence, .. }
            | TakenBack { text: sentence, .. } => text(sentence),
            Extended { seconds: lease, .. } => seconds(*lease),
            Grown { slab: new, .. } => slab(new),
            NotGrown { slab: new, text: sentence, .. } => slab(new).and_then(|()| text(sentence)),
            Revoked { text: sentence, grace, .. } => text(sentence).and_then(|()| seconds(*grace)),
            Forgotten { range: gone } => range(gone),
            Report { json, .. } => check(json.len() <= REPORT_BYTES, "a piece of a report is too long"),
            Ready { .. } | Home { .. } | Reserved { .. } => Ok(()),
        }
    }

    fn fds(&self) -> RangeInclusive<usize> {
        match self {
            ToClient::SlabFds { .. } => 1..=PACKET_FDS,
            ToClient::Grown { .. } => 1..=1,
            _ => 0..=0,
        }
    }
}
