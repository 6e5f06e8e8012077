//! The gateway: HTTP and WebSockets in front, the ports behind. It holds no truth of its own.

pub mod config;
pub mod edge;
pub mod identity;
pub mod metrics;
pub mod room;
