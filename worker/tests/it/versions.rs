//! What a worker remembers of the versions of ads has a bound, which costs no rows.

use chrono::{DateTime, Utc};
use shared::domain::{Ad, BatchId};
use shared::job::Work;
use sqlx::PgPool;
use worker::store::archive::Archive;
use worker::store::{Store, Stored, ToStore};

use crate::contents::publish;
use crate::identity::{ad, advertiser, page_of};
use crate::{make_day, settings};

const MARKETS: i32 = 5;
/// Of each market, on one page.
const ADS: usize = 20;
/// Of all markets.
const ALL: usize = 100;

/// Markets whose ads never change.
struct Exchange {
    pool: PgPool,
    at: DateTime<Utc>,
}

impl Exchange {
    async fn start(pool: PgPool) -> Self {
        let at = Utc::now();
        make_day(&pool, at.date_naive()).await;
        sqlx::raw_sql(
            "INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at)
             SELECT code, now() FROM unnest('{ARS,BOB,BRL,COP,VES}'::text[]) AS c (code);
             INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('USDT', now());
             INSERT INTO warehouse.dim_markets (market_id, exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
             OVERRIDING SYSTEM VALUE
             SELECT row_number() OVER (), 1, fiat_id, crypto_id, 'BUY', now()
               FROM warehouse.dim_fiat_currencies, warehouse.dim_cryptocurrencies;
             INSERT INTO pipeline.catalog (market_id, is_listed, listed_at)
             SELECT market_id, true, now() FROM warehouse.dim_markets",
        )
        .execute(&pool)
        .await
        .unwrap();
        Self { pool, at }
    }

    fn worker(&self) -> Store {
        Store::new(self.pool.clone(), &settings(&[]), Archive::new().unwrap())
    }

    fn batch_id(&self, number: u32) -> BatchId {
        BatchId::new(self.at.date_naive(), number).unwrap()
    }

    /// The whole book of a market, read by a job that is not published yet.
    fn book(&self, batch: u32, market: i32) -> ToStore {
        let ad = |position| Ad {
            position,
            adv_no: format!("{market}-{position}"),
            ..ad(advertiser("somebody", 1))
        };
        let mut one = page_of((0..ADS).map(ad).collect(), self.at);
        one.job.batch_id = self.batch_id(batch);
        one.job.ordinal = market.cast_unsigned();
        if let Work::Search { market_id, .. } = &mut one.job.work {
            *market_id = market;
        }
        one
    }

    async fn published(&self, batch: u32, market: i32) -> ToStore {
        let one = self.book(batch, market);
        publish(&self.pool, &one.job).await;
        one
    }

    /// All markets in one group.
    async fn read_together(&self, worker: &mut Store, batch: u32) {
        let mut group = Vec::new();
        for market in 1..=MARKETS {
            group.push(self.published(batch, market).await);
        }
        let stored = worker.store(&group).await.unwrap();
        assert!(stored.iter().all(|one| matches!(one, Stored::Ended(_))), "{stored:?}");
    }

    /// A group for each market.
    async fn read_one_by_one(
        &self,
        worker: &mut Store,
        batch: u32,
        markets: impl Iterator<Item = i32>,
    ) {
        for market in markets {
            let one = self.published(batch, market).await;
            let stored = worker.store(&[one]).await.unwrap();
            assert!(matches!(stored[..], [Stored::Ended(_)]), "{stored:?}");
        }
    }

    /// As the coordinator does when all was read. `None`: what was stored last is not to be found any more.
    async fn close(&self, batch: Option<u32>) {
        let batch = batch.map(|batch| self.batch_id(batch).raw());
        let update = sqlx::query("UPDATE pipeline.catalog SET last_batch_id = $1").bind(batch);
        update.execute(&self.pool).await.unwrap();
    }

    async fn versions(&self) -> usize {
        let count = "SELECT count(*) FROM warehouse.offer_versions";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&self.pool).await.unwrap();
        usize::try_from(count).unwrap()
    }
}

/// Whatever had no room is loaded again: ads that did not change cost no row, also those of a group, and of a market, that
/// is larger than the room.
#[sqlx::test(migrations = "../migrations")]
async fn what_was_forgotten_is_loaded_again(pool: PgPool) {
    let exchange = Exchange::start(pool).await;
    let mut batch = 0;
    for max_ads in [2 * ADS, ADS, ADS - 1, 0] {
        let mut worker = exchange.worker().remembering(max_ads);
        for _ in 0..2 {
            exchange.read_one_by_one(&mut worker, batch, 1..=MARKETS).await;
            exchange.close(Some(batch)).await;
            exchange.read_together(&mut worker, batch + 1).await;
            exchange.close(Some(batch + 1)).await;
            batch += 2;
            assert_eq!(exchange.versions().await, ALL, "room for {max_ads}");
        }
    }
}

/// What is loaded and then not stored, because another worker was faster, is within the bound, too. What is forgotten shows
/// when the database can't tell it.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_loaded_is_bounded(pool: PgPool) {
    let exchange = Exchange::start(pool).await;
    let mut faster = exchange.worker();
    exchange.read_together(&mut faster, 0).await;
    exchange.close(Some(0)).await;
    for (max_ads, remembered, batch) in
        [(ALL, MARKETS, 1), (ALL - 1, 4, 3), (2 * ADS, 2, 5), (ADS, 1, 7), (ADS - 1, 0, 9)]
    {
        let mut worker = exchange.worker().remembering(max_ads);
        exchange.read_together(&mut faster, batch).await;
        let same: Vec<ToStore> = (1..=MARKETS).map(|market| exchange.book(batch, market)).collect();
        let stored = worker.store(&same).await.unwrap();
        assert!(stored.iter().all(|one| *one == Stored::EndedElsewhere), "{stored:?}");
        exchange.close(None).await;
        let before = exchange.versions().await;
        // First those that were used last: each of the others takes the room of one.
        exchange.read_one_by_one(&mut worker, batch + 1, (1..=MARKETS).rev()).await;
        let forgotten = usize::try_from(MARKETS - remembered).unwrap();
        assert_eq!(exchange.versions().await - before, forgotten * ADS, "room for {max_ads}");
        exchange.close(Some(batch + 1)).await;
    }
}
