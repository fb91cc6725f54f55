//! What tenants have used of the cards within a day, kept in a file over a restart of the broker.
//!
//! A thread of its own writes, so that a slow disk holds up nobody. The file is replaced as a whole: whoever reads it finds
//! one state or the other. Times in it are those of the wall clock, since the broker's own clock ends with it.
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use zerogpu_lease::Use;

/// Time between two writes.
pub const EVERY: Duration = Duration::from_secs(5);
/// What the file is, and the version of its form.
const FORM: &str = "zerogpu-use-1";

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    form: String,
    /// By tenant: the second of the epoch at which GPU seconds leave the day, and how many those are.
    tenants: BTreeMap<String, Vec<(f64, f64)>>,
}

/// The file, and who writes it.
pub struct Ledger {
    path: PathBuf,
    pages: Option<Sender<String>>,
    writer: Option<JoinHandle<()>>,
    /// What was written last, and when.
    last: (String, Instant),
}

impl Ledger {
    /// The file at `path`; whatever is there is replaced by the first write that has something to tell.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn open(path: PathBuf) -> Result<Ledger> {
        let (pages, inbox) = channel::<String>();
        let target = path.clone();
        let write = move || {
            let mut told = false;
            for page in inbox {
                match replace(&target, &page) {
                    Ok(()) => told = false,
                    Err(e) if !told => {
                        told = true;
                        tracing::warn!(
                            "{} can't be written ({e}): the GPU seconds of tenants are lost at a restart; set state to a \
                             file that can",
                            target.display()
                        );
                    }
                    Err(_) => {}
                }
            }
        };
        let writer =
            std::thread::Builder::new().name("ledger".into()).spawn(write).context("no thread for the state")?;
        Ok(Ledger { path, pages: Some(pages), writer: Some(writer), last: (String::new(), Instant::now()) })
    }

    /// What an earlier broker wrote. A file that is not understood is told, and counts as none.
    pub fn read(&self) -> Vec<Use> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                tracing::warn!("{} can't be read ({e}): tenants begin the day anew", self.path.display());
                return Vec::new();
            }
        };
        match serde_json::from_str::<Page>(&text) {
            Ok(page) if page.form == FORM => uses(&page, epoch()),
            Ok(page) => {
                tracing::warn!(
                    "{} is of the form '{}', and not of {FORM}: tenants begin the day anew",
                    self.path.display(),
                    page.form
                );
                Vec::new()
            }
            Err(e) => {
                tracing::warn!("{} is not understood ({e}): tenants begin the day anew", self.path.display());
                Vec::new()
            }
        }
    }

    /// When it wants to be told again, if anything may have changed.
    pub fn wake(&self) -> Duration {
        EVERY.saturating_sub(self.last.1.elapsed())
    }

    /// Writes what stands now, if that is something else than before.
    pub fn write(&mut self, uses: &[Use]) {
        self.last.1 = Instant::now();
        let page = page(uses, epoch());
        if page == self.last.0 || (uses.is_empty() && self.last.0.is_empty()) {
            return;
        }
        self.last.0.clone_from(&page);
        if let Some(pages) = &self.pages {
            // the writer ends only with this
            let _it_is_there = pages.send(page);
        }
    }
}

impl Drop for Ledger {
    /// What was told last is written before this returns.
    fn drop(&mut self) {
        drop(self.pages.take());
        if let Some(writer) = self.writer.take() {
            let _a_panic_was_printed = writer.join();
        }
    }
}

/// Seconds of the epoch, now.
fn epoch() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn page(uses: &[Use], now: f64) -> String {
    // whole seconds: a state that has not changed is the same text
    let until = |left: &Duration| (now + left.as_secs_f64()).round();
    let tenants = uses
        .iter()
        .map(|used| (used.tenant.clone(), used.seconds.iter().map(|(left, used)| (until(left), *used)).collect()));
    let page = Page { form: FORM.into(), tenants: tenants.collect() };
    // a map of names to numbers has no form that JSON lacks
    serde_json::to_string(&page).unwrap_or_default()
}

fn uses(page: &Page, now: f64) -> Vec<Use> {
    let left = |until: f64| Duration::try_from_secs_f64(until - now).unwrap_or_default();
    let tenants = page.tenants.iter().map(|(tenant, seconds)| Use {
        tenant: tenant.clone(),
        seconds: seconds.iter().map(|&(until, used)| (left(until), used)).collect(),
    });
    tenants.collect()
}

/// Replaces a file by a new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Use> {
        vec![Use { tenant: "uid-7".into(), seconds: vec![(Duration::from_secs(3600), 12.5)] }]
    }

    #[test]
    fn what_is_written_is_read_as_long_as_it_counts() {
        let text = page(&some(), 1000.0);
        let back: Page = serde_json::from_str(&text).unwrap();
        assert_eq!(uses(&back, 1000.0), some());
        assert_eq!(uses(&back, 1600.0)[0].seconds, [(Duration::from_secs(3000), 12.5)]);
        assert_eq!(uses(&back, 1e6)[0].seconds, [(Duration::ZERO, 12.5)], "which the scheduler does not take");
    }

    #[test]
    fn the_file_is_replaced_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("use");
        let mut ledger = Ledger::open(path.clone()).unwrap();
        assert!(ledger.read().is_empty());
        ledger.write(&[]);
        ledger.write(&some());
        drop(ledger);
        let ledger = Ledger::open(path.clone()).unwrap();
        let found = ledger.read();
        assert_eq!((found[0].tenant.as_str(), found[0].seconds[0].1), ("uid-7", 12.5));
        for broken in ["", "{", "{\"form\": \"zerogpu-use-9\", \"tenants\": {}}", "\u{0}\u{0}"] {
            std::fs::write(&path, broken).unwrap();
            assert!(ledger.read().is_empty(), "{broken:?}");
        }
        assert!(!folder.path().join("use.new").exists());
    }
}
