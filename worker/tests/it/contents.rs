//! What is read of an ad is what was told, whatever way it is written.

use chrono::Utc;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rust_decimal::Decimal;
use shared::domain::{Ad, BatchId};
use shared::job::{Job, Work};
use sqlx::{PgPool, Row};
use worker::store::Store;
use worker::store::archive::Archive;

use crate::identity::{ad, advertiser, page_of};
use crate::{make_day, settings};

/// Ads that are written, twenty of a page.
const PAGES: u32 = 20;
const ADS_PER_PAGE: usize = 20;

/// Odd ones, some with more zeros than a column has room for.
const NUMBERS: [&str; 11] = [
    "0",
    "1",
    "0.00000001",
    "0.00003",
    "36.57",
    "100",
    "2500.5",
    "20000.000000000000",
    "666666666.66666666",
    "99999999999.99999999",
    "7.12345678",
];

/// Numbers as an exchange might tell them.
fn amount() -> impl Strategy<Value = Decimal> {
    prop_oneof![
        select(NUMBERS.to_vec()).prop_map(|text| text.parse().unwrap()),
        (1_i64..1_000_000_000, 0_u32..8).prop_map(|(digits, scale)| Decimal::new(digits, scale)),
    ]
}

/// What follows from others, or something else, or nothing.
fn told(follows: Option<Decimal>) -> impl Strategy<Value = Option<Decimal>> {
    let fits =
        |value: &Decimal| value.abs() < Decimal::from(1_000_000_000_000_i64) && value.scale() <= 8;
    let follows = follows.filter(fits);
    prop_oneof![4 => Just(follows), 1 => amount().prop_map(Some), 1 => Just(None)]
}

fn scale() -> impl Strategy<Value = Option<i16>> {
    select(vec![Some(2), Some(0), Some(8), Some(3), Some(15), Some(-1), None])
}

fn flag() -> impl Strategy<Value = Option<bool>> {
    select(vec![Some(true), Some(false), None])
}

fn cut(value: Option<Decimal>, scale: Option<i16>) -> Option<Decimal> {
    Some(value?.trunc_with_scale(u32::try_from(scale?).ok()?))
}

/// The quantities that follow from each other, most of them as the exchange reckons.
fn quantities(ad: Ad, of_fiat: Option<i16>) -> impl Strategy<Value = Ad> {
    let without = |rate: Decimal| ad.available_amount.checked_div(Decimal::ONE + rate);
    let net = cut(ad.commission_rate.and_then(without), ad.asset_scale);
    let tradable = prop_oneof![told(Some(ad.available_amount)), told(net)];
    let by_price = |limit: Decimal| cut(limit.checked_div(ad.price), ad.asset_scale);
    let bounds = (told(by_price(ad.min_limit)), told(by_price(ad.max_limit)));
    (tradable, bounds).prop_flat_map(move |(tradable, (least, most))| {
        let worth = tradable.and_then(|tradable| tradable.checked_mul(ad.price));
        let limit = cut(worth, of_fiat).map(|worth| worth.min(ad.max_limit));
        let ad = Ad {
            tradable_quantity: tradable,
            min_quantity: least,
            max_quantity: most,
            ..ad.clone()
        };
        (told(limit), told(tradable.zip(most).map(|(left, right)| left.min(right)))).prop_map(
            move |(dynamic_max_limit, dynamic_max_quantity)| Ad {
                dynamic_max_limit,
                dynamic_max_quantity,
                ..ad.clone()
            },
        )
    })
}

fn any_ad() -> impl Strategy<Value = Ad> {
    let amounts = (amount(), amount(), amount(), amount());
    let rates =
        select(vec![None, Some("0"), Some("0.00125"), Some("0.05"), Some("-1"), Some("-2")]);
    let classes = vec!["mass", "profession", "block", "cash", "fiat_trade", "", "invented"];
    let class =
        prop_oneof![4 => select(classes).prop_map(|class| Some(class.to_owned())), 1 => Just(None)];
    let rest = ((flag(), flag(), flag()), (scale(), scale(), scale()), rates, class, any::<bool>());
    (amounts, rest).prop_flat_map(|((price, available_amount, min_limit, max_limit), rest)| {
        let ((is_tradable, is_safe_payment, taker_kyc_required), scales, rate, classify, is_whole) =
            rest;
        let (asset_scale, fiat_scale, price_scale) = scales;
        let ad = Ad {
            price,
            available_amount,
            min_limit,
            max_limit,
            commission_rate: rate.map(|rate| rate.parse().unwrap()),
            classify,
            is_tradable,
            is_safe_payment,
            taker_kyc_required,
            asset_scale,
            fiat_scale,
            price_scale,
            ..ad(advertiser("somebody", 1))
        };
        quantities(ad, if is_whole { Some(0) } else { fiat_scale })
    })
}

/// Everything that the traits may tell.
fn shown(ad: &Ad) -> String {
    let amounts = [
        Some(ad.price),
        Some(ad.available_amount),
        ad.tradable_quantity,
        Some(ad.min_limit),
        Some(ad.max_limit),
        ad.dynamic_max_limit,
        ad.min_quantity,
        ad.max_quantity,
        ad.dynamic_max_quantity,
    ];
    let amounts = amounts.map(|amount| amount.map(|amount| amount.normalize()));
    let flags = [ad.is_tradable, ad.is_safe_payment, ad.taker_kyc_required];
    let scales = [ad.asset_scale, ad.fiat_scale, ad.price_scale];
    format!("{} {amounts:?} {flags:?} {scales:?} {:?}", ad.adv_no, ad.classify)
}

/// Enters a job into the ledger, as published.
pub(crate) async fn publish(pool: &PgPool, job: &Job) {
    let (market, page, ads_expected) = match &job.work {
        Work::Search { market_id, page, ads_expected, .. } => {
            (Some(*market_id), Some(page.cast_signed()), *ads_expected)
        }
        _ => (None, None, false),
    };
    sqlx::query(
        "INSERT INTO pipeline.jobs (day, batch_id, ordinal, kind, market_id, page, urgent, ads_expected, state,
                                    planned_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, false, $7, 'published', $8, $8)",
    )
    .bind(job.batch_id.day())
    .bind(job.batch_id.raw())
    .bind(job.ordinal.cast_signed())
    .bind(job.work.kind())
    .bind(market)
    .bind(page)
    .bind(ads_expected)
    .bind(job.expires_at)
    .execute(pool)
    .await
    .unwrap();
}

/// What a database lost, as one that is taken back to an earlier moment, is stored again: its keys are not
/// believed any more.
#[sqlx::test(migrations = "../migrations")]
async fn what_the_database_lost_is_stored_again(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    let mut store = Store::new(pool.clone(), &settings(&[]), Archive::new().unwrap());
    for (batch, is_lost, new_versions) in
        [(1, false, 1), (2, true, 0), (3, false, 1), (4, false, 0)]
    {
        let mut one = page_of(vec![ad(advertiser("somebody", 1))], at);
        one.job.batch_id = BatchId::new(at.date_naive(), batch).unwrap();
        publish(&pool, &one.job).await;
        store.store(&[one]).await.unwrap();
        let found: (i64, i64) = sqlx::query_as(
            "SELECT count(v.id), count(*) FILTER (WHERE v.id >> 22 = (p.batch_id & 511))
               FROM warehouse.book_pages p LEFT JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = p.offer_ids[1]
              WHERE p.batch_id = (SELECT max(batch_id) FROM warehouse.book_pages)",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(found, (1, new_versions), "batch {batch}");
        if is_lost {
            for table in [
                "pipeline.jobs",
                "warehouse.book_pages",
                "warehouse.offer_versions",
                "warehouse.dim_advertisers",
            ] {
                let delete = format!("DELETE FROM {table}");
                sqlx::query(sqlx::AssertSqlSafe(delete)).execute(&pool).await.unwrap();
            }
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn whatever_is_told_is_read_back(pool: PgPool) {
    let at = Utc::now();
    let mut runner = TestRunner::deterministic();
    let mut sent = Vec::new();
    let mut store = Store::new(pool.clone(), &settings(&[]), Archive::new().unwrap());
    make_day(&pool, at.date_naive()).await;
    for ordinal in 0..PAGES {
        let mut ads = Vec::new();
        for position in 0..ADS_PER_PAGE {
            let ad = any_ad().new_tree(&mut runner).unwrap().current();
            let number = usize::try_from(ordinal).unwrap() * ADS_PER_PAGE + position;
            ads.push(Ad { position, adv_no: format!("{number:020}"), ..ad });
        }
        sent.extend(ads.iter().map(shown));
        let mut one = page_of(ads, at);
        one.job.ordinal = ordinal;
        publish(&pool, &one.job).await;
        store.store(&[one]).await.unwrap();
    }
    let rows = sqlx::query("SELECT * FROM warehouse.offer_contents ORDER BY adv_no");
    let read = rows.fetch_all(&pool).await.unwrap();
    let read: Vec<String> = read
        .iter()
        .map(|row| {
            let amount = |name: &str| row.get::<Option<Decimal>, _>(name);
            shown(&Ad {
                adv_no: row.get("adv_no"),
                price: row.get("price"),
                available_amount: row.get("available_amount"),
                tradable_quantity: amount("tradable_quantity"),
                min_limit: row.get("min_limit"),
                max_limit: row.get("max_limit"),
                dynamic_max_limit: amount("dynamic_max_limit"),
                min_quantity: amount("min_quantity"),
                max_quantity: amount("max_quantity"),
                dynamic_max_quantity: amount("dynamic_max_quantity"),
                is_tradable: row.get("is_tradable"),
                is_safe_payment: row.get("is_safe_payment"),
                taker_kyc_required: row.get("taker_kyc_required"),
                asset_scale: row.get("asset_scale"),
                fiat_scale: row.get("fiat_scale"),
                price_scale: row.get("price_scale"),
                classify: row.get("classify"),
                ..ad(advertiser("somebody", 1))
            })
        })
        .collect();
    assert_eq!(read.len(), sent.len());
    for (read, sent) in read.iter().zip(&sent) {
        assert_eq!(read, sent);
    }
    // Of each column many are spared, and some are not.
    for column in [
        "tradable_quantity",
        "dynamic_max_limit",
        "min_quantity",
        "max_quantity",
        "dynamic_max_quantity",
        "is_tradable",
        "is_safe_payment",
        "taker_kyc_required",
        "asset_scale",
        "fiat_scale",
        "price_scale",
        "classify",
    ] {
        let counts = format!(
            "SELECT count(*) FILTER (WHERE v.{column} IS NULL AND c.{column} IS NOT NULL),
                    count(*) FILTER (WHERE v.{column} IS NOT NULL)
               FROM warehouse.offer_versions v JOIN warehouse.offer_contents c USING (day, id)"
        );
        let (spared, written): (i64, i64) =
            sqlx::query_as(sqlx::AssertSqlSafe(counts)).fetch_one(&pool).await.unwrap();
        assert!(spared > 40, "{column}: {spared} spared, {written} written");
        assert!(
            written > 0 || column.starts_with("is_") || column.starts_with("taker"),
            "{column}"
        );
    }
    // The two ways of each that has two.
    for (lowest, ways) in [(0, 2), (2, 2)] {
        let seen = "SELECT count(DISTINCT warehouse.trait(traits, $1, 2)) FROM warehouse.offer_versions WHERE warehouse.trait(traits, $1, 2) > 0";
        let seen: i64 = sqlx::query_scalar(seen).bind(lowest).fetch_one(&pool).await.unwrap();
        assert_eq!(seen, ways, "{lowest}");
    }
}

/// Columns of a new partition stand so that none is moved off to be aligned.
#[sqlx::test(migrations = "../migrations")]
async fn new_partitions_waste_no_room(pool: PgPool) {
    sqlx::query("SELECT pipeline.make_partitions('2026-11-28', '2026-11-28')")
        .execute(&pool)
        .await
        .unwrap();
    for table in ["book_pages", "offer_versions"] {
        let widths: Vec<i32> = sqlx::query_scalar(
            "SELECT CASE WHEN attlen < 0 THEN 0 ELSE attlen END FROM pg_attribute
              WHERE attrelid = format('warehouse.%s_20261128', $1::text)::regclass AND attnum > 0 ORDER BY attnum",
        )
        .bind(table)
        .fetch_all(&pool)
        .await
        .unwrap();
        assert!(widths.is_sorted_by(|wide, narrow| wide >= narrow), "{table}: {widths:?}");
        let [parents, own] = [table, &format!("{table}_20261128")].map(|name| {
            let columns = "SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull) ORDER BY attname)
                             FROM pg_attribute WHERE attrelid = format('warehouse.%s', $1::text)::regclass AND attnum > 0";
            sqlx::query_scalar::<_, Vec<String>>(columns).bind(name.to_owned()).fetch_one(&pool)
        });
        assert_eq!(parents.await.unwrap(), own.await.unwrap());
    }
}
