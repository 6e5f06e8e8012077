//! All that knows axum: routes, one file per resource, and what stands before them.

pub mod client;
mod occupancy;
pub mod problem;
pub mod state;
pub mod trace;
pub mod ws;
