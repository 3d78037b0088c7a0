//! Traces, as a collector receives them: names, parents and links from the plan of a batch to its close.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_semantic_conventions::{attribute, resource};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::scrape::Served;

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A span and who sent it.
#[derive(Clone, Debug)]
struct Sent {
    service: String,
    span: Span,
}

impl Collector {
    async fn start(&self) -> Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        Ok(format!("http://{address}"))
    }

    fn sent(&self) -> Result<Vec<Sent>> {
        let mut all = Vec::new();
        for resource_spans in self.0.lock().unwrap().iter().flat_map(|one| &one.resource_spans) {
            let told = resource_spans.resource.as_ref().context("a resource")?;
            let service = text(&told.attributes, resource::SERVICE_NAME).context("service.name")?;
            let version = text(&told.attributes, resource::SERVICE_VERSION);
            assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
            let instance = text(&told.attributes, resource::SERVICE_INSTANCE_ID);
            assert_eq!(instance.as_deref(), Some(format!("the-{service}").as_str()));
            let spans = resource_spans.scope_spans.iter().flat_map(|scope| &scope.spans);
            all.extend(spans.map(|span| Sent { service: service.clone(), span: span.clone() }));
        }
        Ok(all)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|one| one.key == key)?.value.clone()?.value?;
    Some(match value {
        AnyValue::StringValue(text) => text,
        AnyValue::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

/// All spans of a run.
struct Spans(Vec<Sent>);

impl Spans {
    fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().map(|sent| &sent.span).filter(|span| span.name == name).collect()
    }

    /// How many of each name.
    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for sent in &self.0 {
            *counts.entry(sent.span.name.as_str()).or_default() += 1;
        }
        counts
    }

    /// Names of the spans below one.
    fn children(&self, parent: &Span) -> BTreeSet<&str> {
        let is_child = |span: &&Span| span.parent_span_id == parent.span_id;
        let spans = self.0.iter().map(|sent| &sent.span);
        spans.filter(is_child).map(|span| span.name.as_str()).collect()
    }
}

fn must_be(span: &Span, kind: SpanKind, attributes: &[(&str, &str)]) {
    assert_eq!(span.kind(), kind, "{span:?}");
    for (name, value) in attributes {
        assert_eq!(text(&span.attributes, name).as_deref(), Some(*value), "{name} of {span:?}");
    }
}

/// The chain of a batch, whole: each job leads back to the batch that published it, and each report to the
/// job that sent it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_can_be_followed() -> Result<()> {
    let collector = Collector::default();
    let endpoint = collector.start().await?;
    let faults = "--fault http500:100 --faults-per-request 3";
    let fleet = Fleet::start(&format!("--fiats 1 --ads 120 --churn-per-minute 0 {faults}")).await?;
    let settings = |id| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("COORDINATOR_ID", id),
            ("WORKER_ID", id),
            ("LOG_FORMAT", "json"),
        ]
    };
    let mut worker = Served::worker(&fleet, &settings("the-worker"))?;
    assert_eq!(fleet.batch(&settings("the-coordinator")).await?, 0);
    assert!(worker.process.terminate().await?.success());
    let spans = Spans(collector.sent()?);

    let [batch] = spans.named("batch")[..] else { anyhow::bail!("{:?}", spans.counts()) };
    ensure!(batch.parent_span_id.is_empty(), "the batch begins its trace");
    let below = ["close", "discover", "plan", "process reports", "send jobs"];
    assert_eq!(spans.children(batch), below.into());
    let sends = spans.named("send jobs");
    for send in &sends {
        let system = (attribute::MESSAGING_SYSTEM, "rabbitmq");
        let operation = (attribute::MESSAGING_OPERATION_TYPE, "send");
        must_be(send, SpanKind::Producer, &[system, operation]);
        assert!(text(&send.attributes, attribute::MESSAGING_BATCH_MESSAGE_COUNT).is_some());
    }

    let jobs: Vec<&Span> = spans
        .0
        .iter()
        .filter(|sent| sent.service == "worker" && sent.span.parent_span_id.is_empty())
        .map(|sent| &sent.span)
        .collect();
    let ended =
        fleet.number("SELECT count(*) FROM pipeline.jobs WHERE worker_id IS NOT NULL").await?;
    assert_eq!(i64::try_from(jobs.len())?, ended, "a trace for each job");
    for job in &jobs {
        let queue = job.name.strip_prefix("process ").context("a name")?;
        let destination = (attribute::MESSAGING_DESTINATION_NAME, queue);
        let operation = (attribute::MESSAGING_OPERATION_TYPE, "process");
        must_be(job, SpanKind::Consumer, &[destination, operation]);
        let [link] = &job.links[..] else { anyhow::bail!("{} links", job.links.len()) };
        let is_sender = |send: &&&Span| send.span_id == link.span_id;
        assert!(sends.iter().find(is_sender).is_some_and(|send| send.trace_id == batch.trace_id));
        let below = spans.children(job);
        for step in ["permit", "parse", "store", "send reports"] {
            assert!(below.contains(step), "{step} is missing in {below:?}");
        }
        assert!(below.iter().any(|name| name.starts_with("POST ") || name.starts_with("GET ")));
    }

    let searches = spans.named("POST search");
    let (mut ok, mut failed) = (0, 0);
    for search in searches {
        must_be(search, SpanKind::Client, &[(attribute::HTTP_REQUEST_METHOD, "POST")]);
        assert!(text(&search.attributes, attribute::SERVER_ADDRESS).is_some());
        match text(&search.attributes, attribute::HTTP_RESPONSE_STATUS_CODE).as_deref() {
            Some("200") => ok += 1,
            Some("500") => failed += 1,
            other => anyhow::bail!("status {other:?}"),
        }
    }
    ensure!(ok > 0 && failed > 0, "{ok} good and {failed} bad answers");
    let store = spans.named("store")[0];
    must_be(store, SpanKind::Client, &[(attribute::DB_SYSTEM_NAME, "postgresql")]);
    assert!(text(&store.attributes, attribute::DB_OPERATION_BATCH_SIZE).is_some());

    let folded: BTreeSet<&[u8]> = spans
        .named("process reports")
        .iter()
        .flat_map(|fold| fold.links.iter().map(|link| link.span_id.as_slice()))
        .collect();
    let sent: BTreeSet<&[u8]> =
        spans.named("send reports").iter().map(|span| span.span_id.as_slice()).collect();
    assert!(!folded.is_empty() && folded.is_subset(&sent), "reports lead back to their jobs");

    the_log_leads_to_traces(&std::fs::read_to_string(&worker.log)?, &jobs)?;
    nothing_is_sent_without_a_sample(&fleet, &collector, &endpoint).await?;
    fleet.remove().await
}

/// Lines within a job say which, and in which trace.
fn the_log_leads_to_traces(log: &str, jobs: &[&Span]) -> Result<()> {
    let traces: HashMap<String, &str> =
        jobs.iter().map(|job| (hex(&job.trace_id), job.name.as_str())).collect();
    let mut found = 0;
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).context("a line of JSON")?;
        let Some(spans) = line["spans"].as_array() else { continue };
        for job in spans.iter().filter(|span| span["name"] == "job") {
            let trace = job["trace_id"].as_str().context("a trace id")?;
            ensure!(traces.contains_key(trace), "no trace {trace}");
            ensure!(job["batch"].is_string() && job["job"].is_u64(), "{job}");
            found += 1;
        }
    }
    ensure!(found > 0, "no line of a job in the log");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn nothing_is_sent_without_a_sample(
    fleet: &Fleet,
    collector: &Collector,
    endpoint: &str,
) -> Result<()> {
    let before = collector.sent()?.len();
    let settings =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_TRACES_SAMPLER", "always_off")];
    let mut worker = Served::worker(fleet, &settings)?;
    assert_eq!(fleet.batch(&settings).await?, 0);
    assert!(worker.process.terminate().await?.success());
    assert_eq!(collector.sent()?.len(), before);
    Ok(())
}
