//! Many Spaces on few cards, with kills and restarts, watched by the referee and the witness.
use crate::node::{Broker, Node, Shape, Space, Usage, LONG};
use crate::random::Random;
use crate::witness::Witness;
use anyhow::{ensure, Context, Result};
use std::time::{Duration, Instant};

/// Bytes of memory that a broker at rest may have more than before all that it did: its allocator keeps some for each thread.
pub const GROWS: u64 = 32 << 20;

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node.
    pub shape: Shape,
    /// Spaces at once.
    pub spaces: usize,
    /// Calls of a Space before it ends and another takes its place.
    pub calls: u64,
    /// For how long Spaces that have ended are replaced.
    pub time: Duration,
    /// They are replaced for longer, until there were so many kills and so many restarts.
    pub at_least: [u64; 2],
    /// Time between two kills of a Space, on average.
    pub kill_every: Option<Duration>,
    /// Time between two kills of the broker, on average; every third is asked to end instead.
    pub restart_every: Option<Duration>,
    /// A claim that waits longer starves, which is a fault.
    pub patience: Duration,
    /// Decides everything that is random.
    pub seed: u64,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Since the begin.
    pub time: Duration,
    /// Spaces started, ended well, and killed.
    pub started: u64,
    /// As above.
    pub ended: u64,
    /// As above.
    pub killed: u64,
    /// Brokers that were killed or asked to end.
    pub restarts: u64,
    /// Calls reported.
    pub calls: u64,
    /// Bytes compared.
    pub checked: u64,
    /// Leases granted.
    pub grants: u64,
    /// The longest wait of a lease that was granted, in seconds.
    pub longest_wait: f64,
    /// The longest call, with its wait, in milliseconds.
    pub longest_call: f64,
    /// Claims that wait now.
    pub waiting: usize,
    /// Resident bytes of the broker.
    pub resident: u64,
    /// Looks at the cards.
    pub looks: u64,
    /// Bytes that went to the cards, that were warm, that came home, that had not changed.
    pub bytes: [u64; 4],
}

/// Runs a plan; `progress` is told about every second. The tally, and what the broker used before and after.
///
/// # Errors
/// Everything that was wrong.
pub fn run(plan: &Plan, mut progress: impl FnMut(&Tally)) -> Result<(Tally, Usage, Usage)> {
    let node = Node::new(plan.shape.clone())?;
    let mut random = Random::new(plan.seed);
    // sizes are rounded up to pages
    let most = plan.shape.vram * 2 / 3;
    let mut broker = node.broker()?;
    let fresh = broker.usage()?;
    let witness = Witness::start(&node.cards())?;
    witness.broker_is(broker.pid());
    // once around, so that what is made at the first use is there
    node.planned(random.word(), most, 2)?.finish()?;
    node.wait_for_empty_cards()?;
    let before = settled(&broker, fresh, u64::MAX)?;
    let start = Instant::now();
    let soon = |every: Option<Duration>, random: &mut Random| {
        every.map(|every| Instant::now() + every.mul_f64(random.between(1, 200) as f64 / 100.0))
    };
    let mut next_kill = soon(plan.kill_every, &mut random);
    let mut next_restart = soon(plan.restart_every, &mut random);
    let mut next_word = start + Duration::from_secs(1);
    let mut tally = Tally::default();
    let mut spaces: Vec<Space> = Vec::new();
    loop {
        let [kills, restarts] = plan.at_least;
        let enough = tally.started >= plan.spaces as u64 && tally.killed >= kills && tally.restarts >= restarts;
        let over = enough && start.elapsed() >= plan.time;
        while !over && spaces.len() < plan.spaces {
            spaces.push(node.planned(random.word(), most, plan.calls)?);
            tally.started += 1;
        }
        let mut i = 0;
        while i < spaces.len() {
            note(&mut tally, &spaces[i])?;
            if spaces[i].has_ended()? {
                let space = spaces.swap_remove(i);
                let last = space.finish()?;
                tally.checked += last["checked"].as_u64().unwrap_or(0);
                tally.ended += 1;
            } else {
                i += 1;
            }
        }
        if next_kill.is_some_and(|at| at <= Instant::now()) && !spaces.is_empty() {
            let which = random.below(spaces.len());
            spaces.swap_remove(which).kill()?;
            tally.killed += 1;
            next_kill = soon(plan.kill_every.filter(|_| !over), &mut random);
        }
        if next_restart.is_some_and(|at| at <= Instant::now()) {
            match random.once_in(3) {
                true => broker.terminate()?,
                false => broker.kill()?,
            }
            tally.restarts += 1;
            std::thread::sleep(Duration::from_millis(random.below(300) as u64));
            broker = node.broker()?;
            witness.broker_is(broker.pid());
            next_restart = soon(plan.restart_every.filter(|_| !over), &mut random);
        }
        node.log().judge(&witness.faults())?;
        let waited = node.log().look().patience();
        ensure!(waited < plan.patience.as_secs_f64(), "a claim has waited for {waited:.1} s: nobody may starve");
        if next_word <= Instant::now() {
            next_word += Duration::from_secs(1);
            fill_in(&mut tally, start, &node, &witness, broker.usage()?);
            progress(&tally);
        }
        if spaces.is_empty() && over {
            break;
        }
        ensure!(start.elapsed() < plan.time + LONG * 5, "{} Spaces do not end", spaces.len());
        std::thread::sleep(Duration::from_millis(3));
    }
    node.wait_for_empty_cards()?;
    node.log().wait("no lease and no claim is left", |log| log.held() == 0 && log.waiting() == 0)?;
    // the last broker, after all that it has done, against the first at rest
    let after = settled(&broker, before, GROWS)?;
    // to the last line of its log
    broker.terminate()?;
    fill_in(&mut tally, start, &node, &witness, after);
    node.log().judge(&witness.faults())?;
    Ok((tally, before, after))
}

/// What the broker uses once all Spaces are gone; waits for what it lets go of in its own time.
///
/// # Errors
/// If it keeps descriptors, threads or mapped files of Spaces that are gone, with their names, or `grows` bytes of memory more.
pub fn settled(broker: &Broker, before: Usage, grows: u64) -> Result<Usage> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = broker.usage()?;
        let few = now.files <= before.files && now.threads <= before.threads && now.mapped <= before.mapped;
        if few && now.resident < before.resident.saturating_add(grows) {
            return Ok(now);
        }
        ensure!(
            Instant::now() < end,
            "the broker kept something. Before: {before}; now: {now}\n{}",
            broker.belongings()?
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn note(tally: &mut Tally, space: &Space) -> Result<()> {
    for line in space.said() {
        ensure!(line.get("error").is_none(), "a Space failed: {line}\n{}", space.complaints());
        tally.calls += line.get("call").is_some() as u64;
        tally.checked += line["checked"].as_u64().context("an odd line")?;
        tally.longest_call = tally.longest_call.max(line["ms"].as_f64().unwrap_or(0.0));
    }
    Ok(())
}

fn fill_in(tally: &mut Tally, start: Instant, node: &Node, witness: &Witness, usage: Usage) {
    let log = node.log().look();
    tally.time = start.elapsed();
    (tally.grants, tally.longest_wait, tally.waiting, tally.bytes) =
        (log.grants, log.longest_wait, log.waiting(), log.bytes);
    (tally.looks, tally.resident) = (witness.looks(), usage.resident);
}
