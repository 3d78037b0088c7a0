//! The truth log: JSON lines, first a header, then every state that an answer could have shown.
//!
//! Values are text exactly as sent. A line's `at_us` (Unix microseconds) is taken while requests are
//! held off, so it is never later than an answer that shows the new state, and never earlier than one
//! that shows the old.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// The first line: what was served.
    Header(Header),
    /// An ad came (or came back).
    Listed(AdEvent),
    /// An ad's content changed.
    Changed(AdEvent),
    /// An ad went away; `ad` is absent.
    Delisted(AdEvent),
    /// An advertiser came or its figures changed.
    Advertiser(AdvertiserEvent),
}

/// What the run serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Seed of the world.
    pub seed: u64,
    /// Unix microseconds.
    pub started_at_us: u64,
    /// The options of `serve`, for the reader.
    pub options: serde_json::Value,
    /// Fiats of fiat-list.
    pub fiats: Vec<String>,
    /// Every market that portal/config offers.
    pub markets: Vec<MarketKey>,
}

/// A market; `side` is the taker's, as requested.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MarketKey {
    /// Fiat code.
    pub fiat: String,
    /// Asset code.
    pub asset: String,
    /// `BUY` or `SELL`.
    pub side: String,
}

/// A change of one ad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdEvent {
    /// Unix microseconds.
    pub at_us: u64,
    /// The ad's market.
    #[serde(flatten)]
    pub market: MarketKey,
    /// The ad's number, 20 digits.
    pub adv_no: String,
    /// The content from now on; `None` when it was delisted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ad: Option<AdContent>,
    /// What the page of the advertiser shows of it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<PageDetails>,
}

/// What only the page of the advertiser shows of an ad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct PageDetails {
    pub remarks: String,
    pub price_type: i16,
    pub price_floating_ratio: String,
    pub buyer_kyc_limit: i32,
    pub user_trade_volume_min: Option<String>,
}

/// What a parser can see of an ad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct AdContent {
    pub price: String,
    pub surplus_amount: String,
    pub tradable_quantity: String,
    pub min_amount: String,
    pub max_amount: String,
    pub dynamic_max_amount: String,
    pub min_quantity: String,
    pub max_quantity: String,
    pub dynamic_max_quantity: String,
    /// Minutes.
    pub pay_time_limit: Option<u16>,
    /// Sorted distinct identifiers.
    pub payment_methods: Vec<String>,
    pub classify: String,
    pub user_no: String,
    #[serde(default)]
    pub voucher_template: Option<serde_json::Value>,
    #[serde(default)]
    pub adv_system_label_ret: Option<serde_json::Value>,
}

/// The state of an advertiser from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct AdvertiserEvent {
    /// Unix microseconds.
    pub at_us: u64,
    pub user_no: String,
    pub nick_name: String,
    pub user_type: String,
    pub user_identity: String,
    pub user_grade: u8,
    pub month_order_count: u32,
    /// The number's text.
    pub month_finish_rate: String,
    /// The number's text.
    pub positive_rate: String,
    /// Seconds.
    #[serde(default)]
    pub adv_confirm_time: Option<i32>,
}

/// Appends records to a file.
#[derive(Debug)]
pub struct TruthLog {
    file: BufWriter<File>,
    last_us: u64,
}

impl TruthLog {
    /// Starts a new log, replacing an old file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), last_us: 0 })
    }

    /// The time for the next record. Never goes back, even if the wall clock does.
    pub fn now_us(&mut self) -> u64 {
        self.last_us = self.last_us.max(unix_us());
        self.last_us
    }

    /// Appends one record. It is not durable before [`TruthLog::flush`].
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, record)?;
        self.file.write_all(b"\n")
    }

    /// Hands what was written to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Unix microseconds now.
#[must_use]
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
