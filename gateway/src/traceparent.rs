//! W3C trace context: spans that continue a caller's trace, and how they are named to those who continue ours.

use std::collections::HashMap;

use opentelemetry::global;
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

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

/// A `traceparent` for what a message sets off: its span's, or, where nothing is exported, the one it carries, or a new one:
/// its trace id still leads to the result.
pub fn for_job(span: &Span, carried: Option<&str>) -> String {
    let carried = || carried.filter(|text| is_whole(text)).map(str::to_owned);
    of(span).or_else(carried).unwrap_or_else(|| {
        let (trace, parent) = (Uuid::new_v4().simple(), Uuid::new_v4().simple().to_string());
        format!("00-{trace}-{}-01", &parent[..16])
    })
}

/// Version 0: `00-{32 hex}-{16 hex}-{2 hex}`, in lower case, neither id of zeros.
fn is_whole(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|b| b != b'0');
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts[..], ["00", trace, parent, flags] if id(trace, 32) && id(parent, 16) && hex(flags, 2))
}

/// A span for a message that carries a `traceparent`; none for one that carries none: most are not worth one.
pub fn span(kind: &str, traceparent: Option<&str>) -> Span {
    traceparent.map_or_else(Span::none, |traceparent| begun(kind, Some(traceparent)))
}

/// A span for a message, in the trace of the `traceparent` it carries. Malformed ones begin a trace of their own, as the
/// specification says.
pub fn begun(kind: &str, traceparent: Option<&str>) -> Span {
    let span = tracing::info_span!(
        "message",
        otel.name = kind,
        otel.kind = "server",
        seq = tracing::field::Empty
    );
    let Some(traceparent) = traceparent else {
        return span;
    };
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    // Before the span is used, or it would have begun a trace of its own. Without an exporter there is no parent to set.
    let _ = span.set_parent(parent);
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_a_trace_whatever_its_message_carries() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(for_job(&Span::none(), Some(given)), given);
        let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let long = format!("{given}-{}", "x".repeat(1_000));
        let carried = [None, Some("a-b"), Some(""), Some(&*zeros), Some(&*long)];
        for odd in carried.into_iter().chain([Some("00-\0-\0-\0")]) {
            let made = for_job(&Span::none(), odd);
            assert!(is_whole(&made), "{odd:?}: {made}");
            assert_ne!(Some(&*made), odd);
        }
    }
}
