//! The worker: takes jobs from the queue and does them.
//!
//! `runtime` puts a worker process together; `jobs` holds one file per kind of job; `bridge` lets apalis drive them from
//! our own queue; `sandbox` runs other people's code.

pub mod bridge;
pub mod config;
pub mod jobs;
mod runtime;
pub mod sandbox;

pub use config::WorkerConfig;
pub use runtime::schedule;
pub use runtime::{Worker, WorkerError, run};
