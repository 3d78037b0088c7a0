//! What the witness said.

use rust_decimal::Decimal;
use shared::job::Work;
use sqlx::PgConnection;

use super::{StoreError, ToStore};
use crate::handler::Facts;

/// Stores the readings of the witness in a group. A batch has few, so each is a statement.
pub(super) async fn insert(
    connection: &mut PgConnection,
    group: &[&ToStore],
) -> Result<(), StoreError> {
    for one in group {
        let (Work::WitnessAds { market_id, .. } | Work::WitnessQuote { market_id, .. }) =
            &one.job.work
        else {
            continue;
        };
        let (mut numbers, mut prices, mut unreadable, mut quote) = (None, None, None, None);
        match &one.ending.facts {
            Facts::WitnessAds(list) => {
                let ads = list.ads.iter();
                numbers = Some(ads.clone().map(|ad| ad.adv_no.as_str()).collect::<Vec<_>>());
                prices = Some(ads.map(|ad| ad.price).collect::<Vec<Decimal>>());
                unreadable = Some(i32::try_from(list.unreadable).unwrap_or(i32::MAX));
            }
            Facts::WitnessQuote(price) => quote = Some(*price),
            _ => continue,
        }
        sqlx::query(
            "INSERT INTO pipeline.witness_readings
                    (day, batch_id, ordinal, market_id, fetched_at, adv_nos, prices, unreadable, quote)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(one.job.batch_id.day())
        .bind(one.job.batch_id.raw())
        .bind(one.job.ordinal.cast_signed())
        .bind(market_id)
        .bind(one.ending.requests.fetched_at)
        .bind(numbers)
        .bind(prices)
        .bind(unreadable)
        .bind(quote)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
