//! Trace context in message headers, in the W3C format, and when the message was published.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Header with the time at which a message was published, in milliseconds since 1970. AMQP's own
/// `timestamp` knows whole seconds only.
const PUBLISHED_AT_MS: &str = "p2p-published-at-ms";

/// Headers that carry the context of a span.
pub(super) fn headers(span: &tracing::Span) -> FieldTable {
    let mut carrier = Carrier(BTreeMap::new());
    let context = span.context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    let mut headers = FieldTable::from(carrier.0);
    let now = AMQPValue::LongLongInt(Utc::now().timestamp_millis());
    headers.insert(PUBLISHED_AT_MS.into(), now);
    headers
}

/// Time since a message with these headers was published, by the clocks of two machines, so never less
/// than 0; `None`: it does not say when.
pub(super) fn age(headers: Option<&FieldTable>) -> Option<Duration> {
    let AMQPValue::LongLongInt(published) = headers?.inner().get(PUBLISHED_AT_MS)? else {
        return None;
    };
    let age = Utc::now().timestamp_millis().saturating_sub(*published);
    Some(Duration::from_millis(age.max(0).cast_unsigned()))
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
