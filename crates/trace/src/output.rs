//! Where the rendered trace goes.
use crate::{sys, Error};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Takes the trace's bytes in order. `end` is what closes the format (`]}` of a Chrome trace).
pub trait Output: Send {
    /// Adds `bytes`.
    fn append(&mut self, bytes: &[u8], end: &[u8]) -> io::Result<()>;
    /// Nothing follows.
    fn finish(&mut self, end: &[u8]) -> io::Result<()>;
    /// Bytes appended so far.
    fn length(&self) -> u64;
}

/// Opens the output of a new trace.
pub fn create(path: Option<&Path>) -> Result<Box<dyn Output>, Error> {
    let Some(path) = path else { return Ok(Box::new(Stderr { length: 0 })) };
    let io = |e| Error::io(path, e);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Ok(Box::new(Stream { file, length: 0 }));
    }
    regular(file, &found, 0).map_err(io)
}

/// Opens the output of a process that has ended, of which the first `keep` bytes hold. Its name comes from a file: it is
/// not followed to another one, and only what can be a trace of this user is written to.
pub fn reopen(path: Option<&Path>, keep: u64) -> Result<Box<dyn Output>, Error> {
    let Some(path) = path else { return Ok(Box::new(Stderr { length: keep })) };
    let io = |e| Error::io(path, e);
    let ours = |found: &Metadata| match found.is_file() && found.uid() == sys::user() {
        true => Ok(()),
        false => Err(io(io::Error::other("a trace is completed only in a file of this user, not behind a link"))),
    };
    // asked before, since opening a pipe waits; what is asked after it holds
    if let Ok(found) = path.symlink_metadata() {
        ours(&found)?;
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create(keep == 0).truncate(false).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    ours(&found)?;
    if found.len() < keep {
        return Err(io(io::Error::other(format!("is {} bytes long, but {keep} had been written", found.len()))));
    }
    regular(file, &found, keep).map_err(io)
}

fn regular(file: File, found: &Metadata, keep: u64) -> io::Result<Box<dyn Output>> {
    file.set_len(keep)?;
    Ok(Box::new(Regular { file, length: keep, identity: (found.dev(), found.ino()) }))
}

/// A file. The format's end is written behind each batch and overwritten by the next, so that the file is well formed
/// whenever the process dies between two batches.
struct Regular {
    file: File,
    length: u64,
    identity: (u64, u64),
}

impl Output for Regular {
    fn append(&mut self, bytes: &[u8], end: &[u8]) -> io::Result<()> {
        // a program that closes all descriptors may have given ours to a file of its own
        let now = self.file.metadata()?;
        if (now.dev(), now.ino()) != self.identity {
            return Err(io::Error::other("the program has closed the trace's descriptor"));
        }
        self.file.write_all_at(&[bytes, end].concat(), self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self, _end: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> u64 {
        self.length
    }
}

/// A pipe or terminal under a path.
struct Stream {
    file: File,
    length: u64,
}

impl Output for Stream {
    fn append(&mut self, bytes: &[u8], _end: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self, end: &[u8]) -> io::Result<()> {
        self.file.write_all(end)
    }

    fn length(&self) -> u64 {
        self.length
    }
}

/// Standard error.
struct Stderr {
    length: u64,
}

impl Output for Stderr {
    fn append(&mut self, bytes: &[u8], _end: &[u8]) -> io::Result<()> {
        sys::stderr(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self, end: &[u8]) -> io::Result<()> {
        sys::stderr(end)
    }

    fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_is_well_formed_after_each_append() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "of an older trace").unwrap();
        let mut output = create(Some(&path)).unwrap();
        for (bytes, expected) in [("[1", "[1]\n"), (",2", "[1,2]\n")] {
            output.append(bytes.as_bytes(), b"]\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        }
        assert_eq!(output.length(), 4);
        output.finish(b"]\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[1,2]\n");
    }

    #[test]
    fn a_trace_is_not_completed_in_what_is_not_this_user_s_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("t"), dir.path().join("theirs"));
        std::fs::write(&theirs, "kept").unwrap();
        let refused = |path: &Path| {
            let error = reopen(Some(path), 0).err().expect("refused").to_string();
            assert!(error.contains("only in a file of this user"), "{error}");
        };
        std::os::unix::fs::symlink(&theirs, &path).unwrap();
        refused(&path);
        assert_eq!(std::fs::read(&theirs).unwrap(), b"kept");
        refused(Path::new("/dev/null"));
        std::fs::remove_file(&path).unwrap();
        assert!(reopen(Some(&path), 0).is_ok(), "a new file");
        assert!(reopen(Some(&path), 0).is_ok(), "our own");
        // only root can give a file away
        if sys::user() == 0 {
            std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
            refused(&theirs);
            assert_eq!(std::fs::read(&theirs).unwrap(), b"kept");
        }
    }

    #[test]
    fn a_stream_gets_the_end_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let mut output = Stream { file: File::create(&path).unwrap(), length: 0 };
        output.append(b"[1", b"]").unwrap();
        output.append(b",2", b"]").unwrap();
        output.finish(b"]").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[1,2]");
        assert_eq!(output.length(), 4);
    }

    #[test]
    fn a_descriptor_that_the_program_took_over_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("t"), dir.path().join("theirs"));
        let file = File::create(&path).unwrap();
        let found = file.metadata().unwrap();
        let mut output = Regular { file, length: 0, identity: (found.dev(), found.ino()) };
        let other = File::create(&theirs).unwrap();
        // SAFETY: both descriptors are open; the first one's file is closed by this.
        unsafe { libc::dup2(other.as_raw_fd(), output.file.as_raw_fd()) };
        assert!(output.append(b"x", b"").is_err());
        assert_eq!(std::fs::read(&theirs).unwrap(), b"");
    }
}
