//! The entry of the helper process: what `atelier sandbox-init` runs.

/// Becomes the sandbox's helper; never returns.
///
/// Must be called first thing in `main`, before any thread exists: the helper clones itself, and a clone of a
/// process with threads may hold a lock forever. Standard input is the control socket handed over by the worker;
/// started by hand, it says so and exits with 2.
pub fn main() -> ! {
    super::ns::supervise()
}
