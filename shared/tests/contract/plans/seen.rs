//! What sqlx logs under one test's span: the statements it sends, and what Postgres tells on the way (auto_explain's plans).

use std::fmt::Debug;
use std::sync::{LazyLock, Once};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::Id;
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// The span of whoever is watched.
const WATCHED: &str = "watched";
const STATEMENTS: &str = "sqlx::query";
const NOTICES: &str = "sqlx::postgres::notice";

static SEEN: LazyLock<Mutex<Vec<(Id, String)>>> = LazyLock::new(Mutex::default);

/// One who watches; what happens in its span is told to it alone.
pub struct Watch {
    pub span: Span,
}

impl Watch {
    pub fn begin() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let watching = Registry::default().with(Tell.with_filter(
                tracing_subscriber::filter::filter_fn(|about| {
                    about.name() == WATCHED || [STATEMENTS, NOTICES].contains(&about.target())
                }),
            ));
            tracing::subscriber::set_global_default(watching).expect("no other subscriber");
        });
        Self {
            span: tracing::error_span!("watched"),
        }
    }

    /// What was told since it was last asked for.
    pub fn take(&self) -> Vec<String> {
        let id = self.span.id().expect("a span that is watched");
        let mut seen = SEEN.lock();
        let (ours, others) = seen.drain(..).partition(|(of, _)| *of == id);
        *seen = others;
        let ours: Vec<(Id, String)> = ours;
        ours.into_iter().map(|(_, text)| text).collect()
    }
}

struct Tell;

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Tell {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut spans) = context.event_scope(event) else {
            return;
        };
        let Some(watched) = spans.find(|span| span.name() == WATCHED) else {
            return;
        };
        let mut text = Text::default();
        event.record(&mut text);
        SEEN.lock().push((watched.id(), text.0));
    }
}

/// The whole statement (its summary, where that is all of it), or the notice.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let whole = field.name() == "db.statement" && !value.is_empty();
        if whole || ["summary", "message"].contains(&field.name()) {
            value.trim().clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
