//! `walk_book` against every set of orders that there is, on small books made at random.

use chrono::NaiveDate;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};

use crate::market::Market;

/// Price and limits of each ad, best price first as BUY wants it.
type Ads = Vec<(i64, i64, i64)>;

/// What a walk said: price, orders as (ad, amount), capacity.
type Walked = (Option<Decimal>, Vec<(usize, Decimal)>, Decimal);

/// Ads of one fixed amount, ads of a narrow and of a wide range, and amounts that are hard to make.
fn books() -> impl Strategy<Value = (Ads, i64, bool)> {
    let width = prop_oneof![3 => Just(0_i64), 2 => 0_i64..4, 2 => 0_i64..40];
    let ad =
        (90_i64..110, 1_i64..30, width).prop_map(|(price, low, width)| (price, low, low + width));
    (prop::collection::vec(ad, 0..=5), 1_i64..90, any::<bool>()).prop_map(
        |(mut ads, amount, is_buy)| {
            ads.sort_by_key(|(price, ..)| if is_buy { *price } else { -price });
            (ads, amount, is_buy)
        },
    )
}

/// Whether some ads, an order each, make up `amount`.
fn is_feasible(ads: &Ads, amount: i64) -> bool {
    (0..1_usize << ads.len()).any(|set| {
        let chosen =
            || ads.iter().enumerate().filter(move |(n, _)| set >> n & 1 == 1).map(|(_, ad)| ad);
        let (low, high) = (chosen().map(|ad| ad.1).sum(), chosen().map(|ad| ad.2).sum());
        (low..=high).contains(&amount)
    })
}

/// The orders where no minimum stands in the way: each ad taken whole, the last for the rest.
fn plain(ads: &Ads, amount: i64) -> Option<Vec<(usize, Decimal)>> {
    let mut rest = amount;
    let mut orders = Vec::new();
    for (n, (_, low, high)) in ads.iter().enumerate() {
        if rest == 0 {
            break;
        }
        let take = rest.min(*high);
        if take < *low {
            return None;
        }
        orders.push((n, Decimal::from(take)));
        rest -= take;
    }
    (rest == 0).then_some(orders)
}

/// Writes the book, walks it, and takes it back.
async fn walk(
    pool: &PgPool,
    day: NaiveDate,
    (ads, amount, is_buy): &(Ads, i64, bool),
    unit: &str,
) -> Walked {
    let rows: Vec<Value> = ads
        .iter()
        .enumerate()
        .map(|(n, (price, low, high))| json!({ "n": n, "price": price, "low": low, "high": high }))
        .collect();
    sqlx::query(
        "WITH ads AS (
            SELECT * FROM jsonb_to_recordset($2) AS a (n integer, price numeric, low numeric, high numeric)
         ), versions AS (
            INSERT INTO warehouse.offer_versions
                   (day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, available_amount,
                    min_limit, max_limit, min_quantity, max_quantity, payment_method_ids)
            SELECT $1, n, 1, 1, 0, now(), n, price, 1000000, low, high, low, high, '{}' FROM ads
         )
         INSERT INTO warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at, offer_ids, active_minutes)
         SELECT $1, 0, 1, 1, 0, now(), coalesce(array_agg(n ORDER BY n), '{}'), '{}' FROM ads",
    )
    .bind(day)
    .bind(Value::from(rows))
    .execute(pool)
    .await
    .unwrap();
    let row = sqlx::query(
        "SELECT price, offers, amounts, capacity FROM warehouse.walk_book($1, 0, 1, $2, $3, $4, NULL, false)",
    )
    .bind(day)
    .bind(if *is_buy { "BUY" } else { "SELL" })
    .bind(Decimal::from(*amount))
    .bind(unit)
    .fetch_one(pool)
    .await
    .unwrap();
    sqlx::raw_sql("DELETE FROM warehouse.book_pages WHERE batch_id = 0; DELETE FROM warehouse.offer_versions WHERE id < 100")
        .execute(pool)
        .await
        .unwrap();
    let offers: Option<Vec<String>> = row.get("offers");
    let amounts: Option<Vec<Decimal>> = row.get("amounts");
    let offers = offers.unwrap_or_default().into_iter().map(|n| n.parse().unwrap());
    (row.get("price"), offers.zip(amounts.unwrap_or_default()).collect(), row.get("capacity"))
}

/// Orders lie within limits, one per ad, and sum to the amount; NULL only where there are none.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_traded_is_found_and_nothing_else() {
    let market = Market::create().await;
    let handle = tokio::runtime::Handle::current();
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    tokio::task::block_in_place(|| {
        runner.run(&books(), |case| {
            for unit in ["fiat", "asset"] {
                let (price, orders, capacity) =
                    handle.block_on(walk(&market.db.pool, market.day, &case, unit));
                let (ads, amount, _) = &case;
                prop_assert_eq!(capacity, Decimal::from(ads.iter().map(|ad| ad.2).sum::<i64>()));
                prop_assert_eq!(
                    price.is_some(),
                    is_feasible(ads, *amount),
                    "{} {:?}",
                    unit,
                    orders
                );
                prop_assert!(orders.is_sorted_by(|a, b| a.0 < b.0), "{:?}", orders);
                for (n, take) in &orders {
                    let (_, low, high) = ads[*n];
                    let limits = Decimal::from(low)..=Decimal::from(high);
                    prop_assert!(limits.contains(take), "{} {:?}", unit, orders);
                }
                if price.is_some() {
                    let sum: Decimal = orders.iter().map(|(_, take)| *take).sum();
                    prop_assert_eq!(sum, Decimal::from(*amount), "{} {:?}", unit, &orders);
                }
                if let Some(plain) = plain(ads, *amount) {
                    prop_assert_eq!(&orders, &plain, "{}", unit);
                }
            }
            Ok(())
        })
    })
    .unwrap();
    market.db.remove().await;
}
