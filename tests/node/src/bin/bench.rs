//! What leases cost, as JSON; `scripts/bench --only node` shows it beside its targets. To be built with --release.
//!
//!     zerogpu-node-bench rounds CLIENTS CARDS COUNT BYTES
//!                                                     lease round trips a second, each client with so many bytes, and what the broker keeps of them
//!     zerogpu-node-bench warm COUNT                   microseconds that the broker adds to a claim whose bytes are on the card
//!     zerogpu-node-bench memory MIB                   milliseconds of claims and parks, with the broker and without
use anyhow::{bail, Result};
use zerogpu_node_tests::measure;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["rounds", clients, cards, count, bytes] => {
            measure::rounds(clients.parse()?, cards.parse()?, count.parse()?, bytes.parse()?)?
        }
        ["warm", count] => measure::warm(count.parse()?)?,
        ["memory", mib] => measure::memory(mib.parse()?)?,
        _ => bail!("usage: zerogpu-node-bench rounds CLIENTS CARDS COUNT BYTES | warm COUNT | memory MIB"),
    };
    println!("{found}");
    Ok(())
}
