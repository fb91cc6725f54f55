//! Real processes on shared cards: they race, fork, stop, and are killed at any instant.
//!
//! The executable plays both parts: started with `worker PATH`, it obeys lines on its standard input.

use libtest_mimic::{Arguments, Trial};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zerogpu_cards::{Cannot, Cards, Slot, Snapshot, Wish};

const SIZE: u64 = 1000;
const NAME: &str = "card";
/// The piece of memory that workers hold together.
const ID: u64 = 42;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "worker") {
        return worker(Path::new(&arguments[2]));
    }
    let tests: [(&str, fn()); 17] = [
        ("the_share_of_a_killed_process_is_free", the_share_of_a_killed_process_is_free),
        ("racing_processes_get_the_whole_card_and_no_more", racing_processes_get_the_whole_card_and_no_more),
        ("a_kill_at_any_instant_leaves_the_cards_whole", a_kill_at_any_instant_leaves_the_cards_whole),
        ("a_forked_child_owns_nothing_and_may_join", a_forked_child_owns_nothing_and_may_join),
        ("a_child_does_not_keep_its_dead_parents_share", a_child_does_not_keep_its_dead_parents_share),
        ("opening_and_looking_again_keeps_the_share", opening_and_looking_again_keeps_the_share),
        ("one_of_many_makers_wins", one_of_many_makers_wins),
        ("cards_are_made_anew_when_nobody_uses_them", cards_are_made_anew_when_nobody_uses_them),
        ("a_stopped_process_holds_up_nobody", a_stopped_process_holds_up_nobody),
        ("a_piece_counts_once_until_its_last_holder_is_gone", a_piece_counts_once_until_its_last_holder_is_gone),
        ("a_piece_has_to_fit_like_a_share", a_piece_has_to_fit_like_a_share),
        ("a_forked_child_holds_no_piece", a_forked_child_holds_no_piece),
        ("a_process_is_put_aside_and_brought_back", a_process_is_put_aside_and_brought_back),
        ("a_call_inside_is_waited_for", a_call_inside_is_waited_for),
        ("whoever_dies_meanwhile_is_in_nobody_s_way", whoever_dies_meanwhile_is_in_nobody_s_way),
        ("slots_run_out_with_an_error_and_come_back", slots_run_out_with_an_error_and_come_back),
        (
            "a_process_of_another_container_is_seen_by_its_id_here",
            a_process_of_another_container_is_seen_by_its_id_here,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

// The part of the worker.

fn worker(path: &Path) {
    let mut slot: Option<Slot> = None;
    let mut lines = std::io::stdin().lines();
    while let Some(line) = lines.next() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let command = words.next().unwrap();
        let number = words.next().map_or(0, |word| word.parse().unwrap());
        let answer = match command {
            "open" => show(Cards::open(path, 1, number, NAME)),
            "remake" => {
                let wish = Wish { vram: Some(number), ..Wish::default() };
                Cards::remake(path, wish, 1, SIZE, NAME)
                    .map_or_else(|e| e.to_string(), |cards| cards.vram().to_string())
            }
            "join" => match Cards::open(path, 1, SIZE, NAME).and_then(|cards| cards.join()) {
                Ok(joined) => {
                    slot = Some(joined);
                    "ok".to_string()
                }
                Err(error) => error.to_string(),
            },
            "leave" => {
                slot = None;
                "ok".to_string()
            }
            "take" => show(slot.as_ref().unwrap().take(0, number)),
            "give" => show(slot.as_ref().unwrap().give(0, number)),
            "hold" => show(slot.as_ref().unwrap().hold(0, number, ID)),
            "letgo" => show(slot.as_ref().unwrap().let_go(ID)),
            "aside" | "state" | "shut" | "put" | "back" | "reopen" => {
                order(slot.as_ref().unwrap(), command, number as u32)
            }
            "call" => {
                let inside = slot.as_ref().unwrap().enter();
                assert!(inside.is_some());
                println!("inside");
                // until the next line
                lines.next();
                drop(inside);
                "outside".to_string()
            }
            "look" => show(Cards::look(path).and_then(|cards| cards.snapshot())),
            "fork" => in_child(|| {
                let old = slot.take().unwrap();
                let mut report = format!("{:?} {:?} {:?}", old.take(0, 1), old.give(0, 1), old.contexts(0, 1));
                assert!(old.hold(0, 1, ID).is_err() && old.let_go(ID).is_err());
                drop(old);
                let joined = Cards::open(path, 1, SIZE, NAME).and_then(|cards| cards.join()).unwrap();
                report += &format!(" {:?} free {}", joined.take(0, 5), joined.free(0).unwrap());
                report
            }),
            "child" => spawn_waiting_child(),
            "churn" => churn(path, slot.take().unwrap()),
            other => panic!("unknown command {other}"),
        };
        println!("{answer}");
    }
}

fn show<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "ok".to_string())
}

/// Does something with another process.
fn order(slot: &Slot, command: &str, pid: u32) -> String {
    let told = |result: Result<(), Cannot>| result.map_or_else(|why| format!("{why:?}"), |()| "ok".to_string());
    match command {
        "shut" => told(slot.shut(pid, Some(Duration::from_millis(50)))),
        "put" => told(slot.put_aside(pid)),
        "back" => told(slot.bring_back(pid)),
        "reopen" => told(slot.open(pid)),
        "aside" => told(slot.shut(pid, None).and_then(|()| slot.put_aside(pid))),
        _ => format!("{:?}", slot.state_of(pid)),
    }
}

/// Runs `work` in a forked child, which prints what it says, and waits for its end.
fn in_child(work: impl FnOnce() -> String) -> String {
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { libc::fork() } {
        0 => {
            print!("{}", work());
            std::io::stdout().flush().unwrap();
            // SAFETY: _exit(2) ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waitpid(2) on the child above, into a status of this stack.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            format!(" status {status}")
        }
    }
}

/// A forked child that lives until its parent is gone and its standard input closed.
fn spawn_waiting_child() -> String {
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { libc::fork() } {
        0 => {
            // Opened anew: the parent's reading of it holds std's lock.
            std::io::copy(&mut std::fs::File::open("/dev/stdin").unwrap(), &mut std::io::sink()).unwrap();
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        pid => pid.to_string(),
    }
}

/// Takes, gives, leaves and joins until killed.
fn churn(path: &Path, slot: Slot) -> String {
    println!("churning");
    let cards = Cards::open(path, 1, SIZE, NAME).unwrap();
    let mut slot = slot;
    let mut random = u64::from(std::process::id()) | 1;
    loop {
        for _ in 0..50 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bytes = (random >> 33) % SIZE;
            slot.contexts(0, 1).unwrap();
            if slot.take(0, bytes).is_ok() {
                slot.give(0, bytes).unwrap();
            }
            // the same few pieces in all processes
            let (piece, id) = (bytes % 3 * 100 + 100, bytes % 3 + 1);
            if slot.hold(0, piece, id).is_ok() {
                assert!(slot.hold(0, piece, id).is_ok(), "what is held can be held again");
                slot.let_go(id).unwrap();
                slot.let_go(id).unwrap();
            }
            slot.contexts(0, -1).unwrap();
        }
        drop(slot);
        slot = cards.join().unwrap();
    }
}

// The part of the tests.

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(path: &Path) -> Worker {
        Worker::start_as(Command::new(std::env::current_exe().unwrap()), path)
    }

    fn start_as(mut command: Command, path: &Path) -> Worker {
        let mut child = command.arg("worker").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Worker { child, input, output }
    }

    fn joined(path: &Path) -> Worker {
        let mut worker = Worker::start(path);
        assert_eq!(worker.ask("join"), "ok");
        worker
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards");
    (folder, path)
}

fn look(path: &Path) -> Snapshot {
    Cards::look(path).unwrap().snapshot().unwrap()
}

fn cards_are_made_anew_when_nobody_uses_them() {
    let (_folder, path) = place();
    let mut user = Worker::start(&path);
    assert_eq!(user.ask(&format!("open {SIZE}")), "ok", "it looks, and may join later");
    let mut maker = Worker::start(&path);
    assert_eq!(maker.ask(&format!("remake {SIZE}")), SIZE.to_string(), "nothing to do");
    maker.kill();
    let mut maker = Worker::start(&path);
    assert!(maker.ask("remake 500").contains("of other sizes"));
    maker.kill();
    assert_eq!(user.ask("join"), "ok", "its cards are as they were");
    assert_eq!(user.ask("take 1000"), "ok");
    user.kill();
    let mut maker = Worker::start(&path);
    assert_eq!(maker.ask("remake 500"), "500");
    let mut user = Worker::start(&path);
    assert!(user.ask("join").contains("of other sizes"), "the maker uses them now");
    assert_eq!(look(&path), Snapshot::idle(1, 500, NAME), "what the dead held is gone");
}

fn the_share_of_a_killed_process_is_free() {
    let (_folder, path) = place();
    let (mut one, mut two) = (Worker::joined(&path), Worker::joined(&path));
    assert_eq!(one.ask("take 600"), "ok");
    assert_eq!(two.ask("take 600"), "the software card has 400 bytes free");
    let snapshot = look(&path);
    assert_eq!(snapshot.cards[0].bytes_used, 600);
    assert_eq!(snapshot.cards[0].processes[0].pid, one.child.id());
    one.kill();
    assert_eq!(look(&path), Snapshot::idle(1, SIZE, NAME), "seen from outside at once");
    assert_eq!(two.ask("take 600"), "ok");
}

fn racing_processes_get_the_whole_card_and_no_more() {
    let (_folder, path) = place();
    let mut workers: Vec<Worker> = (0..7).map(|_| Worker::joined(&path)).collect();
    for _ in 0..200 {
        for worker in &mut workers {
            worker.say("take 250");
        }
        let answers: Vec<String> = workers.iter_mut().map(Worker::hear).collect();
        let won: Vec<usize> = (0..7).filter(|&index| answers[index] == "ok").collect();
        assert_eq!(won.len(), 4, "{answers:?}");
        assert_eq!(look(&path).cards[0].bytes_used, SIZE);
        for &index in &won {
            assert_eq!(workers[index].ask("give 250"), "ok");
        }
    }
}

fn a_kill_at_any_instant_leaves_the_cards_whole() {
    let (_folder, path) = place();
    let mut steady = Worker::joined(&path);
    assert_eq!(steady.ask("take 100"), "ok");
    for round in 0..60u64 {
        let churners: Vec<Worker> = (0..3)
            .map(|_| {
                let mut churner = Worker::joined(&path);
                assert_eq!(churner.ask("churn"), "churning");
                churner
            })
            .collect();
        // An instant that differs from round to round; whichever it is, the same must hold.
        let until = Instant::now() + Duration::from_micros(round * 137 % 5000);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        for churner in churners {
            churner.kill();
        }
        let seen = look(&path);
        assert_eq!((seen.cards[0].bytes_used, seen.cards[0].processes.len()), (100, 1), "the steady one, nobody else");
        assert_eq!(steady.ask("take 900"), "ok", "round {round}: all that the dead had is free");
        assert_eq!(steady.ask("take 1"), "the software card has 0 bytes free");
        assert_eq!(steady.ask("give 900"), "ok");
    }
}

fn a_forked_child_owns_nothing_and_may_join() {
    let (_folder, path) = place();
    let mut worker = Worker::joined(&path);
    assert_eq!(worker.ask("take 300"), "ok");
    assert_eq!(worker.ask("fork"), "Err(Forked) Err(Forked) Err(Forked) Ok(()) free 695 status 0");
    let seen = look(&path);
    assert_eq!(seen.cards[0].processes.len(), 1, "the child is gone, and took only its own share along");
    assert_eq!((seen.cards[0].bytes_used, seen.cards[0].processes[0].pid), (300, worker.child.id()));
    assert_eq!(worker.ask("take 700"), "ok", "the parent's slot works on");
}

fn a_child_does_not_keep_its_dead_parents_share() {
    let (_folder, path) = place();
    let (mut parent, mut other) = (Worker::joined(&path), Worker::joined(&path));
    assert_eq!(parent.ask("take 1000"), "ok");
    let child: i32 = parent.ask("child").parse().unwrap();
    parent.child.kill().unwrap();
    parent.child.wait().unwrap();
    // SAFETY: kill(2) with signal 0 asks whether the process is there.
    assert_eq!(unsafe { libc::kill(child, 0) }, 0, "the child waits for the input that this test still holds");
    assert_eq!(other.ask("take 1000"), "ok");
}

fn opening_and_looking_again_keeps_the_share() {
    let (_folder, path) = place();
    let mut worker = Worker::joined(&path);
    assert_eq!(worker.ask("take 300"), "ok");
    assert_eq!(worker.ask("open 1000"), "ok");
    assert_eq!(worker.ask("look"), "ok");
    assert_eq!(worker.ask("join"), "this process has its slot on the software cards");
    assert!(worker.ask("open 7").contains("other sizes"));
    assert_eq!(look(&path).cards[0].bytes_used, 300, "no descriptor was closed: the lock stands");
    assert_eq!(worker.ask("leave"), "ok");
    assert_eq!(look(&path), Snapshot::idle(1, SIZE, NAME));
}

fn one_of_many_makers_wins() {
    for _ in 0..20 {
        let (_folder, path) = place();
        let mut makers: Vec<Worker> = (0..6).map(|_| Worker::start(&path)).collect();
        for (index, maker) in makers.iter_mut().enumerate() {
            maker.say(&format!("open {}", 1000 + index % 2));
        }
        let answers: Vec<String> = makers.iter_mut().map(Worker::hear).collect();
        assert_eq!(answers.iter().filter(|answer| *answer == "ok").count(), 3, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.contains("other sizes")).count(), 3, "{answers:?}");
    }
}

fn a_stopped_process_holds_up_nobody() {
    let (_folder, path) = place();
    let mut steady = Worker::joined(&path);
    for round in 0..20u64 {
        let mut churner = Worker::joined(&path);
        assert_eq!(churner.ask("churn"), "churning");
        let until = Instant::now() + Duration::from_micros(round * 171);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        churner.signal(libc::SIGSTOP);
        let answer = steady.ask("take 1000");
        assert!(answer == "ok" || answer.ends_with("bytes free"), "{answer}");
        if answer == "ok" {
            assert_eq!(steady.ask("give 1000"), "ok");
        }
        let mut third = Worker::joined(&path);
        assert_eq!(third.ask("leave"), "ok");
        churner.kill();
    }
    assert_eq!(steady.ask("take 1000"), "ok");
}

fn a_piece_counts_once_until_its_last_holder_is_gone() {
    let (_folder, path) = place();
    let (mut one, mut two, mut three) = (Worker::joined(&path), Worker::joined(&path), Worker::joined(&path));
    let shown = || {
        let card = look(&path).cards.remove(0);
        assert_eq!(card.bytes_used, card.processes.iter().map(|process| process.bytes_used).sum::<u64>());
        card.processes.iter().map(|process| (process.pid, process.bytes_used)).collect::<Vec<_>>()
    };
    assert_eq!(two.ask("hold 600"), "ok");
    assert_eq!(one.ask("hold 600"), "ok");
    assert_eq!(one.ask("hold 600"), "ok", "twice in one process");
    assert_eq!(shown(), [(two.child.id(), 600)], "as its maker's");
    assert_eq!(three.ask("take 401"), "the software card has 400 bytes free");
    assert_eq!(three.ask("take 400"), "ok");
    assert_eq!(three.ask("give 400"), "ok");
    two.kill();
    assert_eq!(shown(), [(one.child.id(), 600)], "then as who still holds it");
    assert_eq!(three.ask("take 401"), "the software card has 400 bytes free");
    let mut four = Worker::joined(&path);
    assert_eq!(shown(), [(one.child.id(), 600)], "not as who got the dead one's slot");
    assert_eq!(four.ask("hold 600"), "ok");
    assert_eq!(one.ask("letgo"), "ok");
    assert_eq!(one.ask("letgo"), "ok");
    assert_eq!(one.ask("letgo"), "more was given back to the software card than this process has");
    assert_eq!(shown(), [(four.child.id(), 600)]);
    four.kill();
    assert_eq!(look(&path), Snapshot::idle(1, SIZE, NAME), "seen from outside at once");
    assert_eq!(three.ask("take 1000"), "ok");
    assert_eq!(one.ask("hold 600"), "the software card has 0 bytes free", "the id alone keeps nothing");
    assert_eq!(three.ask("leave"), "ok");
    assert_eq!(one.ask("hold 1000"), "ok");
    assert_eq!(one.ask("leave"), "ok");
    assert_eq!(look(&path), Snapshot::idle(1, SIZE, NAME), "a slot takes its pieces along");
}

fn a_piece_has_to_fit_like_a_share() {
    let (_folder, path) = place();
    let (mut one, mut two) = (Worker::joined(&path), Worker::joined(&path));
    assert_eq!(one.ask("take 500"), "ok");
    assert_eq!(two.ask("hold 501"), "the software card has 500 bytes free");
    assert_eq!(two.ask("hold 500"), "ok");
    assert_eq!(one.ask("hold 500"), "ok", "a full card has room for what is on it");
    one.kill();
    assert_eq!(two.ask("take 501"), "the software card has 500 bytes free");
    assert_eq!(two.ask("take 500"), "ok");
    assert_eq!(two.ask("hold 0"), "the software card has 0 bytes free");
}

fn a_forked_child_holds_no_piece() {
    let (_folder, path) = place();
    let mut parent = Worker::joined(&path);
    assert_eq!(parent.ask("hold 300"), "ok");
    let child: i32 = parent.ask("child").parse().unwrap();
    let mut other = Worker::joined(&path);
    assert_eq!(other.ask("take 701"), "the software card has 700 bytes free");
    parent.child.kill().unwrap();
    parent.child.wait().unwrap();
    // SAFETY: kill(2) with signal 0 asks whether the process is there.
    assert_eq!(unsafe { libc::kill(child, 0) }, 0, "the child waits for the input that this test still holds");
    assert_eq!(other.ask("take 1000"), "ok");
}

fn a_process_is_put_aside_and_brought_back() {
    let (_folder, path) = place();
    let (mut one, mut two) = (Worker::joined(&path), Worker::joined(&path));
    let pid = one.child.id();
    assert_eq!(one.ask("take 600"), "ok");
    let order = |two: &mut Worker, what: &str| two.ask(&format!("{what} {pid}"));
    assert_eq!(order(&mut two, "state"), "Ok(Running)");
    for early in ["put", "back", "reopen"] {
        assert_eq!(order(&mut two, early), "State(Running)", "{early}");
    }
    assert_eq!(order(&mut two, "shut"), "ok");
    assert_eq!(order(&mut two, "shut"), "State(Shut)");
    assert_eq!(order(&mut two, "state"), "Ok(Shut)");
    assert_eq!(look(&path).cards[0].bytes_used, 600, "it has what it had");
    assert_eq!(order(&mut two, "put"), "ok");
    assert_eq!(order(&mut two, "state"), "Ok(Aside)");
    assert_eq!(look(&path), Snapshot::idle(1, SIZE, NAME));
    assert_eq!(order(&mut two, "reopen"), "State(Aside)");
    assert_eq!(two.ask("take 401"), "ok", "its room is free");
    assert_eq!(order(&mut two, "back"), "Full");
    assert_eq!(order(&mut two, "state"), "Ok(Aside)");
    assert_eq!(look(&path).cards[0].bytes_used, 401, "what does not fit is nowhere");
    assert_eq!(two.ask("give 1"), "ok");
    assert_eq!(order(&mut two, "back"), "ok");
    assert_eq!(look(&path).cards[0].bytes_used, 1000);
    // a call waits until the door is open, and then goes on
    one.say("call");
    assert_eq!(order(&mut two, "reopen"), "ok");
    assert_eq!(one.hear(), "inside");
    assert_eq!(one.ask("go"), "outside");
    assert_eq!(one.ask("give 600"), "ok");
    assert_eq!(two.ask("take 600"), "ok");
    let own = two.child.id();
    assert_eq!(two.ask(&format!("shut {own}")), "Itself");
    assert_eq!(two.ask("shut 1"), "Gone", "no user of the cards");
    assert_eq!(two.ask("hold 1"), "the software card has 0 bytes free");
    assert_eq!(two.ask("give 600"), "ok");
    assert_eq!(one.ask("hold 100"), "ok");
    assert_eq!(two.ask(&format!("aside {pid}")), "Shared");
}

fn a_call_inside_is_waited_for() {
    let (_folder, path) = place();
    let (mut one, mut two) = (Worker::joined(&path), Worker::joined(&path));
    let pid = one.child.id();
    assert_eq!(one.ask("call"), "inside");
    assert_eq!(two.ask(&format!("shut {pid}")), "Busy");
    assert_eq!(two.ask(&format!("state {pid}")), "Ok(Running)");
    two.say(&format!("aside {pid}"));
    one.say("go");
    assert_eq!(two.hear(), "ok", "without a limit of time it waits for the call's end");
    assert_eq!(one.hear(), "outside");
}

fn whoever_dies_meanwhile_is_in_nobody_s_way() {
    let (_folder, path) = place();
    let (mut one, mut two, mut three) = (Worker::joined(&path), Worker::joined(&path), Worker::joined(&path));
    let pid = one.child.id();
    assert_eq!(one.ask("take 600"), "ok");
    // the one that puts aside: the process stays aside, and another brings it back
    assert_eq!(two.ask(&format!("aside {pid}")), "ok");
    two.kill();
    assert_eq!(three.ask(&format!("state {pid}")), "Ok(Aside)");
    assert_eq!(three.ask(&format!("back {pid}")), "ok");
    assert_eq!(three.ask(&format!("put {pid}")), "ok");
    // the one that was put aside: its slot is as good as new
    one.kill();
    assert_eq!(three.ask(&format!("back {pid}")), "Gone");
    let mut four = Worker::joined(&path);
    assert_eq!(four.ask("call"), "inside");
    assert_eq!(four.ask("go"), "outside");
    assert_eq!(four.ask("take 1000"), "ok");
    assert_eq!(look(&path).cards[0].bytes_used, 1000);
    // one that is inside of a call
    assert_eq!(four.ask("call"), "inside");
    three.say(&format!("aside {}", four.child.id()));
    four.kill();
    assert_eq!(three.hear(), "Gone");
}

fn slots_run_out_with_an_error_and_come_back() {
    let (_folder, path) = place();
    let mut worker = Worker::joined(&path);
    assert_eq!(worker.ask("leave"), "ok");
    // One process that locks the byte of each slot stands for as many processes as there are slots.
    let greedy = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: fcntl(2) with a lock of this stack on an open descriptor.
    let locked = unsafe {
        let mut all: libc::flock = std::mem::zeroed();
        all.l_type = libc::F_WRLCK as libc::c_short;
        (all.l_start, all.l_len) = (4096, 4096);
        libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&greedy), libc::F_SETLK, &all)
    };
    assert_eq!(locked, 0);
    assert_eq!(worker.ask("join"), "512 processes use the software cards; end one of them");
    drop(greedy);
    assert_eq!(worker.ask("join"), "ok");
}

/// In a pid namespace of its own, as a container's processes are. Where that is not allowed there is nothing to see.
fn a_process_of_another_container_is_seen_by_its_id_here() {
    let allowed = Command::new("unshare").args(["--pid", "--fork", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        assert_ne!(std::env::var("ZEROGPU_TEST_STRICT").as_deref(), Ok("1"), "no pid namespace can be made here");
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    let (_folder, path) = place();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
    let mut inside = Worker::start_as(command, &path);
    assert_eq!(inside.ask("join"), "ok");
    assert_eq!(inside.ask("take 300"), "ok");
    let children = format!("/proc/{0}/task/{0}/children", inside.child.id());
    let seen_here: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let seen = look(&path);
    assert_eq!((seen.cards[0].bytes_used, seen.cards[0].processes[0].pid), (300, seen_here));
}
