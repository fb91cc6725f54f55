//! The node broker with real processes on software cards.
//!
//! | module | |
//! |---|---|
//! | [`program`] | what the process `zerogpu-node-space` does: it knows each byte that it should have |
//! | [`node`] | a broker and its Spaces, in a folder and on cards of their own |
//! | [`referee`] | reads the broker's log, and finds what breaks its promises |
//! | [`witness`] | looks at the cards from outside: who is on them, what is left behind |
//! | [`client`] | speaks the protocol by hand, well or badly |
//! | [`run`] | many Spaces, kills and restarts, for as long as wished |
pub mod client;
pub mod node;
pub mod program;
pub mod random;
pub mod referee;
pub mod run;
pub mod space;
pub mod witness;
