//! HTTP to the exchange.
//!
//! One request, one outcome; retries are the handler's. Bounded in time (from the first byte sent to
//! the last received) and in size; redirects are refused, for an answer from elsewhere is no answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use shared::archive::Transcript;
use shared::exchange::binance::{Call, Payload, Request};
use shared::job::Failure;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::metrics;
use crate::rate_limit::{Outcome, Permit};
use crate::settings::{Binance, Settings};

/// Largest body that is read, after decompression: a page of 21 ads has about 70 kB, the longest
/// list (payment methods of a fiat) a few hundred.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Room that a buffer for bodies has from the start: pages have less, and a buffer that grows is copied each time.
const BUFFER_BYTES: usize = 96 * 1024;
/// Buffers that are kept for the next bodies. More may be in hand between their first bytes and packing; those are made anew.
const MAX_IDLE_BUFFERS: usize = 4;

/// Status of a place that may not ask.
const RESTRICTED: u16 = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS.as_u16();

/// Time for the body of an answer whose status says enough. It is wanted for the archive only, so it comes
/// after the limiter was told.
const ERROR_BODY_LIMIT: Duration = Duration::from_secs(2);

/// Headers that are archived, those of an answer that tell how its bytes came about:
const KEPT_HEADERS: [&str; 17] = [
    // what the body is; its encoding only if it is one that was not undone,
    "content-type",
    "content-encoding",
    // how old it is, and whether a cache gave it,
    "date",
    "age",
    "last-modified",
    "etag",
    "cache-control",
    "x-cache",
    // who gave it,
    "server",
    "via",
    "x-amz-cf-pop",
    "location",
    // by which names the exchange and its network know the request,
    "x-amz-cf-id",
    "x-trace-id",
    "x-request-id",
    // and that it was a firewall, or for how long it wants to be left alone.
    FIREWALL,
    "retry-after",
];
/// In answers of AWS WAF instead of the exchange: `challenge`, with 202, or `captcha`, with 405.
const FIREWALL: &str = "x-amzn-waf-action";
/// Bytes of one header that are kept; the longest known has about a hundred.
const MAX_HEADER_BYTES: usize = 1_024;

/// A complete answer, with what was asked.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The body after its transfer compression was undone, whose bytes nobody can tell any more.
    pub transcript: Transcript,
    /// When its last byte had arrived.
    pub fetched_at: DateTime<Utc>,
}

impl Answer {
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.transcript.body
    }
}

/// Why there is no answer. Each is another reaction of the handler.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing was sent; the permit was given back.
    #[error("the permit came too late to be used")]
    LatePermit,
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("the connection failed: {0}")]
    Network(String),
    /// Too fast, or banned: 429, 418, and 403, with which a firewall answers, or whatever its header is in.
    #[error("refused with status {status}")]
    RateLimited { status: u16, retry_after: Option<Duration>, answer: Option<Box<Answer>> },
    #[error("the exchange failed with status {status}")]
    Server { status: u16, retry_after: Option<Duration>, answer: Option<Box<Answer>> },
    #[error("status {status} leads elsewhere, which is not followed")]
    Redirect { status: u16, answer: Option<Box<Answer>> },
    /// Any other status: a path that is gone, a restricted place, a request that is refused.
    #[error("unexpected status {status}")]
    Status { status: u16, answer: Option<Box<Answer>> },
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("the body can't be unpacked: {0}")]
    CorruptBody(String),
    #[error("the body is empty")]
    EmptyBody(Box<Answer>),
    /// The bytes decide: JSON with another label is an answer.
    #[error("the body is no JSON, its type is {content_type:?}")]
    NotJson { content_type: String, answer: Box<Answer> },
}

impl FetchError {
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            // Never a job's end: it asks again. Were it one, the time was short.
            Self::LatePermit | Self::Timeout(_) => Failure::Timeout,
            Self::Network(_) => Failure::Network,
            Self::RateLimited { .. } => Failure::RateLimited,
            Self::Server { .. } => Failure::ServerError,
            Self::Redirect { .. } => Failure::Redirect,
            Self::Status { .. } => Failure::HttpStatus,
            Self::TooLarge => Failure::TooLarge,
            Self::CorruptBody(_) => Failure::CorruptBody,
            Self::EmptyBody(_) => Failure::EmptyBody,
            Self::NotJson { .. } => Failure::NotJson,
        }
    }

    /// Status of the answer, if one began.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::RateLimited { status, .. }
            | Self::Server { status, .. }
            | Self::Redirect { status, .. }
            | Self::Status { status, .. } => Some(*status),
            Self::TooLarge | Self::CorruptBody(_) | Self::EmptyBody(_) | Self::NotJson { .. } => {
                Some(StatusCode::OK.as_u16())
            }
            Self::LatePermit | Self::Timeout(_) | Self::Network(_) => None,
        }
    }

    /// The answer, if all of it came.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::RateLimited { answer, .. }
            | Self::Server { answer, .. }
            | Self::Redirect { answer, .. }
            | Self::Status { answer, .. } => answer.as_deref(),
            Self::EmptyBody(answer) | Self::NotJson { answer, .. } => Some(answer),
            _ => None,
        }
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_answer(self) -> Option<Answer> {
        match self {
            Self::RateLimited { answer, .. }
            | Self::Server { answer, .. }
            | Self::Redirect { answer, .. }
            | Self::Status { answer, .. } => answer.map(|answer| *answer),
            Self::EmptyBody(answer) | Self::NotJson { answer, .. } => Some(*answer),
            _ => None,
        }
    }

    /// The error of a status that says enough, with the answer that came of it.
    fn with_answer(mut self, whole: Option<Box<Answer>>) -> Self {
        if let Self::RateLimited { answer, .. }
        | Self::Server { answer, .. }
        | Self::Redirect { answer, .. }
        | Self::Status { answer, .. } = &mut self
        {
            *answer = whole;
        }
        self
    }

    /// The outcome of the request, as metrics and traces have it.
    fn label(&self) -> &'static str {
        match self {
            Self::LatePermit => "unsent",
            Self::RateLimited { .. } => "refused",
            Self::Timeout(_) => "timeout",
            Self::Network(_) => "network",
            Self::Server { .. } => "failed",
            // An answer, but none that can be used.
            Self::Redirect { .. }
            | Self::Status { .. }
            | Self::TooLarge
            | Self::CorruptBody(_)
            | Self::EmptyBody(_)
            | Self::NotJson { .. } => "unusable",
        }
    }

    /// What it says of limit and health of the exchange.
    fn outcome(&self) -> Outcome {
        match self {
            Self::LatePermit => Outcome::Unused,
            Self::RateLimited { retry_after, .. } => Outcome::Refused(*retry_after),
            Self::Server { retry_after, .. } => Outcome::Failed(*retry_after),
            // With 200 a firewall's challenge; with 451 the whole place is shut out.
            Self::Timeout(_)
            | Self::Network(_)
            | Self::Redirect { .. }
            | Self::EmptyBody(_)
            | Self::NotJson { .. }
            | Self::Status { status: RESTRICTED, .. } => Outcome::Failed(None),
            Self::Status { .. } | Self::TooLarge | Self::CorruptBody(_) => Outcome::Neutral,
        }
    }

    /// The same of a request to the witness, which may have a host of its own: that it fails there, or is
    /// blocked, must not slow the pages down or stop them. That it was too fast is said of all requests.
    fn outcome_of_witness(&self) -> Outcome {
        const TOO_FAST: [u16; 2] =
            [StatusCode::TOO_MANY_REQUESTS.as_u16(), StatusCode::IM_A_TEAPOT.as_u16()];
        match self {
            Self::LatePermit => self.outcome(),
            Self::RateLimited { status, .. } if TOO_FAST.contains(status) => self.outcome(),
            _ => Outcome::Neutral,
        }
    }
}

pub struct Client {
    http: reqwest::Client,
    endpoints: Binance,
    timeout: Duration,
}

impl Client {
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .redirect(redirect::Policy::none())
            // By itself it would send a request again that HTTP/2 refused: without a permit.
            .retry(reqwest::retry::never())
            .connect_timeout(settings.request_timeout);
        if let Some(proxy) = &settings.proxy {
            // Its error would show the URL with the password.
            let proxy = reqwest::Proxy::all(proxy.url.as_str())
                .map_err(|error| anyhow::Error::new(error.without_url()))
                .context("EGRESS_PROXY_URL can't be used")?;
            http = http.proxy(proxy);
        }
        let http = http.build().context("the HTTP client can't be made")?;
        let (endpoints, timeout) = (settings.binance.clone(), settings.request_timeout);
        Ok(Self { http, endpoints, timeout })
    }

    /// Sends one request, which uses up the permit, and tells the limiter what came of it.
    pub async fn fetch(&self, permit: Permit, request: Request) -> Result<Answer, FetchError> {
        let sending = permit.begin().ok_or(FetchError::LatePermit)?;
        let is_witness = request.call.is_witness();
        let (span, call) = (self.span(&request), call_name(request.call));
        let since = Instant::now();
        let exchanged = self.exchange(request).instrument(span.clone());
        let fetched = tokio::time::timeout(self.timeout, exchanged).await;
        let fetched = fetched.unwrap_or_else(|_| Err(FetchError::Timeout(self.timeout).into()));
        let told = fetched.as_ref().map_err(|failed| &failed.error);
        metrics::requested(call, told.map_or_else(FetchError::label, |_| "ok"), since.elapsed());
        tell(&span, told);
        drop(span);
        let outcome = match &fetched {
            Ok(_) => Outcome::Ok,
            Err(failed) if is_witness => failed.error.outcome_of_witness(),
            Err(failed) => failed.error.outcome(),
        };
        sending.finish(outcome).await;
        match fetched {
            Ok(answer) => Ok(answer),
            Err(Failed { error, begun: None }) => Err(error),
            Err(Failed { error, begun: Some(begun) }) => {
                let whole = tokio::time::timeout(ERROR_BODY_LIMIT, begun.whole()).await;
                let answer = whole.ok().and_then(Result::ok).map(Box::new);
                Err(error.with_answer(answer))
            }
        }
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Failed> {
        let (request, sent) = self.prepare(request);
        let response = sent.send().await.map_err(|error| broken(&error))?;
        let begun = Begun { request, response };
        let code = begun.response.status();
        let status = code.as_u16();
        if code != StatusCode::OK {
            let retry_after = retry_after(begun.response.headers(), Utc::now());
            let is_firewall = begun.response.headers().contains_key(FIREWALL);
            let error = match code {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::IM_A_TEAPOT | StatusCode::FORBIDDEN => {
                    FetchError::RateLimited { status, retry_after, answer: None }
                }
                _ if is_firewall => FetchError::RateLimited { status, retry_after, answer: None },
                _ if code.is_server_error() => {
                    FetchError::Server { status, retry_after, answer: None }
                }
                _ if code.is_redirection() => FetchError::Redirect { status, answer: None },
                _ => FetchError::Status { status, answer: None },
            };
            return Err(Failed { error, begun: Some(Box::new(begun)) });
        }
        let content_type = begun.response.headers().get(CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let content_type = content_type.unwrap_or_default().into_owned();
        let answer = begun.whole().await?;
        if answer.body().is_empty() {
            return Err(FetchError::EmptyBody(Box::new(answer)).into());
        }
        match answer.body().trim_ascii_start().first() {
            Some(b'{' | b'[') => Ok(answer),
            _ => Err(FetchError::NotJson { content_type, answer: Box::new(answer) }.into()),
        }
    }

    fn endpoint(&self, call: Call) -> &url::Url {
        match call {
            Call::FiatList => &self.endpoints.fiat_list,
            Call::Assets => &self.endpoints.assets,
            Call::PaymentMethods => &self.endpoints.payment_methods,
            Call::Search => &self.endpoints.search,
            Call::Advertiser => &self.endpoints.advertiser,
            Call::WitnessAds => &self.endpoints.witness_ads,
            Call::WitnessQuote => &self.endpoints.witness_quote,
        }
    }

    fn span(&self, request: &Request) -> Span {
        let endpoint = self.endpoint(request.call);
        let method = match request.payload {
            Payload::Json(_) => "POST",
            Payload::Query(..) => "GET",
        };
        tracing::info_span!(
            "fetch",
            otel.name = %format_args!("{method} {}", call_name(request.call)),
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            http.request.method = method,
            http.response.status_code = tracing::field::Empty,
            http.response.body.size = tracing::field::Empty,
            error.type = tracing::field::Empty,
            server.address = endpoint.host_str().unwrap_or_default(),
            server.port = endpoint.port_or_known_default().unwrap_or_default(),
            url.path = endpoint.path(),
        )
    }

    /// A request as it is archived, and to be sent.
    fn prepare(&self, request: Request) -> (Vec<u8>, reqwest::RequestBuilder) {
        let mut url = self.endpoint(request.call).clone();
        match request.payload {
            Payload::Json(body) => {
                let archived = format!("POST {}\n{body}", target(&url));
                let post = self.http.post(url).header(CONTENT_TYPE, "application/json");
                (archived.into_bytes(), post.body(body))
            }
            Payload::Query(query) => {
                url.query_pairs_mut().extend_pairs(query);
                let archived = format!("GET {}\n", target(&url));
                (archived.into_bytes(), self.http.get(url))
            }
        }
    }
}

/// Why there is no answer that could be read, and what of one there may still be.
struct Failed {
    error: FetchError,
    /// An answer whose status says enough, before its body was read.
    begun: Option<Box<Begun>>,
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        Self { error, begun: None }
    }
}

/// An answer whose head has come.
struct Begun {
    request: Vec<u8>,
    response: reqwest::Response,
}

impl Begun {
    /// With its body.
    async fn whole(self) -> Result<Answer, FetchError> {
        let status = self.response.status().as_u16();
        let headers = kept_headers(self.response.headers());
        let body = read_body(self.response).await?;
        let transcript = Transcript { request: self.request, headers, body };
        Ok(Answer { status, transcript, fetched_at: Utc::now() })
    }
}

/// What the request line names: path and query.
fn target(url: &url::Url) -> &str {
    &url[url::Position::BeforePath..url::Position::AfterQuery]
}

/// The headers that are archived, a line each, in the order in which they are listed.
fn kept_headers(headers: &HeaderMap) -> Vec<u8> {
    let mut kept = Vec::new();
    for name in KEPT_HEADERS {
        for value in headers.get_all(name) {
            let value = value.as_bytes();
            kept.extend_from_slice(name.as_bytes());
            kept.extend_from_slice(b": ");
            kept.extend_from_slice(&value[..value.len().min(MAX_HEADER_BYTES)]);
            kept.push(b'\n');
        }
    }
    kept
}

/// A call, as metrics and traces have it.
fn call_name(call: Call) -> &'static str {
    match call {
        Call::FiatList => "fiat_list",
        Call::Assets => "assets",
        Call::PaymentMethods => "payment_methods",
        Call::Search => "search",
        Call::Advertiser => "advertiser",
        Call::WitnessAds => "witness_ads",
        Call::WitnessQuote => "witness_quote",
    }
}

/// Tells in the span what came of its request.
fn tell(span: &Span, fetched: Result<&Answer, &FetchError>) {
    let status = match fetched {
        Ok(answer) => {
            span.record("http.response.body.size", answer.body().len());
            Some(StatusCode::OK.as_u16())
        }
        Err(error) => {
            span.record("error.type", error.label()).record("otel.status_code", "ERROR");
            error.status()
        }
    };
    if let Some(status) = status {
        span.record("http.response.status_code", status);
    }
}

/// Buffers of bodies that were packed, for the next ones: new memory for each was a twentieth of what a worker did.
static IDLE_BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn idle_buffers() -> MutexGuard<'static, Vec<Vec<u8>>> {
    IDLE_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes back what a body was read into.
pub(crate) fn give_back(mut body: Vec<u8>) {
    body.clear();
    let mut idle = idle_buffers();
    if body.capacity() == BUFFER_BYTES && idle.len() < MAX_IDLE_BUFFERS {
        idle.push(body);
    }
}

/// The body, if it is not too large.
async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, FetchError> {
    // Taken with the first bytes, which come late. One buffer: chunks may be of a byte each.
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.capacity() == 0 {
            let idle = idle_buffers().pop();
            body = idle.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        }
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// By its innermost cause: the outer ones only say that a request failed. What breaks while a body is
/// read is called an error of decoding; it is one unless the connection's own error is among the causes.
fn broken(error: &reqwest::Error) -> FetchError {
    let mut cause: &dyn std::error::Error = error;
    let mut is_connection = false;
    while let Some(inner) = cause.source() {
        cause = inner;
        is_connection |= cause.is::<hyper::Error>();
    }
    let cause = cause.to_string();
    if error.is_decode() && !is_connection {
        FetchError::CorruptBody(cause)
    } else {
        FetchError::Network(cause)
    }
}

/// `Retry-After` in seconds or as a date. A date is counted from the answer's own `Date`: whose clock
/// goes wrong then does not matter.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let date = |text: &str| httpdate::parse_http_date(text).ok().map(DateTime::<Utc>::from);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse::<f64>() {
        // Not negative, and no more than a span can hold.
        return Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
    }
    let now = text(DATE).and_then(date).unwrap_or(now);
    Some((date(value)? - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let parse = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sun, 22 Nov 2026 10:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(parse("Sun, 22 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(parse("-1"), Some(Duration::ZERO));
        assert_eq!(parse("99999999999999999999999"), Some(Duration::MAX));
        assert_eq!(parse("soon"), None);
    }

    #[test]
    fn headers_that_matter_are_kept() {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("x-cache"), "Miss from cloudfront".parse().unwrap()),
            (HeaderName::from_static("set-cookie"), "cid=geheim".parse().unwrap()),
            (CONTENT_TYPE, "application/json".parse().unwrap()),
        ]);
        let kept = String::from_utf8(kept_headers(&headers)).unwrap();
        assert_eq!(kept, "content-type: application/json\nx-cache: Miss from cloudfront\n");
    }

    #[test]
    fn a_clock_that_differs_does_not_change_the_wait() {
        let headers = HeaderMap::from_iter([
            (RETRY_AFTER, "Sun, 22 Nov 2026 10:01:30 GMT".parse().unwrap()),
            (DATE, "Sun, 22 Nov 2026 10:01:20 GMT".parse().unwrap()),
        ]);
        let our_clock = "2026-11-22T09:00:00Z".parse().unwrap();
        assert_eq!(retry_after(&headers, our_clock), Some(Duration::from_secs(10)));
    }
}
