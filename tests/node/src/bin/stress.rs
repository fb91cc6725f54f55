//! The long run: many Spaces on few software cards, with kills, restarts of the broker and memory pressure.
//!
//!     zerogpu-node-stress run MINUTES SPACES CARDS SEED
//!     zerogpu-node-stress kills COUNT
use anyhow::{bail, ensure, Result};
use std::time::Duration;
use zerogpu_node_tests::kills;
use zerogpu_node_tests::node::Shape;
use zerogpu_node_tests::run::{run, Plan, Tally};

/// Progress is a line each so often.
const EVERY: u64 = 10;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["run", minutes, spaces, cards, seed] => {
            long_run(minutes.parse()?, spaces.parse()?, cards.parse()?, seed.parse()?)
        }
        ["kills", count] => {
            let found = kills::run(count.parse()?, |line| println!("{line}"))?;
            println!("{found}");
            ensure!(found.quantile(0.99) < 100.0, "a card is to be free within 100 ms of its holder's death");
            Ok(())
        }
        _ => bail!("usage: zerogpu-node-stress run MINUTES SPACES CARDS SEED | kills COUNT"),
    }
}

fn long_run(minutes: f64, spaces: usize, cards: u32, seed: u64) -> Result<()> {
    let plan = Plan {
        shape: Shape { cards, ..Shape::default() },
        spaces,
        calls: 8,
        time: Duration::from_secs_f64(minutes * 60.0),
        at_least: [0, 0],
        kill_every: Some(Duration::from_millis(400)),
        restart_every: Some(Duration::from_secs(30)),
        patience: Duration::from_secs(60),
        seed,
    };
    println!("{minutes} minutes, {spaces} Spaces, {cards} cards of {} MiB, seed {seed}", plan.shape.room >> 20);
    println!("| time | Spaces started | ended | killed | brokers ended | calls | leases | MiB checked | MiB in | warm | home | unchanged | longest wait | longest call | waiting | broker's memory |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut seconds = 0;
    let (tally, before, after) = run(&plan, |tally| {
        seconds += 1;
        if seconds % EVERY == 0 {
            println!("{}", row(tally));
        }
    })?;
    println!("{}", row(&tally));
    println!("\nEvery byte was right. Leases of a card never overlapped, in the log and in {} looks at the cards; their order was the policy's.", tally.looks);
    println!("The broker at rest, before: {before}; after: {after}.");
    Ok(())
}

fn row(t: &Tally) -> String {
    let [brought, warm, home, unchanged] = t.bytes.map(|bytes| bytes >> 20);
    format!(
        "| {} s | {} | {} | {} | {} | {} | {} | {} | {brought} | {warm} | {home} | {unchanged} | {:.2} s | {:.2} s | {} | {} MiB |",
        t.time.as_secs(),
        t.started,
        t.ended,
        t.killed,
        t.restarts,
        t.calls,
        t.grants,
        t.checked >> 20,
        t.longest_wait,
        t.longest_call / 1e3,
        t.waiting,
        t.resident >> 20
    )
}
