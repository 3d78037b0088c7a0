//! Every ad that the books of batches list, read once: certificates, marts and quality checks are all made
//! of these rows.

use chrono::NaiveDate;
use shared::domain::BatchId;
use sqlx::PgConnection;

use super::marts::Batches;

/// Sorting and hashing a batch of 300,000 ads in memory; the default of 4 MB spills to disk. Hashed, because
/// merging what is listed would mean to sort it anew each time.
pub(super) const IN_MEMORY: &str = "SET LOCAL work_mem = '64MB'; SET LOCAL enable_mergejoin = off";
/// For what joins the books of a batch with each other. The planner knows nothing of rows that were just written and
/// expects one: with a nested loop each of three thousand books then reads all others.
pub(super) const BY_HASH: &str = "SET LOCAL enable_nestloop = off; SET LOCAL random_page_cost = 4";
pub(super) const BY_ANY_JOIN: &str = "RESET enable_nestloop; RESET random_page_cost";
/// In place of what was listed before in the transaction, if anything was; that nothing was is no news.
const ANEW: &str = "SET LOCAL client_min_messages = warning;
     DROP TABLE IF EXISTS pg_temp.listed_ids, pg_temp.listed_ads, pg_temp.repeated_ads;
     RESET client_min_messages";
/// The planner knows how many rows there are and chooses between reading a table and looking each row up. Each
/// id is looked up once, so remembering what was found would cost and save nothing.
const READING: &str = "SET LOCAL random_page_cost = 1.1; SET LOCAL enable_memoize = off";
pub(super) const AS_BEFORE: &str =
    "RESET work_mem; RESET enable_mergejoin; RESET random_page_cost; RESET enable_memoize";
/// Planning needs to know how often a value comes, roughly; a larger sample takes longer than what it helps. For the
/// rest of the transaction: marts are made of such tables too.
const SMALL_SAMPLES: &str = "SET LOCAL default_statistics_target = 10";
/// Of ids and numbers the planner would believe that each comes thousands of times, and hash nothing by them.
const ANALYZE_IDS: &str = "ANALYZE listed_ids (id)";
const ANALYZE: &str = "ANALYZE listed_ads (batch_id, market_id, advertiser_id, adv_no)";

/// Lists what the books of a batch show, and in `repeated_ads` the ads that a book lists more than once, which
/// certificates and checks look at.
pub(super) async fn read_one(connection: &mut PgConnection, batch: BatchId) -> sqlx::Result<()> {
    read(connection, Batches::one(batch), None).await?;
    for statements in [IN_MEMORY, include_str!("repeated_ads.sql"), AS_BEFORE] {
        sqlx::raw_sql(statements).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Lists what the books of `batches` show into the temporary table `listed_ads`, in place of what it had. Of
/// these markets only, if any are named.
pub(super) async fn read(
    connection: &mut PgConnection,
    batches: Batches,
    markets: Option<&[i32]>,
) -> sqlx::Result<()> {
    let day: NaiveDate = batches.first.day();
    for settings in [ANEW, IN_MEMORY, READING, SMALL_SAMPLES] {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
    }
    sqlx::query(include_str!("listed_ids.sql"))
        .bind(day)
        .bind(batches.first.raw())
        .bind(batches.last.raw())
        .bind(markets)
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql(ANALYZE_IDS).execute(&mut *connection).await?;
    sqlx::query(include_str!("listed_ads.sql")).bind(day).execute(&mut *connection).await?;
    for statements in [ANALYZE, AS_BEFORE] {
        sqlx::raw_sql(statements).execute(&mut *connection).await?;
    }
    Ok(())
}
