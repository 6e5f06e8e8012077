//! The binary dialects: y-websocket's messages, and Hocuspocus's envelope around the same ones.
//!
//! [`lib0`] is the encoding, [`message`] and [`hocuspocus`] what is said in it, [`awareness`] who is shown to be here,
//! [`people`] what the room's task does with it. Everything that reads outside bytes is total: an answer or [`lib0::Malformed`].

pub mod awareness;
mod channel;
pub mod hocuspocus;
pub mod lib0;
pub mod message;
mod people;
mod socket;
mod talk;

pub use people::Seen;
pub use socket::{Denied, Doorkeeper, Socket};
pub use talk::Heard;
