//! A trace as a picture: one page of HTML that needs nothing else, not even a network.
//!
//! [`builder`] sorts the records into what is drawn ([`picture`]), [`page`] writes that as JSON into the page. The page's own
//! program (`page/*.js`) draws it on a canvas.
mod builder;
mod claims;
mod nest;
mod page;
mod picture;

use crate::read::read;
use crate::Error;
use picture::Picture;
use std::io::{self, Write};
use std::path::Path;

/// The timeline of a trace: when the GPU was held, which calls were made, how many bytes were on the card.
#[derive(Debug)]
pub struct Timeline(Picture);

impl Timeline {
    /// Reads the trace `path`, in any of its forms. What can't be read is left out, with a note. `title` stands at the head
    /// of the page; None: what the traced program was.
    ///
    /// # Errors
    /// The file can't be read, or is no trace.
    pub fn read(path: &Path, title: Option<&str>) -> Result<Self, Error> {
        let mut builder = builder::Builder::default();
        let reading = read(path, &mut |record| builder.take(record))?;
        Ok(Timeline(builder.finish(title, reading.form, reading.notes(path))))
    }

    /// What the reader of the picture should know: that the trace has no end, or lines that can't be read.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// How many calls, launches, messages, spans and values of counters are in it.
    pub fn events(&self) -> u64 {
        self.0.events
    }

    /// Writes the page.
    ///
    /// # Errors
    /// `out` can't be written.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        page::write(&self.0, out)
    }
}

#[cfg(test)]
mod tests;
