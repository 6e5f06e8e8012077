//! The worker: takes jobs from the queue and does them.

pub mod sandbox;
