//! What can go wrong.
use std::io;
use std::path::{Path, PathBuf};

/// Why a trace could not be started, completed or read. A cause is told in the text, so it is no `source` that would be told again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value of `ZEROGPU_TRACE` can't be understood.
    #[error("ZEROGPU_TRACE: '{item}': {why}")]
    Settings {
        /// The item that is wrong.
        item: String,
        /// What was expected.
        why: String,
    },
    /// A file can't be made, opened or read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The output can't be written.
    #[error("the trace can't be written to {}: {cause}", target(output))]
    Write {
        /// The output; None: standard error.
        output: Option<PathBuf>,
        /// What the system said.
        cause: io::Error,
    },
    /// The writer's thread can't be started.
    #[error("the trace's writer can't be started: {cause}")]
    Thread {
        /// What the system said.
        cause: io::Error,
    },
    /// All names that the output could get are in use.
    #[error("{}: this and all numbered names are in use by other traces", path.display())]
    Names {
        /// The first name.
        path: PathBuf,
    },
    /// `start` was called twice.
    #[error("the trace of this process was started before")]
    Started,
    /// The trace's process still runs.
    #[error("{}: process {pid} still writes this trace; it is completed when the process ends", path.display())]
    Live {
        /// The ring.
        path: PathBuf,
        /// The process; 0 if it belongs to another pid namespace.
        pid: u32,
    },
    /// A file is no ring of this layout.
    #[error("{}: not the ring of a trace, or one of another layout", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A ring that someone else may have made or changed.
    #[error("{}: not used, since another user may have written it: a ring is a file of one name that only this user can write to", path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
    },
    /// The ring numbers functions as another version does.
    #[error("{}: written by zerogpu {version} with another list of functions; recover it with that version", path.display())]
    Version {
        /// The ring.
        path: PathBuf,
        /// The version that wrote it.
        version: String,
    },
    /// A file is no trace that can be summed up.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Error::Io { path: path.to_owned(), cause: source }
    }
}

fn target(output: &Option<PathBuf>) -> String {
    output.as_ref().map_or("standard error".into(), |p| p.display().to_string())
}
