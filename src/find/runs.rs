//! Which programs of this user run on a driver: each holds a lock on a file, from `zerogpu run` on until its end.
//!
//! The lock is one of the open file, so that it lasts as long as the program, its forked children included, and ends with a
//! kill. A second lock makes looking for a broker, starting one, and a broker's end by itself one step each.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zerogpu_protocol::runtime_folder;
use zerogpu_settings::driver_path::SOFT_FILE;
use zerogpu_settings::SoftSettings;

/// The programs of this user on one driver and its cards.
#[derive(Debug, Clone)]
pub struct Runs {
    folder: PathBuf,
    /// Tells drivers apart.
    key: u64,
}

/// Held while a broker is looked for, started, or ends by itself.
pub struct Turn(#[allow(dead_code)] File);

impl Runs {
    /// Those on the driver at `path`. Makes the folder of the locks.
    pub fn of(path: &Path) -> Result<Runs> {
        let folder = runtime_folder().context("there is no folder for locks")?;
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let cards = software_cards(&path);
        let texts = [Some(path.as_path()), cards.as_deref()];
        let key = texts
            .into_iter()
            .flatten()
            .flat_map(|path| path.as_os_str().as_bytes())
            .fold(FNV, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(Runs { folder, key })
    }

    /// The folder of the locks, and of a broker's log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for whoever looks for a broker.
    pub fn turn(&self) -> Result<Turn> {
        let file = self.open("turn")?;
        lock(&file, libc::LOCK_EX)?;
        Ok(Turn(file))
    }

    /// The same, without waiting.
    pub fn try_turn(&self) -> Result<Option<Turn>> {
        let file = self.open("turn")?;
        Ok(try_lock(&file)?.then_some(Turn(file)))
    }

    /// Counts this process, and whatever it becomes, among the programs; whether there are others.
    pub fn join(&self, _turn: &Turn) -> Result<(File, bool)> {
        let file = self.open("programs")?;
        let alone = try_lock(&file)?;
        // turned by the kernel into one that others may share; the turn keeps others out meanwhile
        lock(&file, libc::LOCK_SH)?;
        Ok((file, !alone))
    }

    /// Whether no program is left.
    pub fn are_over(&self, _turn: &Turn) -> Result<bool> {
        Ok(try_lock(&self.open("programs")?)?)
    }

    fn open(&self, what: &str) -> Result<File> {
        let path = self.folder.join(format!("{what}-{:016x}.lock", self.key));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(&path).with_context(|| format!("{} can't be opened; make its folder writable", path.display()))
    }
}

/// The usual start of this hash.
const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// The file of the cards, if the driver is the software driver.
pub fn software_cards(driver: &Path) -> Option<PathBuf> {
    driver.file_name().is_some_and(|name| name == SOFT_FILE).then(|| SoftSettings::from_env().0.cards)
}

fn lock(file: &File, how: libc::c_int) -> io::Result<()> {
    loop {
        // SAFETY: a descriptor of ours, and a number.
        if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match lock(file, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Held by the tests that make locks and by those that start processes: a child has its parent's locks until it execs.
#[cfg(test)]
pub static NO_CHILDREN: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_program_is_not_alone() {
        let _alone = NO_CHILDREN.lock();
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs { folder: folder.path().into(), key: 1 };
        let turn = runs.turn().unwrap();
        assert!(runs.try_turn().unwrap().is_none(), "one at a time");
        assert!(runs.are_over(&turn).unwrap());
        let (first, others) = runs.join(&turn).unwrap();
        assert!(!others && !runs.are_over(&turn).unwrap());
        let (second, others) = runs.join(&turn).unwrap();
        assert!(others);
        drop(first);
        assert!(!runs.are_over(&turn).unwrap(), "one is left");
        drop(second);
        assert!(runs.are_over(&turn).unwrap());
        let other = Runs { key: 2, ..runs.clone() };
        drop(turn);
        let turn = other.turn().unwrap();
        assert!(!other.join(&turn).unwrap().1, "another driver's programs are apart");
        assert!(runs.try_turn().unwrap().is_some());
    }
}
