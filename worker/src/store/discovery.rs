//! What the lists told: fiats, assets, payment methods, and which markets there are.

use std::collections::BTreeMap;

use shared::domain::{PaymentMethod, Side};
use shared::exchange::Exchange;
use shared::exchange::binance::{AssetLists, FiatListed};
use shared::job::Work;
use sqlx::PgConnection;

use super::{StoreError, ToStore, payment_methods};
use crate::handler::Facts;

/// Stores the lists in a group.
pub(crate) async fn store(
    connection: &mut PgConnection,
    group: &[&ToStore],
) -> Result<(), StoreError> {
    // All assets of the group first, in one order: writers then never wait for each other in a circle.
    let lists = group.iter().filter_map(|one| match &one.ending.facts {
        Facts::Assets(lists) => Some(lists),
        _ => None,
    });
    insert_assets(connection, lists.collect()).await?;
    for one in group {
        let exchange = one.job.exchange;
        match (&one.job.work, &one.ending.facts) {
            (Work::FiatList, Facts::FiatList(fiats)) => {
                store_fiats(connection, exchange, fiats).await?;
            }
            (Work::Assets { fiat_id, .. }, Facts::Assets(lists)) => {
                store_markets(connection, exchange, *fiat_id, lists).await?;
            }
            (Work::PaymentMethods { fiat_id, .. }, Facts::PaymentMethods(methods)) => {
                store_methods(connection, exchange, *fiat_id, methods).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn insert_assets(
    connection: &mut PgConnection,
    lists: Vec<&AssetLists>,
) -> Result<(), StoreError> {
    let mut names: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for asset in lists.into_iter().flat_map(|lists| lists.buy.iter().chain(&lists.sell)) {
        let name = names.entry(&asset.symbol).or_default();
        *name = name.or(asset.name.as_deref());
    }
    if names.is_empty() {
        return Ok(());
    }
    let (symbols, names): (Vec<&str>, Vec<Option<&str>>) = names.into_iter().unzip();
    sqlx::query(
        "INSERT INTO warehouse.dim_cryptocurrencies AS d (symbol, crypto_name, first_seen_at)
         SELECT a.symbol, a.name, now() FROM unnest($1::text[], $2::text[]) AS a (symbol, name)
             ON CONFLICT (symbol) DO UPDATE SET crypto_name = EXCLUDED.crypto_name
          WHERE d.crypto_name IS NULL AND EXCLUDED.crypto_name IS NOT NULL",
    )
    .bind(&symbols)
    .bind(&names)
    .execute(connection)
    .await?;
    Ok(())
}

async fn store_fiats(
    connection: &mut PgConnection,
    exchange: Exchange,
    fiats: &[FiatListed],
) -> Result<(), StoreError> {
    let by_code: BTreeMap<&str, &FiatListed> =
        fiats.iter().map(|fiat| (fiat.code.as_str(), fiat)).collect();
    let fiats: Vec<&FiatListed> = by_code.into_values().collect();
    let codes: Vec<&str> = fiats.iter().map(|fiat| fiat.code.as_str()).collect();
    sqlx::query(
        "INSERT INTO warehouse.dim_fiat_currencies AS d
                (currency_code, currency_symbol, currency_scale, country_code, first_seen_at)
         SELECT f.code, f.symbol, f.scale, f.country, now()
           FROM unnest($1::text[], $2::text[], $3::smallint[], $4::text[]) AS f (code, symbol, scale, country)
             ON CONFLICT (currency_code) DO UPDATE
            SET currency_symbol = coalesce(EXCLUDED.currency_symbol, d.currency_symbol),
                currency_scale = coalesce(EXCLUDED.currency_scale, d.currency_scale),
                country_code = coalesce(EXCLUDED.country_code, d.country_code)
          WHERE (EXCLUDED.currency_symbol, EXCLUDED.currency_scale, EXCLUDED.country_code)
                IS DISTINCT FROM (d.currency_symbol, d.currency_scale, d.country_code)",
    )
    .bind(&codes)
    .bind(fiats.iter().map(|fiat| fiat.symbol.as_deref()).collect::<Vec<_>>())
    .bind(fiats.iter().map(|fiat| fiat.scale).collect::<Vec<_>>())
    .bind(fiats.iter().map(|fiat| fiat.country.as_deref()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO pipeline.fiat_catalog (exchange_id, fiat_id, is_listed, listed_at)
         SELECT $1, fiat_id, true, now() FROM warehouse.dim_fiat_currencies
          WHERE currency_code = ANY ($2) ORDER BY fiat_id
             ON CONFLICT (exchange_id, fiat_id) DO UPDATE
            SET is_listed = true, listed_at = now(), delisted_at = NULL",
    )
    .bind(exchange.id())
    .bind(&codes)
    .execute(&mut *connection)
    .await?;
    // Gone from the list is something else than empty, and only the list tells it.
    sqlx::query(
        "UPDATE pipeline.fiat_catalog c SET is_listed = false, delisted_at = now()
           FROM warehouse.dim_fiat_currencies f
          WHERE f.fiat_id = c.fiat_id AND c.exchange_id = $1 AND c.is_listed AND f.currency_code <> ALL ($2)",
    )
    .bind(exchange.id())
    .bind(&codes)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO pipeline.exchange_catalog (exchange_id, fiat_list_read_at) VALUES ($1, now())
             ON CONFLICT (exchange_id) DO UPDATE SET fiat_list_read_at = now()",
    )
    .bind(exchange.id())
    .execute(connection)
    .await?;
    Ok(())
}

async fn store_markets(
    connection: &mut PgConnection,
    exchange: Exchange,
    fiat_id: i32,
    lists: &AssetLists,
) -> Result<(), StoreError> {
    let listed = Side::BOTH
        .into_iter()
        .flat_map(|side| lists.side(side).iter().map(move |a| (&*a.symbol, side.as_str())));
    let (symbols, sides): (Vec<&str>, Vec<&str>) = listed.unzip();
    sqlx::query(
        "INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
         SELECT DISTINCT $1::smallint, $2::int, c.crypto_id, l.side, now()
           FROM unnest($3::text[], $4::text[]) AS l (symbol, side)
           JOIN warehouse.dim_cryptocurrencies c ON c.symbol = l.symbol
             ON CONFLICT DO NOTHING",
    )
    .bind(exchange.id())
    .bind(fiat_id)
    .bind(&symbols)
    .bind(&sides)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO pipeline.catalog AS c (market_id, is_listed, listed_at, delisted_at)
         SELECT m.market_id, l.symbol IS NOT NULL, now(), CASE WHEN l.symbol IS NULL THEN now() END
           FROM warehouse.dim_markets m
           JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
           LEFT JOIN (SELECT DISTINCT * FROM unnest($3::text[], $4::text[]) AS u (symbol, side)) l
             ON l.symbol = a.symbol AND l.side = m.trade_type
          WHERE m.exchange_id = $1 AND m.fiat_id = $2
             ON CONFLICT (market_id) DO UPDATE
            SET is_listed = EXCLUDED.is_listed,
                listed_at = CASE WHEN EXCLUDED.is_listed THEN now() ELSE c.listed_at END,
                delisted_at = CASE WHEN NOT EXCLUDED.is_listed THEN coalesce(c.delisted_at, now()) END",
    )
    .bind(exchange.id())
    .bind(fiat_id)
    .bind(&symbols)
    .bind(&sides)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE pipeline.fiat_catalog SET assets_read_at = now() WHERE exchange_id = $1 AND fiat_id = $2")
        .bind(exchange.id())
        .bind(fiat_id)
        .execute(connection)
        .await?;
    Ok(())
}

async fn store_methods(
    connection: &mut PgConnection,
    exchange: Exchange,
    fiat_id: i32,
    methods: &[PaymentMethod],
) -> Result<(), StoreError> {
    let methods: Vec<&PaymentMethod> = methods.iter().collect();
    payment_methods::upsert(connection, exchange, &methods).await?;
    sqlx::query(
        "INSERT INTO warehouse.fiat_payment_methods AS f
                (exchange_id, fiat_id, payment_method_id, method_name, last_seen_at)
         SELECT $1, $2, d.payment_method_id, m.name, now()
           FROM unnest($3::text[], $4::text[]) AS m (identifier, name)
           JOIN warehouse.dim_payment_methods d ON d.exchange_id = $1 AND d.identifier = m.identifier
             ON CONFLICT (exchange_id, fiat_id, payment_method_id) DO UPDATE
            SET method_name = coalesce(EXCLUDED.method_name, f.method_name), last_seen_at = now()",
    )
    .bind(exchange.id())
    .bind(fiat_id)
    .bind(methods.iter().map(|m| m.identifier.as_str()).collect::<Vec<_>>())
    .bind(methods.iter().map(|m| m.name.as_deref()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE pipeline.fiat_catalog SET payment_methods_read_at = now() WHERE exchange_id = $1 AND fiat_id = $2",
    )
    .bind(exchange.id())
    .bind(fiat_id)
    .execute(connection)
    .await?;
    Ok(())
}
