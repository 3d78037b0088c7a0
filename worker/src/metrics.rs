//! What the worker measures. Labels are from small sets: never an ad, an advertiser or a job.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use shared::domain::Rule;
use shared::exchange::Exchange;
use shared::exchange::shape::Change;
use shared::job::{EndState, Work};

use crate::rate_limit::{Breaker, Status};

/// Errors met, those after which a further try went well included: classes of `shared::job::Failure`,
/// and the constants here. Not of one market: fiat or crypto are empty.
const ERRORS: &str = "p2p_extraction_errors_total";
/// Pages read; parser: strict, or lenient where a needed field stood elsewhere or had another type.
const PAGES: &str = "p2p_parser_pages_total";
/// Ads that break a rule; level: fatal ones were refused.
const RULES: &str = "p2p_validation_total";
/// Answers that differ from the known shape of their call, by how, as long as nobody accepted it.
const SHAPES: &str = "p2p_api_shape_changes_total";
/// Answers that ended jobs, by the state of the job, and whether they were archived or why not.
const ANSWERS: &str = "p2p_raw_answers_total";
const RAW_BYTES: &str = "p2p_raw_bytes_total";
const OFFERS: &str = "p2p_offers_extracted_total";
const JOBS: &str = "p2p_jobs_total";
const JOB_AGE: &str = "p2p_job_age_seconds";
const IN_FLIGHT: &str = "p2p_jobs_in_flight";
const LIMIT: &str = "p2p_jobs_limit";
const REQUESTS: &str = "p2p_api_request_duration_seconds";
const WRITES: &str = "p2p_database_write_duration_seconds";
/// The same under the name that some dashboards know.
const WRITES_ALIAS: &str = "p2p_db_write_duration_seconds";
const PERMITS: &str = "p2p_limiter_permits_total";
const PERMIT_WAIT: &str = "p2p_limiter_wait_seconds";
const RATE: &str = "p2p_limiter_rate_per_minute";
const REFUSALS: &str = "p2p_limiter_refusals_in_a_row";
const BREAKER: &str = "p2p_limiter_breaker_state";
const PAUSE: &str = "p2p_limiter_pause_seconds";
const REDIS_AWAY: &str = "p2p_limiter_redis_away";

/// An ad that was put into quarantine.
const AD_REFUSED: &str = "ad_refused";
/// The database was away or refused to write for now.
pub const DATABASE: &str = "database";
/// The database has no space left.
pub const DISK_FULL: &str = "disk_full";
/// A message that is no job.
pub const POISON: &str = "poison";

/// Whether an answer was archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    Yes,
    /// The archive is suspended.
    Suspended,
    /// The day of its batch was dropped from the archive.
    NoDay,
    /// Its bytes can't be packed.
    Unpackable,
}

impl Archived {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Suspended => "suspended",
            Self::NoDay => "no_day",
            Self::Unpackable => "unpackable",
        }
    }
}

/// Tells Prometheus what the figures mean.
pub fn describe() {
    describe_counter!(
        ERRORS,
        Unit::Count,
        "Errors met, also those after which a further try went well"
    );
    describe_counter!(
        PAGES,
        Unit::Count,
        "Pages read; parser: lenient where a needed field stood elsewhere or had another type"
    );
    describe_counter!(
        RULES,
        Unit::Count,
        "Ads that break a rule of validation; level: fatal ones were refused"
    );
    describe_counter!(
        SHAPES,
        Unit::Count,
        "Differences between answers and the known shape of their call, until they are accepted"
    );
    describe_counter!(
        ANSWERS,
        Unit::Count,
        "Answers that ended jobs, by the job's state; archived: yes, suspended, no_day (its day was dropped), unpackable"
    );
    describe_counter!(RAW_BYTES, Unit::Bytes, "Bytes of answers in the archive as packed");
    describe_counter!(
        OFFERS,
        Unit::Count,
        "Ads stored, counted after the commit; an ad counts once per reading"
    );
    describe_counter!(
        JOBS,
        Unit::Count,
        "Jobs that this worker ended, counted after the commit, by kind and end state"
    );
    describe_histogram!(
        JOB_AGE,
        Unit::Seconds,
        "Time from the publication of a job to its beginning; again if it is delivered again"
    );
    describe_gauge!(
        IN_FLIGHT,
        Unit::Count,
        "Jobs in flight, until their group begins to be stored"
    );
    describe_gauge!(LIMIT, Unit::Count, "Most jobs in flight");
    describe_histogram!(
        REQUESTS,
        Unit::Seconds,
        "Requests to the exchange, from the first byte sent to the last received, by call and outcome"
    );
    for name in [WRITES, WRITES_ALIAS] {
        describe_histogram!(
            name,
            Unit::Seconds,
            "Transactions that store a group of jobs, also those that failed"
        );
    }
    describe_counter!(
        PERMITS,
        Unit::Count,
        "Permits for one request; source: redis, or local while Redis is away"
    );
    describe_histogram!(PERMIT_WAIT, Unit::Seconds, "Wait for a permit");
    describe_gauge!(RATE, "Requests per minute that the limiter of the egress grants now");
    describe_gauge!(REFUSALS, Unit::Count, "Refusals of the egress since its last success");
    describe_gauge!(BREAKER, "Circuit breaker of the egress: 0 closed, 1 half-open, 2 open");
    describe_gauge!(
        PAUSE,
        Unit::Seconds,
        "How long nothing is sent, by an order of the exchange, by refusals in a row, or by an operator"
    );
    describe_gauge!(
        REDIS_AWAY,
        "1 while Redis does not answer and a local share of the minimum rate holds"
    );
}

/// An error that a request or its answer met.
pub fn failed(error_type: &'static str, work: &Work) {
    count_error(error_type, work, 1);
}

/// Ads of a page that went into quarantine.
pub fn ads_refused(work: &Work, ads: usize) {
    if ads > 0 {
        count_error(AD_REFUSED, work, u64::try_from(ads).unwrap_or(u64::MAX));
    }
}

/// A page was read.
pub fn page_parsed(is_lenient: bool) {
    let parser = if is_lenient { "lenient" } else { "strict" };
    counter!(PAGES, "parser" => parser).increment(1);
}

/// Ads break a rule.
pub fn rule_broken(rule: Rule, ads: usize) {
    let labels = [("rule", rule.as_str()), ("level", rule.level().as_str())];
    counter!(RULES, &labels).increment(u64::try_from(ads).unwrap_or(u64::MAX));
}

/// An answer differs from the known shape of its call.
pub fn shape_changed(call: &'static str, change: Change) {
    counter!(SHAPES, "call" => call, "change" => change.as_str()).increment(1);
}

fn count_error(error_type: &'static str, work: &Work, errors: u64) {
    let (fiat, crypto) = match work {
        Work::FiatList | Work::Advertiser { .. } => ("", ""),
        Work::Assets { fiat, .. } | Work::PaymentMethods { fiat, .. } => (fiat.as_str(), ""),
        Work::Search { market, .. }
        | Work::WitnessAds { market, .. }
        | Work::WitnessQuote { market, .. } => (market.fiat.as_str(), market.asset.as_str()),
    };
    counter!(ERRORS, "error_type" => error_type, "fiat" => fiat.to_owned(), "crypto" => crypto.to_owned())
        .increment(errors);
}

/// A job ended here, and its ending is committed. Labels of markets: 2 sides of each market of the
/// catalog, about 3,000 series; of kinds and states: 25.
pub fn ended(work: &Work, state: EndState, ads: u32) {
    counter!(JOBS, "kind" => work.kind(), "state" => state.as_str()).increment(1);
    if let Work::Search { market, .. } = work
        && ads > 0
    {
        let (fiat, crypto) = (market.fiat.as_str().to_owned(), market.asset.as_str().to_owned());
        counter!(OFFERS, "fiat" => fiat, "crypto" => crypto, "trade_type" => market.side.as_str())
            .increment(u64::from(ads));
    }
}

/// A job was begun so long after it was published.
pub fn began(age: Duration) {
    histogram!(JOB_AGE).record(age.as_secs_f64());
}

/// The exchange was asked.
pub fn requested(call: &'static str, outcome: &'static str, took: Duration) {
    histogram!(REQUESTS, "call" => call, "outcome" => outcome).record(took.as_secs_f64());
}

/// A transaction with the endings of jobs took so long.
pub fn wrote(took: Duration) {
    histogram!(WRITES).record(took.as_secs_f64());
    histogram!(WRITES_ALIAS).record(took.as_secs_f64());
}

/// The most jobs that this worker has in flight.
pub fn limit(jobs: usize) {
    gauge!(LIMIT).set(u32::try_from(jobs).unwrap_or(u32::MAX));
    gauge!(IN_FLIGHT).set(0);
}

/// A job in flight, until this is dropped.
#[derive(Debug)]
pub struct InFlight(());

impl InFlight {
    #[must_use]
    pub fn begin() -> Self {
        gauge!(IN_FLIGHT).increment(1);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT).decrement(1);
    }
}

/// An error of no market.
pub fn failed_elsewhere(error_type: &'static str) {
    counter!(ERRORS, "error_type" => error_type, "fiat" => "", "crypto" => "").increment(1);
}

/// An answer ended a job in `state`; `bytes` of it went into the archive.
pub fn archived(state: EndState, archived: Archived, bytes: usize) {
    counter!(ANSWERS, "state" => state.as_str(), "archived" => archived.as_str()).increment(1);
    counter!(RAW_BYTES).increment(u64::try_from(bytes).unwrap_or(u64::MAX));
}

/// The limiter of one exchange and egress.
#[derive(Clone, Debug)]
pub struct LimiterMetrics {
    egress: String,
}

impl LimiterMetrics {
    #[must_use]
    pub fn new(egress: &str) -> Self {
        Self { egress: egress.to_owned() }
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("exchange", Exchange::Binance.to_string()), ("egress", self.egress.clone())]
    }

    /// A permit was given after this wait.
    pub fn permit(&self, is_local: bool, wait: Duration) {
        let [exchange, egress] = self.labels();
        let source = ("source", (if is_local { "local" } else { "redis" }).to_owned());
        counter!(PERMITS, &[exchange.clone(), egress.clone(), source]).increment(1);
        histogram!(PERMIT_WAIT, &[exchange, egress]).record(wait.as_secs_f64());
    }

    /// Redis answers or not.
    pub fn redis_is_away(&self, is_away: bool) {
        gauge!(REDIS_AWAY, &self.labels()).set(u8::from(is_away));
    }

    /// As the limiter told.
    pub fn status(&self, status: &Status) {
        gauge!(RATE, &self.labels()).set(status.rate);
        gauge!(REFUSALS, &self.labels()).set(status.refusals);
        let breaker: u8 = match status.breaker {
            Breaker::Closed => 0,
            Breaker::HalfOpen => 1,
            Breaker::Open => 2,
        };
        gauge!(BREAKER, &self.labels()).set(breaker);
        let pause = Duration::from_micros(status.pause);
        gauge!(PAUSE, &self.labels()).set(pause.as_secs_f64());
    }
}
