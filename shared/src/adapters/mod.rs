//! PRIVATE: how the promises are kept. `embedded/` and `distributed/` hold the same file names.

pub mod distributed;
pub mod embedded;
