//! Postgres, Redis, MongoDB and an object store.

pub mod archive;
pub mod files;
pub mod mongo;
pub mod postgres;
pub mod queue;
pub mod records;
pub mod redis;
pub mod vault;
