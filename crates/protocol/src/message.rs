//! The messages.
//!
//! The order of the variants and of their fields is the wire format: a variant's number is its place. New ones go to the
//! end, with a new protocol version. `docs/protocol.md` says when each is sent, and is compared with this file by a test.
use serde::{Deserialize, Serialize};

/// Identity of a card: the 16 bytes of its uuid, as `cuDeviceGetUuid` gives it.
pub type Uuid = [u8; 16];

/// A range of a Space's backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins, in bytes from the begin of the backing: a multiple of 2 MiB.
    pub off: u64,
    /// How long it is, in bytes: a multiple of 2 MiB, not zero. A slab has 128 GiB at most.
    pub len: u64,
}

impl Range {
    /// The range of `len` bytes from `off` on.
    pub const fn new(off: u64, len: u64) -> Self {
        Range { off, len }
    }

    /// One past its last byte. No overflow in a range that came through [`decode`](crate::decode).
    pub const fn end(&self) -> u64 {
        self.off.saturating_add(self.len)
    }

    /// Whether they have a byte in common.
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.off < other.end() && other.off < self.end()
    }

    /// Whether all of `other` lies inside.
    pub const fn contains(&self, other: &Range) -> bool {
        self.off <= other.off && other.end() <= self.end()
    }
}

/// Declares an enumeration that travels as one byte. Numbers without a name are refused by the decoder.
macro_rules! byte_enum {
    ($(#[$meta:meta])* $name:ident: $what:literal { $($(#[$doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[$name] = &[$($name::$variant),*];
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = &'static str;

            fn try_from(number: u8) -> Result<Self, &'static str> {
                match number {
                    $($number => Ok($name::$variant),)*
                    _ => Err(concat!("unknown ", $what)),
                }
            }
        }
    };
}

byte_enum! {
    /// What a client is.
    Role: "role" {
        /// A program that claims cards. Its hello brings the descriptor of its backing.
        Space = 1,
        /// A program that only asks for [`ToBroker::Status`], or sends [`ToBroker::TakeBack`].
        Observer = 2,
    }
}

byte_enum! {
    /// Why something was refused. The text beside it has the numbers and the remedy.
    Reason: "reason" {
        /// A limit of the tenant: Spaces, memory, or seconds of GPU per day.
        Quota = 1,
        /// No card became free within the time that the claim was ready to wait.
        Busy = 2,
        /// The claim asks for more seconds than a lease may last.
        TooLong = 3,
        /// No card of the node is of the kind that the Space was shown.
        NoCard = 4,
        /// The Space's bytes fit on no card, or the node's host memory is spoken for.
        Memory = 5,
        /// The client cancelled it.
        Cancelled = 6,
        /// The client broke the rules of the protocol.
        Protocol = 7,
        /// The broker or the driver failed.
        Internal = 8,
        /// The two sides speak no common version.
        Version = 9,
        /// The broker goes: connect again, a new one may be there already.
        Restart = 10,
    }
}

/// What a Space still has on a card from a lease of a broker that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// The card.
    pub card: Uuid,
    /// The identity of the broker that gave the lease, from its [`Welcome`].
    pub broker: u64,
    /// That broker's number of the lease. [`ToBroker::Drained`] and [`ToBroker::Released`] name it when it ends.
    pub lease: u64,
    /// Seconds that the lease still lasts; zero if it is over and the Space is writing home.
    pub seconds_left: f64,
    /// Bytes of card memory.
    pub bytes: u64,
}

/// A client's first message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// What people call it: at most 64 bytes, no control characters.
    pub name: String,
    /// Bytes of device memory that the program is shown.
    pub vram: u64,
    /// Compute capability that the program is shown: major and minor.
    pub cc: (u32, u32),
    /// What it is.
    pub role: Role,
    /// What it has on a card from before.
    pub holds: Option<Holding>,
}

/// The broker takes the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The broker's identity: a random number, another one for each start.
    pub broker: u64,
    /// The protocol version that both sides use from here on.
    pub version: u16,
}

/// The broker doesn't take the client, and closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// One sentence with a remedy.
    pub text: String,
}

/// The broker's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Go on.
    Welcome(Welcome),
    /// The connection ends.
    Refused(Refused),
}

/// From a client to the broker, after the hello. An observer sends [`ToBroker::Status`] and
/// [`ToBroker::TakeBack`] only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToBroker {
    /// After the grant, in as many packets as needed: what is to be on the card. The client's memory stands still from
    /// here until [`ToClient::Ready`]. See [`Request`](crate::Request).
    Slabs {
        /// The lease.
        lease: u64,
        /// The slabs wanted on the card, all of them, by offset; they don't overlap.
        slabs: Vec<Range>,
        /// What was written on the host since the last [`ToClient::Home`] or [`ToBroker::Prefetch`], or since the begin, by
        /// offset.
        dirty: Vec<Range>,
        /// Whether another packet of this list follows.
        more: bool,
    },
    /// Asks for a card.
    Claim {
        /// The client's number of this claim, which answers name.
        id: u32,
        /// How long the card is wanted, at most, in seconds.
        seconds: f64,
        /// How long the claim may wait in the queue, in seconds; zero: what the broker thinks right.
        wait_seconds: f64,
        /// Whether the work stands outside any region, and needs the card only as long as it keeps it busy.
        borrowed: bool,
        /// Bytes of all slabs, for planning: the list may come to something else.
        bytes: u64,
    },
    /// Takes a claim back. The answer is [`ToClient::Denied`], or [`ToClient::Granted`] if that was on its way.
    Cancel {
        /// The claim's number.
        id: u32,
    },
    /// A later region opened.
    Extend {
        /// The lease.
        lease: u64,
        /// How long the lease should last from now on, in seconds.
        seconds: f64,
    },
    /// One more slab, zeroed.
    Grow {
        /// The lease.
        lease: u64,
        /// The slab: overlaps none of the others.
        slab: Range,
    },
    /// The client has unmapped these slabs, has no use for their bytes, and wants the room back.
    Shrink {
        /// The lease.
        lease: u64,
        /// The slabs, each as the broker knows it.
        slabs: Vec<Range>,
    },
    /// The client's work on the card is done: the broker may copy home.
    Drained {
        /// The lease.
        lease: u64,
    },
    /// The client has unmapped all, and has no imports on the card, nor a context unless it is [`ToBroker::Bound`].
    Released {
        /// The lease.
        lease: u64,
    },
    /// The client wants to punch this range out of its backing: nothing may be pinned there, slabs that it touches are dropped.
    Forget {
        /// The range. Slabs that it touches are dropped whole: their host copies are complete.
        range: Range,
    },
    /// How much host memory the client's backing will use.
    Reserve {
        /// Bytes, in all.
        bytes: u64,
    },
    /// Asks for a report.
    Status,
    /// Something binds the client to its context, which stays on the card when a lease ends. Sent before [`ToBroker::Released`], and
    /// after the hello. From its release to its next grant the client makes no call of the driver: the broker may have the
    /// driver checkpoint it meanwhile.
    Bound {
        /// The card.
        card: Uuid,
        /// What binds it: one sentence or less, no control characters.
        by: String,
    },
    /// A region began, and a claim may follow: what would then be on the card. Sent by a client with neither claim nor
    /// lease, in as many packets as needed. The client's memory does not stand still: what it writes after this it names
    /// again. No answer.
    Prefetch {
        /// How long the region may last, in seconds.
        seconds: f64,
        /// As in [`ToBroker::Slabs`].
        slabs: Vec<Range>,
        /// What was written on the host since the last list of this kind or [`ToClient::Home`], or since the begin, by offset.
        dirty: Vec<Range>,
        /// Whether another packet of this list follows.
        more: bool,
    },
    /// An administrator takes the card back from a process: its lease ends as at its deadline. Only root and the broker's own
    /// user may. The answer is [`ToClient::TakenBack`].
    TakeBack {
        /// The process, as [`ToBroker::Status`] tells.
        pid: u32,
    },
}

/// From the broker to a client, after the welcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// The claim waits; sent again as its place changes.
    Queued {
        /// The claim's number.
        id: u32,
        /// Its place: 1 is next.
        position: u32,
        /// How many claims wait for cards of this kind.
        of: u32,
        /// Estimate of the wait from now on, in seconds.
        seconds: Option<f64>,
    },
    /// The card is the client's, which now sends its list of slabs.
    Granted {
        /// The claim's number.
        id: u32,
        /// The broker's number of the lease; never used again by this broker.
        lease: u64,
        /// The card.
        card: Uuid,
        /// How long the lease lasts, in seconds.
        seconds: f64,
    },
    /// Descriptors of slabs, in the order of the client's list.
    SlabFds {
        /// The lease.
        lease: u64,
        /// Place in the client's list of the first slab in this packet.
        first: u32,
    },
    /// The bytes are on the card.
    Ready {
        /// The lease.
        lease: u64,
        /// Bytes that were copied in.
        bytes: u64,
        /// Bytes that were there from before.
        warm: u64,
        /// Microseconds from the grant to here.
        micros: u64,
    },
    /// The claim is over.
    Denied {
        /// The claim's number.
        id: u32,
        /// Why.
        reason: Reason,
        /// One sentence with the numbers and a remedy.
        text: String,
    },
    /// The answer to [`ToBroker::Extend`].
    Extended {
        /// The lease.
        lease: u64,
        /// How long the lease lasts from now on, in seconds; less than was asked for at a limit.
        seconds: f64,
    },
    /// The slab is there: its descriptor comes with this packet.
    Grown {
        /// The lease.
        lease: u64,
        /// The slab.
        slab: Range,
    },
    /// The slab can't be had.
    NotGrown {
        /// The lease.
        lease: u64,
        /// The slab.
        slab: Range,
        /// One sentence with the numbers and a remedy.
        text: String,
    },
    /// The host copy is complete: the client may close its descriptors of the slabs.
    Home {
        /// The lease.
        lease: u64,
        /// Bytes that were copied.
        bytes: u64,
        /// Bytes that were the same as before.
        unchanged: u64,
        /// Microseconds from [`ToBroker::Drained`] to here.
        micros: u64,
    },
    /// The lease ends early: the client drains and releases, or is ended when the grace time is over.
    Revoked {
        /// The lease.
        lease: u64,
        /// One sentence that says why.
        text: String,
        /// Seconds until the broker ends the process.
        grace: f64,
    },
    /// The range can be punched.
    Forgotten {
        /// The range.
        range: Range,
    },
    /// The host memory is the client's.
    Reserved {
        /// Bytes, in all.
        bytes: u64,
    },
    /// The host memory can't be had; what was reserved before stays.
    NotReserved {
        /// Bytes that were asked for.
        bytes: u64,
        /// One sentence with the numbers and a remedy.
        text: String,
    },
    /// The answer to [`ToBroker::Status`], in as many packets as needed.
    Report {
        /// A piece of the JSON text.
        json: String,
        /// Whether another piece follows.
        more: bool,
    },
    /// The last packet before the broker closes the connection, if there is room for it.
    Closing {
        /// Why.
        reason: Reason,
        /// One sentence with a remedy.
        text: String,
    },
    /// The answer to [`ToBroker::TakeBack`].
    TakenBack {
        /// Whether a lease ends.
        done: bool,
        /// One sentence: which, or why not.
        text: String,
    },
}
