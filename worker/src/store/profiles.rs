//! The pages of advertisers: the terms of their ads, their figures, and when they were read.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, Utc};
use shared::domain::{Ad, Json, Profile};
use shared::exchange::binance::AdvertiserPage;
use shared::job::{EndState, Work};
use sqlx::PgConnection;

use super::versions::Hasher;
use super::{StoreError, ToStore, terms};
use crate::handler::Facts;

/// Stores the pages of advertisers in a group, and notes those that failed.
pub(crate) async fn store(
    connection: &mut PgConnection,
    group: &[&ToStore],
) -> Result<(), StoreError> {
    // In one order, so that writers never wait for each other in a circle.
    let mut jobs = BTreeMap::new();
    for one in group {
        if let Work::Advertiser { advertiser_id, .. } = one.job.work {
            jobs.insert(advertiser_id, *one);
        }
    }
    let (mut read, mut failed) = (Vec::new(), Vec::new());
    for (&advertiser_id, one) in &jobs {
        match (&one.ending.facts, one.ending.requests.fetched_at) {
            (Facts::Advertiser(page), Some(at)) => {
                store_page(connection, one, advertiser_id, at, page).await?;
                read.push((advertiser_id, at));
            }
            _ if one.ending.state == EndState::Failed => {
                failed.push((advertiser_id, one.ending.reason));
            }
            _ => {}
        }
    }
    note_read(connection, &read).await?;
    note_failed(connection, &failed).await
}

async fn store_page(
    connection: &mut PgConnection,
    one: &ToStore,
    advertiser_id: i32,
    at: DateTime<Utc>,
    page: &AdvertiserPage,
) -> Result<(), StoreError> {
    let ads: BTreeMap<&str, &Ad> =
        page.ads.iter().map(|(_, ad)| (ad.adv_no.as_str(), ad)).collect();
    let ads: Vec<&Ad> = ads.into_values().collect();
    terms::insert(connection, one.job.exchange, advertiser_id, at, &ads).await?;
    insert_profile(connection, advertiser_id, at, &page.profile).await?;
    let ago = |days: Option<i32>| -> Option<NaiveDate> {
        at.date_naive().checked_sub_days(Days::new(u64::try_from(days?).ok()?))
    };
    let profile = &page.profile;
    let (registered, first_order) = (ago(profile.registered_days), ago(profile.first_order_days));
    date_advertiser(connection, advertiser_id, registered, first_order).await
}

/// What the page tells, as far as it is kept as figures.
fn profile_hash(profile: &Profile) -> i64 {
    let mut hasher = Hasher::default();
    for count in [
        profile.orders,
        profile.buy_orders,
        profile.sell_orders,
        profile.counterparties,
        profile.orders_30d,
        profile.buy_orders_30d,
        profile.sell_orders_30d,
        profile.release_seconds,
        profile.order_count,
        profile.kyc_type,
    ] {
        hasher.number(count);
    }
    for decimal in [
        profile.btc_volume,
        profile.btc_bought,
        profile.btc_sold,
        profile.btc_volume_30d,
        profile.completion_rate_30d,
        profile.average_pay_seconds_30d,
        profile.average_release_seconds_30d,
        profile.margin,
        profile.equivalent_margin,
    ] {
        hasher.decimal(decimal);
    }
    for text in [
        &profile.margin_unit,
        &profile.equivalent_margin_unit,
        &profile.kyc_status,
        &profile.kyc_address_status,
    ] {
        hasher.text(text.as_deref());
    }
    for flag in [
        profile.is_email_verified,
        profile.is_mobile_bound,
        profile.is_kyc_verified,
        profile.is_company,
    ] {
        hasher.flag(flag);
    }
    hasher.text(profile.margins.as_ref().map(Json::as_str));
    hasher.finish()
}

async fn insert_profile(
    connection: &mut PgConnection,
    advertiser_id: i32,
    at: DateTime<Utc>,
    profile: &Profile,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO warehouse.advertiser_profiles
                (advertiser_id, observed_at, content_hash,
                 orders, buy_orders, sell_orders, btc_volume, btc_bought, btc_sold, counterparties,
                 orders_30d, buy_orders_30d, sell_orders_30d, btc_volume_30d,
                 completion_rate_30d, average_pay_seconds_30d,
                 average_release_seconds_30d, release_seconds, order_count, margin,
                 margin_unit, equivalent_margin, equivalent_margin_unit, margins,
                 is_email_verified, is_mobile_bound, is_kyc_verified, kyc_type,
                 kyc_status, kyc_address_status, is_company)
         SELECT $1, $2, $3,
                $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                $22, $23, $24::jsonb, $25, $26, $27, $28, $29, $30, $31
          WHERE $3 IS DISTINCT FROM (SELECT content_hash FROM warehouse.advertiser_profiles
                                      WHERE advertiser_id = $1 AND observed_at <= $2
                                      ORDER BY observed_at DESC LIMIT 1)
             ON CONFLICT DO NOTHING",
    )
    .bind(advertiser_id)
    .bind(at)
    .bind(profile_hash(profile))
    .bind(profile.orders)
    .bind(profile.buy_orders)
    .bind(profile.sell_orders)
    .bind(profile.btc_volume)
    .bind(profile.btc_bought)
    .bind(profile.btc_sold)
    .bind(profile.counterparties)
    .bind(profile.orders_30d)
    .bind(profile.buy_orders_30d)
    .bind(profile.sell_orders_30d)
    .bind(profile.btc_volume_30d)
    .bind(profile.completion_rate_30d)
    .bind(profile.average_pay_seconds_30d)
    .bind(profile.average_release_seconds_30d)
    .bind(profile.release_seconds)
    .bind(profile.order_count)
    .bind(profile.margin)
    .bind(profile.margin_unit.as_deref())
    .bind(profile.equivalent_margin)
    .bind(profile.equivalent_margin_unit.as_deref())
    .bind(profile.margins.as_ref().map(Json::as_str))
    .bind(profile.is_email_verified)
    .bind(profile.is_mobile_bound)
    .bind(profile.is_kyc_verified)
    .bind(profile.kyc_type)
    .bind(profile.kyc_status.as_deref())
    .bind(profile.kyc_address_status.as_deref())
    .bind(profile.is_company)
    .execute(connection)
    .await?;
    Ok(())
}

/// Days are counted by the exchange, from an hour that it does not tell: a day more or less is no news.
async fn date_advertiser(
    connection: &mut PgConnection,
    advertiser_id: i32,
    registered: Option<NaiveDate>,
    first_order: Option<NaiveDate>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE warehouse.dim_advertisers
            SET registered_on = CASE WHEN abs(registered_on - $2) <= 1 THEN registered_on
                                     ELSE coalesce($2, registered_on) END,
                first_order_on = CASE WHEN abs(first_order_on - $3) <= 1 THEN first_order_on
                                      ELSE coalesce($3, first_order_on) END
          WHERE advertiser_id = $1
            AND ($2 IS NOT NULL AND (registered_on IS NULL OR abs(registered_on - $2) > 1)
              OR $3 IS NOT NULL AND (first_order_on IS NULL OR abs(first_order_on - $3) > 1))",
    )
    .bind(advertiser_id)
    .bind(registered)
    .bind(first_order)
    .execute(connection)
    .await?;
    Ok(())
}

async fn note_read(
    connection: &mut PgConnection,
    read: &[(i32, DateTime<Utc>)],
) -> Result<(), StoreError> {
    if read.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO pipeline.advertiser_catalog AS c (advertiser_id, asked_at, read_at)
         SELECT r.id, r.at, r.at FROM unnest($1::int[], $2::timestamptz[]) AS r (id, at)
             ON CONFLICT (advertiser_id) DO UPDATE
            SET read_at = greatest(c.read_at, EXCLUDED.read_at), consecutive_failures = 0",
    )
    .bind(read.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(read.iter().map(|(_, at)| *at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn note_failed(
    connection: &mut PgConnection,
    failed: &[(i32, Option<&str>)],
) -> Result<(), StoreError> {
    if failed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO pipeline.advertiser_catalog AS c (advertiser_id, asked_at, failed_at, failure, consecutive_failures)
         SELECT f.id, now(), now(), f.failure, 1 FROM unnest($1::int[], $2::text[]) AS f (id, failure)
             ON CONFLICT (advertiser_id) DO UPDATE
            SET failed_at = now(), failure = EXCLUDED.failure, consecutive_failures = c.consecutive_failures + 1",
    )
    .bind(failed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(failed.iter().map(|(_, reason)| *reason).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
