//! The first packet of either side: a fixed beginning that every version reads, then the hello or its answer.
//!
//! ```text
//! 0   8 bytes   "zerogpu" and the byte 1
//! 8   u16 LE    lowest version that the sender speaks
//! 10  u16 LE    highest version that the sender speaks
//! 12            Hello or Answer
//! ```
//!
//! A client sends its hello before it knows what the broker speaks. So hellos grow at their end only, and a broker skips
//! what follows the fields it knows if the client speaks a higher version than itself. The answer is in the common version.
use std::fmt;
use std::path::Path;

use crate::message::{Answer, Hello};
use crate::wire::{append, decode, decode_prefix, Malformed};

/// What each connection begins with.
pub const MAGIC: [u8; 8] = *b"zerogpu\x01";

/// What this crate speaks.
pub const VERSIONS: Versions = Versions { lowest: 1, highest: 3 };

/// A span of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub lowest: u16,
    /// The highest.
    pub highest: u16,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lowest == self.highest {
            write!(f, "{}", self.lowest)
        } else {
            write!(f, "{} to {}", self.lowest, self.highest)
        }
    }
}

/// Two sides that speak no common version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What this side speaks.
    pub ours: Versions,
    /// What the other side speaks.
    pub theirs: Versions,
}

impl Mismatch {
    /// What a client says of it.
    pub fn at_client(&self, socket: &Path) -> String {
        let Mismatch { ours, theirs } = self;
        let socket = socket.display();
        format!(
            "this program's zerogpu speaks protocol {ours}, the broker on {socket} speaks {theirs}: install the same \
             version on both"
        )
    }

    /// What a broker says of it to the client.
    pub fn at_broker(&self) -> String {
        let Mismatch { ours, theirs } = self;
        format!(
            "this program's zerogpu speaks protocol {theirs}, the broker speaks {ours}: install the same version on both"
        )
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { ours, theirs } = self;
        write!(f, "this side speaks protocol {ours}, the other speaks {theirs}: install the same version on both")
    }
}

impl std::error::Error for Mismatch {}

/// The version that two sides use: the highest that both speak.
///
/// # Errors
/// [`Mismatch`] if there is none.
pub fn negotiate(ours: Versions, theirs: Versions) -> Result<u16, Mismatch> {
    let version = ours.highest.min(theirs.highest);
    if version >= ours.lowest.max(theirs.lowest) {
        Ok(version)
    } else {
        Err(Mismatch { ours, theirs })
    }
}

/// Writes a client's first packet into `buffer`, in place of what is there.
///
/// # Errors
/// [`Malformed`] if its name or its seconds are beyond the limits.
pub fn encode_hello(hello: &Hello, ours: Versions, buffer: &mut Vec<u8>) -> Result<(), Malformed> {
    begin(ours, buffer);
    append(hello, buffer)
}

/// Reads a client's first packet. The versions come even where the hello can't be read for their sake.
///
/// # Errors
/// [`Malformed`] if the bytes are no hello; inside, [`Mismatch`] if there is no common version.
pub fn decode_hello(bytes: &[u8], ours: Versions) -> Result<(Versions, Result<Hello, Mismatch>), Malformed> {
    let (theirs, body) = split(bytes)?;
    if let Err(mismatch) = negotiate(ours, theirs) {
        return Ok((theirs, Err(mismatch)));
    }
    match decode_prefix(body)? {
        (_, rest) if !rest.is_empty() && theirs.highest <= ours.highest => Err(Malformed("bytes follow its end")),
        (hello, _) => Ok((theirs, Ok(hello))),
    }
}

/// Writes a broker's first packet into `buffer`, in place of what is there.
///
/// # Errors
/// [`Malformed`] if its text has more than [`TEXT_BYTES`](crate::TEXT_BYTES).
pub fn encode_answer(answer: &Answer, ours: Versions, buffer: &mut Vec<u8>) -> Result<(), Malformed> {
    begin(ours, buffer);
    append(answer, buffer)
}

/// Reads a broker's first packet. What a broker without a common version wrote behind its versions is not looked at.
///
/// # Errors
/// [`Malformed`] if the bytes are no answer; inside, [`Mismatch`] if there is no common version.
pub fn decode_answer(bytes: &[u8], ours: Versions) -> Result<Result<Answer, Mismatch>, Malformed> {
    let (theirs, body) = split(bytes)?;
    match negotiate(ours, theirs) {
        Ok(_) => decode(body).map(Ok),
        Err(mismatch) => Ok(Err(mismatch)),
    }
}

fn begin(versions: Versions, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&versions.lowest.to_le_bytes());
    buffer.extend_from_slice(&versions.highest.to_le_bytes());
}

fn split(bytes: &[u8]) -> Result<(Versions, &[u8]), Malformed> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(Malformed("it is no hello of zerogpu"))?;
    let [a, b, c, d, body @ ..] = rest else {
        return Err(Malformed("it ends too early"));
    };
    let versions = Versions { lowest: u16::from_le_bytes([*a, *b]), highest: u16::from_le_bytes([*c, *d]) };
    if versions.lowest > versions.highest {
        return Err(Malformed("its lowest version is above its highest"));
    }
    Ok((versions, body))
}
