//! How much one caller may ask in a while, by class of route: a person by their token, anybody else by their address.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::client::{ClientAddress, Verified, bearer};
use super::problem::Problem;
use super::state::App;
use crate::config::GatewayConfig;
use crate::identity::{ADMINISTRATOR, Principal};

/// What routes cost alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Read,
    Write,
    Upload,
    /// Whatever hands out tokens or tries codes: counted by address, whoever asks.
    Entry,
}

impl Class {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Upload => "upload",
            Self::Entry => "entry",
        }
    }

    /// So many in so long.
    fn limit(self, config: &GatewayConfig) -> (u32, Duration) {
        const SHORT: Duration = Duration::from_secs(10);
        const MINUTE: Duration = Duration::from_secs(60);
        match self {
            Self::Read => (config.rate_reads, SHORT),
            Self::Write => (config.rate_writes, SHORT),
            Self::Upload => (config.rate_uploads, MINUTE),
            Self::Entry => (config.rate_entries, MINUTE),
        }
    }

    /// `None`: not limited here. Sockets have their own limits; probes and scrapes must always get through.
    fn of(method: &Method, path: &str, headers: &HeaderMap) -> Option<Self> {
        let bare = path
            .strip_prefix("/api/v1")
            .or_else(|| path.strip_prefix("/api"))
            .unwrap_or(path);
        let socket = matches!(
            bare,
            "/rooms/{room_id}/ws"
                | "/ws/{room_id}"
                | "/ws/session/{session_id}"
                | "/yjs/{room_id}"
                | "/hocuspocus"
                | "/hocuspocus/"
        );
        if socket && headers.contains_key(header::UPGRADE)
            || matches!(bare, "/health" | "/livez" | "/readyz" | "/metrics")
        {
            return None;
        }
        if bare.starts_with("/invites/")
            || matches!(
                bare,
                "/auth/login" | "/auth/register" | "/auth/guest" | "/auth/refresh"
            )
        {
            return Some(Self::Entry);
        }
        match *method {
            Method::OPTIONS => None,
            Method::GET | Method::HEAD => Some(Self::Read),
            _ if bare == "/upload" => Some(Self::Upload),
            _ => Some(Self::Write),
        }
    }
}

/// Whose token it is, if it is good; also told to whoever asks for the caller further in.
fn person(app: &App, request: &mut Request) -> Option<Principal> {
    let token = bearer(request.headers()).ok().flatten()?;
    let person = app.identity.verify(token).ok()?;
    request.extensions_mut().insert(Verified(person.clone()));
    Some(person)
}

/// Whom a request counts against; `None`: the administrator's token, which is not limited.
fn caller(app: &App, request: &mut Request, class: Class) -> Option<String> {
    match person(app, request) {
        Some(person) if person.user_id == ADMINISTRATOR => return None,
        Some(person) if class != Class::Entry => {
            return Some(format!("limit:{}:person:{}", class.word(), person.user_id));
        }
        _ => {}
    }
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    let address = ClientAddress::of(&app.config, peer.ip(), request.headers());
    Some(format!("limit:{}:address:{}", class.word(), address.0))
}

pub async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let class = Class::of(request.method(), path, request.headers());
    let Some((class, caller)) =
        class.and_then(|class| Some((class, caller(&app, &mut request, class)?)))
    else {
        return next.run(request).await;
    };
    let (limit, window) = class.limit(&app.config);
    let spent = match app.backends.vault.spend(&caller, limit, window).await {
        Ok(spent) => spent,
        // Better unlimited for a moment than closed.
        Err(error) => {
            tracing::warn!(%error, "a limit could not be counted");
            return next.run(request).await;
        }
    };
    let mut response = if spent.allowed {
        next.run(request).await
    } else {
        Problem::rate_limited(spent.reset).into_response()
    };
    let word = class.word();
    let policy = format!("\"{word}\";q={limit};w={}", window.as_secs());
    let seconds = spent.reset.as_millis().div_ceil(1_000).max(1);
    let state = format!("\"{word}\";r={};t={seconds}", spent.remaining);
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        // A handler that refused by a limit of its own has said so already.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().entry(name).or_insert(value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_fall_into_their_classes_under_every_prefix() {
        let none = HeaderMap::new();
        for (method, path, class) in [
            (Method::GET, "/api/v1/rooms", Some(Class::Read)),
            (Method::POST, "/api/rooms", Some(Class::Write)),
            (Method::POST, "/upload", Some(Class::Upload)),
            (Method::POST, "/api/v1/upload", Some(Class::Upload)),
            (Method::POST, "/api/auth/login", Some(Class::Entry)),
            (Method::GET, "/api/v1/invites/{code}", Some(Class::Entry)),
            (Method::GET, "/health", None),
            (Method::GET, "/api/metrics", None),
            (Method::OPTIONS, "/api/v1/rooms", None),
            (Method::GET, "", Some(Class::Read)),
        ] {
            assert_eq!(Class::of(&method, path, &none), class, "{method} {path}");
        }
        let mut socket = HeaderMap::new();
        socket.insert("upgrade", HeaderValue::from_static("websocket"));
        for path in [
            "/ws/{room_id}",
            "/api/ws/{room_id}",
            "/ws/session/{session_id}",
            "/api/v1/rooms/{room_id}/ws",
            "/api/rooms/{room_id}/ws",
            "/yjs/{room_id}",
            "/hocuspocus",
        ] {
            assert_eq!(Class::of(&Method::GET, path, &socket), None, "{path}");
            assert_eq!(Class::of(&Method::GET, path, &none), Some(Class::Read));
        }
        // That somebody would like to upgrade makes no other route free.
        for (method, path, class) in [
            (Method::POST, "/api/auth/refresh", Class::Entry),
            (Method::POST, "/upload", Class::Upload),
            (Method::GET, "/ws/stats", Class::Read),
        ] {
            assert_eq!(Class::of(&method, path, &socket), Some(class), "{path}");
        }
    }
}
