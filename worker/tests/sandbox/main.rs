//! The sandbox from outside: real boxes on this machine.
//!
//! The binary is its own helper: `sandbox-init` as first argument makes it one.

mod fixture;
mod languages;
mod ordinary;

use libtest_mimic::Arguments;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("sandbox-init") {
        atelier_worker::sandbox::init::main();
    }
    let arguments = Arguments::from_args();
    let mut tests = Vec::new();
    tests.extend(ordinary::tests());
    tests.extend(languages::tests());
    if arguments.list {
        libtest_mimic::run(&arguments, tests).exit();
    }
    fixture::shared();
    let conclusion = libtest_mimic::run(&arguments, tests);
    fixture::close_shared();
    conclusion.exit();
}
