//! The messages between coordinator and workers.
//!
//! Tagged with a version, so that old and new processes can run side by side: a reader refuses a
//! version it does not know, and the message goes to the dead letters instead of being misread.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{BatchId, Market};
use crate::exchange::Exchange;

/// Version of [`Job`] and [`Report`] that this build writes, and the only one it reads.
pub const MESSAGE_VERSION: u16 = 1;

/// One unit of work on the queue. The job row in `pipeline.jobs` is the truth about it; the message
/// carries what a worker needs in order to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub version: u16,
    pub exchange: Exchange,
    pub batch_id: BatchId,
    /// Number of the job in its batch.
    pub ordinal: u32,
    /// How often the coordinator issued this job, from 1. Results of an earlier issue are not taken.
    pub issue: u16,
    /// A worker does not begin the job after this instant.
    pub expires_at: DateTime<Utc>,
    pub work: Work,
}

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// The fiats of the exchange.
    FiatList,
    /// The assets of a fiat, both sides.
    Assets { fiat_id: i32, fiat: String },
    /// The payment methods of a fiat.
    PaymentMethods { fiat_id: i32, fiat: String },
    /// One page of a market, from 1.
    Search {
        market_id: i32,
        market: Market,
        page: u32,
        /// The last reading had ads here: an empty answer is suspect.
        ads_expected: bool,
    },
    /// The page of an advertiser.
    Advertiser { advertiser_id: i32, user_no: String },
    /// The first ads of a market as another view of the exchange lists them.
    WitnessAds { market_id: i32, market: Market },
    /// The price of a market as that view quotes it.
    WitnessQuote { market_id: i32, market: Market },
}

impl Work {
    /// Whether the batch does not wait for it: it is done when nothing else is to do, or not at all.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        matches!(self, Self::Advertiser { .. })
    }

    /// Whether it reads the witness: beside the pages of its book, once, and at no cost to the batch
    /// if it fails.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        matches!(self, Self::WitnessAds { .. } | Self::WitnessQuote { .. })
    }

    /// As in `pipeline.jobs.kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FiatList => "fiat_list",
            Self::Assets { .. } => "assets",
            Self::PaymentMethods { .. } => "payment_methods",
            Self::Search { .. } => "search",
            Self::Advertiser { .. } => "advertiser",
            Self::WitnessAds { .. } => "witness_ads",
            Self::WitnessQuote { .. } => "witness_quote",
        }
    }
}

/// How a job ended, as in `pipeline.jobs.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// Its facts are stored.
    Done,
    /// There was nothing: no ads, or a page beyond the book's end.
    Empty,
    /// It was given up; the reason is a class of error.
    Failed,
    /// The batch's deadline passed first.
    Expired,
    /// It was left out for want of budget.
    Shed,
}

impl EndState {
    pub const ALL: [Self; 5] = [Self::Done, Self::Empty, Self::Failed, Self::Expired, Self::Shed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Empty => "empty",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Shed => "shed",
        }
    }

    /// From the column; `None` while the job has not ended.
    #[must_use]
    pub fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Classes of error for which a worker gives a job up: `pipeline.jobs.reason` of failed jobs, and the
/// label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No complete answer in time.
    Timeout,
    /// The connection failed.
    Network,
    /// Refused as too fast or banned, until the deadline.
    RateLimited,
    /// Status 5xx.
    ServerError,
    /// An answer that leads elsewhere, which is not followed.
    Redirect,
    /// Any other status than 200.
    HttpStatus,
    /// A body larger than is ever read.
    TooLarge,
    /// A body whose compression can't be undone.
    CorruptBody,
    /// No body where an answer belongs.
    EmptyBody,
    /// A body that is no JSON at all: the page of a firewall, an image.
    NotJson,
    /// JSON that is no answer of the expected shape, or is cut.
    Unparsable,
    /// The exchange said no, with an error code.
    Rejected,
    /// More ads than a page can hold.
    OversizedPage,
    /// The database refused the data.
    StoreRefused,
}

impl Failure {
    pub const ALL: [Self; 14] = [
        Self::Timeout,
        Self::Network,
        Self::RateLimited,
        Self::ServerError,
        Self::Redirect,
        Self::HttpStatus,
        Self::TooLarge,
        Self::CorruptBody,
        Self::EmptyBody,
        Self::NotJson,
        Self::Unparsable,
        Self::Rejected,
        Self::OversizedPage,
        Self::StoreRefused,
    ];

    /// An answer came, and could not be read.
    pub const UNREADABLE: [Self; 4] =
        [Self::CorruptBody, Self::EmptyBody, Self::NotJson, Self::Unparsable];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Redirect => "redirect",
            Self::HttpStatus => "http_status",
            Self::TooLarge => "too_large",
            Self::CorruptBody => "corrupt_body",
            Self::EmptyBody => "empty_body",
            Self::NotJson => "not_json",
            Self::Unparsable => "unparsable",
            Self::Rejected => "rejected",
            Self::OversizedPage => "oversized_page",
            Self::StoreRefused => "store_refused",
        }
    }

    /// Whether another issue of the job, later in the batch, might succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Timeout
            | Self::Network
            | Self::RateLimited
            | Self::ServerError
            | Self::Redirect
            | Self::TooLarge
            | Self::CorruptBody
            | Self::EmptyBody
            | Self::NotJson
            | Self::Unparsable => true,
            Self::HttpStatus | Self::Rejected | Self::OversizedPage | Self::StoreRefused => false,
        }
    }

    /// From the column.
    #[must_use]
    pub fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.as_str() == text)
    }
}

/// Reason of an empty page that was asked for and held no ads.
pub const EMPTY_NO_ADS: &str = "no_ads";
/// Reason of a page that was not asked for, or was empty when it was, because the book had become shorter.
pub const EMPTY_BEYOND_LAST_PAGE: &str = "beyond_last_page";
/// Reason of a job that expired at its batch's deadline.
pub const EXPIRED_DEADLINE: &str = "deadline";
/// Reason of a job that expired because its batch was cut short: no egress could be used.
pub const EXPIRED_BREAKER_OPEN: &str = "breaker_open";
/// Reason of a job that expired because an operator cancelled its batch.
pub const EXPIRED_CANCELLED: &str = "cancelled";
/// Reason of a page left out for want of requests.
pub const SHED_BUDGET: &str = "budget";

/// The acknowledgement of the jobs of one batch whose ends were committed together, sent after that. A hint:
/// the coordinator finds every end in the database too, so a lost report costs time and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub version: u16,
    pub batch_id: BatchId,
    pub end: JobEnd,
    /// The other jobs. A coordinator that does not know the field takes their reports for lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<JobEnd>,
}

/// How one issue of a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    pub ordinal: u32,
    pub issue: u16,
    pub state: EndState,
    /// Class of the error, or why it is empty.
    pub reason: Option<String>,
    /// Ads of the whole book, as a page with ads declared.
    pub declared_total: Option<u32>,
    /// Ads stored.
    pub ads: u32,
    /// Which ads these are; `None`: there are none, or it is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<Listed>,
}

/// The ads of a page by keys, by which a book is seen to be whole without reading it from the database. Two ads of a book
/// that share a key make it seem to lack one, and it is read then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// At their ordinary places.
    pub ordinary: Vec<u32>,
    /// The one that is out of the order of prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<u32>,
    /// Ads that were refused.
    pub refused: u32,
}

impl Report {
    #[must_use]
    pub fn new(batch_id: BatchId, end: JobEnd) -> Self {
        Self { version: MESSAGE_VERSION, batch_id, end, more: Vec::new() }
    }

    /// How each of its jobs ended.
    pub fn ends(&self) -> impl Iterator<Item = &JobEnd> {
        std::iter::once(&self.end).chain(&self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Side;

    #[test]
    fn a_job_reads_as_it_was_written() {
        let job = Job {
            version: MESSAGE_VERSION,
            exchange: Exchange::Binance,
            batch_id: BatchId::from_raw(10_639_000).unwrap(),
            ordinal: 17,
            issue: 1,
            expires_at: DateTime::UNIX_EPOCH,
            work: Work::Search {
                market_id: 3,
                market: Market::new("VES", "USDT", Side::Sell).unwrap(),
                page: 2,
                ads_expected: true,
            },
        };
        let text = serde_json::to_string(&job).unwrap();
        insta::assert_snapshot!(text, @r#"{"version":1,"exchange":"binance","batch_id":10639000,"ordinal":17,"issue":1,"expires_at":"1970-01-01T00:00:00Z","work":{"kind":"search","market_id":3,"market":{"fiat":"VES","asset":"USDT","side":"SELL"},"page":2,"ads_expected":true}}"#);
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }
}
