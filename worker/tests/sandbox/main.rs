//! The sandbox from outside: real boxes on this machine.
//!
//! The binary is its own helper: `sandbox-init` as first argument makes it one. Two more make it a worker to be killed
//! and a worker without root.

mod abuse;
mod fixture;
mod gvisor;
mod landlock;
mod languages;
mod life;
mod limits;
mod ordinary;

use std::os::unix::process::CommandExt as _;

use libtest_mimic::Arguments;

/// In the worker's environment while tests run: what no box may ever find.
pub const SECRET: &str = "ATELIER_TEST_SECRET";
pub const SECRET_VALUE: &str = "correct-horse-battery-staple";

fn main() {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("sandbox-init") => atelier_worker::sandbox::init::main(),
        Some("be-a-worker") => life::be_a_worker(
            words
                .next()
                .and_then(|user| user.parse().ok())
                .unwrap_or_default(),
        ),
        Some("be-rootless") => life::be_rootless(),
        _ => {}
    }
    if std::env::var_os(SECRET).is_none() {
        // Set before the process starts, so that it is where the kernel shows a process's environment.
        let Ok(me) = std::env::current_exe() else {
            panic!("the test binary can't find itself")
        };
        let error = std::process::Command::new(me)
            .args(std::env::args_os().skip(1))
            .env(SECRET, SECRET_VALUE)
            .exec();
        panic!("the test binary can't start again: {error}");
    }
    let arguments = Arguments::from_args();
    let mut tests = Vec::new();
    tests.extend(ordinary::tests());
    tests.extend(languages::tests());
    tests.extend(limits::tests());
    tests.extend(life::tests());
    tests.extend(landlock::tests());
    tests.extend(gvisor::tests());
    tests.extend(abuse::tests());
    if arguments.list {
        libtest_mimic::run(&arguments, tests).exit();
    }
    fixture::shared();
    let _ = fixture::landlock();
    let conclusion = libtest_mimic::run(&arguments, tests);
    abuse::close();
    fixture::close_shared();
    conclusion.exit();
}
