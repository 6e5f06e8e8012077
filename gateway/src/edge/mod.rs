//! All that knows axum: routes, one file per resource, and what stands before them.

mod auth;
pub mod client;
mod extract;
mod health;
mod occupancy;
mod members;
mod page;
pub mod problem;
mod refusals;
mod room_view;
mod rooms;
mod sessions;
pub mod state;
pub mod trace;
pub mod ws;
