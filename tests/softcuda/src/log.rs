//! Files that softcuda appends lines to: launches, and violations.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A file of lines, shared with other processes: each line is one write to a file opened for appending.
pub struct Log(Mutex<Option<File>>);

impl Log {
    /// Opens (or makes) the file; None: nothing is logged.
    pub fn open(path: Option<&Path>) -> std::io::Result<Log> {
        let file = path.map(|p| OpenOptions::new().create(true).append(true).open(p)).transpose()?;
        Ok(Log(Mutex::new(file)))
    }

    /// Appends a line. A log that can't be written is a test that must fail, so it is said on stderr.
    pub fn line(&self, text: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = file.as_mut() {
            if let Err(e) = f.write_all(format!("{text}\n").as_bytes()) {
                eprintln!("softcuda: a log can't be written: {e}");
            }
        }
    }

    /// Whether anything is logged.
    pub fn on(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}
