//! Jobs in the ledger that workers change at the same time.

use std::time::Duration;

use coordinator::store::Store;
use coordinator::store::batches::{self, Trigger};
use coordinator::store::close::{self, Cut};
use coordinator::store::jobs;
use shared::exchange::Exchange;
use sqlx::PgPool;

use crate::leader::lead;
use crate::settings;

/// Who waits for one of several jobs holds none that comes after it, wherever they lie: a worker that holds
/// the one and waits for another would stand still with it.
#[sqlx::test(migrations = "../migrations")]
async fn jobs_are_taken_in_their_order(pool: PgPool) {
    let settings = settings(&pool);
    // Read as they lie, as the planner may choose to.
    sqlx::raw_sql(
        "DO $$ DECLARE setting text; BEGIN
           FOREACH setting IN ARRAY ARRAY['enable_indexscan', 'enable_indexonlyscan', 'enable_bitmapscan'] LOOP
             EXECUTE format('ALTER DATABASE %I SET %s = off', current_database(), setting);
           END LOOP; END $$",
    )
    .execute(&pool)
    .await
    .unwrap();
    let leader = lead(&settings).await.expect("nobody led");
    let connected = shared::store::connect(&settings.database, "test").await.unwrap();
    let store = Store::new(connected, leader.term().clone());
    let slot = "2026-11-22T10:00:00Z".parse().unwrap();
    let batch = batches::open(&store, Exchange::Binance, Trigger::Once, slot, slot, "test");
    let id = batch.await.unwrap().id;
    sqlx::query(
        "INSERT INTO pipeline.jobs (day, batch_id, ordinal, kind, market_id, page, urgent, ads_expected, state,
                                    planned_at, expires_at)
         SELECT $1, $2, o, 'search', 1, o, false, false, 'planned', now(), now() FROM unnest(ARRAY[3, 2, 1]) o",
    )
    .bind(id.day())
    .bind(id.raw())
    .execute(&pool)
    .await
    .unwrap();
    let store = &store;
    let publish = async || jobs::mark_published(store, id, &[3, 1, 2]).await.unwrap();
    let close = async || {
        let closed = close::close(store, id, "test", Cut::Deadline, &crate::THRESHOLDS).await;
        assert!(closed.unwrap().is_some());
    };
    waits_holding_nothing(&pool, Box::pin(publish())).await;
    waits_holding_nothing(&pool, Box::pin(close())).await;
    let states =
        "SELECT array_agg(DISTINCT state || ' ' || (published_at IS NOT NULL)) FROM pipeline.jobs";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_one(&pool).await.unwrap();
    assert_eq!(states, ["expired true"]);
}

/// Holds job 1 until `work` waits for it, and looks at the others.
async fn waits_holding_nothing(pool: &PgPool, work: impl Future<Output = ()>) {
    let mut holder = pool.begin().await.unwrap();
    let first = "SELECT FROM pipeline.jobs WHERE ordinal = 1 FOR NO KEY UPDATE";
    sqlx::query(first).execute(&mut *holder).await.unwrap();
    let look = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(pool).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let free =
            "SELECT ordinal FROM pipeline.jobs WHERE ordinal > 1 FOR NO KEY UPDATE SKIP LOCKED";
        let free: Vec<i32> = sqlx::query_scalar(free).fetch_all(pool).await.unwrap();
        assert_eq!(free.len(), 2, "only {free:?} are free");
        holder.rollback().await.unwrap();
    };
    let both = async { tokio::join!(work, look) };
    tokio::time::timeout(Duration::from_secs(30), both).await.expect("it waits, and goes on");
}
