//! A small market of yesterday, through the real tables and the coordinator's own marts. Small enough to
//! compute what is asked of it by hand.
//!
//! Batches at 10:00 (A), 10:10 (B), 10:20 (C) and 11:00 (D), each read within half a minute. USDT/VES BUY
//! moves, and in C it is a drifted book with one nonsense ad; all else stays as it is.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use coordinator::store::marts::{self, Batches};
use serde_json::{Value, json};
use shared::domain::BatchId;

use crate::database::Database;

/// An ad: number, `userNo`, price, amount, limits, payment methods.
pub(crate) type Ad<'a> = (&'a str, &'a str, i64, i64, [i64; 2], &'a [&'a str]);

const PAGO: &str = "PagoMovil";
const BANK: &str = "Banesco";

pub(crate) struct Market {
    pub(crate) db: Database,
    pub(crate) day: NaiveDate,
}

impl Market {
    pub(crate) async fn create() -> Self {
        let db = Database::create().await;
        let day = (Utc::now() - TimeDelta::days(1)).date_naive();
        let market = Self { db, day };
        market.name_things().await;
        let a1 = ("a1", "u1", 100, 10, [100, 800], [PAGO].as_slice());
        let a2 = ("a2", "u2", 102, 20, [500, 2000], [PAGO, BANK].as_slice());
        let a3 = ("a3", "u3", 105, 100, [1000, 10_000], [BANK].as_slice());
        let a4 = ("a4", "u1", 101, 50, [100, 5000], [PAGO].as_slice());
        let a1_later = ("a1", "u1", 100, 4, [100, 800], [PAGO].as_slice());
        let nonsense = ("a9", "u4", 1, 1, [1, 1], [PAGO].as_slice());
        market.batch("10:00", "complete", &[a1, a2, a3]).await;
        market.batch("10:10", "complete", &[a1_later, a4, a3]).await;
        market.batch("10:20", "drifted", &[nonsense]).await;
        market.batch("11:00", "complete", &[a1_later, a4, a3]).await;
        market
    }

    /// An instant of its day.
    pub(crate) fn at(&self, time: &str) -> DateTime<Utc> {
        format!("{}T{time}:00Z", self.day).parse().unwrap()
    }

    /// The same as an argument.
    pub(crate) fn arg(&self, time: &str) -> String {
        format!("{} {time}", self.day)
    }

    async fn name_things(&self) {
        for sql in [
            "INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at)
             VALUES ('VES', now() - interval '9 d'), ('BOB', now() - interval '9 d'), ('USD', now())",
            "INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at)
             VALUES ('USDT', now() - interval '9 d'), ('BTC', now() - interval '9 d')",
            "INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
             SELECT 1, fiat_id, crypto_id, side, now() - interval '9 d'
               FROM warehouse.dim_fiat_currencies, warehouse.dim_cryptocurrencies, unnest('{BUY,SELL}'::text[]) AS s (side)
              WHERE currency_code <> 'USD'",
            "INSERT INTO pipeline.catalog (market_id, is_listed, listed_at)
             SELECT market_id, true, now() FROM warehouse.dim_markets",
            "INSERT INTO warehouse.dim_payment_methods (exchange_id, identifier, method_name, first_seen_at)
             VALUES (1, 'PagoMovil', 'Pago Movil', now()), (1, 'Banesco', 'Banesco', now())",
            "INSERT INTO warehouse.dim_advertisers
                    (advertiser_id, exchange_id, user_no, advertiser, is_merchant, is_pro_merchant, identity_hash,
                     valid_from, valid_to, is_current, month_order_count, completion_rate, figures_at)
             VALUES (1, 1, 'u1', 'alicia', true, false, 0, now() - interval '9 d', now() - interval '3 d', false, 10, 0.9, now()),
                    (1, 1, 'u1', 'alice', true, false, 1, now() - interval '3 d', NULL, true, 120, 0.985, now()),
                    (2, 1, 'u2', 'bob', false, false, 2, now() - interval '9 d', NULL, true, 5, 1, now()),
                    (3, 1, 'u3', 'carol', true, false, 3, now() - interval '9 d', NULL, true, 900, 0.97, now()),
                    (4, 1, 'u4', 'bob', false, false, 4, now() - interval '9 d', NULL, true, NULL, NULL, now())",
            "INSERT INTO warehouse.advertiser_figures
             SELECT advertiser_id, valid_from, month_order_count, completion_rate, NULL
               FROM warehouse.dim_advertisers WHERE is_current",
        ] {
            self.db.run(sql).await;
        }
    }

    /// A closed batch with marts. `usdt_ves` are the ads of USDT/VES BUY and `verdict` is its verdict: partial for one that
    /// was refused, `lost` for a page that was lost.
    pub(crate) async fn batch(&self, time: &str, verdict: &str, usdt_ves: &[Ad<'_>]) {
        let slot = self.at(time);
        let number = (slot - self.at("00:00")).num_minutes() / 10;
        let batch = BatchId::new(self.day, u32::try_from(number).unwrap()).unwrap();
        let mut tx = self.db.pool.begin().await.unwrap();
        sqlx::query(
            "WITH b AS (
                INSERT INTO pipeline.batches
                       (batch_id, day, exchange_id, slot_at, trigger, state, outcome, opened_by, opened_at, planned_at,
                        deadline_at, closed_at, books, books_complete)
                VALUES ($1, $2, 1, $3, 'schedule', 'closed', 'complete', 'host-1', $3, $3, $3 + interval '480 s',
                        $3 + interval '60 s', 8, 7)
                RETURNING batch_id)
             INSERT INTO pipeline.slots SELECT 1, $3, batch_id, 'batch', NULL, $3 FROM b",
        )
        .bind(batch.raw())
        .bind(self.day)
        .bind(slot)
        .execute(&mut *tx)
        .await
        .unwrap();
        let sells = [
            ("s1", "u3", 98, 30, [100, 3000], [BANK].as_slice()),
            ("s2", "u1", 95, 40, [10, 3800], [PAGO].as_slice()),
        ];
        let one = |price| [("x", "u3", price, 2, [1, 100_000_000], [BANK].as_slice())];
        let tens = |price| [("x", "u3", price, 200, [1, 1000], [BANK].as_slice())];
        let books: [(&str, &str, &str, &str, &[Ad<'_>]); 8] = [
            ("VES", "USDT", "BUY", verdict, usdt_ves),
            ("VES", "USDT", "SELL", "complete", &sells),
            ("VES", "BTC", "BUY", "complete", &one(10_000_000)),
            ("VES", "BTC", "SELL", "complete", &one(9_900_000)),
            ("BOB", "USDT", "BUY", "complete", &tens(7)),
            ("BOB", "USDT", "SELL", "complete", &tens(6)),
            ("BOB", "BTC", "BUY", "complete", &one(700_000)),
            ("BOB", "BTC", "SELL", "complete", &one(690_000)),
        ];
        for ((fiat, asset, side, verdict, ads), ordinal) in books.into_iter().zip(0_i32..) {
            let ads: Vec<Value> = ads
                .iter()
                .map(|(number, user, price, amount, [low, high], methods)| {
                    json!({ "adv_no": format!("{number}-{fiat}-{asset}-{side}"), "user_no": user, "price": price,
                            "amount": amount, "low": low, "high": high, "methods": methods })
                })
                .collect();
            sqlx::query(include_str!("market_book.sql"))
                .bind(batch.raw())
                .bind(self.day)
                .bind(slot)
                .bind(fiat)
                .bind(asset)
                .bind(side)
                .bind(verdict)
                .bind(ordinal)
                .bind(Value::from(ads))
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        marts::make(&mut tx, Batches::one(batch)).await.unwrap();
        tx.commit().await.unwrap();
    }
}
