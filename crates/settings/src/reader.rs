//! Reads variables one by one and gathers complaints.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Looks a variable up by name, as `std::env::var_os` does.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

pub(crate) struct Reader<'a> {
    lookup: Lookup<'a>,
    pub(crate) complaints: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(lookup: Lookup<'a>) -> Self {
        Reader { lookup, complaints: Vec::new() }
    }

    /// The value as it stands. Empty counts as set.
    pub(crate) fn raw(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name)
    }

    /// The value as text; unset and empty are the same.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let value = self.raw(name).filter(|value| !value.is_empty())?;
        match value.into_string() {
            Ok(text) => Some(text),
            Err(value) => {
                self.complain(name, &value.to_string_lossy(), "its value is not UTF-8; write it in plain characters");
                None
            }
        }
    }

    /// The parsed value; `None` where it is unset, empty or not understood.
    pub(crate) fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.complain(name, &text, &why);
                None
            }
        }
    }

    /// The value as an absolute path; a relative one is taken from the current folder.
    pub(crate) fn path(&mut self, name: &str) -> Option<PathBuf> {
        let value = self.raw(name).filter(|value| !value.is_empty())?;
        match std::path::absolute(Path::new(&value)) {
            Ok(path) => Some(path),
            Err(error) => {
                let why = format!("it can't be made absolute ({error}); write an absolute path");
                self.complain(name, &value.to_string_lossy(), &why);
                None
            }
        }
    }

    fn complain(&mut self, name: &str, value: &str, why: &str) {
        self.complaints.push(format!("{name}={value} is ignored: {why}"));
    }
}
