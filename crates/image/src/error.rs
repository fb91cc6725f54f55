//! Why an image can't be used.
use std::fmt;
use zerogpu_abi::CUresult;

/// Why an image can't be used. [`Error::code`] is what a driver would return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The bytes begin like no image at all.
    NotAnImage,
    /// The bytes begin like a fat binary or a cubin, but are damaged; the text names the part.
    Malformed(&'static str),
    /// The PTX can't be read, or is for a newer architecture than the device's.
    InvalidPtx(&'static str),
    /// An intact image, but with no code for the device.
    NoFit,
}

impl Error {
    /// The CUDA error code of this error: 200, 209 or 218.
    pub fn code(self) -> CUresult {
        CUresult(match self {
            Error::NotAnImage | Error::Malformed(_) => 200,
            Error::NoFit => 209,
            Error::InvalidPtx(_) => 218,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAnImage => f.write_str("neither a fat binary, nor a cubin, nor PTX"),
            Error::Malformed(what) => write!(f, "damaged image: {what}"),
            Error::InvalidPtx(what) => write!(f, "PTX: {what}"),
            Error::NoFit => f.write_str("no image for this compute capability"),
        }
    }
}

impl std::error::Error for Error {}
