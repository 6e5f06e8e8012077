//! The worker: takes jobs from the queue and does them.

pub mod bridge;
pub mod jobs;
pub mod sandbox;
