//! What the coordinator measures. Labels are from small sets: never an ad, a market or a job.
//!
//! The figures of a batch are those of the database, told when it closes and again by whoever begins to
//! lead: a coordinator that was restarted does not leave alerts without their figures.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use crate::store::close::BatchOutcome;
use crate::store::quality::{Check, HELD_REASONS, LastBatch, Level};
use crate::store::witness::{self, MarketCheck};
use crate::witness::Counts;

const DURATION: &str = "p2p_batch_duration_seconds";
const LAST_DURATION: &str = "p2p_last_batch_duration_seconds";
const INTERVAL: &str = "p2p_schedule_interval_seconds";
const DEADLINE: &str = "p2p_batch_deadline_seconds";
const STATUS: &str = "p2p_batch_status";
const COMPLETENESS: &str = "p2p_data_completeness_ratio";
const CHECK_VALUE: &str = "p2p_quality_check_value";
const CHECK_FAILED: &str = "p2p_quality_check_failed";
const HELD: &str = "p2p_markets_held";
const RAW_BYTES: &str = "p2p_raw_archive_bytes";
const RAW_BUDGET: &str = "p2p_raw_archive_budget_bytes";
const RAW_SUSPENDED: &str = "p2p_raw_archive_suspended";
const WITNESS_AGREEMENT: &str = "p2p_witness_agreement_ratio";
const WITNESS_ADS: &str = "p2p_witness_ads_total";
const WITNESS_MARKETS: &str = "p2p_witness_markets_total";

/// Tells Prometheus what the figures mean.
pub fn describe() {
    describe_histogram!(DURATION, Unit::Seconds, "From the opening of a batch to its close");
    describe_gauge!(LAST_DURATION, Unit::Seconds, "The same of the last closed batch");
    describe_gauge!(INTERVAL, Unit::Seconds, "Time between two slots of the schedule");
    describe_gauge!(DEADLINE, Unit::Seconds, "Time from its slot after which a batch is cut");
    describe_gauge!(STATUS, "1 for the outcome of the last closed batch, 0 for the others");
    describe_gauge!(
        COMPLETENESS,
        "Share of the declared pages or ads, whichever is less, that the last closed batch read"
    );
    describe_gauge!(CHECK_VALUE, "What each quality check measured in the last closed batch");
    describe_gauge!(
        CHECK_FAILED,
        "1 if the check of this level was not good in the last closed batch"
    );
    describe_gauge!(
        HELD,
        Unit::Count,
        "Markets whose latest state is older than the newest batch that was to read them"
    );
    describe_gauge!(RAW_BYTES, Unit::Bytes, "Size of the raw archive with its indexes");
    describe_gauge!(
        RAW_BUDGET,
        Unit::Bytes,
        "What the raw archive may have; 0: nothing is archived"
    );
    describe_gauge!(
        RAW_SUSPENDED,
        "1 while no answer is archived, for want of room or because the archive is off"
    );
    describe_gauge!(
        WITNESS_AGREEMENT,
        "Share of the ads compared with the witness that agree or moved, in the last batch that compared any"
    );
    describe_counter!(
        WITNESS_ADS,
        Unit::Count,
        "Ads compared with the witness; result: agreed, explained, price_differs, missing, lacking"
    );
    describe_counter!(
        WITNESS_MARKETS,
        Unit::Count,
        "Markets held against the witness; verdict: agree, disagree, unknown"
    );
}

/// The settings that figures are held against. `interval`: `None`: no schedule is kept.
pub fn settings(interval: Option<Duration>, deadline: Duration) {
    if let Some(interval) = interval {
        gauge!(INTERVAL).set(interval.as_secs_f64());
    }
    gauge!(DEADLINE).set(deadline.as_secs_f64());
}

/// A batch that has just closed.
pub fn closed(last: &LastBatch) {
    if let Some(seconds) = last.seconds.and_then(|seconds| seconds.to_f64()) {
        histogram!(DURATION).record(seconds);
    }
    show(last);
}

/// The last closed batch, whoever closed it. What is not known is no number.
pub fn show(last: &LastBatch) {
    let number =
        |value: Option<Decimal>| value.and_then(|value| value.to_f64()).unwrap_or(f64::NAN);
    gauge!(LAST_DURATION).set(number(last.seconds));
    for outcome in BatchOutcome::ALL {
        gauge!(STATUS, "outcome" => outcome.as_str())
            .set(u8::from(last.outcome.as_deref() == Some(outcome.as_str())));
    }
    for check in Check::ALL {
        let name = check.as_str();
        let result = last.checks.iter().find(|result| result.check_name == name);
        let value = number(result.and_then(|result| result.value));
        gauge!(CHECK_VALUE, "check" => name).set(value);
        if check == Check::Completeness {
            gauge!(COMPLETENESS).set(value);
        }
        for level in Level::ALL {
            let is_failed =
                result.is_some_and(|result| result.level == level.as_str() && !result.is_good());
            gauge!(CHECK_FAILED, "check" => name, "level" => level.as_str())
                .set(u8::from(is_failed));
        }
    }
    for reason in HELD_REASONS {
        let held = last.held.iter().find(|held| held.reason == reason);
        let markets = held.and_then(|held| held.markets.to_f64()).unwrap_or_default();
        gauge!(HELD, "reason" => reason).set(markets);
    }
}

/// The raw archive as it was last seen.
#[expect(clippy::cast_precision_loss, reason = "sizes, whose last digits tell nothing")]
pub fn raw_archive(bytes: u64, budget: u64, is_suspended: bool) {
    gauge!(RAW_BYTES).set(bytes as f64);
    gauge!(RAW_BUDGET).set(budget as f64);
    gauge!(RAW_SUSPENDED).set(u8::from(is_suspended));
}

/// The checks of a batch.
pub fn witnessed(checks: &[MarketCheck]) {
    for MarketCheck { check, .. } in checks {
        counter!(WITNESS_MARKETS, "verdict" => check.verdict.as_str()).increment(1);
        let Counts { agreed, price_differs, missing, lacking, explained } = check.counts;
        for (result, ads) in [
            ("agreed", agreed),
            ("explained", explained),
            ("price_differs", price_differs),
            ("missing", missing),
            ("lacking", lacking),
        ] {
            counter!(WITNESS_ADS, "result" => result).increment(u64::from(ads.unsigned_abs()));
        }
    }
    if let Some(agreement) = witness::agreement(checks) {
        gauge!(WITNESS_AGREEMENT).set(agreement.to_f64().unwrap_or(f64::NAN));
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use shared::domain::{Market, Side};

    use super::*;
    use crate::witness::{Check, Quote, QuoteVerdict, Unknown, Verdict};

    fn check(verdict: Verdict, counts: Counts) -> MarketCheck {
        let market = Market::new("VES", "USDT", Side::Buy).unwrap();
        let quote = Quote { verdict: QuoteVerdict::Unknown, rank: None };
        let check = Check { verdict, skew_ms: None, counts, quote, differences: Vec::new() };
        MarketCheck { market_id: 1, market, check, witnessed_at: None, ads: None, quoted: None }
    }

    #[test]
    fn the_checks_of_a_batch_move_the_metrics() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = |text: &str| recorder.handle().render().lines().any(|line| line == text);
        metrics::with_local_recorder(&recorder, || {
            let counts =
                Counts { agreed: 17, missing: 1, lacking: 1, price_differs: 0, explained: 1 };
            witnessed(&[
                check(Verdict::Disagree, counts),
                check(Verdict::Agree, Counts { agreed: 20, ..Counts::default() }),
                check(Verdict::Unknown(Unknown::NotRead), Counts::default()),
            ]);
            for line in [
                "p2p_witness_agreement_ratio 0.95",
                "p2p_witness_ads_total{result=\"agreed\"} 37",
                "p2p_witness_ads_total{result=\"explained\"} 1",
                "p2p_witness_ads_total{result=\"missing\"} 1",
                "p2p_witness_ads_total{result=\"lacking\"} 1",
                "p2p_witness_markets_total{verdict=\"agree\"} 1",
                "p2p_witness_markets_total{verdict=\"disagree\"} 1",
                "p2p_witness_markets_total{verdict=\"unknown\"} 1",
            ] {
                assert!(shown(line), "{line} in {}", recorder.handle().render());
            }
            // Nothing compared is no agreement of 0.
            witnessed(&[check(Verdict::Unknown(Unknown::NoAds), Counts::default())]);
            assert!(shown("p2p_witness_agreement_ratio 0.95"));
            assert!(shown("p2p_witness_markets_total{verdict=\"unknown\"} 2"));
        });
    }
}
