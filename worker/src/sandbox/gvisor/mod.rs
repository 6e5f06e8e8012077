//! The gVisor driver: every step in a kernel of its own, by the `runsc` of this machine, spoken to as its documentation
//! says (`runsc run`, `kill`, `delete`, `events --stats`) with an OCI bundle made for each step.
//!
//! Much slower to start than a box of the helper's, and stronger: a program never speaks to the host's kernel.

mod bundle;
mod driver;
mod runsc;
mod step;

pub use driver::{GvisorConfig, GvisorSandbox};
