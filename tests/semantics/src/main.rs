//! `zerogpu-semantics [--real] [--no-kernels] TOPIC`: runs one topic on the driver that `ZEROGPU_TEST_DRIVER` names.
//! `zerogpu-semantics --list`: names the topics.
//! `zerogpu-semantics --hold`: takes most of the card until a line comes on standard input.
//! `zerogpu-semantics --cards`: prints the bytes and contexts on the software cards.
use std::path::PathBuf;
use std::process::ExitCode;
use zerogpu_semantics::{hold, print_cards, register_late_calls, Check, Driver, Traits, TOPICS};

fn main() -> ExitCode {
    let mut traits = Traits::default();
    let (mut name, mut holds) = (None, false);
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--list" => {
                TOPICS.iter().for_each(|topic| println!("{}", topic.name));
                return ExitCode::SUCCESS;
            }
            "--cards" => {
                print_cards();
                return ExitCode::SUCCESS;
            }
            "--hold" => holds = true,
            "--real" => traits.real = true,
            "--no-kernels" => traits.no_kernels = true,
            _ => name = Some(word),
        }
    }
    let topic = TOPICS.iter().find(|topic| Some(topic.name) == name.as_deref());
    if topic.is_none() && !holds {
        eprintln!("usage: zerogpu-semantics [--real] [--no-kernels] TOPIC, or --list");
        return ExitCode::from(2);
    }
    let Some(path) = std::env::var_os("ZEROGPU_TEST_DRIVER").map(PathBuf::from) else {
        eprintln!("ZEROGPU_TEST_DRIVER must name the driver library");
        return ExitCode::from(2);
    };
    register_late_calls();
    // Never unloaded: a driver stays for the life of its process.
    let driver: &'static Driver = Box::leak(Box::new(Driver::open(&path)));
    if holds {
        hold(driver);
    }
    let Some(topic) = topic else { return ExitCode::SUCCESS };
    let mut check = Check::new(traits);
    (topic.run)(driver, &mut check);
    let (made, failed) = check.counts();
    println!("{}: {made} checks, {failed} failed", topic.name);
    // a topic that checks nothing is a mistake of ours
    if failed == 0 && made > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
