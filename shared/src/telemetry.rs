//! Logs, metrics, and traces if a collector is configured.

use std::io::IsTerminal;
use std::net::SocketAddr;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::metrics;
use crate::settings::Vars;

/// `LOG_LEVEL`, `LOG_FORMAT`, `ENABLE_METRICS`, `PROMETHEUS_HOST`, `PROMETHEUS_PORT`, and the standard
/// `OTEL_EXPORTER_OTLP_ENDPOINT`.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: String,
    json: bool,
    /// The collector; without one no traces are sent.
    otlp_endpoint: Option<String>,
    /// Where metrics are served; `None`: nowhere.
    metrics: Option<SocketAddr>,
}

impl Telemetry {
    pub fn read(vars: &mut Vars) -> Self {
        let filter = vars.text("LOG_LEVEL", "info");
        if let Err(error) = EnvFilter::try_new(&filter) {
            vars.problem(format!(
                "LOG_LEVEL={filter:?}: {error}; allowed are error, warn, info, debug, trace, or directives such as info,sqlx=warn"
            ));
        }
        let json = match vars.text("LOG_FORMAT", "auto").as_str() {
            "auto" => !std::io::stderr().is_terminal(),
            "json" => true,
            "pretty" => false,
            other => {
                vars.problem(format!("LOG_FORMAT={other:?}: allowed are auto, json, pretty"));
                true
            }
        };
        // Handed to the exporter, which knows the process's environment but not `.env`.
        let otlp_endpoint = vars.optional("OTEL_EXPORTER_OTLP_ENDPOINT");
        let metrics = metrics::read(vars);
        Self { filter, json, otlp_endpoint, metrics }
    }
}

/// Sends what is still buffered when it is dropped.
#[must_use]
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Starts logging to stderr, for stdout belongs to results, and serving metrics. Call it inside the
/// tokio runtime.
pub fn init(name: &'static str, settings: &Telemetry) -> anyhow::Result<Guard> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = settings
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| trace_provider(name, endpoint))
        .transpose()?;
    let traces = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(name)));
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = if settings.json { format.json().boxed() } else { format.boxed() };
    tracing_subscriber::registry()
        .with(EnvFilter::try_new(&settings.filter)?)
        .with(traces)
        .with(format)
        .try_init()?;
    if let Some(address) = settings.metrics {
        metrics::serve(address)?;
    }
    Ok(Guard(provider))
}

fn trace_provider(name: &'static str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter =
        opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name(name).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
