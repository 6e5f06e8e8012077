//! What stories are told with: the program's processes, its stores, clients that remember all they see, and waiting.

pub mod client;
pub mod cluster;
pub mod door;
pub mod editor;
pub mod process;
pub mod proxy;
pub mod puppets;
pub mod rest;
pub mod stall;
pub mod stores;
pub mod story;
pub mod stream;
pub mod wait;
pub mod yjs;

pub use atelier_shared::Mode;
pub use client::Client;
pub use cluster::{ADMIN_TOKEN, Cluster, Options};
pub use door::{ADDRESSES, Address, Door};
pub use puppets::{NODE, PYTHON, Puppets, packages};
pub use rest::{Answer, Person, Rest};
pub use story::{Stories, Story};
pub use stream::{Safe, Stream};
pub use wait::{PATIENCE, SOON, until};

/// How a story ends: the error says what was seen instead of what was promised.
pub type Told = anyhow::Result<()>;

/// A name nobody else uses: stories run at the same time, some on the same processes.
pub fn fresh(prefix: &str) -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &unique[..12])
}
