//! One span per request, named by its route, continuing the caller's trace; and the trace id that problems show.

use std::future::Future;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::global;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TraceContextExt;
use tracing::{Instrument, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

tokio::task_local! {
    static TRACE_ID: String;
}

/// The trace id of the request being answered; of zeros outside one.
pub fn current_id() -> String {
    TRACE_ID
        .try_with(Clone::clone)
        .unwrap_or_else(|_| "0".repeat(32))
}

/// W3C `traceparent` of the current span, for jobs. Where nothing is exported there is no span to name, but the request's
/// trace id still leads from its log lines to the job's result. `None` outside a request.
pub fn current_traceparent() -> Option<String> {
    if let Some(current) = crate::traceparent::of(&tracing::Span::current()) {
        return Some(current);
    }
    let parent = uuid::Uuid::new_v4().simple().to_string();
    TRACE_ID
        .try_with(|id| format!("00-{id}-{}-01", &parent[..16]))
        .ok()
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}

/// Middleware. The span names the route's template, never the path or query: they may hold names and tokens.
pub async fn layer(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = %method,
        http.route = %route,
        http.response.status_code = field::Empty,
        trace_id = field::Empty,
    );
    let parent = global::get_text_map_propagator(|propagator| {
        propagator.extract(&Headers(request.headers()))
    });
    let named = parent.span().span_context().trace_id();
    // Before the span is used, or it would have begun a trace of its own. Without an exporter there is no parent to set.
    let _ = span.set_parent(parent);
    let own = span.context().span().span_context().trace_id();
    let id = [own, named]
        .into_iter()
        .find(|id| *id != opentelemetry::TraceId::INVALID)
        .map_or_else(
            || uuid::Uuid::new_v4().simple().to_string(),
            |id| id.to_string(),
        );
    span.record("trace_id", id.as_str());
    let answer = with_id(id, next.run(request)).instrument(span.clone());
    let response = answer.await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        span.record("otel.status_code", "ERROR");
    }
    response
}

/// Keeps the request's trace id on a task of its own; its span is kept by `in_current_span`.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    with_id(current_id(), work)
}

fn with_id<F: Future>(id: String, work: F) -> impl Future<Output = F::Output> {
    TRACE_ID.scope(id, work)
}
