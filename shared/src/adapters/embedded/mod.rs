//! Everything in one process: SQLite files in the data folder, and memory.

pub mod archive;
pub mod queue;
pub mod sqlite;
