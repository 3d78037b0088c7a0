//! HTTP to the exchange.
//!
//! One request, one outcome; retries are the handler's. Bounded in time (from the first byte sent to
//! the last received) and in size; redirects are refused, for an answer from elsewhere is no answer.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use shared::exchange::binance::{Call, Payload, Request};
use shared::job::Failure;

use crate::rate_limit::{Outcome, Permit};
use crate::settings::{Binance, Settings};

/// Largest body that is read, after decompression: a page of 21 ads has about 70 kB, the longest
/// list (payment methods of a fiat) a few hundred.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Status of a place that may not ask.
const RESTRICTED: u16 = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS.as_u16();

/// A complete body with status 200 that looks like JSON.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    /// When its last byte had arrived.
    pub fetched_at: DateTime<Utc>,
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
    /// Too fast, or banned: 429, 418, and 403, with which a firewall answers.
    #[error("refused with status {status}")]
    RateLimited { status: u16, retry_after: Option<Duration> },
    #[error("the exchange failed with status {status}")]
    Server { status: u16, retry_after: Option<Duration> },
    #[error("status {0} leads elsewhere, which is not followed")]
    Redirect(u16),
    /// Any other status: a path that is gone, a restricted place, a request that is refused.
    #[error("unexpected status {status}")]
    Status { status: u16, body: Vec<u8> },
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("the body can't be unpacked: {0}")]
    CorruptBody(String),
    #[error("the body is empty")]
    EmptyBody,
    /// The bytes decide: JSON with another label is an answer.
    #[error("the body is no JSON, its type is {content_type:?}")]
    NotJson { content_type: String, body: Vec<u8> },
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
            Self::Redirect(_) => Failure::Redirect,
            Self::Status { .. } => Failure::HttpStatus,
            Self::TooLarge => Failure::TooLarge,
            Self::CorruptBody(_) => Failure::CorruptBody,
            Self::EmptyBody => Failure::EmptyBody,
            Self::NotJson { .. } => Failure::NotJson,
        }
    }

    /// Status of the answer, if one began.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::RateLimited { status, .. }
            | Self::Server { status, .. }
            | Self::Redirect(status)
            | Self::Status { status, .. } => Some(*status),
            Self::TooLarge | Self::CorruptBody(_) | Self::EmptyBody | Self::NotJson { .. } => {
                Some(StatusCode::OK.as_u16())
            }
            Self::LatePermit | Self::Timeout(_) | Self::Network(_) => None,
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
            | Self::Redirect(_)
            | Self::EmptyBody
            | Self::NotJson { .. }
            | Self::Status { status: RESTRICTED, .. } => Outcome::Failed(None),
            Self::Status { .. } | Self::TooLarge | Self::CorruptBody(_) => Outcome::Neutral,
        }
    }

    /// The same of a request to the witness, which may have a host of its own: that it fails there, or is
    /// blocked, must not slow the pages down or stop them. That it was too fast is said of all requests.
    fn outcome_of_witness(&self) -> Outcome {
        const BLOCKED: u16 = StatusCode::FORBIDDEN.as_u16();
        match self {
            Self::RateLimited { status: BLOCKED, .. } => Outcome::Neutral,
            Self::LatePermit | Self::RateLimited { .. } => self.outcome(),
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
        Ok(Self { http, endpoints: settings.binance.clone(), timeout: settings.request_timeout })
    }

    /// Sends one request, which uses up the permit, and tells the limiter what came of it.
    pub async fn fetch(&self, permit: Permit, request: Request) -> Result<Answer, FetchError> {
        let sending = permit.begin().ok_or(FetchError::LatePermit)?;
        let is_witness = request.call.is_witness();
        let fetched = tokio::time::timeout(self.timeout, self.exchange(request)).await;
        let fetched = fetched.unwrap_or(Err(FetchError::Timeout(self.timeout)));
        let outcome = match &fetched {
            Ok(_) => Outcome::Ok,
            Err(error) if is_witness => error.outcome_of_witness(),
            Err(error) => error.outcome(),
        };
        sending.finish(outcome).await;
        fetched
    }

    async fn exchange(&self, request: Request) -> Result<Answer, FetchError> {
        let endpoint = match request.call {
            Call::FiatList => &self.endpoints.fiat_list,
            Call::Assets => &self.endpoints.assets,
            Call::PaymentMethods => &self.endpoints.payment_methods,
            Call::Search => &self.endpoints.search,
            Call::Advertiser => &self.endpoints.advertiser,
            Call::WitnessAds => &self.endpoints.witness_ads,
            Call::WitnessQuote => &self.endpoints.witness_quote,
        };
        let sent = match request.payload {
            Payload::Json(body) => {
                let post = self.http.post(endpoint.clone());
                post.header(CONTENT_TYPE, "application/json").body(body)
            }
            Payload::Query(query) => {
                let mut url = endpoint.clone();
                url.query_pairs_mut().extend_pairs(query);
                self.http.get(url)
            }
        };
        let response = sent.send().await.map_err(|error| broken(&error))?;
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::IM_A_TEAPOT | StatusCode::FORBIDDEN => {
                let retry_after = retry_after(response.headers(), Utc::now());
                return Err(FetchError::RateLimited { status: status.as_u16(), retry_after });
            }
            _ if status.is_server_error() => {
                let retry_after = retry_after(response.headers(), Utc::now());
                return Err(FetchError::Server { status: status.as_u16(), retry_after });
            }
            _ if status.is_redirection() => return Err(FetchError::Redirect(status.as_u16())),
            _ => {
                // The status says enough, should its body not come.
                let body = whole(response).await.unwrap_or_default();
                return Err(FetchError::Status { status: status.as_u16(), body });
            }
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let content_type = content_type.unwrap_or_default().into_owned();
        let body = whole(response).await?;
        let fetched_at = Utc::now();
        if body.is_empty() {
            return Err(FetchError::EmptyBody);
        }
        match body.trim_ascii_start().first() {
            Some(b'{' | b'[') => Ok(Answer { body, fetched_at }),
            _ => Err(FetchError::NotJson { content_type, body }),
        }
    }
}

/// The body, if it is not too large.
async fn whole(mut response: reqwest::Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
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
    fn a_clock_that_differs_does_not_change_the_wait() {
        let headers = HeaderMap::from_iter([
            (RETRY_AFTER, "Sun, 22 Nov 2026 10:01:30 GMT".parse().unwrap()),
            (DATE, "Sun, 22 Nov 2026 10:01:20 GMT".parse().unwrap()),
        ]);
        let our_clock = "2026-11-22T09:00:00Z".parse().unwrap();
        assert_eq!(retry_after(&headers, our_clock), Some(Duration::from_secs(10)));
    }
}
