//! What an app gave to load: one or several images, from which the one for a device is picked.
use crate::arch::Rank;
use crate::fatbin::{self, Entry};
use crate::image::{Image, Packed};
use crate::{cubin, ptx, Error};
use bytes::Bytes;

/// The kinds of image that a driver loads, by their first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A fat binary, cut to the size its header gives.
    Fatbin(&'a [u8]),
    /// An ELF file of machine code.
    Cubin(&'a [u8]),
    /// PTX text, up to its NUL.
    Ptx(&'a [u8]),
}

impl<'a> Input<'a> {
    /// Tells what `bytes` begin with, without looking further.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], or [`Error::Malformed`] for a fat binary with a damaged header or cut short.
    pub fn of(bytes: &'a [u8]) -> Result<Input<'a>, Error> {
        if let (true, Some(header)) = (bytes.starts_with(&fatbin::MAGIC), bytes.first_chunk()) {
            let size = fatbin::total_size(header)?;
            return Ok(Input::Fatbin(bytes.get(..size).ok_or(Error::Malformed("a fat binary that is cut short"))?));
        }
        if bytes.starts_with(&cubin::MAGIC) {
            return Ok(Input::Cubin(bytes));
        }
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
        match ptx::begins(text.iter().copied()) {
            true => Ok(Input::Ptx(text)),
            false => Err(Error::NotAnImage),
        }
    }
}

/// An image, or several, as an app gave them to load. Cheap to make and to ask; thread-safe.
#[derive(Debug)]
pub struct Source {
    content: Content,
    /// Whether the bytes are the app's own and stay where they are.
    preserved: bool,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// A fat binary and, where the program was linked from relocatable code, the fat binaries it was linked from.
    Fatbin {
        main: Bytes,
        linked_from: Vec<Bytes>,
    },
    Cubin(Bytes),
    /// With a final NUL.
    Ptx(Bytes),
}

impl Content {
    fn bytes(&self) -> &Bytes {
        match self {
            Content::Fatbin { main: bytes, .. } | Content::Cubin(bytes) | Content::Ptx(bytes) => bytes,
        }
    }
}

impl Source {
    /// The source that these bytes (of a file, say) are.
    ///
    /// # Errors
    /// As for [`Input::of`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Source, Error> {
        let mut bytes = bytes.into();
        let content = match Input::of(&bytes)? {
            Input::Fatbin(part) => {
                let size = part.len();
                bytes.truncate(size);
                Content::Fatbin { main: bytes.into(), linked_from: Vec::new() }
            }
            Input::Cubin(_) => Content::Cubin(bytes.into()),
            Input::Ptx(text) => {
                let size = text.len();
                bytes.truncate(size);
                bytes.push(0);
                Content::Ptx(bytes.into())
            }
        };
        Ok(Source { content, preserved: false })
    }

    /// A source whose bytes belong to the app and stay where they are.
    pub(crate) fn preserved(content: Content) -> Source {
        Source { content, preserved: true }
    }

    /// What to hand to a driver that is to load this source: the image that the app gave, without the wrapper that only
    /// the runtime knows, if that memory stays valid; else a copy that lives as long as the source.
    pub fn as_ptr(&self) -> *const u8 {
        self.content.bytes().as_ptr()
    }

    /// Bytes copied from the app.
    pub fn copied_bytes(&self) -> usize {
        match self.preserved {
            true => 0,
            false => self.content.bytes().len(),
        }
    }

    /// Whether there is an image for compute capability `cc`; unpacks nothing.
    pub fn fits(&self, cc: (u32, u32)) -> bool {
        self.check(cc).is_ok()
    }

    /// As [`Source::fits`], with the reason where there is none: the error that [`Source::image_for`] would give before
    /// it unpacks anything.
    ///
    /// # Errors
    /// [`Error::NoFit`], [`Error::InvalidPtx`] if PTX names no architecture or one that does not suit, or
    /// [`Error::Malformed`].
    pub fn check(&self, cc: (u32, u32)) -> Result<(), Error> {
        self.pick(cc).map(|_| ())
    }

    /// The image that a driver loads on a device of compute capability `cc`.
    ///
    /// Machine code of the device's major version and the nearest minor, else the newest PTX that it can compile. Of a
    /// program linked from relocatable code it is the linked code, else the PTX of all its parts together.
    ///
    /// # Errors
    /// As for [`Source::check`], and [`Error::Malformed`] or [`Error::InvalidPtx`] if that image is damaged.
    pub fn image_for(&self, cc: (u32, u32)) -> Result<Image, Error> {
        Image::read(self.pick(cc)?, cc)
    }

    /// The parts of the image for `cc`, still packed; at least one.
    fn pick(&self, cc: (u32, u32)) -> Result<Vec<Packed>, Error> {
        match &self.content {
            Content::Fatbin { main, linked_from } => {
                let mut found = best(main, cc)?;
                if found.is_empty() {
                    found = linked_from.iter().map(|part| best(part, cc)).collect::<Result<Vec<_>, _>>()?.concat();
                }
                match found.is_empty() {
                    true => Err(Error::NoFit),
                    false => Ok(found.into_iter().map(Packed::Entry).collect()),
                }
            }
            Content::Cubin(bytes) => match cubin::arch(bytes)?.rank_code(cc) {
                Some(_) => Ok(vec![Packed::Plain { bytes: bytes.clone(), ptx: false }]),
                None => Err(Error::NoFit),
            },
            Content::Ptx(text) => match ptx::arch(text)?.rank_ptx(cc) {
                Some(_) => Ok(vec![Packed::Plain { bytes: text.clone(), ptx: true }]),
                None => Err(Error::InvalidPtx("for another architecture than the device's")),
            },
        }
    }

    /// A source that no longer needs the app's memory: of a fat binary it has what is for devices of compute capability `cc`, or
    /// all of it if nothing is.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn detached(&self, cc: (u32, u32)) -> Result<Source, Error> {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let content = match &self.content {
            Content::Fatbin { main, linked_from } => {
                let found = best(main, cc)?;
                let main = if found.is_empty() { own(main) } else { fatbin::of_entries(&found) };
                Content::Fatbin { main, linked_from: linked_from.iter().map(own).collect() }
            }
            Content::Cubin(bytes) => Content::Cubin(own(bytes)),
            Content::Ptx(text) => Content::Ptx(own(text)),
        };
        Ok(Source { content, preserved: false })
    }

    /// Whether its bytes are the app's own, which has to leave them in place.
    pub fn is_preserved(&self) -> bool {
        self.preserved
    }

    /// Frees what of a copied fat binary is not for devices of compute capability `cc`.
    ///
    /// # Errors
    /// [`Error::Malformed`]; nothing is freed then.
    pub fn keep_only(&mut self, cc: (u32, u32)) -> Result<(), Error> {
        if let (Content::Fatbin { main, .. }, false) = (&mut self.content, self.preserved) {
            *main = fatbin::of_entries(&best(main, cc)?);
        }
        Ok(())
    }
}

/// The entries of a fat binary that suit a device best: none, one, or several of the same architecture.
fn best(fatbin: &Bytes, cc: (u32, u32)) -> Result<Vec<Entry>, Error> {
    let ranked: Vec<(Rank, Entry)> =
        fatbin::entries(fatbin)?.into_iter().filter_map(|entry| Some((entry.rank(cc)?, entry))).collect();
    let highest = ranked.iter().map(|(rank, _)| *rank).max();
    Ok(ranked.into_iter().filter(|(rank, _)| Some(*rank) == highest).map(|(_, entry)| entry).collect())
}
