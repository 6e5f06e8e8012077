//! All that knows axum: routes, one file per resource, and what stands before them.

mod accounts;
mod aliases;
mod analytics;
mod artifacts;
mod auth;
mod backups;
mod board;
mod body_digest;
mod cleanup;
pub mod client;
mod docs;
mod documents;
mod events;
mod extract;
mod figures;
mod files;
mod health;
mod history;
mod hocuspocus;
mod idempotency;
mod index;
mod insights;
mod invites;
mod job_batch;
mod job_output;
mod jobs;
mod languages;
mod layers;
mod limits;
mod members;
mod memory;
mod messages;
mod occupancy;
pub mod operations;
mod page;
mod places;
pub mod problem;
mod problem_kind;
mod prometheus;
mod queues;
mod refusals;
mod removed;
mod room_view;
mod rooms;
mod routes;
mod server;
mod sessions;
mod simulate;
mod socket_docs;
pub mod state;
#[cfg(test)]
mod tests;
pub mod trace;
mod tries;
mod users;
mod whole;
mod words;
mod ws;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use files::file_types;
pub use routes::document;
pub use state::App;

/// Serves until `shutdown`, then drains.
pub(crate) async fn run(app: App, listener: TcpListener, shutdown: CancellationToken) {
    figures::report_on(&app);
    let router = routes::router(app.clone());
    let stop = CancellationToken::new();
    let cut = CancellationToken::new();
    let drain = async {
        shutdown.cancelled().await;
        let deadline = Instant::now() + app.config.drain();
        // Still listening meanwhile: a client that is sent away must find the other gateways by way of a proxy that
        // can hear that this one is not ready.
        app.begin_drain();
        app.rooms.drain(app.config.drain()).await;
        stop.cancel();
        sleep_until(deadline).await;
        cut.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server::run(&app, router, listener, &stop, &cut) => {}
        () = drain => {}
    }
}
