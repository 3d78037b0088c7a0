//! What the coordinator measures of its database.

use coordinator::store::watch::book_ages;
use sqlx::PgPool;

/// A market that is not read any more, for it or its fiat is not listed, may grow old.
#[sqlx::test(migrations = "../migrations")]
async fn a_market_is_stale_only_while_it_is_read(pool: PgPool) {
    sqlx::raw_sql(
        "INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at) VALUES ('VES', now());
         INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('USDT', now());
         INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
         SELECT 1, fiat_id, crypto_id, 'BUY', now() FROM warehouse.dim_fiat_currencies, warehouse.dim_cryptocurrencies;
         INSERT INTO pipeline.fiat_catalog (exchange_id, fiat_id, is_listed, listed_at)
         SELECT 1, fiat_id, true, now() FROM warehouse.dim_fiat_currencies;
         INSERT INTO pipeline.catalog (market_id, is_listed, listed_at, last_total)
         SELECT market_id, true, now(), 7 FROM warehouse.dim_markets;
         INSERT INTO warehouse.latest_books
         SELECT market_id, current_date, 1, 'complete', now() - interval '2 days' FROM warehouse.dim_markets",
    )
    .execute(&pool)
    .await
    .unwrap();
    let set = async |sql: &'static str| {
        sqlx::query(sql).execute(&pool).await.unwrap();
        let (newest, oldest) = book_ages(&pool, &[]).await.unwrap();
        assert!(newest.unwrap() > 86_400.0, "what was read stays read");
        oldest
    };
    assert!(set("SELECT").await.unwrap() > 86_400.0);
    assert_eq!(set("UPDATE pipeline.fiat_catalog SET is_listed = false").await, None);
    assert!(set("UPDATE pipeline.fiat_catalog SET is_listed = true").await.is_some());
    assert_eq!(set("UPDATE pipeline.catalog SET is_listed = false").await, None);
}
