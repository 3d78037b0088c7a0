//! What the pages of advertisers tell of ads, written only on change, and given to the pages of the
//! search, which leaves it out.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use shared::domain::{Ad, AdDetails, Json};
use shared::exchange::Exchange;
use sqlx::{PgConnection, PgExecutor};

use super::StoreError;
use super::versions::{Hasher, hash_details};

#[derive(sqlx::FromRow)]
struct Row {
    n: i64,
    terms: Option<String>,
    auto_reply: Option<String>,
    price_type: Option<i16>,
    price_floating_ratio: Option<Decimal>,
    rate_floating_ratio: Option<Decimal>,
    initial_amount: Option<Decimal>,
    buyer_kyc_limit: Option<i32>,
    buyer_registration_days: Option<i32>,
    buyer_btc_position: Option<Decimal>,
    taker_conditions: Option<String>,
    adv_status: Option<i16>,
    ad_created_at: Option<DateTime<Utc>>,
    ad_updated_at: Option<DateTime<Utc>>,
}

impl From<Row> for AdDetails {
    fn from(row: Row) -> Self {
        Self {
            initial_amount: row.initial_amount,
            auto_reply: row.auto_reply,
            terms: row.terms,
            price_type: row.price_type,
            price_floating_ratio: row.price_floating_ratio,
            rate_floating_ratio: row.rate_floating_ratio,
            buyer_kyc_limit: row.buyer_kyc_limit,
            buyer_registration_days: row.buyer_registration_days,
            buyer_btc_position: row.buyer_btc_position,
            taker_conditions: row.taker_conditions.and_then(Json::new),
            adv_status: row.adv_status,
            created_at: row.ad_created_at,
            updated_at: row.ad_updated_at,
        }
    }
}

/// What was last told of each ad at the instant it was read, in order; `None`: nothing yet. What is told
/// later does not count, so that a page that is stored again is stored alike.
pub(super) async fn list_known(
    connection: &mut PgConnection,
    exchange: Exchange,
    ads: &[(&str, DateTime<Utc>)],
) -> Result<Vec<Option<AdDetails>>, StoreError> {
    // Mostly nobody asks for the pages of advertisers: then no ad need be looked for.
    let has_any: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM warehouse.offer_terms WHERE exchange_id = $1)",
    )
    .bind(exchange.id())
    .fetch_one(&mut *connection)
    .await?;
    if !has_any {
        return Ok(vec![None; ads.len()]);
    }
    let known = list_last(connection, exchange, ads, 1).await?;
    Ok(known.into_iter().map(|mut last| last.pop()).collect())
}

/// What was told of each ad until the instant it was read, in order: the `last` times it changed, the
/// latest first.
pub(crate) async fn list_last(
    executor: impl PgExecutor<'_>,
    exchange: Exchange,
    ads: &[(&str, DateTime<Utc>)],
    last: i32,
) -> Result<Vec<Vec<AdDetails>>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT a.n, t.terms, t.auto_reply, t.price_type, t.price_floating_ratio, t.rate_floating_ratio,
                t.initial_amount, t.buyer_kyc_limit, t.buyer_registration_days, t.buyer_btc_position,
                t.taker_conditions::text AS taker_conditions, t.adv_status, t.ad_created_at, t.ad_updated_at
           FROM unnest($2::text[], $3::timestamptz[]) WITH ORDINALITY AS a (adv_no, at, n)
          CROSS JOIN LATERAL (SELECT * FROM warehouse.offer_terms t
                               WHERE t.exchange_id = $1 AND t.adv_no = a.adv_no AND t.observed_at <= a.at
                               ORDER BY t.observed_at DESC LIMIT $4) t
          ORDER BY a.n, t.observed_at DESC",
    )
    .bind(exchange.id())
    .bind(ads.iter().map(|(adv_no, _)| *adv_no).collect::<Vec<_>>())
    .bind(ads.iter().map(|(_, at)| *at).collect::<Vec<_>>())
    .bind(last)
    .fetch_all(executor)
    .await?;
    let mut known: Vec<Vec<AdDetails>> = ads.iter().map(|_| Vec::new()).collect();
    for row in rows {
        // Ordinality counts from 1.
        let index = usize::try_from(row.n - 1).unwrap_or(usize::MAX);
        if let Some(known) = known.get_mut(index) {
            known.push(row.into());
        }
    }
    Ok(known)
}

/// Writes what is new of the ads of one advertiser.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    exchange: Exchange,
    advertiser_id: i32,
    at: DateTime<Utc>,
    ads: &[&Ad],
) -> Result<(), StoreError> {
    if ads.is_empty() {
        return Ok(());
    }
    let details = || ads.iter().map(|ad| &ad.details);
    let hash = |details: &AdDetails| {
        let mut hasher = Hasher::default();
        hash_details(&mut hasher, details);
        hasher.finish()
    };
    sqlx::query(
        "INSERT INTO warehouse.offer_terms
                (exchange_id, adv_no, observed_at, advertiser_id, content_hash, terms, auto_reply, price_type,
                 price_floating_ratio, rate_floating_ratio, initial_amount, buyer_kyc_limit,
                 buyer_registration_days, buyer_btc_position, taker_conditions, adv_status, ad_created_at,
                 ad_updated_at)
         SELECT $1, x.adv_no, $2, $3, x.content_hash, x.terms, x.auto_reply, x.price_type,
                x.price_floating_ratio, x.rate_floating_ratio, x.initial_amount, x.buyer_kyc_limit,
                x.buyer_registration_days, x.buyer_btc_position, x.taker_conditions::jsonb, x.adv_status,
                x.ad_created_at, x.ad_updated_at
           FROM unnest($4::text[], $5::bigint[], $6::text[], $7::text[], $8::smallint[], $9::numeric[],
                       $10::numeric[], $11::numeric[], $12::int[], $13::int[], $14::numeric[], $15::text[],
                       $16::smallint[], $17::timestamptz[], $18::timestamptz[])
             AS x (adv_no, content_hash, terms, auto_reply, price_type, price_floating_ratio,
                   rate_floating_ratio, initial_amount, buyer_kyc_limit, buyer_registration_days,
                   buyer_btc_position, taker_conditions, adv_status, ad_created_at, ad_updated_at)
          WHERE x.content_hash IS DISTINCT FROM
                (SELECT t.content_hash FROM warehouse.offer_terms t
                  WHERE t.exchange_id = $1 AND t.adv_no = x.adv_no AND t.observed_at <= $2
                  ORDER BY t.observed_at DESC LIMIT 1)
             ON CONFLICT DO NOTHING",
    )
    .bind(exchange.id())
    .bind(at)
    .bind(advertiser_id)
    .bind(ads.iter().map(|ad| ad.adv_no.as_str()).collect::<Vec<_>>())
    .bind(details().map(hash).collect::<Vec<_>>())
    .bind(details().map(|d| d.terms.as_deref()).collect::<Vec<_>>())
    .bind(details().map(|d| d.auto_reply.as_deref()).collect::<Vec<_>>())
    .bind(details().map(|d| d.price_type).collect::<Vec<_>>())
    .bind(details().map(|d| d.price_floating_ratio).collect::<Vec<_>>())
    .bind(details().map(|d| d.rate_floating_ratio).collect::<Vec<_>>())
    .bind(details().map(|d| d.initial_amount).collect::<Vec<_>>())
    .bind(details().map(|d| d.buyer_kyc_limit).collect::<Vec<_>>())
    .bind(details().map(|d| d.buyer_registration_days).collect::<Vec<_>>())
    .bind(details().map(|d| d.buyer_btc_position).collect::<Vec<_>>())
    .bind(details().map(|d| d.taker_conditions.as_ref().map(Json::as_str)).collect::<Vec<_>>())
    .bind(details().map(|d| d.adv_status).collect::<Vec<_>>())
    .bind(details().map(|d| d.created_at).collect::<Vec<_>>())
    .bind(details().map(|d| d.updated_at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
