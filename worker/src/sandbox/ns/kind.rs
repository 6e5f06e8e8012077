//! The two kinds of boxes that the helper knows to build.

use serde::{Deserialize, Serialize};

/// What a box is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxKind {
    /// Namespaces of its own, and every other wall within them.
    #[default]
    Namespaces,
    /// Landlock rules and a narrower seccomp filter on the host's own file system; see
    /// [`landlock`](crate::sandbox::landlock).
    Landlock,
}

impl BoxKind {
    /// The driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "ns",
            Self::Landlock => "landlock",
        }
    }

    /// Every namespace a box is born into; its cgroup namespace follows when it is in its group.
    pub(super) fn namespaces(self) -> libc::c_int {
        match self {
            Self::Namespaces => {
                libc::CLONE_NEWUSER
                    | libc::CLONE_NEWNS
                    | libc::CLONE_NEWPID
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWUTS
            }
            Self::Landlock => 0,
        }
    }
}
