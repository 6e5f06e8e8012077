//! Postgres, Redis, MongoDB and an object store.

pub mod archive;
pub mod files;
mod keys;
mod listener;
pub mod live_output;
mod memory;
pub mod mongo;
pub mod postgres;
pub mod presence;
pub mod queue;
pub mod records;
pub mod redis;
mod replica;
pub mod room_log;
mod script;
mod silence;
pub mod vault;
pub mod wake;
mod watchdog;
