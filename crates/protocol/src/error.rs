//! What can go wrong on a connection.
use std::{fmt, io};

use crate::hello::Mismatch;
use crate::message::Refused;
use crate::wire::Malformed;

/// What went wrong on a connection.
#[derive(Debug)]
pub enum Error {
    /// The other side has closed it, or is gone.
    Closed,
    /// The deadline has passed.
    TimedOut,
    /// The other side sent what is no message, or this side was about to.
    Malformed(Malformed),
    /// No common version. At a client, the text is [`Mismatch::at_client`]'s.
    Mismatch(Mismatch, String),
    /// The broker's answer to the hello.
    Refused(Refused),
    /// The other side doesn't read: so many packets wait for it.
    Slow(usize),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => write!(f, "the other side has closed the connection"),
            Error::TimedOut => write!(f, "the other side has not answered in time"),
            Error::Malformed(error) => error.fmt(f),
            Error::Mismatch(_, text) => f.write_str(text),
            Error::Refused(Refused { text, .. }) => f.write_str(text),
            Error::Slow(packets) => write!(f, "the other side does not read: {packets} packets wait for it"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    // an error within says itself what it is: its own cause is the next
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Malformed(error) => error.source(),
            Error::Mismatch(error, _) => error.source(),
            Error::Io(error) => error.source(),
            _ => None,
        }
    }
}

impl From<Malformed> for Error {
    fn from(error: Malformed) -> Self {
        Error::Malformed(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // What a broken connection is depends on who closed it and what was unread.
            Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Error::Closed,
            _ => Error::Io(error),
        }
    }
}
