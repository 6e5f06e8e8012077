//! What takes the place of namespaces where a pod forbids them: Landlock rules, a narrower seccomp filter, a user of the
//! box's own where the worker is root, and the helper watching processes and files.
//!
//! The helper, its boxes and their conversation are those of [`ns`](super::ns); what differs is which walls a box puts
//! up ([`walls`]) and who ends what is left of it ([`fence`]). One program runs at a time. What such a box can't hide:
//! that files and processes of the host exist (their names where a path is guessed, never their content), the kernel's
//! version and the machine's load; and without root the worker's own files can be given other modes and times.

pub mod fence;
pub mod folder;
pub mod tree;
pub mod walls;
