//! What every request passes: counting, security headers, CORS, panics, time.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::problem::{Kind, Problem};
use super::state::App;
use crate::config::{GatewayConfig, is_on_this_machine};
use crate::metrics::RequestLabels;

/// How long a browser may remember what CORS allowed.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);
/// For JSON: nothing in it may run or be framed.
const CSP_DATA: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
/// For our own pages: files of this server only; styles may stand in elements (Swagger UI sets them).
pub const CSP_PAGE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
);

/// For ReDoc, whose script stands in its page, and searches in a worker that it makes of itself.
pub const CSP_REDOC: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; worker-src blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
);

/// Counts the request under its route's template; a path nobody serves counts as `unmatched`.
pub async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = method_label(request.method());
    let response = next.run(request).await;
    let labels = RequestLabels {
        method,
        route,
        status: response.status().as_u16(),
    };
    app.metrics.request(labels, started.elapsed());
    response
}

/// Methods that anybody can make up share one label.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// Headers that every response carries; a page's own CSP stays.
pub async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(CSP_DATA);
    response
}

/// How long a request of this route may take until its answer begins.
pub fn patience(config: &GatewayConfig, request: &Extensions) -> Duration {
    let uploads = request
        .get::<MatchedPath>()
        .is_some_and(|path| path.as_str().ends_with("/upload"));
    // An upload has its own time, and answers a little after it is over.
    if uploads {
        config.upload_timeout() + config.request_timeout()
    } else {
        config.request_timeout()
    }
}

/// The answer must begin within REQUEST_TIMEOUT; a body that streams may take longer.
pub async fn in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let patience = patience(&app.config, request.extensions());
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => timed_out(),
    }
}

pub fn timed_out() -> Response {
    tracing::warn!("request timed out");
    Problem::new(
        Kind::Timeout,
        "The request took too long. It may have been carried out.",
    )
    .into_response()
}

/// A panic is a bug: logged with its message, told as an internal error.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(message, "a handler panicked");
    Problem::internal().into_response()
}

/// Which pages of other origins may read the answers; as [`GatewayConfig::origin_allowed`] has it for sockets.
pub fn cors(config: &GatewayConfig) -> CorsLayer {
    let any = config.cors_origins.iter().any(|origin| origin == "*");
    let unset = config.cors_origins.is_empty();
    let origins = if any {
        AllowOrigin::any()
    } else if unset {
        AllowOrigin::predicate(|origin, request| {
            let host = request.headers.get(header::HOST);
            let host = host.and_then(|host| host.to_str().ok());
            origin
                .to_str()
                .is_ok_and(|origin| is_on_this_machine(origin, host))
        })
    } else {
        AllowOrigin::list(
            config
                .cors_origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    CorsLayer::new()
        .allow_origin(origins)
        // A browser must not send what it keeps for us, unless the page is one that was named.
        .allow_credentials(!any && !unset)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        // Whatever a page sends along: none of it lets anybody in that a token does not.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            header::CONTENT_RANGE,
            header::CONTENT_DISPOSITION,
            header::ETAG,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
        ])
        .max_age(CORS_MAX_AGE)
}
