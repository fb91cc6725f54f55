//! Closes what strangers have sent, in a thread of its own: closing a descriptor may take as long as its owner likes (a file of a
//! file system that its owner serves, a TCP socket that lingers), and the loop waits for nobody.
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;

/// So many descriptors wait to be closed before no more connections are accepted.
const MANY: usize = 4096;

/// The thread, as the daemon knows it.
pub struct Closer {
    outbox: Sender<OwnedFd>,
    waiting: Arc<AtomicUsize>,
}

impl Closer {
    /// Makes the thread. It ends with the daemon, or with the process if a descriptor does not let it.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start() -> std::io::Result<Closer> {
        let (outbox, inbox) = channel::<OwnedFd>();
        let waiting = Arc::<AtomicUsize>::default();
        let left = waiting.clone();
        let close = move || {
            for fd in inbox {
                drop(fd);
                left.fetch_sub(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("closer".into()).spawn(close)?;
        Ok(Closer { outbox, waiting })
    }

    /// Closes a descriptor, some time.
    pub fn close(&self, fd: OwnedFd) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // the thread is there as long as the sender is
        let _closed_here_otherwise = self.outbox.send(fd);
    }

    /// Whether so many wait that no more should come.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= MANY
    }
}
