//! Logs on standard error, traces to an OTLP collector where one is named.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::cli::{LogFormat, ProcessConfig};

/// Flushes what is not exported yet when the process ends.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    pub fn start(config: &ProcessConfig) -> anyhow::Result<Self> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let filter = EnvFilter::try_new(&config.log).context("ATELIER_LOG")?;
        let provider = match &config.otlp_endpoint {
            Some(endpoint) if !endpoint.is_empty() => Some(provider(endpoint, config)?),
            _ => None,
        };
        let begun = match &provider {
            None => tracing_subscriber::registry()
                .with(filter)
                .with(lines(config.log_format))
                .try_init(),
            // What is logged is not what is traced: ATELIER_LOG=warn leaves the traces whole.
            Some(provider) => {
                let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("atelier"));
                tracing_subscriber::registry()
                    .with(lines(config.log_format).with_filter(filter))
                    .with(traces.with_filter(LevelFilter::INFO))
                    .try_init()
            }
        };
        begun.context("start logging")?;
        Ok(Self(provider))
    }

    pub fn stop(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// Log lines on standard error.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn provider(endpoint: &str, config: &ProcessConfig) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}
