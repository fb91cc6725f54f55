//! The image a driver would load on a device: its kernels and variables.
use crate::fatbin::Entry;
use crate::kernel::{Global, Kernel};
use crate::{cubin, ptx, Error};
use bytes::Bytes;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// An image for one device: what its code says of kernels and variables. The code itself is not kept.
#[derive(Debug)]
pub struct Image {
    kernels: Vec<Kernel>,
    globals: Vec<Global>,
    kernel_by_name: HashMap<Arc<str>, u32>,
    global_by_name: HashMap<Arc<str>, u32>,
    initial: Vec<u8>,
    ptx: bool,
    packed: Packed,
}

/// Where the bytes of an image can be had again.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    Plain { bytes: Bytes, ptx: bool },
    Entry(Entry),
}

impl Packed {
    pub fn unpack(&self) -> Result<Bytes, Error> {
        match self {
            Packed::Plain { bytes, .. } => Ok(bytes.clone()),
            Packed::Entry(entry) => entry.image(),
        }
    }

    fn is_ptx(&self) -> bool {
        match self {
            Packed::Plain { ptx, .. } => *ptx,
            Packed::Entry(entry) => entry.ptx,
        }
    }
}

impl Image {
    /// Reads the parts of an image for a device of compute capability `cc`. Where a name occurs more than once, the
    /// first part that has it wins.
    pub(crate) fn read(parts: Vec<Packed>, cc: (u32, u32)) -> Result<Image, Error> {
        let first = parts.first().cloned().ok_or(Error::NoFit)?;
        let mut image = Image {
            kernels: Vec::new(),
            globals: Vec::new(),
            kernel_by_name: HashMap::new(),
            global_by_name: HashMap::new(),
            initial: Vec::new(),
            ptx: first.is_ptx(),
            packed: first,
        };
        for part in parts {
            let bytes = part.unpack()?;
            match part.is_ptx() {
                true => ptx::read(&bytes, cc, &mut image)?,
                false => cubin::read(&bytes, &mut image)?,
            }
        }
        image.kernels.shrink_to_fit();
        image.globals.shrink_to_fit();
        image.initial.shrink_to_fit();
        Ok(image)
    }

    /// All kernels, in the image's order.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// All module variables, in the image's order.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernel_by_name.get(name).map(|&at| &self.kernels[at as usize])
    }

    /// The variable of that name.
    pub fn global(&self, name: &str) -> Option<&Global> {
        self.global_by_name.get(name).map(|&at| &self.globals[at as usize])
    }

    /// The first contents of one of this image's variables; what it is shorter by than the variable is zeros.
    pub fn initial(&self, global: &Global) -> &[u8] {
        global.initial.clone().and_then(|range| self.initial.get(range)).unwrap_or(&[])
    }

    /// Whether the image is PTX, which a driver compiles when it loads it.
    pub fn is_ptx(&self) -> bool {
        self.ptx
    }

    /// The image itself, a cubin or PTX: unpacked anew at each call. Of an image in several parts, the first.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it can't be unpacked.
    pub fn bytes(&self) -> Result<Bytes, Error> {
        self.packed.unpack()
    }

    pub(crate) fn add_kernel(&mut self, kernel: Kernel) {
        if let Slot::Vacant(slot) = self.kernel_by_name.entry(kernel.name.clone()) {
            slot.insert(self.kernels.len() as u32);
            self.kernels.push(kernel);
        }
    }

    pub(crate) fn add_global(&mut self, global: Global) {
        if let Slot::Vacant(slot) = self.global_by_name.entry(global.name.clone()) {
            slot.insert(self.globals.len() as u32);
            self.globals.push(global);
        }
    }

    /// Keeps first contents; variables name parts of the range.
    pub(crate) fn add_initial(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.initial.len();
        self.initial.extend_from_slice(bytes);
        start..self.initial.len()
    }
}
