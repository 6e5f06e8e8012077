//! The namespace driver: boxes made of user, mount, pid, network, ipc, uts and cgroup namespaces, kept ready by a
//! helper process and used once.

mod accounting;
mod driver;
mod inside;
mod keeper;
mod supervisor;
mod wire;

pub use accounting::AccountingChoice;
pub use driver::{NsConfig, NsSandbox};
pub(super) use supervisor::supervise;
