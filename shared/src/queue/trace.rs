//! Trace context in message headers, in the W3C format.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Headers that carry the context of the current span.
pub(super) fn headers() -> FieldTable {
    let mut carrier = Carrier(BTreeMap::new());
    let context = tracing::Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    FieldTable::from(carrier.0)
}

/// Links `span` to the span that published a message with these headers. A link and not a parent: a
/// job belongs to the batch, but runs on its own time.
pub(super) fn link(span: &tracing::Span, headers: Option<&FieldTable>) {
    let Some(headers) = headers else { return };
    let carrier = Carrier(headers.inner().clone());
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    let publisher = context.span().span_context().clone();
    if publisher.is_valid() {
        span.add_link(publisher);
    }
}

struct Carrier(BTreeMap<ShortString, AMQPValue>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key.into(), AMQPValue::LongString(value.into()));
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(AMQPValue::LongString(value)) => std::str::from_utf8(value.as_bytes()).ok(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(ShortString::as_str).collect()
    }
}
