//! `zerogpu-semantics [--real] [--no-kernels] TOPIC`: runs one topic on the driver that `ZEROGPU_TEST_DRIVER` names.
//! `zerogpu-semantics --list`: names the topics.
use std::path::PathBuf;
use std::process::ExitCode;
use zerogpu_semantics::{register_late_calls, Check, Driver, Traits, TOPICS};

fn main() -> ExitCode {
    let mut traits = Traits::default();
    let mut name = None;
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--list" => {
                TOPICS.iter().for_each(|topic| println!("{}", topic.name));
                return ExitCode::SUCCESS;
            }
            "--real" => traits.real = true,
            "--no-kernels" => traits.no_kernels = true,
            _ => name = Some(word),
        }
    }
    let Some(topic) = TOPICS.iter().find(|topic| Some(topic.name) == name.as_deref()) else {
        eprintln!("usage: zerogpu-semantics [--real] [--no-kernels] TOPIC, or --list");
        return ExitCode::from(2);
    };
    let Some(path) = std::env::var_os("ZEROGPU_TEST_DRIVER").map(PathBuf::from) else {
        eprintln!("ZEROGPU_TEST_DRIVER must name the driver library");
        return ExitCode::from(2);
    };
    register_late_calls();
    // Never unloaded: a driver stays for the life of its process.
    let driver: &'static Driver = Box::leak(Box::new(Driver::open(&path)));
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
