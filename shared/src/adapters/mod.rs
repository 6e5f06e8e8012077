//! PRIVATE: how the promises are kept. `embedded/` and `distributed/` hold the same file names.

mod announcements;
mod archive;
pub mod distributed;
pub mod embedded;
mod fanout;
mod files;
mod migrations;
mod queries;
