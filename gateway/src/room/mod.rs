//! A live room: its task, its feed, its people, and the sockets that follow it.
//!
//! [`Rooms`] is the door. One task ([`actor`]) owns each room that has connections here; everybody else holds a cheap
//! handle (`registry::Handle`). Sockets are written by the room's fan-out ([`fanout`]) and drained by their own task ([`session`]).

mod actor;
mod admission;
mod again;
mod appending;
mod attachments;
mod coming;
mod command;
mod connection;
mod dialect;
mod document;
mod done;
mod drawing;
mod durable;
mod entries;
mod epoch;
mod fanout;
mod follower;
#[cfg(test)]
mod fuzz;
mod ghosts;
pub mod json;
mod leaving;
mod loading;
mod lost;
mod messages;
mod names;
mod outbound;
mod pace;
mod past;
mod pending;
mod people;
mod registry;
mod returning;
mod ring;
mod roles;
mod run;
pub mod sent_out;
mod session;
mod shared_socket;
mod signals;
mod simulated;
pub mod standing;
#[cfg(test)]
mod step_tests;
mod submit;
mod tried;
mod upkeep;
mod visits;
mod was_here;
mod websocket;
mod writing;
pub mod yjs;

pub use admission::{Admission, AdmissionError, Newcomer};
pub use connection::Speaks;
pub use document::DocumentSnapshot;
pub use names::claim_key;
pub use registry::Rooms;
pub use yjs::{Denied, Doorkeeper, Socket as HocuspocusSocket};
