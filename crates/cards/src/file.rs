//! The files of cards that this process has open. Each is opened once and never closed (see the crate's page).

use crate::fork::{self, Owned, ThreadLock};
use crate::layout::{life, magic, Header, Image, Reading, Table, Wanted, LENGTH, MAKING, PIECES, SLOTS, USING};
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Mutex;

/// Device and inode: which file it is, by whatever path.
type Identity = (u64, u64);

#[derive(Debug)]
pub(crate) struct CardFile {
    identity: Identity,
    file: File,
    pub(crate) header: Header,
    /// `None`: opened to look only.
    table: Option<&'static Table>,
    /// The slot of this process.
    pub(crate) own: Owned,
    /// How often this process holds each piece; empty if the cards were opened to look only.
    pieces: Box<[Owned]>,
    /// Held while a slot is joined or cleared: two threads of a process would share a byte lock.
    pub(crate) slots: ThreadLock,
    /// Held while another process is put aside or brought back: two threads would share a byte lock here as well.
    pub(crate) orders: Mutex<()>,
    next: Option<&'static CardFile>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// The newest file; a list that only grows, so that a fork at any instant leaves it whole.
static FILES: AtomicPtr<CardFile> = AtomicPtr::new(std::ptr::null_mut());

/// Held while a file is opened: two threads of a process would share the lock of its making.
static OPENING: ThreadLock = ThreadLock::new();

impl CardFile {
    /// `replace`: a file of other sizes that nobody uses is made anew.
    pub(crate) fn open(path: &Path, wanted: &Wanted, replace: bool) -> io::Result<&'static CardFile> {
        fork::watch()?;
        let _threads = OPENING.lock();
        let found = match known(path, |file| file.table.is_some()) {
            Some(file) => {
                // a forked child has not inherited the lock
                sys::lock_shared(&file.file, USING)?;
                file
            }
            None => {
                let file = open(path, true).map_err(|error| explain(path, error))?;
                // from here on the sizes stand still
                sys::lock_shared(&file, USING)?;
                let header = read_or_make(path, &file, wanted, replace)?;
                let table = sys::map(&file)?;
                keep(file, header, Some(table))?
            }
        };
        let wanted = wanted.beside(Some(&found.header))?;
        if found.header != wanted {
            return Err(mismatch(path, &found.header, &wanted));
        }
        Ok(found)
    }

    pub(crate) fn look(path: &Path) -> io::Result<&'static CardFile> {
        fork::watch()?;
        let _threads = OPENING.lock();
        if let Some(file) = known(path, |_| true) {
            return Ok(file);
        }
        let file = open(path, false).map_err(|error| explain(path, error))?;
        let mut reading = read_header(&file)?;
        if !matches!(reading, Reading::Cards(_)) {
            // Perhaps it is being made.
            sys::lock_shared(&file, MAKING)?;
            reading = read_header(&file)?;
            sys::unlock(&file, MAKING)?;
        }
        match reading {
            Reading::Cards(header) => keep(file, header, None),
            Reading::Unmade => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} holds no software cards yet; start a program that uses them", path.display()),
            )),
            Reading::Foreign(why) => Err(foreign(path, &why)),
        }
    }

    /// The mapped table.
    pub(crate) fn table(&self) -> io::Result<&'static Table> {
        self.table.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                "these software cards were opened to look only; open them to join",
            )
        })
    }

    /// The file itself, for its locks.
    pub(crate) fn locks(&self) -> &File {
        &self.file
    }

    /// Fails if the file was cut short: touching what is gone from a mapping would kill the process.
    pub(crate) fn check_length(&self) -> io::Result<()> {
        if self.file.metadata()?.len() == LENGTH as u64 {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file of software cards was cut short; end its users and remove it",
        ))
    }

    /// The file's content, read without touching the mapping.
    pub(crate) fn image(&self) -> io::Result<Image> {
        let mut bytes = vec![0; LENGTH];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Image(bytes))
    }

    /// How often this process holds a piece.
    pub(crate) fn held(&self, row: usize) -> Option<u32> {
        self.pieces.get(row).and_then(Owned::get)
    }

    /// Notes how often; 0: not any more. The caller holds `slots`.
    pub(crate) fn set_held(&self, row: usize, holds: u32) {
        if let Some(piece) = self.pieces.get(row) {
            piece.clear();
            if holds > 0 {
                piece.set(holds);
            }
        }
    }

    /// Whether this process holds a piece, through whichever descriptor.
    pub(crate) fn own_piece(&self, row: usize) -> bool {
        all().filter(|file| file.identity == self.identity).any(|file| file.held(row).is_some())
    }

    /// The slot that this process has in this file, through whichever descriptor it joined.
    pub(crate) fn own_slot(&self) -> Option<usize> {
        all().filter(|file| file.identity == self.identity).find_map(|file| file.own.get()).map(|slot| slot as usize)
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    // Without O_NONBLOCK the opening of a pipe would wait for its other end.
    let file = OpenOptions::new().read(true).write(write).create(write).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    Ok(file)
}

fn read_header(file: &File) -> io::Result<Reading> {
    let mut page = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, 4096), &mut page)?;
    io::Seek::rewind(&mut &*file)?;
    Ok(Header::read(&page, file.metadata()?.len()))
}

/// The sizes in the file. A file that has none is given those wanted, by one process while others wait.
fn read_or_make(path: &Path, file: &File, wanted: &Wanted, replace: bool) -> io::Result<Header> {
    let stays = |found: &Header| Ok::<_, io::Error>(!replace || wanted.beside(Some(found))? == *found);
    if let Reading::Cards(header) = read_header(file)? {
        if stays(&header)? {
            return Ok(header);
        }
    }
    // What is being made reads as anything; under the lock it stands still.
    sys::lock(file, MAKING)?;
    let fresh = |header: Header| make(file, &header).map(|()| header).map_err(|error| explain(path, error));
    let header = match read_header(file)? {
        Reading::Cards(header) if stays(&header)? || !alone(file)? => Ok(header),
        Reading::Cards(header) => {
            let made = fresh(wanted.beside(Some(&header))?);
            // others may use it again
            sys::lock_shared(file, USING).and(made)
        }
        Reading::Unmade => fresh(wanted.beside(None)?),
        Reading::Foreign(why) => Err(foreign(path, &why)),
    };
    sys::unlock(file, MAKING)?;
    header
}

/// Whether no other process uses the file; then none can begin to before [`USING`] is shared again.
fn alone(file: &File) -> io::Result<bool> {
    if !sys::try_lock(file, USING)? {
        return Ok(false);
    }
    for slot in 0..SLOTS {
        // of an older version, which knows no such lock
        if sys::locked_by(file, life(slot))?.is_some() {
            sys::lock_shared(file, USING)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes every byte, so that the mapping never finds its disk full; the length comes first and the magic last, so that
/// a maker killed between leaves what the next one knows as unmade.
fn make(file: &File, header: &Header) -> io::Result<()> {
    file.set_len(LENGTH as u64)?;
    let mut image = vec![0; LENGTH];
    let page = header.page();
    image[..page.len()].copy_from_slice(&page);
    file.write_all_at(&image, 0)?;
    file.write_all_at(&magic(), 0)
}

fn all() -> impl Iterator<Item = &'static CardFile> {
    // SAFETY: the pointer is null or of a leaked CardFile, which nobody frees or changes.
    let newest = unsafe { FILES.load(Ordering::Acquire).as_ref() };
    std::iter::successors(newest, |file| file.next)
}

/// The file at `path` if it is open already, without opening it again.
fn known(path: &Path, fits: impl Fn(&CardFile) -> bool) -> Option<&'static CardFile> {
    let meta = std::fs::metadata(path).ok()?;
    all().find(|file| file.identity == (meta.dev(), meta.ino()) && fits(file))
}

/// Keeps an opened file for good.
fn keep(file: File, header: Header, table: Option<&'static Table>) -> io::Result<&'static CardFile> {
    let meta = file.metadata()?;
    let identity = (meta.dev(), meta.ino());
    let (own, slots, orders) = (Owned::default(), ThreadLock::new(), Mutex::new(()));
    let pieces = (0..table.map_or(0, |_| PIECES)).map(|_| Owned::default()).collect();
    let next = all().next();
    let kept = Box::leak(Box::new(CardFile { identity, file, header, table, own, pieces, slots, orders, next }));
    FILES.store(kept, Ordering::Release);
    Ok(kept)
}

fn mismatch(path: &Path, found: &Header, wanted: &Header) -> io::Error {
    let show = |header: &Header| format!("{} x {} of {} bytes", header.count, header.name, header.vram);
    let why = format!(
        "{} holds software cards of other sizes ({}, not {}); choose another file with SOFTCUDA_CARDS, or end its users and remove it",
        path.display(),
        show(found),
        show(wanted)
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn foreign(path: &Path, why: &str) -> io::Error {
    let why = format!("{} {why}; choose another file with SOFTCUDA_CARDS, or remove it", path.display());
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn explain(path: &Path, error: io::Error) -> io::Error {
    let why = format!(
        "the software cards {} can't be used ({error}); choose another file with SOFTCUDA_CARDS",
        path.display()
    );
    io::Error::new(error.kind(), why)
}
