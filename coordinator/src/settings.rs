//! The coordinator's settings.

use std::net::SocketAddr;
use std::time::Duration;

use rust_decimal::{Decimal, dec};
use shared::endpoint::Access;
use shared::queue::{Management, Topology};
use shared::settings::{BadSettings, Broker, Database, Vars};
use shared::telemetry::Telemetry;

use crate::planner::MarketPattern;
use crate::quality::Thresholds;
use crate::status;

/// All that can be set, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub database: Database,
    /// The database as the owner of the tables, who alone may drop partitions.
    pub owner: Database,
    /// For how long what is kept.
    pub retention: Retention,
    pub broker: Broker,
    /// Which tells what is in the hands of consumers; `None`: that is not told.
    pub management: Option<Management>,
    pub telemetry: Telemetry,
    pub topology: Topology,
    /// Time between slots, which lie on the wall clock.
    pub interval: Duration,
    /// Time from its slot after which a batch is cut.
    pub batch_deadline: Duration,
    /// A slot found later than this is skipped.
    pub misfire_grace: Duration,
    /// Requests per minute to count on while no worker has told the rate of its egress.
    pub rate_per_minute: u32,
    /// Pages read again because their books moved, in percent of the pages of a batch.
    pub reread_percent: u32,
    /// Markets that go before others when the budget does not suffice for all.
    pub priority_markets: Vec<MarketPattern>,
    /// Age at which the lists of fiats, assets and payment methods are read again.
    pub catalog_refresh: Duration,
    /// Fiats whose lists are refreshed in one batch; new fiats are read at once.
    pub catalog_refresh_per_batch: u32,
    /// Pages of advertisers read in one batch at most; 0: none.
    pub advertiser_requests: u32,
    /// Age at which the page of an advertiser is read again.
    pub advertiser_refresh: Duration,
    /// Markets that a batch holds against the witness at most; 0: none.
    pub witness_markets: u32,
    /// Share of a market's compared ads that must agree, or the market is an error in the log.
    pub witness_threshold: Decimal,
    /// From where on the quality checks are no longer good.
    pub thresholds: Thresholds,
    /// The only fiats to read; empty: all.
    pub fiats: Vec<String>,
    /// Names this process in logs and ledger.
    pub coordinator_id: String,
    /// Where the status page is served; `None`: nowhere.
    pub status_address: Option<SocketAddr>,
    /// Who may read it.
    pub status_access: Access,
}

/// Days for which what was read is kept. What is older, counted from the newest batch, is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Ads, pages, certificates, jobs.
    pub facts_days: u16,
    /// Figures made of them.
    pub marts_days: u16,
    /// What could not be taken.
    pub quarantine_days: u16,
    /// Answers byte for byte ...
    pub raw_days: u16,
    /// ... and how large they may be together; 0: none are archived.
    pub raw_bytes: u64,
}

/// Fewest days of facts. The latest state shows the last good book of each market, and one without ads
/// may be read only once a day; planner and workers look at a market's book before. `p2p gaps` looks
/// back over two days.
const MIN_FACTS_DAYS: u16 = 3;
/// Most days: ten years.
const MAX_DAYS: u16 = 3650;

/// Largest budget of the raw archive: 64 TiB, more than ten years of it.
const MAX_RAW_MB: u64 = 64 << 20;

impl Retention {
    fn read(vars: &mut Vars) -> Self {
        let facts_days = vars.number("RETENTION_FACTS_DAYS", 35, MIN_FACTS_DAYS..=MAX_DAYS);
        let marts_days =
            vars.number("RETENTION_MARTS_DAYS", facts_days.max(1095), MIN_FACTS_DAYS..=MAX_DAYS);
        if marts_days < facts_days {
            vars.problem(format!(
                "RETENTION_MARTS_DAYS={marts_days}: allowed is no less than RETENTION_FACTS_DAYS={facts_days}, for marts outlive what they were made of"
            ));
        }
        let quarantine_days =
            vars.number("RETENTION_QUARANTINE_DAYS", facts_days.min(35), 1..=MAX_DAYS);
        if quarantine_days > facts_days {
            vars.problem(format!(
                "RETENTION_QUARANTINE_DAYS={quarantine_days}: allowed is no more than RETENTION_FACTS_DAYS={facts_days}, for without its job nobody knows of which market an entry was"
            ));
        }
        let raw_days = vars.number("RETENTION_RAW_DAYS", facts_days.min(7), 1..=MAX_DAYS);
        if raw_days > facts_days {
            vars.problem(format!(
                "RETENTION_RAW_DAYS={raw_days}: allowed is no more than RETENTION_FACTS_DAYS={facts_days}, for without its job nobody knows what an answer answered"
            ));
        }
        let raw_bytes = vars.number("RAW_ARCHIVE_MB", 6144, 0..=MAX_RAW_MB) << 20;
        Self { facts_days, marts_days, quarantine_days, raw_days, raw_bytes }
    }
}

impl Settings {
    pub fn read(mut vars: Vars) -> Result<Self, BadSettings> {
        let interval_minutes = vars.number("EXTRACTION_INTERVAL_MINUTES", 10_u64, 3..=1440);
        // Slots lie on the clock of the day, so that a day has the same ones as the day before.
        if 1440 % interval_minutes != 0 {
            vars.problem(format!(
                "EXTRACTION_INTERVAL_MINUTES={interval_minutes}: allowed are divisors of a day's 1440 minutes"
            ));
        }
        let interval = Duration::from_secs(interval_minutes * 60);
        let batch_deadline = vars.seconds("BATCH_DEADLINE_SECONDS", 480, 1..=86_400);
        if batch_deadline >= interval {
            vars.problem(format!(
                "BATCH_DEADLINE_SECONDS={}: allowed is less than EXTRACTION_INTERVAL_MINUTES={interval_minutes}, or a batch eats the next slot",
                batch_deadline.as_secs()
            ));
        }
        let misfire_grace = vars.seconds("MISFIRE_GRACE_SECONDS", 120, 1..=86_400);
        if misfire_grace >= interval {
            vars.problem(format!(
                "MISFIRE_GRACE_SECONDS={}: allowed is less than EXTRACTION_INTERVAL_MINUTES={interval_minutes}, or every slot is on time",
                misfire_grace.as_secs()
            ));
        }
        let own_id = vars.process_id("coordinator");
        let coordinator_id = vars.text("COORDINATOR_ID", &own_id);
        let priority_markets = read_priorities(&mut vars);
        let broker = Broker::read(&mut vars);
        let status_address = status::read_address(&mut vars);
        let settings = Self {
            database: Database::read(&mut vars),
            owner: Database::read_owner(&mut vars),
            retention: Retention::read(&mut vars),
            management: Management::read(&mut vars, &broker.url),
            broker,
            telemetry: Telemetry::read(&mut vars, &coordinator_id),
            topology: Topology::new(&vars.prefix("AMQP_PREFIX", "p2p")),
            interval,
            batch_deadline,
            misfire_grace,
            rate_per_minute: vars.number("INITIAL_RATE_LIMIT", 100, 1..=1_000_000),
            reread_percent: vars.number("REREAD_PERCENT", 1, 0..=100),
            priority_markets,
            catalog_refresh: Duration::from_secs(
                vars.number("CATALOG_REFRESH_HOURS", 24, 1..=8760) * 3600,
            ),
            catalog_refresh_per_batch: vars.number("CATALOG_REFRESH_PER_BATCH", 10, 1..=1000),
            advertiser_requests: vars.number("ADVERTISER_REQUESTS_PER_BATCH", 0, 0..=10_000),
            advertiser_refresh: Duration::from_secs(
                vars.number("ADVERTISER_REFRESH_HOURS", 24, 1..=8760) * 3600,
            ),
            witness_markets: vars.number("WITNESS_MARKETS_PER_BATCH", 3, 0..=100),
            witness_threshold: vars.number(
                "WITNESS_AGREEMENT_THRESHOLD",
                dec!(0.95),
                Decimal::ZERO..=Decimal::ONE,
            ),
            thresholds: read_thresholds(&mut vars),
            fiats: vars.list("FIATS"),
            status_address,
            status_access: Access::read(&mut vars, "STATUS_HOST", status_address),
            coordinator_id,
        };
        vars.finish(settings)
    }
}

/// Each can be exceeded, or the check could not fail.
/// From where on a quality check is no longer good.
pub fn read_thresholds(vars: &mut Vars) -> Thresholds {
    let mut share = |name, default, least: Decimal, most| vars.number(name, default, least..=most);
    Thresholds {
        completeness: share("COMPLETENESS_THRESHOLD", dec!(0.995), dec!(0.5), Decimal::ONE),
        price_anomaly: share("PRICE_ANOMALY_THRESHOLD", dec!(0.20), dec!(0.01), Decimal::TEN),
        volume_drop: share("VOLUME_DROP_THRESHOLD", dec!(0.50), dec!(0.05), dec!(0.95)),
    }
}

fn read_priorities(vars: &mut Vars) -> Vec<MarketPattern> {
    let mut patterns = Vec::new();
    for text in vars.list("PRIORITY_MARKETS") {
        match text.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => vars.problem(format!("PRIORITY_MARKETS: {error}")),
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Settings, String> {
        let servers = [("DATABASE_URL", "postgres://h/d"), ("AMQP_URL", "amqp://h")];
        Settings::read(Vars::from_pairs(servers.into_iter().chain(more)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_must_end_before_the_next_slot() {
        assert!(
            read([("EXTRACTION_INTERVAL_MINUTES", "5")])
                .unwrap_err()
                .contains("BATCH_DEADLINE_SECONDS=480")
        );
        assert!(
            read([("EXTRACTION_INTERVAL_MINUTES", "5"), ("BATCH_DEADLINE_SECONDS", "240")]).is_ok()
        );
    }

    #[test]
    fn a_grace_must_end_before_the_next_slot() {
        assert!(read([("MISFIRE_GRACE_SECONDS", "600")]).unwrap_err().contains("=600"));
    }

    #[test]
    fn priorities_that_name_no_markets_are_told() {
        let error = read([("PRIORITY_MARKETS", "VES,USDT/EUR/UP")]).unwrap_err();
        assert!(error.contains("USDT/EUR/UP") && error.contains("USDT/VES/BUY"), "{error}");
        assert_eq!(read([("PRIORITY_MARKETS", "VES,USDT/EUR")]).unwrap().priority_markets.len(), 2);
    }

    #[test]
    fn pages_of_advertisers_are_not_read_unless_told() {
        let settings = |more: &[(&'static str, &'static str)]| read(more.to_vec()).unwrap();
        assert_eq!(settings(&[]).advertiser_requests, 0);
        let told = [("ADVERTISER_REQUESTS_PER_BATCH", "50"), ("ADVERTISER_REFRESH_HOURS", "6")];
        let told = settings(&told);
        assert_eq!(told.advertiser_requests, 50);
        assert_eq!(told.advertiser_refresh, Duration::from_hours(6));
    }

    #[test]
    fn a_few_markets_are_held_against_the_witness_unless_told() {
        let settings = read([]).unwrap();
        assert_eq!((settings.witness_markets, settings.witness_threshold), (3, dec!(0.95)));
        assert_eq!(read([("WITNESS_MARKETS_PER_BATCH", "0")]).unwrap().witness_markets, 0);
        let error = read([("WITNESS_AGREEMENT_THRESHOLD", "95")]).unwrap_err();
        assert!(
            error.contains("WITNESS_AGREEMENT_THRESHOLD=\"95\": allowed are 0 to 1"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_dropped_that_is_still_needed() {
        let kept = read([]).unwrap().retention;
        let (facts_days, marts_days, quarantine_days) = (35, 1095, 35);
        let (raw_days, raw_bytes) = (7, 6 << 30);
        let default = Retention { facts_days, marts_days, quarantine_days, raw_days, raw_bytes };
        assert_eq!(kept, default);
        let longer = read([("RETENTION_FACTS_DAYS", "2000")]).unwrap().retention;
        assert_eq!((longer.marts_days, longer.quarantine_days), (2000, 35));
        let error = read([
            ("RETENTION_FACTS_DAYS", "2"),
            ("RETENTION_MARTS_DAYS", "20"),
            ("RETENTION_QUARANTINE_DAYS", "40"),
            ("RETENTION_RAW_DAYS", "36"),
        ]);
        let error = error.unwrap_err();
        for part in [
            "RETENTION_FACTS_DAYS=\"2\": allowed are 3 to 3650",
            "RETENTION_MARTS_DAYS=20: allowed is no less than RETENTION_FACTS_DAYS=35",
            "RETENTION_QUARANTINE_DAYS=40: allowed is no more than RETENTION_FACTS_DAYS=35",
            "RETENTION_RAW_DAYS=36: allowed is no more than RETENTION_FACTS_DAYS=35",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn the_archive_has_a_budget_or_is_off() {
        assert_eq!(read([("RAW_ARCHIVE_MB", "0")]).unwrap().retention.raw_bytes, 0);
        assert_eq!(read([("RAW_ARCHIVE_MB", "3")]).unwrap().retention.raw_bytes, 3 << 20);
        assert_eq!(read([("RETENTION_FACTS_DAYS", "3")]).unwrap().retention.raw_days, 3);
    }

    #[test]
    fn thresholds_are_shares_that_can_be_exceeded() {
        let told = [
            ("COMPLETENESS_THRESHOLD", "0.9"),
            ("PRICE_ANOMALY_THRESHOLD", "0.3"),
            ("VOLUME_DROP_THRESHOLD", "0.6"),
        ];
        let thresholds = read([]).unwrap().thresholds;
        let (completeness, price_anomaly, volume_drop) = (dec!(0.995), dec!(0.2), dec!(0.5));
        assert_eq!(thresholds, Thresholds { completeness, price_anomaly, volume_drop });
        let (completeness, price_anomaly, volume_drop) = (dec!(0.9), dec!(0.3), dec!(0.6));
        let thresholds = read(told).unwrap().thresholds;
        assert_eq!(thresholds, Thresholds { completeness, price_anomaly, volume_drop });
        let error = read(told.map(|(name, _)| (name, "NaN"))).unwrap_err();
        for part in [
            "COMPLETENESS_THRESHOLD=\"NaN\": allowed are 0.5 to 1",
            "PRICE_ANOMALY_THRESHOLD=\"NaN\": allowed are 0.01 to 10",
            "VOLUME_DROP_THRESHOLD=\"NaN\": allowed are 0.05 to 0.95",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn the_owner_of_the_tables_may_come_another_way() {
        assert_eq!(read([]).unwrap().owner.url.as_str(), "postgres://h/d");
        let owner = read([("OWNER_DATABASE_URL", "postgres://owner@h/d")]).unwrap().owner;
        assert_eq!(owner.url.as_str(), "postgres://owner@h/d");
    }

    #[test]
    fn the_status_page_is_for_this_machine_unless_told() {
        let address = |more: &[(&'static str, &'static str)]| {
            read(more.to_vec()).map(|settings| settings.status_address.map(|at| at.to_string()))
        };
        assert_eq!(address(&[]).unwrap().as_deref(), Some("127.0.0.1:8080"));
        let all = [("STATUS_HOST", "0.0.0.0"), ("STATUS_PORT", "81"), ("OPS_TOKEN", "none")];
        assert_eq!(address(&all).unwrap().as_deref(), Some("0.0.0.0:81"));
        assert_eq!(address(&[("STATUS_PORT", "0")]).unwrap(), None);
        let error = address(&[("STATUS_HOST", "localhost")]).unwrap_err();
        assert!(error.contains("STATUS_HOST=\"localhost\": allowed is"), "{error}");
    }

    #[test]
    fn slots_divide_the_day() {
        assert!(read([("EXTRACTION_INTERVAL_MINUTES", "7")]).unwrap_err().contains("1440"));
    }
}
