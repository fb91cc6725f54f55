//! The command line, as a user types it. The libraries here are stand-ins with the right names: what the real ones do is
//! tested elsewhere. Only the broker's tests use the software driver, as cargo built it.
//!
//! Started as `traced`, this executable is a program that traces itself and is then killed.

mod broker;
mod doctor;
mod env;
mod run;
mod soft_smi;
mod stage;
mod trace;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("traced") {
        return run::traced_program();
    }
    let groups = [
        ("run", run::TESTS),
        ("env", env::TESTS),
        ("doctor", doctor::TESTS),
        ("soft_smi", soft_smi::TESTS),
        ("broker", broker::TESTS),
        ("trace", trace::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        tests.iter().map(move |(name, test)| {
            Trial::test(format!("{group}::{name}"), move || {
                test();
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
