//! The namespace driver: boxes made of user, mount, pid, network, ipc, uts and cgroup namespaces, kept ready by a
//! helper process and used once. Boxes without namespaces ([`landlock`](super::landlock)) are kept by the same helper.

pub(super) mod accounting;
mod driver;
pub(super) mod inside;
mod keeper;
mod kind;
mod supervisor;
mod wire;

pub use accounting::AccountingChoice;
pub use driver::{NsConfig, NsSandbox};
pub use kind::BoxKind;
pub(super) use supervisor::supervise;
