//! W3C trace context: spans that continue a caller's trace, and how they are named to those who continue ours.

use std::collections::HashMap;

use opentelemetry::global;
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The `traceparent` of a span; `None` where nothing is exported.
pub fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        let flags = span.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
    })
}

/// A span for a message that carries a `traceparent`; none for one that carries none. Malformed ones begin a trace of
/// their own, as the specification says.
pub fn span(kind: &str, traceparent: Option<&str>) -> Span {
    let Some(traceparent) = traceparent else {
        return Span::none();
    };
    let span = tracing::info_span!(
        "message",
        otel.name = kind,
        otel.kind = "server",
        seq = tracing::field::Empty
    );
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    // Before the span is used, or it would have begun a trace of its own. Without an exporter there is no parent to set.
    let _ = span.set_parent(parent);
    span
}
