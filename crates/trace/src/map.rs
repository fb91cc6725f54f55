//! The ring's file: header, facts about the trace, slots. Mapped shared, so that the kernel keeps what was recorded
//! however the process ends.
//!
//! ```text
//! 0       header: magic, number of slots, length of the facts, checkpoints, the ring's two ends
//! 4096    the facts (`Meta`) as JSON
//! 16384   the slots
//! ```
//!
//! A file appears under its name complete and locked (made under another name, then linked), and the lock ends with the
//! process: a ring that can be locked belongs to a process that has ended.
use crate::ring::{Control, Ring, Slot};
use crate::settings::{Format, MOST_SLOTS};
use crate::{sys, Error};
use memmap2::MmapRaw;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// "zgtrace" and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"zgtrace1");
const META_AT: u64 = 4096;
const SLOTS_AT: u64 = 16384;
const SLOT_BYTES: u64 = size_of::<Slot>() as u64;

/// The first page of the file.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    slots: AtomicU64,
    meta_length: AtomicU64,
    /// Which of the checkpoints holds.
    current: AtomicU64,
    checkpoints: [Checkpoint; 2],
    control: Control,
}

/// Up to which position the ring's records are in the output, and how long the output is with them.
#[repr(C)]
struct Checkpoint {
    tail: AtomicU64,
    length: AtomicU64,
}

/// What has to be known to write, or to complete, the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of zerogpu.
    pub version: String,
    /// [`crate::symbols::digest`] of the functions that the records number.
    pub symbols: u64,
    pub pid: u32,
    /// The command line, its words separated by blanks.
    pub program: String,
    /// The settings as given.
    pub settings: String,
    pub format: Format,
    /// Absolute path of the output; None: standard error.
    pub output: Option<PathBuf>,
    /// Wall clock at the start, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// CLOCK_MONOTONIC at the start, in nanoseconds.
    pub started_ns: u64,
}

/// A ring's file, locked and mapped.
pub struct RingFile {
    path: PathBuf,
    meta: Meta,
    slots: usize,
    map: MmapRaw,
    /// Closing it would end the lock.
    _lock: File,
}

impl RingFile {
    /// Makes a ring with `slots` slots at `path`. None: there is a file of that name.
    pub fn create(path: &Path, meta: Meta, slots: u64) -> Result<Option<Self>, Error> {
        let io = |e| Error::io(path, e);
        let json = serde_json::to_vec(&meta).map_err(|e| io(e.into()))?;
        if json.len() as u64 > SLOTS_AT - META_AT {
            return Err(io(std::io::Error::other("the paths in use are too long")));
        }
        let unnamed = path.with_extension(format!("new-{}", meta.pid));
        let made = || {
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(&unnamed)
            };
            let file = match open() {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    // left by a process of our number that died right here
                    std::fs::remove_file(&unnamed)?;
                    open()?
                }
                other => other?,
            };
            sys::allocate(&file, SLOTS_AT + slots * SLOT_BYTES)?;
            sys::lock(&file)?;
            file.write_all_at(&json, META_AT)?;
            let map = MmapRaw::map_raw(&file)?;
            let header = header(&map);
            header.slots.store(slots, Ordering::Relaxed);
            header.meta_length.store(json.len() as u64, Ordering::Relaxed);
            header.magic.store(MAGIC, Ordering::Release);
            std::fs::hard_link(&unnamed, path)?;
            std::io::Result::Ok((file, map))
        };
        let made = made();
        // on failure there may be nothing to remove
        let _ = std::fs::remove_file(&unnamed);
        match made {
            Ok((file, map)) => {
                Ok(Some(RingFile { path: path.to_owned(), meta, slots: slots as usize, map, _lock: file }))
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(io(e)),
        }
    }

    /// Opens the ring of a process of this user that has ended. What it says is written to files of this user, and a
    /// mapped file that someone cuts short ends the process: no one else may have made it or may write to it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |e| Error::io(path, e);
        let foreign = || Error::Foreign { path: path.to_owned() };
        let private = |found: &Metadata| match is_private(found) {
            true => Ok(()),
            false => Err(Error::NotPrivate { path: path.to_owned() }),
        };
        // asked before, since opening another kind of file may do something; what is asked after it holds
        private(&path.symlink_metadata().map_err(io)?)?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(io)?;
        private(&file.metadata().map_err(io)?)?;
        if let Some(pid) = sys::lock(&file).map_err(io)? {
            return Err(Error::Live { path: path.to_owned(), pid });
        }
        let bytes = file.metadata().map_err(io)?.len();
        if bytes < SLOTS_AT {
            return Err(foreign());
        }
        let map = MmapRaw::map_raw(&file).map_err(io)?;
        let header = header(&map);
        let slots = header.slots.load(Ordering::Relaxed);
        let length = header.meta_length.load(Ordering::Relaxed);
        let fits = header.magic.load(Ordering::Acquire) == MAGIC
            && slots.is_power_of_two()
            && slots <= MOST_SLOTS
            && slots.checked_mul(SLOT_BYTES) == Some(bytes - SLOTS_AT)
            && length <= SLOTS_AT - META_AT;
        if !fits {
            return Err(foreign());
        }
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, META_AT).map_err(io)?;
        let meta: Meta = serde_json::from_slice(&json).map_err(|_| foreign())?;
        Ok(RingFile { path: path.to_owned(), meta, slots: slots as usize, map, _lock: file })
    }

    /// The facts about the trace.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ring.
    pub fn ring(&self) -> Ring<'_> {
        // SAFETY: the mapping is `SLOTS_AT` + `slots` * 128 bytes long (made or checked so), page-aligned, and lives as
        // long as `self`; a slot is 16 atomic words, for which any bytes are a value.
        let slots =
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(SLOTS_AT as usize).cast::<Slot>(), self.slots) };
        Ring::new(&header(&self.map).control, slots)
    }

    /// Position and output length of the last checkpoint.
    pub fn checkpoint(&self) -> (u64, u64) {
        let header = header(&self.map);
        let at = &header.checkpoints[(header.current.load(Ordering::Acquire) & 1) as usize];
        (at.tail.load(Ordering::Relaxed), at.length.load(Ordering::Relaxed))
    }

    /// Notes that everything before `tail` is in the output, which is `length` bytes long. A process that dies here leaves
    /// either the old checkpoint or the new one.
    pub fn set_checkpoint(&self, tail: u64, length: u64) {
        let header = header(&self.map);
        let next = 1 - (header.current.load(Ordering::Relaxed) & 1);
        let at = &header.checkpoints[next as usize];
        at.tail.store(tail, Ordering::Relaxed);
        at.length.store(length, Ordering::Relaxed);
        header.current.store(next, Ordering::Release);
    }

    /// Writes `bytes` over the checkpoints, the ends and the slots.
    #[cfg(fuzzing)]
    pub fn fill(&self, bytes: &[u8]) -> std::io::Result<()> {
        let (start, end) = (std::mem::offset_of!(Header, current), size_of::<Header>());
        let (ends, slots) = bytes.split_at(bytes.len().min(end - start));
        self._lock.write_all_at(ends, start as u64)?;
        self._lock.write_all_at(&slots[..slots.len().min(self.slots * SLOT_BYTES as usize)], SLOTS_AT)
    }

    /// Deletes the file.
    pub fn remove(&self) -> Result<(), Error> {
        std::fs::remove_file(&self.path).map_err(|e| Error::io(&self.path, e))
    }
}

/// Whether only this user can have made the file, and only this user can change it.
fn is_private(found: &Metadata) -> bool {
    found.is_file() && found.uid() == sys::user() && found.mode() & 0o022 == 0 && found.nlink() == 1
}

fn header(map: &MmapRaw) -> &Header {
    debug_assert!(map.len() as u64 >= SLOTS_AT);
    // SAFETY: the mapping is at least `SLOTS_AT` bytes long, page-aligned, and lives as long as the reference; the header
    // is smaller than that and made of atomic words, for which any bytes are a value.
    unsafe { &*map.as_ptr().cast::<Header>() }
}

const _: () = assert!(size_of::<Header>() as u64 <= META_AT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Record, Tag};
    use std::os::unix::fs::PermissionsExt;

    fn meta() -> Meta {
        Meta {
            version: "1".into(),
            symbols: 2,
            pid: 3,
            program: "a b".into(),
            settings: "json".into(),
            format: Format::Json,
            output: Some("/x".into()),
            started_unix_ns: 4,
            started_ns: 5,
        }
    }

    #[test]
    fn a_file_keeps_the_ring_and_the_facts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.ring");
        let made = RingFile::create(&path, meta(), 128).unwrap().unwrap();
        made.ring().emit(Tag { kind: 1, depth: 0, thread: 9 }, &[77], &[], &[], |_| false).unwrap();
        made.set_checkpoint(1, 100);
        made.set_checkpoint(2, 200);
        drop(made);
        let open = RingFile::open(&path).unwrap();
        assert_eq!(open.meta(), &meta());
        assert_eq!(open.checkpoint(), (2, 200));
        assert_eq!(open.ring().head(), (1, false));
        let mut record = Record::default();
        assert_eq!(open.ring().read(0, &mut record), Some(1));
        assert_eq!((record.tag.thread, record.words), (9, vec![77]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        open.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_name_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.ring");
        let _first = RingFile::create(&path, meta(), 128).unwrap().unwrap();
        assert!(RingFile::create(&path, meta(), 128).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ring_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.ring");
        drop(RingFile::create(&path, meta(), 128).unwrap().unwrap());
        let refused = |path: &Path| matches!(RingFile::open(path), Err(Error::NotPrivate { .. }));
        let mode = |bits| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
        for bits in [0o666, 0o620, 0o602] {
            mode(bits);
            assert!(refused(&path), "{bits:o}");
        }
        mode(0o600);
        assert!(RingFile::open(&path).is_ok());
        let second = dir.path().join("second.ring");
        std::fs::hard_link(&path, &second).unwrap();
        assert!(refused(&path) && refused(&second), "a file of two names");
        std::fs::remove_file(&second).unwrap();
        std::os::unix::fs::symlink(&path, &second).unwrap();
        assert!(refused(&second), "a link");
        // only root can give a file away
        if sys::user() == 0 {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(refused(&path), "another user's");
        }
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.ring");
        let refused = || matches!(RingFile::open(&path), Err(Error::Foreign { .. }));
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(refused());
        std::fs::write(&path, vec![0; 20000]).unwrap();
        assert!(refused());
        std::fs::remove_file(&path).unwrap();
        drop(RingFile::create(&path, meta(), 128).unwrap());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(SLOTS_AT + 127 * SLOT_BYTES).unwrap();
        assert!(refused(), "a truncated ring");
        // sparse: takes no room
        file.set_len(SLOTS_AT + 2 * MOST_SLOTS * SLOT_BYTES).unwrap();
        file.write_all_at(&(2 * MOST_SLOTS).to_le_bytes(), 8).unwrap();
        assert!(refused(), "larger than any ring is made");
    }
}
