//! The epoch rule: brings a room's log and its archive into agreement before anything is written.
