//! The listener: takes connections, speaks HTTP/1.1 on each, and ends them in good order.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::state::App;
use crate::seats::Seat;

/// Longest head of a request, bytes; a longer one is answered 431. A body is read in pieces of this size at most.
const HEAD_MAX: usize = 64 * 1024;
/// After the system refused a connection (no file descriptors left), how long until the next try.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves until `stop`; then takes no more connections, lets each finish the request it is at, and at `cut` ends what
/// is still open. A connection that was upgraded to a WebSocket keeps its seat, but is not waited for: the room ends it.
pub async fn run(
    app: &App,
    router: Router,
    listener: TcpListener,
    stop: &CancellationToken,
    cut: &CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(app, &listener) => accepted,
            () = stop.cancelled() => break,
        };
        let connection = serve(app.clone(), router.clone(), accepted, stop.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
}

/// One connection and its seat. While all seats are taken nothing is accepted: newcomers wait in the backlog.
async fn accept(app: &App, listener: &TcpListener) -> Accepted {
    let seat = app.seats.take().await;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Accepted { stream, peer, seat },
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// The client was gone before it was accepted.
fn is_of_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn serve(
    app: App,
    router: Router,
    Accepted { stream, peer, seat }: Accepted,
    stop: CancellationToken,
) {
    // Small frames must leave at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    cut_off_who_reads_nothing(&stream, Some(app.config.slow_reader_timeout()));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(seat.clone());
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.header_timeout())
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        // Hands the stream out to the WebSocket handshake.
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client's doing (it went away, or spoke no HTTP), so no more than a debug line.
        tracing::debug!(%error, "connection ended");
    }
}

/// The kernel ends a connection whose peer takes nothing of what is sent for so long. `None`: it does not; a WebSocket's own
/// task looks after that, and tells why.
pub fn cut_off_who_reads_nothing(stream: &TcpStream, after: Option<Duration>) {
    let after_ms = after.map_or(0, |after| u32::try_from(after.as_millis()).unwrap_or(0));
    if let Err(error) = set_tcp_user_timeout(stream, after_ms) {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
}
