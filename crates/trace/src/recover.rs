//! Completing the output of a process that ended before its trace: by `os._exit`, a signal, or a crash.
use crate::format::{End, Render};
use crate::map::RingFile;
use crate::settings::{ring_of, RING};
use crate::writer::Batches;
use crate::{output, symbols, Error};
use std::path::{Path, PathBuf};

/// What [`recover`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The completed output; None: standard error.
    pub output: Option<PathBuf>,
    /// Records that were still in the ring.
    pub records: u64,
    /// Records that were being written when the process was killed.
    pub lost: u64,
}

/// Completes the trace `path`, which is an output or a ring (`*.ring`), and deletes the ring. None: there is no ring, so
/// the output is complete. Interrupted, it may be run again.
///
/// # Errors
/// The process still runs ([`Error::Live`]), the ring is none of this version or may be another user's
/// ([`Error::NotPrivate`]), or a file can't be read or written.
pub fn recover(path: &Path) -> Result<Option<Recovered>, Error> {
    let is_ring = path.extension().is_some_and(|e| e == RING);
    let ring_path = if is_ring { path.to_owned() } else { ring_of(path) };
    if !is_ring && path.exists() && !ring_path.exists() {
        return Ok(None);
    }
    let file = RingFile::open(&ring_path)?;
    let meta = file.meta();
    if meta.symbols != symbols::digest() {
        return Err(Error::Version { path: ring_path, version: meta.version.clone() });
    }
    // named by its output, the output may have been moved (or be mounted elsewhere) together with its ring
    let target = if is_ring { meta.output.clone() } else { Some(path.to_owned()) };

    let render = Render::new(meta.clone());
    let (tail, length) = file.checkpoint();
    let wrote = |cause| Error::Write { output: target.clone(), cause };
    let mut output = output::reopen(target.as_deref(), length)?;
    let mut bytes = Vec::new();
    if length == 0 {
        render.preamble(&mut bytes);
    }
    let ring = file.ring();
    // positions beyond were given to producers that still waited for room
    let head = ring.head().0.min(tail.saturating_add(ring.len()));
    let mut batches = Batches::new(ring, &render, tail);
    let mut lost = 0;
    let mut in_hole = false;
    while batches.tail < head {
        if batches.next(&mut bytes) {
            in_hole = false;
            if bytes.len() > 1 << 20 {
                output.append(&bytes, render.close()).map_err(wrote)?;
                bytes.clear();
            }
        } else {
            lost += u64::from(!in_hole);
            in_hole = true;
            batches.tail += 1;
        }
    }
    let records = batches.records;
    render.ending(End { recovered: true, lost }, &mut bytes);
    output.append(&bytes, render.close()).map_err(wrote)?;
    output.finish(render.close()).map_err(wrote)?;
    file.remove()?;
    Ok(Some(Recovered { output: target, records, lost }))
}

/// Completes each trace whose ring lies in `folder`, but for those of processes that still run and of other users. What went wrong with one
/// does not keep the others from being completed.
///
/// # Errors
/// The folder can't be read.
pub fn recover_folder(folder: &Path) -> Result<Vec<Result<Recovered, Error>>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut rings = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.extension().is_some_and(|e| e == RING) {
            rings.push(path);
        }
    }
    rings.sort();
    let done = rings.iter().filter_map(|ring| match recover(ring) {
        Err(Error::Live { .. } | Error::NotPrivate { .. }) => None,
        other => other.transpose(),
    });
    Ok(done.collect())
}

#[cfg(test)]
mod tests;
