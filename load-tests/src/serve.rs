//! The server: options, the clock that moves the world, faults, logs, and the admin calls.
//!
//! With `--admin` a test tells the running exchange what to do, by POST; the answer is 204, or 400
//! with the reason. These calls are no requests: neither counted, logged, limited nor faulty.
//!
//! - `/sim/faults` with `{"http500": 200, "hang": 50}`: from now on these faults, per 1,000 requests,
//!   and no others. `{}`: none.
//! - `/sim/limits` with `{"per_window": 50, "per_second": 5}`: from now on these limits; 0 or left out:
//!   none.
//! - `/sim/delist?fiat=VES`: the fiat leaves the list of fiats and its markets answer empty.
//! - `/sim/lies` with `{"search": "cut", "witness": "stale"}`: from now on the search lies (`cut`, `shifted`),
//!   or the calls for agents do (`shifted`, `stale`, `unreadable`, or a kind of fault). `{}`: neither.
//! - `/sim/resize` with `{"fiat": "VES", "asset": "USDT", "side": "BUY", "per_mille": 500}`: of 1,000 ads
//!   that each of these markets has had so many are listed; 1000 brings all back. What is left out means
//!   all.
//! - `/sim/reprice` with the same: multiplies their prices by a thousandth of `per_mille`.
//! - `/sim/prepare` with the body of a search: renders and packs all pages of all markets as it asks for one,
//!   and hands them out until anything moves, so that answering costs next to nothing. Such answers meet the
//!   limit, but no faults, latency or logs.
//! - `/sim/advance?ms=500`: moves the clock of `--manual-clock`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::serve::ListenerExt;
use clap::{Args, ValueEnum, value_parser};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::{
    self, Answer, Behaviour, Fault, Faults, Lies, Query, Renderer, SEARCH_PATH, Seen, Share,
    Template,
};
use crate::limit::{Limits, RateLimit};
use crate::market::{Event, Rates, Spec, TICK_MS, World, rng_for};
use crate::respond::{accepts_gzip, pack, respond, respond_packed};
use crate::truth::{AdEvent, AdvertiserEvent, Header, Record, TruthLog, unix_us};

/// The longest step of a manual clock: a day. Longer ones are surely a mistake of units.
const MAX_ADVANCE_MS: u64 = 86_400_000;

/// Where a promoted ad stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Promoted {
    /// On top and again at its ordinary place; `total` counts it once.
    Repeat,
    /// On top only; `total` does not count it.
    Once,
}

/// Options of `exchange-sim serve`.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one. The first line on stdout names the one taken.
    #[arg(long, default_value = "127.0.0.1:8085")]
    pub listen: SocketAddr,
    /// File to write the URL to once the server listens.
    #[arg(long)]
    pub url_file: Option<PathBuf>,
    /// Seed of the world and of everything that happens in it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Fiats served, largest first: 50 of measured size, the rest guessed.
    #[arg(long, default_value_t = 110, value_parser = value_parser!(u64).range(1..=110))]
    pub fiats: u64,
    /// Ads over all markets at the start.
    #[arg(long, default_value_t = 30_000, value_parser = value_parser!(u64).range(0..=1_000_000))]
    pub ads: u64,
    /// Assets per fiat at most.
    #[arg(long, default_value_t = 14, value_parser = value_parser!(u64).range(1..=14))]
    pub assets: u64,
    /// Fiats that are in nobody's list but answer: with assets, without ads.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(0..=12))]
    pub delisted: u64,
    /// Time an answer takes, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=600_000))]
    pub latency_ms: u64,
    /// Added to the latency: evenly drawn up to this, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=600_000))]
    pub latency_jitter_ms: u64,
    /// Ads that go, and as many that come, per 1,000 and minute. Of those that come 40 % come back.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(0..=1_000))]
    pub churn_per_minute: u64,
    /// Ads whose price, amount or payment time changes, per 1,000 and minute.
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u64).range(0..=10_000))]
    pub change_per_minute: u64,
    /// Advertisers whose month figures change, per 1,000 and minute.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(0..=10_000))]
    pub month_change_per_minute: u64,
    /// Advertisers that take another nickname, per 1,000 and hour.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(0..=10_000))]
    pub rename_per_hour: u64,
    /// Ads whose terms are reworded, per 1,000 and hour; only the page of the advertiser shows it.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(0..=1_000_000))]
    pub reword_per_hour: u64,
    /// Requests per minute and client address, in a sliding window; more get 429. 0: no limit.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub rate_limit: u32,
    /// Length of that window in seconds, where it is not a minute.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..=3_600))]
    pub rate_window_seconds: u64,
    /// Requests per second and client address besides, in a sliding window. 0: no limit.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub rate_limit_per_second: u32,
    /// Seconds for which a client is banned that asks again before the time it was told; doubled each
    /// further time. 0: no bans.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=3_600))]
    pub ban_seconds: u64,
    /// Where the promoted ad of a market stands.
    #[arg(long, value_enum, default_value_t = Promoted::Repeat)]
    pub promoted: Promoted,
    /// Requests that see another order among ads of one price, per 1,000. At 1000 every boundary
    /// between pages repeats and hides ads; the real exchange repeats about one in ten.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(0..=1_000))]
    pub tie_shuffle_per_mille: u32,
    /// A fault and how many of 1,000 requests get it, such as http500:20; may be repeated.
    #[arg(long, value_name = "KIND:PER_MILLE", long_help = Share::help())]
    pub fault: Vec<Share>,
    /// Short for `--fault mix:N`: all passing kinds in equal parts.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000))]
    pub fault_per_mille: u32,
    /// Numbers of the requests that faults are for, from 0, such as 0..200; the others get none.
    #[arg(long, value_name = "FROM..UNTIL", value_parser = parse_stretch)]
    pub fault_requests: Option<Range<u64>>,
    /// How often a request, and what is asked again just like it, may get a fault; after that the answers
    /// are right, and such requests have no number for --fault-requests. Without: as often as it is drawn.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub faults_per_request: Option<u32>,
    /// File for the truth log (JSON lines); replaced at start.
    #[arg(long)]
    pub truth: Option<PathBuf>,
    /// File for the request log (JSON lines), `fault` of each null if it had none; replaced at start.
    #[arg(long)]
    pub request_log: Option<PathBuf>,
    /// Obey `POST /sim/faults`, `/sim/lies`, `/sim/limits`, `/sim/delist`, `/sim/resize`, `/sim/reprice` and
    /// `/sim/advance`.
    #[arg(long)]
    pub admin: bool,
    /// Time stands still but for `POST /sim/advance?ms=N`.
    #[arg(long, requires = "admin")]
    pub manual_clock: bool,
}

/// `FROM..UNTIL`
fn parse_stretch(text: &str) -> Result<Range<u64>, String> {
    let ends = text.split_once("..").and_then(|(from, until)| {
        Some(Range { start: from.parse().ok()?, end: until.parse().ok()? })
    });
    ends.ok_or_else(|| "allowed is FROM..UNTIL, such as 0..200".to_owned())
}

impl Options {
    /// The faults to begin with.
    fn faults(&self) -> Result<Faults, String> {
        let mut shares = self.fault.clone();
        shares.push(Share::mix(self.fault_per_mille));
        Faults::new(&shares, self.fault_requests.clone().unwrap_or(0..u64::MAX))
    }

    fn limits(&self) -> Result<Limits> {
        Ok(Limits {
            per_window: usize::try_from(self.rate_limit)?,
            window: Duration::from_secs(self.rate_window_seconds),
            per_second: usize::try_from(self.rate_limit_per_second)?,
            ban: Duration::from_secs(self.ban_seconds),
        })
    }

    fn spec(&self, templates: &[Template]) -> Spec {
        let small = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Spec {
            seed: self.seed,
            fiats: small(self.fiats),
            assets: small(self.assets),
            ads: small(self.ads),
            delisted: small(self.delisted),
            templates: templates.iter().map(|item| item.user_type() == "merchant").collect(),
            rates: Rates {
                churn: self.churn_per_minute,
                change: self.change_per_minute,
                month: self.month_change_per_minute,
                rename: self.rename_per_hour,
                reword: self.reword_per_hour,
            },
        }
    }
}

/// The state that requests read and the clock writes.
struct Live {
    world: World,
    renderer: Renderer,
    truth: Option<TruthLog>,
    manual_ms: u64,
}

impl Live {
    /// The world at tick 0, logged.
    fn start(options: &Options) -> Result<Self> {
        let templates = Template::all();
        let world = World::new(&options.spec(&templates));
        let renderer = Renderer::new(&world, templates);
        let create = |path: &PathBuf| {
            TruthLog::create(path).with_context(|| format!("create --truth {}", path.display()))
        };
        let truth = options.truth.as_ref().map(create).transpose()?;
        let mut live = Self { world, renderer, truth, manual_ms: 0 };
        live.log_start(options).context("write the truth log")?;
        Ok(live)
    }

    fn log_start(&mut self, options: &Options) -> io::Result<()> {
        let Some(truth) = &mut self.truth else {
            return Ok(());
        };
        let world = &self.world;
        let started_at_us = truth.now_us();
        truth.write(&Record::Header(Header {
            seed: options.seed,
            started_at_us,
            options: serde_json::to_value(options)?,
            fiats: world.catalog.fiats.iter().map(|fiat| fiat.code.clone()).collect(),
            markets: world.markets.iter().map(|market| world.key(market)).collect(),
        }))?;
        for at in 0..self.world.advertisers.len() {
            self.log(Event::Advertiser(at))?;
        }
        for at in 0..self.world.ads.len() {
            self.log(Event::Listed(at))?;
        }
        self.truth.as_mut().map_or(Ok(()), TruthLog::flush)
    }

    /// Lets everything happen that is due, and logs it. The caller holds requests off meanwhile.
    fn advance(&mut self, elapsed_ms: u64) -> io::Result<()> {
        let until = elapsed_ms / TICK_MS;
        let mut happened = false;
        while let Some(event) = self.world.next_event(until) {
            self.renderer.update(&self.world, event);
            self.log(event)?;
            happened = true;
        }
        match &mut self.truth {
            Some(truth) if happened => truth.flush(),
            _ => Ok(()),
        }
    }

    /// Takes a fiat from the list, and its ads with it. The caller holds requests off meanwhile.
    fn delist(&mut self, fiat: usize) -> io::Result<()> {
        for ad in self.world.delist(fiat) {
            self.log(Event::Delisted(ad))?;
        }
        self.truth.as_mut().map_or(Ok(()), TruthLog::flush)
    }

    /// Logs what was made to happen. The caller holds requests off meanwhile.
    fn tell(&mut self, events: &[Event]) -> io::Result<()> {
        for &event in events {
            self.renderer.update(&self.world, event);
            self.log(event)?;
        }
        self.truth.as_mut().map_or(Ok(()), TruthLog::flush)
    }

    fn log(&mut self, event: Event) -> io::Result<()> {
        let Some(truth) = &mut self.truth else {
            return Ok(());
        };
        let at_us = truth.now_us();
        let world = &self.world;
        let ad_event = |at: usize, with_content: bool| {
            let ad = &world.ads[at];
            AdEvent {
                at_us,
                market: world.key(&world.markets[ad.market]),
                adv_no: ad.number.to_string(),
                ad: with_content.then(|| world.content(ad)),
                details: with_content.then(|| ad.details()),
            }
        };
        truth.write(&match event {
            Event::Listed(at) => Record::Listed(ad_event(at, true)),
            Event::Changed(at) => Record::Changed(ad_event(at, true)),
            Event::Delisted(at) => Record::Delisted(ad_event(at, false)),
            Event::Advertiser(at) => {
                let advertiser = &world.advertisers[at];
                let template = self.renderer.template(advertiser);
                Record::Advertiser(AdvertiserEvent {
                    at_us,
                    user_no: advertiser.user_no.clone(),
                    nick_name: advertiser.nick_name.clone(),
                    user_type: template.user_type().to_owned(),
                    user_identity: template.user_identity().to_owned(),
                    user_grade: template.user_grade(),
                    month_order_count: advertiser.month_order_count,
                    month_finish_rate: advertiser.month_finish_rate.clone(),
                    positive_rate: advertiser.positive_rate.clone(),
                    adv_confirm_time: advertiser.confirm_seconds(),
                })
            }
        })
    }
}

/// What was drawn so far, for `--faults-per-request`.
#[derive(Default)]
struct Drawn {
    /// How many requests had a draw.
    requests: u64,
    /// How many faults each had, by path, query and body.
    faults: HashMap<Vec<u8>, u32>,
}

/// A running exchange.
struct Exchange {
    options: Options,
    behaviour: Behaviour,
    started: Instant,
    requests: AtomicU64,
    faults: RwLock<Faults>,
    drawn: Mutex<Drawn>,
    lies: RwLock<Lies>,
    live: RwLock<Live>,
    limit: Mutex<RateLimit>,
    /// Packed answers to searches of the world as it stands; empty: none are prepared.
    prepared: RwLock<HashMap<Query, Bytes>>,
    request_log: Option<Mutex<File>>,
    /// Tells the server to end because a log could not be written.
    failed: mpsc::Sender<io::Error>,
}

/// What `/sim/limits` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldLimits {
    per_window: usize,
    #[serde(default)]
    per_second: usize,
}

/// What `/sim/resize` and `/sim/reprice` take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldMarkets {
    fiat: Option<String>,
    asset: Option<String>,
    side: Option<String>,
    per_mille: u32,
}

impl ToldMarkets {
    fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| {
            format!(
                "allowed is an object such as {{\"fiat\": \"VES\", \"per_mille\": 500}}: {error}"
            )
        })
    }

    /// Indexes of the markets that are meant; at least one.
    fn markets(&self, world: &World) -> Result<Vec<usize>, String> {
        let is_meant =
            |told: &Option<String>, name: &str| told.as_deref().is_none_or(|told| told == name);
        let found: Vec<usize> = (0..world.markets.len())
            .filter(|&at| {
                let key = world.key(&world.markets[at]);
                is_meant(&self.fiat, &key.fiat)
                    && is_meant(&self.asset, &key.asset)
                    && is_meant(&self.side, &key.side)
            })
            .collect();
        if found.is_empty() { Err("no market is meant".to_owned()) } else { Ok(found) }
    }
}

/// A line of the request log.
#[derive(Serialize)]
struct LogLine<'a> {
    at_us: u64,
    path: &'a str,
    #[serde(flatten)]
    seen: &'a Seen,
    /// `None`: no answer was sent.
    status: Option<u16>,
    fault: Option<Fault>,
    /// Length and CRC-32 of the body before it was packed.
    body_bytes: usize,
    body_crc32: u32,
}

impl Exchange {
    /// Time since the start, by the clock in force.
    fn elapsed_ms(&self) -> u64 {
        if self.options.manual_clock {
            self.live.read().unwrap_or_else(PoisonError::into_inner).manual_ms
        } else {
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
        }
    }

    /// Moves the world to `elapsed_ms`; a log that cannot be written ends the server.
    fn advance(&self, elapsed_ms: u64) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.manual_ms = elapsed_ms;
        if let Err(error) = live.advance(elapsed_ms) {
            self.fail(error);
        }
    }

    fn fail(&self, error: io::Error) {
        // A full channel means that the server is ending already.
        self.failed.try_send(error).ok();
    }

    fn answer(&self, client: SocketAddr, number: u64, parts: &Parts, body: &[u8]) -> Answer {
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let now = Duration::from_millis(self.elapsed_ms());
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = limit.check(client.ip(), now);
        drop(limit);
        if let Err(retry_after) = granted {
            return Answer::too_many_requests(retry_after);
        }
        let method = parts.method.as_str();
        let request = api::Request { number, method, path, query, body };
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let lies = self.lies.read().unwrap_or_else(PoisonError::into_inner);
        let right = api::answer(&live.world, &live.renderer, &self.behaviour, &lies, &request);
        drop(lies);
        drop(live);
        match self.draw_fault(&request) {
            Some(fault) => fault.spoil(right, path),
            None => right,
        }
    }

    /// The fault that a request gets, if any.
    fn draw_fault(&self, request: &api::Request<'_>) -> Option<Fault> {
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let seed = self.options.seed;
        let Some(most) = self.options.faults_per_request else {
            return faults.draw(seed, request.number);
        };
        let asked = [request.path.as_bytes(), request.query.as_bytes(), request.body].join(&b'\n');
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.faults.get(&asked).is_some_and(|&had| had >= most) {
            return None;
        }
        // Numbered by themselves: which faults are given does not depend on how often is asked again.
        let number = drawn.requests;
        drawn.requests += 1;
        let fault = faults.draw(seed, number)?;
        *drawn.faults.entry(asked).or_default() += 1;
        Some(fault)
    }

    /// The answer to an admin call; `None` if it is none, or nobody may call.
    fn admin(&self, parts: &Parts, body: &[u8]) -> Option<Answer> {
        if !self.options.admin || parts.method != "POST" {
            return None;
        }
        let query = parts.uri.query().unwrap_or_default();
        let path = parts.uri.path();
        if path.starts_with("/sim/") {
            self.prepared.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let done = match path {
            "/sim/prepare" => self.prepare(body),
            "/sim/advance" => self.manual_advance(query),
            "/sim/delist" => self.delist(query),
            "/sim/faults" => self.replace_faults(body),
            "/sim/lies" => self.replace_lies(body),
            "/sim/limits" => self.replace_limits(body),
            "/sim/resize" => self.resize(body),
            "/sim/reprice" => self.reprice(body),
            _ => return None,
        };
        Some(Answer::of_admin(done))
    }

    fn prepare(&self, body: &[u8]) -> Result<(), String> {
        if !self.options.manual_clock {
            return Err("the market moves by itself: start with --manual-clock".to_owned());
        }
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let pages = api::render_all(&live.world, &live.renderer, &self.behaviour, body)
            .ok_or("allowed is the body of a search that can be answered")?;
        drop(live);
        let packed = pages.into_iter().map(|(query, page)| (query, Bytes::from(pack(&page))));
        *self.prepared.write().unwrap_or_else(PoisonError::into_inner) = packed.collect();
        Ok(())
    }

    /// The packed answer, if it is prepared.
    fn prepared(&self, client: SocketAddr, parts: &Parts, body: &[u8]) -> Option<Response> {
        let prepared = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        if prepared.is_empty() || parts.uri.path() != SEARCH_PATH || !accepts_gzip(&parts.headers) {
            return None;
        }
        let packed = prepared.get(&Query::parse(body)?)?.clone();
        drop(prepared);
        let now = Duration::from_millis(self.elapsed_ms());
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is refused asks the long way, where it is told and logged.
        limit.check(client.ip(), now).ok()?;
        Some(respond_packed(packed))
    }

    fn manual_advance(&self, query: &str) -> Result<(), String> {
        if !self.options.manual_clock {
            return Err("the clock runs by itself: start with --manual-clock".to_owned());
        }
        let ms = query.strip_prefix("ms=").and_then(|text| text.parse::<u64>().ok());
        let ms = ms
            .filter(|&ms| ms <= MAX_ADVANCE_MS)
            .ok_or_else(|| format!("query is {query:?}, allowed is ms=0 to ms={MAX_ADVANCE_MS}"))?;
        self.advance(self.elapsed_ms() + ms);
        Ok(())
    }

    fn delist(&self, query: &str) -> Result<(), String> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let code = query.strip_prefix("fiat=").unwrap_or_default();
        let Some((fiat, _)) = live.world.catalog.fiat(code) else {
            return Err(format!("query is {query:?}, allowed is fiat= with a listed fiat"));
        };
        if let Err(error) = live.delist(fiat) {
            self.fail(error);
        }
        Ok(())
    }

    fn resize(&self, body: &[u8]) -> Result<(), String> {
        let told = ToldMarkets::parse(body)?;
        let per_mille = usize::try_from(told.per_mille.min(1_000)).unwrap_or(1_000);
        self.make_happen(&told, |world, markets| world.resize(markets, per_mille))
    }

    fn reprice(&self, body: &[u8]) -> Result<(), String> {
        let told = ToldMarkets::parse(body)?;
        self.make_happen(&told, |world, markets| world.reprice(markets, told.per_mille.into()))
    }

    fn make_happen(
        &self,
        told: &ToldMarkets,
        make: impl FnOnce(&mut World, &[usize]) -> Vec<Event>,
    ) -> Result<(), String> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let markets = told.markets(&live.world)?;
        let events = make(&mut live.world, &markets);
        if let Err(error) = live.tell(&events) {
            self.fail(error);
        }
        Ok(())
    }

    fn replace_limits(&self, body: &[u8]) -> Result<(), String> {
        let told: ToldLimits = serde_json::from_slice(body).map_err(|error| {
            format!("allowed is an object such as {{\"per_window\": 50}}: {error}")
        })?;
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.set(told.per_window, told.per_second);
        Ok(())
    }

    fn replace_lies(&self, body: &[u8]) -> Result<(), String> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let lies = Lies::told(body, &live.world, &self.behaviour)?;
        drop(live);
        *self.lies.write().unwrap_or_else(PoisonError::into_inner) = lies;
        Ok(())
    }

    fn replace_faults(&self, body: &[u8]) -> Result<(), String> {
        let told: BTreeMap<String, u32> = serde_json::from_slice(body)
            .map_err(|error| format!("allowed is an object such as {{\"hang\": 50}}: {error}"))?;
        let shares: Vec<Share> = told
            .iter()
            .map(|(kind, &per_mille)| Share::new(kind, per_mille))
            .collect::<Result<_, _>>()?;
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) =
            Faults::new(&shares, 0..u64::MAX)?;
        Ok(())
    }

    fn log_request(&self, path: &str, answer: &Answer) {
        let Some(file) = &self.request_log else {
            return;
        };
        let (seen, fault) = (&answer.seen, answer.fault);
        let status = (!fault.is_some_and(Fault::is_silent)).then_some(answer.status);
        let mut crc = flate2::Crc::new();
        crc.update(&answer.body);
        let (body_bytes, body_crc32) = (answer.body.len(), crc.sum());
        let line = LogLine { at_us: unix_us(), path, seen, status, fault, body_bytes, body_crc32 };
        let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
        });
        if let Err(error) = written {
            self.fail(error);
        }
    }

    fn latency(&self, number: u64) -> Duration {
        const LATENCY: u64 = 5;
        let jitter = rng_for(self.options.seed, LATENCY, number)
            .random_range(0..=self.options.latency_jitter_ms);
        Duration::from_millis(self.options.latency_ms + jitter)
    }
}

async fn handle(
    State(exchange): State<Arc<Exchange>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    parts: Parts,
    body: Bytes,
) -> Response {
    if let Some(done) = exchange.admin(&parts, &body) {
        return respond(done, false).await;
    }
    if let Some(answer) = exchange.prepared(client, &parts, &body) {
        return answer;
    }
    let number = exchange.requests.fetch_add(1, Ordering::Relaxed);
    // Half of the way there, half of the way back: the book moves on both.
    let half = exchange.latency(number) / 2;
    if !half.is_zero() {
        tokio::time::sleep(half).await;
    }
    let answer = exchange.answer(client, number, &parts, &body);
    exchange.log_request(parts.uri.path(), &answer);
    if !half.is_zero() {
        tokio::time::sleep(half).await;
    }
    respond(answer, accepts_gzip(&parts.headers)).await
}

/// Serves until SIGINT or SIGTERM, or until a log cannot be written.
pub async fn run(options: Options) -> Result<()> {
    let faults = options.faults().map_err(Error::msg)?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listen on --listen {}", options.listen))?;
    let url = format!("http://{}", listener.local_addr().context("find the address taken")?);
    let live = Live::start(&options)?;
    let create = |path: &PathBuf| {
        File::create(path).with_context(|| format!("create --request-log {}", path.display()))
    };
    let request_log = options.request_log.as_ref().map(create).transpose()?.map(Mutex::new);
    let (failed, mut failure) = mpsc::channel(1);
    let exchange = Arc::new(Exchange {
        behaviour: Behaviour {
            seed: options.seed,
            promoted_once: options.promoted == Promoted::Once,
            tie_shuffle_per_mille: options.tie_shuffle_per_mille,
        },
        limit: Mutex::new(RateLimit::new(options.limits()?)),
        prepared: RwLock::default(),
        started: Instant::now(),
        requests: AtomicU64::new(0),
        faults: RwLock::new(faults),
        drawn: Mutex::default(),
        lies: RwLock::default(),
        live: RwLock::new(live),
        request_log,
        failed,
        options,
    });
    announce(&url, &exchange.options)?;
    let app = Router::new().fallback(handle).with_state(Arc::clone(&exchange));
    // Answers go out whole; without this the end of each could wait for a delayed acknowledgement.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
    tokio::select! {
        result = server => result.context("serve"),
        () = keep_moving(&exchange) => Ok(()),
        Some(error) = failure.recv() => Err(error).context("write a log"),
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn announce(url: &str, options: &Options) -> Result<()> {
    if let Some(path) = &options.url_file {
        std::fs::write(path, url)
            .with_context(|| format!("write --url-file {}", path.display()))?;
    }
    let mut stdout = io::stdout();
    // Nobody may be reading; that is no reason not to serve.
    writeln!(stdout, "listening on {url}").and_then(|()| stdout.flush()).ok();
    Ok(())
}

/// Moves the world with the wall clock. Never returns.
async fn keep_moving(exchange: &Exchange) {
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        ticks.tick().await;
        if !exchange.options.manual_clock {
            exchange.advance(exchange.elapsed_ms());
        }
    }
}
