//! What is asked of the batches, which are kept for ever.

use coordinator::store::{advertisers, batches, witness};
use shared::exchange::Exchange;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// What the leader asks at each turn, and what people ask of a moment, reads some batches and not all there ever were.
#[sqlx::test(migrations = "../migrations")]
async fn questions_read_few_batches(pool: PgPool) {
    // One session, which knows what it did.
    let options = pool.connect_options().as_ref().clone();
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, opened_by, opened_at,
                                       planned_at, deadline_at, closed_at, announced_at, books_complete, advertisers_open)
         SELECT (day - DATE '1970-01-01') << 9 | n, day, 1, at, 'schedule', 'closed', 'complete', 'test', at, at, at, at, at, 1, 0
           FROM (SELECT (now() AT TIME ZONE 'UTC')::date - d AS day, n,
                        ((now() AT TIME ZONE 'UTC')::date - d + n * interval '10 min') AT TIME ZONE 'UTC' AS at
                   FROM generate_series(0, 364) AS d, generate_series(0, 143) AS n) b
          WHERE at < now();
         UPDATE pipeline.batches SET announced_at = NULL, advertisers_open = 2
          WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches);
         ANALYZE pipeline.batches",
    )
    .execute(&pool)
    .await
    .unwrap();
    let before = reads(&pool).await;
    let exchange = Exchange::Binance;
    assert_eq!(batches::list_unannounced(&pool, exchange).await.unwrap().len(), 1);
    assert_eq!(witness::allowed_markets(&pool, exchange, 3).await.unwrap(), 3);
    let at = sqlx::query_scalar::<_, Option<i32>>("SELECT warehouse.batch_at(now())");
    assert_eq!(at.fetch_one(&pool).await.unwrap(), None, "no book is there");
    let mut connection = pool.acquire().await.unwrap();
    advertisers::expire_left_over(&mut connection, exchange, "late").await.unwrap();
    drop(connection);
    assert_eq!(reads(&pool).await, before);
}

/// How often all batches were read.
async fn reads(pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let reads =
        "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'pipeline.batches'::regclass";
    sqlx::query_scalar(reads).fetch_one(pool).await.unwrap()
}
