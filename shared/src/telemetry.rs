//! Logs, metrics, and traces if a collector is configured.

use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::endpoint::Access;
use crate::health::Health;
use crate::metrics;
use crate::settings::{Vars, redacted};

/// `LOG_LEVEL`, `LOG_FORMAT`, `ENABLE_METRICS`, `PROMETHEUS_HOST`, `PROMETHEUS_PORT`, and the standard
/// `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`.
#[derive(Clone)]
pub struct Telemetry {
    filter: String,
    json: bool,
    /// The collector; without one no traces are sent.
    otlp_endpoint: Option<url::Url>,
    /// Which traces are sent.
    sampler: Sampler,
    /// Names this process among its kind.
    instance_id: String,
    /// Where the process tells how it is; served with the metrics.
    pub health: Health,
    /// Where metrics are served; `None`: nowhere.
    metrics: Option<SocketAddr>,
    /// Who may read them.
    access: Access,
}

/// Names the collector of traces.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl Telemetry {
    /// `instance_id` names the process.
    pub fn read(vars: &mut Vars, instance_id: &str) -> Self {
        let filter = vars.text("LOG_LEVEL", "info");
        if let Err(error) = EnvFilter::try_new(&filter) {
            vars.problem(format!(
                "LOG_LEVEL={filter:?}: {error}; allowed are error, warn, info, debug, trace, or directives such as info,sqlx=warn"
            ));
        }
        let json = match vars.choice("LOG_FORMAT", &["auto", "json", "pretty"]) {
            "auto" => !std::io::stderr().is_terminal(),
            format => format == "json",
        };
        // Handed to the exporter, which knows the process's environment but not `.env`, and no TLS.
        let otlp_endpoint = vars.optional(ENDPOINT);
        let otlp_endpoint = otlp_endpoint.map(|_| vars.url(ENDPOINT, None, &["http"]));
        let sampler = read_sampler(vars);
        let metrics = served_at(vars);
        let access = Access::read(vars, "PROMETHEUS_HOST", metrics);
        let (instance_id, health) = (instance_id.to_owned(), Health::default());
        Self { filter, json, otlp_endpoint, sampler, instance_id, health, metrics, access }
    }
}

/// Where the process serves metrics and health: `ENABLE_METRICS`, `PROMETHEUS_HOST`, `PROMETHEUS_PORT`. `None`:
/// nowhere.
pub fn served_at(vars: &mut Vars) -> Option<SocketAddr> {
    metrics::read(vars)
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL of the collector may hold a password.
        let endpoint = self.otlp_endpoint.as_ref().map(redacted);
        f.debug_struct("Telemetry")
            .field("filter", &self.filter)
            .field("json", &self.json)
            .field("otlp_endpoint", &endpoint)
            .field("sampler", &self.sampler)
            .field("metrics", &self.metrics)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// `OTEL_TRACES_SAMPLER` and its argument. The library would read them too, but not from `.env`, and it
/// takes what it does not know for "all".
fn read_sampler(vars: &mut Vars) -> Sampler {
    const NAMES: [&str; 6] = [
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
        "always_on",
        "always_off",
        "traceidratio",
    ];
    let ratio = vars.number("OTEL_TRACES_SAMPLER_ARG", 1.0, 0.0..=1.0);
    let name = vars.choice("OTEL_TRACES_SAMPLER", &NAMES);
    let (is_of_parent, name) = match name.strip_prefix("parentbased_") {
        Some(of_roots) => (true, of_roots),
        None => (false, name),
    };
    let sampler = match name {
        "always_on" => Sampler::AlwaysOn,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio),
        _ => Sampler::AlwaysOff,
    };
    if is_of_parent { Sampler::ParentBased(Box::new(sampler)) } else { sampler }
}

/// Links of a span that are kept: reports are folded by the hundred.
const MAX_LINKS: u32 = 256;

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
        .as_ref()
        .map(|endpoint| trace_provider(name, endpoint, settings))
        .transpose()?;
    let traces = provider.as_ref().map(|provider| {
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer(name));
        traces.with_threads(false).with_location(false)
    });
    let logged = Logged(EnvFilter::try_new(&settings.filter)?);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = if settings.json { format.json().boxed() } else { format.boxed() };
    tracing_subscriber::registry().with(logged).with(traces).with(format).try_init()?;
    if let Some(address) = settings.metrics {
        metrics::serve(name, address, &settings.access, &settings.health)?;
    }
    Ok(Guard(provider))
}

/// What is logged by `LOG_LEVEL`, and spans from INFO on at every level: of traces the level of logs is no
/// measure, and a warning must say of which batch and job it is.
///
/// One filter for both layers. With a filter for each, whoever asks whether something would be logged, as sqlx
/// does for every statement, leaves an answer behind that is taken for that of the next span, which is then
/// missing in its trace.
struct Logged(EnvFilter);

impl Logged {
    /// Of the broker's client: its span of a connection lives as long as that and says nothing, and at the
    /// level `trace` it shows its URL and its log-in, whatever is asked for.
    fn is_left_out(metadata: &Metadata<'_>) -> bool {
        const CLIENT: [&str; 3] = ["lapin", "amq_protocol", "tcp_stream"];
        let is_of_client = || CLIENT.iter().any(|client| metadata.target().starts_with(client));
        let is_span = metadata.is_span() && metadata.target().starts_with("lapin::");
        is_span || (*metadata.level() == Level::TRACE && is_of_client())
    }

    fn is_span_of_trace(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= Level::INFO
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Logged {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The filter notes what it must follow.
        let interest = Layer::<S>::register_callsite(&self.0, metadata);
        if Self::is_left_out(metadata) {
            Interest::never()
        } else if Self::is_span_of_trace(metadata) {
            Interest::always()
        } else {
            interest
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        !Self::is_left_out(metadata)
            && (Self::is_span_of_trace(metadata) || self.0.enabled(metadata, context))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|level| level.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(span, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.0.on_close(id, context);
    }
}

/// Notes the id of its trace in a span with an empty field `trace_id`, if it is sampled: so the lines
/// logged within lead to the trace.
pub fn note_trace(span: &tracing::Span) {
    let context = span.context();
    let context = context.span().span_context().clone();
    if context.is_sampled() {
        span.record("trace_id", tracing::field::display(context.trace_id()));
    }
}

fn trace_provider(
    name: &'static str,
    endpoint: &url::Url,
    settings: &Telemetry,
) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint.as_str())
        .build()?;
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.namespace", "p2p"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", settings.instance_id.clone()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_sampler(settings.sampler.clone())
        .with_max_links_per_span(MAX_LINKS)
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(pairs: &[(&str, &str)]) -> Result<String, String> {
        let mut vars = Vars::from_pairs(pairs.iter().copied());
        let sampler = read_sampler(&mut vars);
        vars.finish(format!("{sampler:?}")).map_err(|error| error.to_string())
    }

    #[test]
    fn traces_are_sampled_as_the_standard_variables_say() {
        assert_eq!(sampler(&[]).unwrap(), "ParentBased(AlwaysOn)");
        assert_eq!(sampler(&[("OTEL_TRACES_SAMPLER", "always_off")]).unwrap(), "AlwaysOff");
        let ratio = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        assert_eq!(sampler(&ratio).unwrap(), "ParentBased(TraceIdRatioBased(0.25))");
        assert!(sampler(&[("OTEL_TRACES_SAMPLER", "xray")]).unwrap_err().contains("traceidratio"));
        assert!(sampler(&[("OTEL_TRACES_SAMPLER_ARG", "2")]).unwrap_err().contains("0 to 1"));
    }
}
