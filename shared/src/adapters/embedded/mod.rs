//! Everything in one process: SQLite files in the data folder, and memory.

pub mod archive;
pub mod files;
pub mod live_output;
pub mod once;
pub mod presence;
pub mod queue;
pub mod records;
pub mod room_log;
pub mod sqlite;
pub mod vault;
pub mod vault_memory;
