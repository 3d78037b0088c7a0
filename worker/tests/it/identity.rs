//! Who an advertiser is, when several workers see it change.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use shared::domain::{Ad, AdDetails, Advertiser, BatchId, Market, PaymentMethod, Side};
use shared::exchange::Exchange;
use shared::exchange::binance::Page;
use shared::exchange::shape::{Change, Finding, Type};
use shared::job::{EndState, Job, MESSAGE_VERSION, Work};
use sqlx::PgPool;
use worker::handler::{Ending, Facts, Requests};
use worker::store::archive::Archive;
use worker::store::{Store, ToStore};

use crate::contents::publish;
use crate::{make_day, settings};

pub(crate) fn advertiser(nickname: &str, orders: i32) -> Advertiser {
    Advertiser {
        user_no: "s1".to_owned(),
        nickname: nickname.to_owned(),
        user_type: Some("user".to_owned()),
        is_merchant: false,
        user_identity: None,
        user_grade: None,
        vip_level: None,
        badges: None,
        is_pro_merchant: false,
        pro_merchant_description: None,
        is_blocked: None,
        merchant_group_member: None,
        month_order_count: Some(orders),
        completion_rate: None,
        positive_rate: None,
        release_seconds: None,
        active_seconds: None,
    }
}

pub(crate) fn ad(advertiser: Advertiser) -> Ad {
    Ad {
        position: 0,
        adv_no: "13909656104853606400".to_owned(),
        advertiser_side: Side::Sell,
        is_promoted: false,
        privilege_type: None,
        price: Decimal::ONE,
        available_amount: Decimal::ONE,
        tradable_quantity: None,
        min_limit: Decimal::ONE,
        max_limit: Decimal::ONE,
        dynamic_max_limit: None,
        min_quantity: None,
        max_quantity: None,
        dynamic_max_quantity: None,
        amount_after_editing: None,
        commission_rate: None,
        taker_commission_rate: None,
        min_taker_fee: None,
        pay_time_limit_minutes: None,
        payment_methods: vec![
            PaymentMethod {
                identifier: "Same".into(),
                name: Some("Same".into()),
                short_name: None,
            },
            PaymentMethod { identifier: "BANK".into(), name: None, short_name: None },
        ],
        classify: None,
        is_tradable: None,
        is_safe_payment: None,
        taker_kyc_required: None,
        asset_scale: None,
        fiat_scale: None,
        price_scale: None,
        voucher_template: None,
        system_labels: None,
        details: AdDetails::default(),
        advertiser,
        warnings: Vec::new(),
    }
}

/// A page with one ad, read at `at`. No ledger knows its job: the page itself is not stored, but who it
/// shows is.
fn page(advertiser: Advertiser, at: DateTime<Utc>) -> ToStore {
    page_of(vec![ad(advertiser)], at)
}

/// Page 1 of market 1, read at `at` by the first batch of its day.
pub(crate) fn page_of(ads: Vec<Ad>, at: DateTime<Utc>) -> ToStore {
    let work = Work::Search {
        market_id: 1,
        market: Market::new("VES", "USDT", Side::Buy).unwrap(),
        page: 1,
        ads_expected: true,
    };
    let job = Job {
        version: MESSAGE_VERSION,
        exchange: Exchange::Binance,
        batch_id: BatchId::new(at.date_naive(), 1).unwrap(),
        ordinal: 1,
        issue: 1,
        expires_at: at,
        work,
    };
    let requests = Requests { attempts: 1, fetched_at: Some(at), ..Requests::default() };
    let page = Page {
        total: u32::try_from(ads.len()).ok(),
        ads,
        refusals: Vec::new(),
        warnings: Vec::new(),
        leniencies: Vec::new(),
    };
    let ending = Ending {
        state: EndState::Done,
        reason: None,
        detail: None,
        requests,
        facts: Facts::Page(page),
        answer: None,
        findings: Vec::new(),
    };
    ToStore { job, ending }
}

async fn identities(pool: &PgPool) -> Vec<(String, bool)> {
    sqlx::query_as(
        "SELECT advertiser, is_current FROM warehouse.dim_advertisers ORDER BY valid_from",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn last_number(pool: &PgPool, sequence: &str) -> i64 {
    let last = "SELECT coalesce(pg_sequence_last_value($1::regclass), 0)";
    sqlx::query_scalar(last).bind(sequence).fetch_one(pool).await.unwrap()
}

/// A worker that did not see the change in between does not take the first name for the version that was
/// closed.
#[sqlx::test(migrations = "../migrations")]
async fn an_identity_that_comes_back_is_a_new_version(pool: PgPool) {
    let settings = settings(&[]);
    let mut old = Store::new(pool.clone(), &settings, Archive::new().unwrap());
    let mut other = Store::new(pool.clone(), &settings, Archive::new().unwrap());
    let start = Utc::now() - TimeDelta::hours(1);
    let at = |minutes| start + TimeDelta::minutes(minutes);
    old.store(&[page(advertiser("first", 1), at(0))]).await.unwrap();
    other.store(&[page(advertiser("second", 1), at(1))]).await.unwrap();
    old.store(&[page(advertiser("first", 1), at(2))]).await.unwrap();
    let names = |versions: &[(&str, bool)]| {
        versions.iter().map(|(name, is)| ((*name).to_owned(), *is)).collect::<Vec<_>>()
    };
    let wanted = names(&[("first", false), ("second", false), ("first", true)]);
    assert_eq!(identities(&pool).await, wanted);
    // And so does the other one, who remembers the second.
    other.store(&[page(advertiser("first", 1), at(3))]).await.unwrap();
    assert_eq!(identities(&pool).await, wanted);
    // A page that was read before the last change and stored after it belongs to the second.
    other.store(&[page(advertiser("second", 1), start + TimeDelta::seconds(90))]).await.unwrap();
    assert_eq!(identities(&pool).await, wanted);
}

/// Numbers are bounded: what is there already uses up none, however cold the caches.
#[sqlx::test(migrations = "../migrations")]
async fn cold_caches_use_up_no_numbers(pool: PgPool) {
    let settings = settings(&[]);
    let start = Utc::now() - TimeDelta::hours(1);
    for minute in 0..5 {
        let mut cold = Store::new(pool.clone(), &settings, Archive::new().unwrap());
        let seen = advertiser("first", i32::try_from(minute).unwrap());
        let at = start + TimeDelta::minutes(minute);
        let mut page = page(seen, at);
        page.job.ordinal = u32::try_from(minute).unwrap();
        make_day(&pool, at.date_naive()).await;
        publish(&pool, &page.job).await;
        page.ending.findings.push(Finding {
            path: "data[].adv.colour".to_owned(),
            change: Change::New,
            found: Some(Type::Text),
            value: None,
            sample: b"green".to_vec(),
        });
        cold.store(&[page]).await.unwrap();
    }
    let answers = "SELECT answers FROM pipeline.api_shapes";
    let answers: i64 = sqlx::query_scalar(answers).fetch_one(&pool).await.unwrap();
    assert_eq!(answers, 5, "all of one finding");
    assert_eq!(last_number(&pool, "pipeline.api_shapes_finding_id_seq").await, 1);
    let figures = "SELECT count(*) FROM warehouse.advertiser_figures";
    let figures: i64 = sqlx::query_scalar(figures).fetch_one(&pool).await.unwrap();
    assert_eq!(figures, 5, "each told other figures");
    assert_eq!(last_number(&pool, "warehouse.dim_advertisers_advertiser_sk_seq").await, 1);
    assert_eq!(last_number(&pool, "warehouse.advertiser_ids").await, 1);
    let methods = "warehouse.dim_payment_methods_payment_method_id_seq";
    assert_eq!(last_number(&pool, methods).await, 2);
}
