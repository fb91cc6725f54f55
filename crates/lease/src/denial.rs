//! Why a wish is refused: a reason for programs, a sentence with the numbers for people.

use crate::policy::Kind;
use std::fmt;
use std::time::Duration;

/// A refusal. It has changed nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    /// For programs.
    pub reason: Reason,
    /// For people: what was asked, what the limit is, and what to do.
    pub text: String,
}

/// The kind of a [`Denial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The tenant has as many Spaces as it may.
    Spaces,
    /// The Space's quota is larger than its tenant may have.
    Vram,
    /// The tenant's GPU seconds of the day are used or promised.
    Seconds {
        /// When it is worth trying again; `None` if that depends on the tenant's other calls, or is never.
        again: Option<Duration>,
    },
    /// Longer than any lease may be.
    TooLong,
    /// No card of that kind.
    NoCard,
    /// No card of that kind is large enough, even empty.
    TooLarge,
    /// The card has no room now beside what is leased on it.
    Room,
    /// The Space waits or computes already.
    Busy,
    /// Others wait for the card, and the lease has had its time.
    OthersWait,
    /// The lease is past its deadline.
    Overdue,
    /// Not a number of seconds.
    Invalid,
    /// There is no such Space, lease or card.
    Unknown,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Denial {}

impl Denial {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Denial {
        Denial { reason, text: text.into() }
    }

    pub(crate) fn unknown(what: impl fmt::Display) -> Denial {
        Denial::new(Reason::Unknown, format!("there is no {what}; it may have ended: attach and claim again"))
    }

    pub(crate) fn invalid(seconds: f64) -> Denial {
        Denial::new(Reason::Invalid, format!("{seconds} is no duration: ask for a number of seconds above 0"))
    }

    pub(crate) fn too_long(seconds: f64, limit: f64) -> Denial {
        let (asked, limit) = (number(seconds), number(limit));
        // the words that users of Hugging Face's service know
        Denial::new(
            Reason::TooLong,
            format!("The requested GPU duration ({asked}s) is larger than the maximum allowed ({limit}s)"),
        )
    }

    pub(crate) fn no_card(kind: Kind, there: &[Kind]) -> Denial {
        let mut there: Vec<String> = there.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
        there.sort();
        there.dedup();
        let there = if there.is_empty() { "no cards".into() } else { format!("cards of {}", there.join(", ")) };
        let (major, minor) = kind;
        Denial::new(
            Reason::NoCard,
            format!("no card here has compute capability {major}.{minor}, as the program was shown; this node has {there}: start the program with a profile that fits"),
        )
    }

    pub(crate) fn too_large(asked: u64, context: u64, largest: u64) -> Denial {
        Denial::new(
            Reason::TooLarge,
            format!(
                "asked for {} of GPU memory and {} for its context, more than the {} of the largest card: use less memory",
                bytes(asked),
                bytes(context),
                bytes(largest)
            ),
        )
    }
}

/// Bytes, for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..=0xfffff => format!("{n} bytes"),
        0x10_0000..=0x3fff_ffff => format!("{:.0} MiB", n as f64 / (1u64 << 20) as f64),
        _ => format!("{:.1} GiB", n as f64 / (1u64 << 30) as f64),
    }
}

/// A number of seconds, without needless digits.
pub(crate) fn number(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() / 10.0;
    format!("{tenths}")
}

/// A time to wait, for people; rounded up, so that nobody comes too early.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let minutes = seconds.div_ceil(60);
    match (seconds, minutes) {
        (0..=99, _) => format!("{seconds} s"),
        (_, 0..=59) => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}
