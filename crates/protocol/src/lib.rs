//! What Spaces and the node broker say to each other, over a Unix `SOCK_SEQPACKET` socket.
//!
//! Spaces are other people's processes: nothing here starts a thread, raises or takes a signal, or leaves a descriptor
//! open across `exec`. `docs/protocol.md` describes the protocol for those who write another client.
//!
//! | for | |
//! |---|---|
//! | a client | [`default_socket`], [`Connection`], [`request_packets`], [`prefetch_packets`], [`seal`] |
//! | a broker | [`Listener`], [`Endpoint`], [`Request`], [`report_packets`], [`check_backing`], [`peer()`], [`pidfd`] |
#![warn(clippy::missing_errors_doc)]

mod address;
mod backing;
mod connection;
mod endpoint;
mod error;
mod hello;
mod limits;
mod listener;
mod message;
mod packet;
mod peer;
mod place;
mod request;
mod wire;

pub use backing::{check_backing, seal};
pub use connection::Connection;
pub use endpoint::Endpoint;
pub use error::Error;
pub use hello::{
    decode_answer, decode_hello, encode_answer, encode_hello, negotiate, Mismatch, Versions, MAGIC, VERSIONS,
};
pub use limits::*;
pub use listener::Listener;
pub use message::*;
pub use packet::{send, Packet};
pub use peer::{peer, pidfd, Peer};
pub use place::{default_socket, runtime_folder, SYSTEM_SOCKET};
pub use request::{prefetch_packets, report_packets, request_packets, Request};
pub use wire::{decode, encode, Malformed, Message};
