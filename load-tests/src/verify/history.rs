//! The truth log as timelines that can be asked about an instant or a span of time.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context, Result, bail};

use crate::truth::{AdContent, AdvertiserEvent, Header, MarketKey, PageDetails, Record};

/// A span of time in Unix microseconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two ends")]
pub struct Window {
    pub from_us: u64,
    pub to_us: u64,
}

impl Window {
    /// The smallest window around both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { from_us: self.from_us.min(other.from_us), to_us: self.to_us.max(other.to_us) }
    }
}

/// States in the order of time, each with the instant from which it held.
#[derive(Debug)]
pub struct Timeline<T>(Vec<(u64, T)>);

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Timeline<T> {
    /// The states that held at some instant of the window. At the instant of a change both do: the
    /// log's clock cannot tell which of two answers in one microsecond came first.
    pub fn during(&self, window: Window) -> impl Iterator<Item = &T> {
        let first = self.0.partition_point(|(at, _)| *at < window.from_us).saturating_sub(1);
        self.0[first..]
            .iter()
            .take_while(move |(at, _)| *at <= window.to_us)
            .map(|(_, state)| state)
    }
}

impl Timeline<Option<AdContent>> {
    /// Whether the ad was listed at every instant of the window.
    #[must_use]
    pub fn listed_throughout(&self, window: Window) -> bool {
        let before = self.0.partition_point(|(at, _)| *at < window.from_us);
        before > 0 && self.during(window).all(Option::is_some)
    }
}

/// Everything that the exchange showed.
#[derive(Debug)]
#[expect(missing_docs, reason = "named after the records")]
pub struct History {
    pub header: Header,
    pub ads: HashMap<MarketKey, HashMap<String, Timeline<Option<AdContent>>>>,
    /// What pages of advertisers showed, by number of the ad.
    pub details: HashMap<String, Timeline<PageDetails>>,
    pub advertisers: HashMap<String, Timeline<AdvertiserEvent>>,
}

impl History {
    /// Reads a log. A cut last line is left out: the exchange may still be writing it.
    pub fn read(mut log: impl BufRead) -> Result<Self> {
        let mut line = String::new();
        log.read_line(&mut line).context("read the header of the truth log")?;
        let Record::Header(header) =
            serde_json::from_str(&line).context("parse the first line of the truth log")?
        else {
            bail!("the first line of the truth log is no header: {line}");
        };
        let mut history = Self {
            header,
            ads: HashMap::new(),
            details: HashMap::new(),
            advertisers: HashMap::new(),
        };
        let mut number = 1_u64;
        loop {
            line.clear();
            number += 1;
            let read = log.read_line(&mut line).with_context(|| format!("read line {number}"))?;
            if read == 0 || !line.ends_with('\n') {
                return Ok(history);
            }
            let record = serde_json::from_str(&line)
                .with_context(|| format!("parse line {number} of the truth log"))?;
            history.add(record);
        }
    }

    /// Adds a record; records come in the order of time.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Header(_) => {}
            Record::Listed(event) | Record::Changed(event) | Record::Delisted(event) => {
                if let Some(details) = event.details {
                    let states = self.details.entry(event.adv_no.clone()).or_default();
                    states.0.push((event.at_us, details));
                }
                let market = self.ads.entry(event.market).or_default();
                market.entry(event.adv_no).or_default().0.push((event.at_us, event.ad));
            }
            Record::Advertiser(event) => {
                let states = self.advertisers.entry(event.user_no.clone()).or_default();
                states.0.push((event.at_us, event));
            }
        }
    }

    /// The numbers of the ads that were listed in a market at every instant of the window.
    pub fn listed_throughout(
        &self,
        market: &MarketKey,
        window: Window,
    ) -> impl Iterator<Item = &str> {
        let ads = self.ads.get(market).into_iter().flatten();
        ads.filter(move |(_, states)| states.listed_throughout(window)).map(|(no, _)| no.as_str())
    }
}
