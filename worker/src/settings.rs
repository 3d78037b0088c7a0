//! The worker's settings.

use std::fmt;
use std::time::Duration;

use shared::limiter::DEFAULT_EGRESS;
use shared::queue::Topology;
use shared::settings::{BadSettings, Broker, Database, Redis, Vars, redacted};
use shared::telemetry::Telemetry;

use crate::storer::MAX_GROUP;

/// All that can be set, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub database: Database,
    pub broker: Broker,
    pub redis: Redis,
    pub telemetry: Telemetry,
    pub topology: Topology,
    pub binance: Binance,
    pub rate_limit: RateLimit,
    /// Names this process in logs, ledger and limiter.
    pub worker_id: String,
    /// The identity that the exchange sees; limits are per egress.
    pub egress_id: String,
    /// Through which requests leave; `None`: directly, or as the system says.
    pub proxy: Option<Proxy>,
    /// Most jobs in flight.
    pub max_workers: usize,
    /// From the first byte sent to the last received.
    pub request_timeout: Duration,
    /// Tries after the first, for errors that may pass.
    pub max_retries: u32,
    /// Who asks, in every request.
    pub user_agent: String,
}

/// Where the exchange is.
#[derive(Clone, Debug)]
pub struct Binance {
    pub search: url::Url,
    pub assets: url::Url,
    pub fiat_list: url::Url,
    pub payment_methods: url::Url,
    pub advertiser: url::Url,
    pub witness_ads: url::Url,
    pub witness_quote: url::Url,
}

/// The way out to the exchange.
#[derive(Clone)]
pub struct Proxy {
    pub url: url::Url,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.url))
    }
}

/// The shared limit; rates are requests per minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// To begin with.
    pub per_minute: u32,
    pub max_per_minute: u32,
    /// The lowest, and what the whole fleet may use together when Redis is away.
    pub min_per_minute: u32,
    /// Requests that may follow each other without a pause.
    pub burst: u32,
    /// Requests on the way at the same time, of all workers: the exchange refuses bursts.
    pub max_in_flight: u32,
    /// By what a refusal multiplies the rate.
    pub backoff: f64,
    /// How long a refused rate is remembered.
    pub memory: Duration,
    /// Length of the window by which the exchange is taken to count.
    pub window: Duration,
    /// Failures without a success after which no request is sent for a while.
    pub breaker_failures: u32,
}

/// Lowest and highest rate that can be set.
const RATES: std::ops::RangeInclusive<u32> = 1..=1_000_000;

impl Settings {
    pub fn read(mut vars: Vars) -> Result<Self, BadSettings> {
        let own_id = vars.process_id("worker");
        let worker_id = vars.text("WORKER_ID", &own_id);
        let max_workers = vars.number("MAX_WORKERS", 20, 1..=500);
        let settings = Self {
            database: Database::read(&mut vars),
            broker: Broker::read(&mut vars),
            redis: Redis::read(&mut vars),
            telemetry: Telemetry::read(&mut vars, &worker_id),
            topology: Topology::new(&vars.prefix("AMQP_PREFIX", "p2p")),
            binance: Binance::read(&mut vars),
            rate_limit: RateLimit::read(&mut vars),
            worker_id,
            egress_id: vars.text("EGRESS_ID", DEFAULT_EGRESS),
            proxy: Proxy::read(&mut vars),
            max_workers,
            request_timeout: vars.seconds("REQUEST_TIMEOUT_SECONDS", 30, 1..=300),
            max_retries: vars.number("MAX_RETRIES", 3, 0..=20),
            user_agent: read_user_agent(&mut vars),
        };
        vars.finish(settings)
    }
}

/// What a worker has in flight at most, in seconds of the highest rate: enough for answers that
/// take two seconds, and few enough that a book, whose pages stand together in the queue, is read as one
/// burst and not in as many places as there are workers.
const IN_FLIGHT_SECS: u64 = 3;
/// What a group of pages takes to be stored under load, in milliseconds. Jobs that come meanwhile are taken besides those
/// in flight: they wait for a place, where others might have them, so there are no more than needed.
const STORED_MILLIS: u64 = 100;

impl Settings {
    /// Jobs that a worker has in flight at once, at most `max_workers`.
    #[must_use]
    pub fn jobs_in_flight(&self) -> usize {
        let fed = (u64::from(self.rate_limit.max_per_minute) * IN_FLIGHT_SECS).div_ceil(60).max(2);
        usize::try_from(fed).unwrap_or(usize::MAX).min(self.max_workers)
    }

    /// Jobs that it takes from each queue besides: what goes on being fetched while a group is stored.
    #[must_use]
    pub fn jobs_taken_ahead(&self) -> usize {
        let fed = u64::from(self.rate_limit.max_per_minute) * STORED_MILLIS / 60_000;
        let most = self.jobs_in_flight().div_ceil(2).min(MAX_GROUP);
        usize::try_from(fed).unwrap_or(usize::MAX).clamp(1, most)
    }
}

/// What a header can carry.
fn read_user_agent(vars: &mut Vars) -> String {
    const NAME: &str = "USER_AGENT";
    let text = vars.text(NAME, concat!("p2p-market-data/", env!("CARGO_PKG_VERSION")));
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        vars.problem(format!("{NAME}={text:?}: allowed are printable characters of ASCII"));
    }
    text
}

/// The host of an exchange: what else a URL can hold would stand in every request, and in logs.
fn read_host(vars: &mut Vars, name: &str, default: &str) -> url::Url {
    let url = vars.url(name, Some(default), &["https", "http"]);
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user || url.query().is_some() || url.fragment().is_some() {
        vars.problem(format!(
            "{name}: allowed is a URL without user, password, query and fragment"
        ));
    }
    url
}

impl Proxy {
    fn read(vars: &mut Vars) -> Option<Self> {
        const NAME: &str = "EGRESS_PROXY_URL";
        vars.optional(NAME)?;
        let url = vars.url(NAME, None, &["http", "https", "socks5", "socks5h"]);
        if url.scheme() != "unset" && !url.has_host() {
            vars.problem(format!("{NAME} names no host"));
        }
        Some(Self { url })
    }
}

impl Binance {
    fn read(vars: &mut Vars) -> Self {
        let base = read_host(vars, "BINANCE_BASE_URL", DEFAULT_BASE);
        // Whoever names another exchange, a simulated one perhaps, names it for all requests.
        let witness = if base.as_str() == DEFAULT_BASE { DEFAULT_WITNESS } else { base.as_str() };
        let witness = read_host(vars, "BINANCE_WITNESS_BASE_URL", witness);
        let mut endpoint = |name, default| endpoint(vars, &base, name, default);
        Self {
            search: endpoint("BINANCE_SEARCH_ENDPOINT", "/bapi/c2c/v2/friendly/c2c/adv/search"),
            assets: endpoint("BINANCE_PAIRS_ENDPOINT", "/bapi/c2c/v2/friendly/c2c/portal/config"),
            fiat_list: endpoint(
                "BINANCE_FIATS_ENDPOINT",
                "/bapi/c2c/v1/friendly/c2c/trade-rule/fiat-list",
            ),
            payment_methods: endpoint(
                "BINANCE_PAYMENT_METHODS_ENDPOINT",
                "/bapi/c2c/v2/public/c2c/adv/filter-conditions",
            ),
            advertiser: endpoint(
                "BINANCE_ADVERTISER_ENDPOINT",
                "/bapi/c2c/v2/friendly/c2c/user/profile-and-ads-list",
            ),
            witness_ads: self::endpoint(
                vars,
                &witness,
                "BINANCE_WITNESS_ADS_ENDPOINT",
                "/bapi/c2c/v1/public/c2c/agent/ad-list",
            ),
            witness_quote: self::endpoint(
                vars,
                &witness,
                "BINANCE_WITNESS_QUOTE_ENDPOINT",
                "/bapi/c2c/v1/public/c2c/agent/quote-price",
            ),
        }
    }
}

/// The host of the web site, and that of the calls for agents.
const DEFAULT_BASE: &str = "https://p2p.binance.com/";
const DEFAULT_WITNESS: &str = "https://www.binance.com/";

/// A call by its path on the host of `base`.
fn endpoint(vars: &mut Vars, base: &url::Url, name: &str, default: &str) -> url::Url {
    let path = vars.text(name, default);
    let url = path.starts_with('/').then(|| base.join(&path).ok()).flatten();
    // A path such as `//elsewhere/…` would change the host.
    url.filter(|url| url.origin() == base.origin()).unwrap_or_else(|| {
        vars.problem(format!("{name}={path:?}: allowed is a path of the host, such as {default}"));
        base.clone()
    })
}

impl RateLimit {
    fn read(vars: &mut Vars) -> Self {
        let per_minute = vars.number("INITIAL_RATE_LIMIT", 100, RATES);
        let min_per_minute = vars.number("MIN_RATE_LIMIT", 10, RATES);
        let max_per_minute = vars.number("MAX_RATE_LIMIT", 200, RATES);
        if !(min_per_minute..=max_per_minute).contains(&per_minute) {
            vars.problem(format!(
                "INITIAL_RATE_LIMIT={per_minute}: allowed are MIN_RATE_LIMIT={min_per_minute} to MAX_RATE_LIMIT={max_per_minute}"
            ));
        }
        Self {
            per_minute,
            max_per_minute,
            min_per_minute,
            burst: vars.number("RATE_LIMIT_BURST", 1, 1..=1000),
            max_in_flight: vars.number("MAX_IN_FLIGHT", 4, 1..=1000),
            backoff: vars.number("RATE_LIMIT_BACKOFF_FACTOR", 0.5, 0.1..=0.9),
            memory: vars.seconds("RATE_LIMIT_MEMORY_SECONDS", 1800, 0..=86_400),
            window: vars.seconds("RATE_LIMIT_WINDOW_SECONDS", 60, 1..=3600),
            breaker_failures: vars.number("BREAKER_FAILURES", 10, 1..=1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [(&str, &str); 3] =
        [("DATABASE_URL", "postgres://h/d"), ("AMQP_URL", "amqp://h"), ("REDIS_URL", "redis://h")];

    fn read<'a>(more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Settings, String> {
        let vars = Vars::from_pairs(SERVERS.into_iter().chain(more));
        Settings::read(vars).map_err(|error| error.to_string())
    }

    #[test]
    fn the_real_exchange_is_the_default() {
        let settings = read([]).unwrap();
        assert_eq!(
            settings.binance.search.as_str(),
            "https://p2p.binance.com/bapi/c2c/v2/friendly/c2c/adv/search"
        );
        assert_eq!(settings.rate_limit.per_minute, 100);
    }

    #[test]
    fn no_more_jobs_are_in_flight_than_the_rate_feeds() {
        assert_eq!(read([]).unwrap().jobs_in_flight(), 10);
        assert_eq!(read([("MAX_RATE_LIMIT", "6000")]).unwrap().jobs_in_flight(), 20);
        assert_eq!(read([("MAX_WORKERS", "1")]).unwrap().jobs_in_flight(), 1);
    }

    /// What no worker works on yet is for others to take; where storing keeps up it need not be there.
    #[test]
    fn what_is_taken_ahead_is_what_comes_while_a_group_is_stored() {
        let of = |rate, workers| {
            let settings = read([("MAX_RATE_LIMIT", rate), ("MAX_WORKERS", workers)]);
            settings.unwrap().jobs_taken_ahead()
        };
        assert_eq!(of("200", "20"), 1);
        assert_eq!(of("6000", "20"), 10);
        assert_eq!(of("6000", "5"), 3);
        assert_eq!(of("1000000", "50"), 25);
        assert_eq!(of("1000000", "500"), MAX_GROUP);
    }

    #[test]
    fn endpoints_stay_on_the_host() {
        let error = read([
            ("BINANCE_SEARCH_ENDPOINT", "//evil.example/x"),
            ("BINANCE_PAIRS_ENDPOINT", "x"),
        ]);
        let error = error.unwrap_err();
        assert!(
            error.contains("BINANCE_SEARCH_ENDPOINT") && error.contains("BINANCE_PAIRS_ENDPOINT"),
            "{error}"
        );
    }

    #[test]
    fn the_url_of_the_exchange_holds_no_secret() {
        for name in ["BINANCE_BASE_URL", "BINANCE_WITNESS_BASE_URL"] {
            for url in
                ["http://u:geheim@h", "http://geheim@h", "http://h/?geheim", "http://h/#geheim"]
            {
                let error = read([(name, url)]).unwrap_err();
                assert!(error.contains(name) && !error.contains("geheim"), "{error}");
            }
        }
        assert!(read([("USER_AGENT", "a\r\nb")]).unwrap_err().contains("USER_AGENT"));
    }

    /// A simulated exchange, or one behind another address, is never passed by.
    #[test]
    fn the_witness_has_a_host_of_its_own_only_beside_the_real_exchange() {
        const PATH: &str = "/bapi/c2c/v1/public/c2c/agent/ad-list";
        let (base, witness) = ("BINANCE_BASE_URL", "BINANCE_WITNESS_BASE_URL");
        for (told, host) in [
            (vec![], "https://www.binance.com"),
            (vec![(base, "https://p2p.binance.com")], "https://www.binance.com"),
            (vec![(base, "http://127.0.0.1:8085")], "http://127.0.0.1:8085"),
            (vec![(base, "http://a:1"), (witness, "http://b:2")], "http://b:2"),
        ] {
            let settings = read(told.clone()).unwrap().binance;
            assert_eq!(settings.witness_ads.as_str(), format!("{host}{PATH}"), "{told:?}");
        }
        let error = read([("BINANCE_WITNESS_QUOTE_ENDPOINT", "//elsewhere/x")]).unwrap_err();
        assert!(error.contains("BINANCE_WITNESS_QUOTE_ENDPOINT"), "{error}");
    }

    #[test]
    fn the_password_of_the_proxy_is_never_shown() {
        let settings = read([("EGRESS_PROXY_URL", "socks5://u:geheim@h:1080")]).unwrap();
        let shown = format!("{settings:?}");
        assert!(shown.contains("socks5://u:***@h:1080") && !shown.contains("geheim"), "{shown}");
        for bad in ["ftp://h", "socks5:x", "h:geheim"] {
            let error = read([("EGRESS_PROXY_URL", bad)]).unwrap_err();
            assert!(error.contains("EGRESS_PROXY_URL") && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn the_rate_lies_between_floor_and_ceiling() {
        assert!(read([("INITIAL_RATE_LIMIT", "300")]).unwrap_err().contains("MAX_RATE_LIMIT=200"));
        assert!(read([("INITIAL_RATE_LIMIT", "300"), ("MAX_RATE_LIMIT", "400")]).is_ok());
    }
}
