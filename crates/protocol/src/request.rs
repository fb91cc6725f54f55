//! Long lists and texts, cut into packets and put together again.
use crate::limits::*;
use crate::message::{Range, ToBroker, ToClient};
use crate::wire::Malformed;

/// What a lease is to have on its card: what the [`ToBroker::Slabs`] after the grant, or the pieces of a
/// [`ToBroker::Prefetch`], say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The slabs wanted on the card.
    pub slabs: Vec<Range>,
    /// What was written on the host.
    pub dirty: Vec<Range>,
    complete: bool,
}

impl Request {
    /// Adds the lists of one packet; what was complete before is replaced. Not checked: whether slabs overlap.
    ///
    /// # Errors
    /// [`Malformed`] if there are more than [`SPACE_SLABS`] slabs or [`DIRTY_RANGES`] written ranges, or if nothing is
    /// in a packet that others follow; nothing of it is added then.
    pub fn push(&mut self, slabs: &[Range], dirty: &[Range], more: bool) -> Result<(), Malformed> {
        if self.complete {
            *self = Request::default();
        }
        if self.slabs.len() + slabs.len() > SPACE_SLABS || self.dirty.len() + dirty.len() > DIRTY_RANGES {
            return Err(Malformed("too many ranges in one request"));
        }
        if more && slabs.is_empty() && dirty.is_empty() {
            return Err(Malformed("a piece of a request is empty"));
        }
        self.slabs.extend_from_slice(slabs);
        self.dirty.extend_from_slice(dirty);
        self.complete = !more;
        Ok(())
    }

    /// Takes the request if its last packet has come.
    pub fn take(&mut self) -> Option<Request> {
        self.complete.then(|| std::mem::take(self))
    }
}

/// The packets that say which slabs a lease wants, and what was written on the host: one at least.
pub fn request_packets<'a>(lease: u64, slabs: &'a [Range], dirty: &'a [Range]) -> impl Iterator<Item = ToBroker> + 'a {
    pieces(slabs, dirty).map(move |(slabs, dirty, more)| ToBroker::Slabs { lease, slabs, dirty, more })
}

/// The packets that say what a claim would want on the card, for a region of `seconds`: one at least.
pub fn prefetch_packets<'a>(
    seconds: f64,
    slabs: &'a [Range],
    dirty: &'a [Range],
) -> impl Iterator<Item = ToBroker> + 'a {
    pieces(slabs, dirty).map(move |(slabs, dirty, more)| ToBroker::Prefetch { seconds, slabs, dirty, more })
}

/// Two lists, cut so that each piece fits a packet; whether another piece follows.
fn pieces<'a>(slabs: &'a [Range], dirty: &'a [Range]) -> impl Iterator<Item = (Vec<Range>, Vec<Range>, bool)> + 'a {
    let mut left = Some((slabs, dirty));
    std::iter::from_fn(move || {
        let (slabs, dirty) = left.take()?;
        let (slabs, more_slabs) = slabs.split_at(slabs.len().min(PACKET_RANGES));
        let (dirty, more_dirty) = dirty.split_at(dirty.len().min(PACKET_RANGES - slabs.len()));
        let more = !(more_slabs.is_empty() && more_dirty.is_empty());
        if more {
            left = Some((more_slabs, more_dirty));
        }
        Some((slabs.to_vec(), dirty.to_vec(), more))
    })
}

/// The packets of a report: one at least.
pub fn report_packets(json: &str) -> impl Iterator<Item = ToClient> + '_ {
    let mut left = Some(json);
    std::iter::from_fn(move || {
        let text = left.take()?;
        let piece = clip(text, REPORT_BYTES);
        let more = piece.len() < text.len();
        if more {
            left = Some(&text[piece.len()..]);
        }
        Some(ToClient::Report { json: piece.to_owned(), more })
    })
}
