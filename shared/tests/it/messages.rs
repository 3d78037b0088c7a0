//! Messages between versions: what an earlier one wrote is read, and what this one writes an earlier one
//! reads. While an upgrade rolls, both are at work (ADR 23).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared::job::{EndState, Job, Report, Work};

/// One message of each kind and each end, as the first version wrote them. Lines are added, never changed.
const JOBS: &str = include_str!("../../../fixtures/messages/jobs.jsonl");
const REPORTS: &str = include_str!("../../../fixtures/messages/reports.jsonl");

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything that `old` has is in `new`, with the same value: new fields are all that may differ.
fn only_adds(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .all(|(name, value)| new.get(name).is_some_and(|newer| only_adds(value, newer))),
        _ => old == new,
    }
}

#[test]
fn what_an_earlier_version_wrote_is_read() {
    let jobs = lines(JOBS);
    for job in &jobs {
        let read: Job = serde_json::from_value(job.clone()).unwrap();
        assert!(only_adds(job, &serde_json::to_value(&read).unwrap()), "{job}");
    }
    // A new kind of work gets a line of its own: the next version must read it.
    let kinds: BTreeSet<usize> = jobs
        .iter()
        .map(|job| number(&serde_json::from_value::<Job>(job.clone()).unwrap().work))
        .collect();
    assert_eq!(kinds, (0..KINDS).collect(), "a kind has no line in fixtures/messages/jobs.jsonl");
    let reports = lines(REPORTS);
    for report in &reports {
        let read: Report = serde_json::from_value(report.clone()).unwrap();
        assert!(only_adds(report, &serde_json::to_value(&read).unwrap()), "{report}");
    }
    let ends: BTreeSet<&str> =
        reports.iter().filter_map(|report| report["end"]["state"].as_str()).collect();
    assert_eq!(ends, EndState::ALL.iter().map(|state| state.as_str()).collect());
}

/// Kinds of work. A match without a wildcard: whoever adds one is sent here by the compiler.
const KINDS: usize = 7;

fn number(work: &Work) -> usize {
    match work {
        Work::FiatList => 0,
        Work::Assets { .. } => 1,
        Work::PaymentMethods { .. } => 2,
        Work::Search { .. } => 3,
        Work::Advertiser { .. } => 4,
        Work::WitnessAds { .. } => 5,
        Work::WitnessQuote { .. } => KINDS - 1,
    }
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    for (message, is_job) in lines(JOBS)
        .into_iter()
        .map(|job| (job, true))
        .chain(lines(REPORTS).into_iter().map(|report| (report, false)))
    {
        let mut newer = message.clone();
        newer["added"] = json!({ "later": [1, 2] });
        let inner = if is_job { "work" } else { "end" };
        newer[inner]["added"] = json!("later");
        let read = |value: Value| {
            if is_job {
                serde_json::from_value::<Job>(value).map(|job| format!("{job:?}"))
            } else {
                serde_json::from_value::<Report>(value).map(|report| format!("{report:?}"))
            }
        };
        assert_eq!(read(newer).unwrap(), read(message).unwrap());
    }
}

/// What a process of the first version needs of each message: a frozen copy of its types, which says which
/// fields may never go, change their type, or be absent.
mod first {
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "to be read is all that is asked of them")]
    pub(super) struct Job {
        pub version: u16,
        pub exchange: String,
        pub batch_id: i32,
        pub ordinal: u32,
        pub issue: u16,
        pub expires_at: chrono::DateTime<chrono::Utc>,
        pub work: Work,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    #[expect(dead_code, reason = "to be read is all that is asked of them")]
    pub(super) enum Work {
        FiatList,
        Assets { fiat_id: i32, fiat: String },
        PaymentMethods { fiat_id: i32, fiat: String },
        Search { market_id: i32, market: Market, page: u32, ads_expected: bool },
        Advertiser { advertiser_id: i32, user_no: String },
        WitnessAds { market_id: i32, market: Market },
        WitnessQuote { market_id: i32, market: Market },
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "to be read is all that is asked of them")]
    pub(super) struct Market {
        pub fiat: String,
        pub asset: String,
        pub side: Side,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    pub(super) enum Side {
        Buy,
        Sell,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "to be read is all that is asked of them")]
    pub(super) struct Report {
        pub version: u16,
        pub batch_id: i32,
        pub end: JobEnd,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "to be read is all that is asked of them")]
    pub(super) struct JobEnd {
        pub ordinal: u32,
        pub issue: u16,
        pub state: EndState,
        pub reason: Option<String>,
        pub declared_total: Option<u32>,
        pub ads: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub(super) enum EndState {
        Done,
        Empty,
        Failed,
        Expired,
        Shed,
    }
}

#[test]
fn what_this_version_writes_the_first_one_reads() {
    for job in lines(JOBS) {
        let written = serde_json::to_value(serde_json::from_value::<Job>(job).unwrap()).unwrap();
        let read: first::Job = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read.version, 1, "an earlier worker refuses another version: {written}");
    }
    for report in lines(REPORTS) {
        let written =
            serde_json::to_value(serde_json::from_value::<Report>(report).unwrap()).unwrap();
        let read: first::Report = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read.version, 1, "an earlier coordinator passes over another: {written}");
    }
}
