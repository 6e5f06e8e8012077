//! A live room: its task, its feed, its people, and the sockets that follow it.
//!
//! [`Rooms`] is the door. One task ([`actor`]) owns each room that has connections here; everybody else holds a cheap
//! handle (`registry::Handle`). Sockets are written by the room's fan-out ([`fanout`]) and drained by their own task ([`session`]).

mod actor;
mod admission;
mod attachments;
mod connection;
mod document;
mod durable;
mod entries;
mod epoch;
mod fanout;
pub mod json;
mod messages;
mod names;
mod past;
mod pending;
mod people;
mod registry;
mod ring;
mod roles;
mod run;
mod session;
mod signals;
mod simulated;
pub mod standing;
mod submit;
mod upkeep;
mod websocket;

pub use admission::{Admission, AdmissionError, Newcomer};
pub use document::DocumentSnapshot;
pub use registry::Rooms;
