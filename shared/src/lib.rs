//! What gateway and worker share: the domain (data and pure rules), the ports (what the domain needs from the
//! world) and the one door to their adapters, [`Backends::open`].

mod adapters;
pub mod backends;
pub mod backups;
pub mod conclusion;
pub mod config;
pub mod costly;
pub mod domain;
pub mod outbox;
pub mod ports;
pub mod recovery;
pub mod removals;
pub mod visits;
pub mod withdrawal;

pub use backends::{Backends, Mode};
