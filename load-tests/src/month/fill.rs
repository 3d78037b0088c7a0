//! Days of readings into a database of their own, through the real tables and the real marts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Timelike, Utc};
use coordinator::store::marts::{self, Batches};
use shared::store::MIGRATOR;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::world::{Day, Generator, VERSION_COLUMNS, escaped};

/// Minutes between slots.
const INTERVAL_MINUTES: i64 = 10;
/// Batches whose marts are made in one transaction: memory for 700,000 ads.
const MARTS_AT_ONCE: usize = 24;
/// Text given to `COPY` at once.
const CHUNK: usize = 1 << 20;

/// What to fill.
pub(crate) struct Plan {
    pub(crate) days: u32,
    pub(crate) ads: usize,
    pub(crate) fiats: usize,
    pub(crate) seed: u64,
    /// The last slot is the last one before this instant.
    pub(crate) until: DateTime<Utc>,
}

/// What was filled.
pub(crate) struct Filled {
    pub(crate) batches: usize,
    pub(crate) readings: u64,
    pub(crate) took: Duration,
    pub(crate) marts_took: Duration,
}

/// Fills an empty, migrated database.
pub(crate) async fn fill(pool: &PgPool, plan: &Plan) -> Result<Filled> {
    let begun = Instant::now();
    let mut generator = Generator::new(plan.seed, plan.ads, plan.fiats);
    dimensions(pool, &generator, plan.until).await?;
    let mut filled =
        Filled { batches: 0, readings: 0, took: Duration::ZERO, marts_took: Duration::ZERO };
    let mut marts: Option<tokio::task::JoinHandle<Result<Duration>>> = None;
    for (day, slots) in days(plan) {
        let number_from = slots[0].num_seconds_from_midnight() / 600;
        let (moved, made) = tokio::task::spawn_blocking(move || {
            let made = generator.day(&slots, number_from);
            (generator, made)
        })
        .await?;
        generator = moved;
        let made = made?;
        sqlx::query("SELECT pipeline.make_partitions($1, $1)").bind(day).execute(pool).await?;
        store(pool, day, &made).await?;
        filled.batches += made.batch_ids.len();
        filled.readings += made.readings;
        // The marts of this day while the next one is made: they need its facts and those before.
        if let Some(running) = marts.take() {
            filled.marts_took += running.await??;
        }
        let pool = pool.clone();
        marts = Some(tokio::spawn(async move { make_marts(&pool, day, &made).await }));
        eprintln!("{day}: {} batches, {} readings so far", filled.batches, filled.readings);
    }
    if let Some(running) = marts {
        filled.marts_took += running.await??;
    }
    finish(pool).await?;
    filled.took = begun.elapsed();
    Ok(filled)
}

/// Days with their slots, the last one just before `until`.
fn days(plan: &Plan) -> Vec<(NaiveDate, Vec<DateTime<Utc>>)> {
    let interval = INTERVAL_MINUTES * 60;
    let last = plan.until.timestamp() / interval * interval - interval;
    let slots = i64::from(plan.days) * 24 * 60 / INTERVAL_MINUTES;
    let mut days: Vec<(NaiveDate, Vec<DateTime<Utc>>)> = Vec::new();
    for back in (0..slots).rev() {
        let Some(slot) = DateTime::from_timestamp(last - back * interval, 0) else { continue };
        match days.last_mut() {
            Some((day, of_day)) if *day == slot.date_naive() => of_day.push(slot),
            _ => days.push((slot.date_naive(), vec![slot])),
        }
    }
    days
}

async fn dimensions(pool: &PgPool, generator: &Generator, until: DateTime<Utc>) -> Result<()> {
    let world = &generator.world;
    let at = (until - TimeDelta::days(400)).to_rfc3339();
    let fiats =
        lines(world.catalog.fiats.iter().map(|fiat| {
            format!("{}\t{}\t{}\t{at}\n", fiat.code, escaped(&fiat.symbol), fiat.scale)
        }));
    copy(pool, "warehouse.dim_fiat_currencies (currency_code, currency_symbol, currency_scale, first_seen_at)", &fiats)
        .await?;
    let assets = lines(
        world
            .catalog
            .assets
            .iter()
            .map(|asset| format!("{}\t{}\t{at}\n", asset.symbol, asset.symbol)),
    );
    copy(pool, "warehouse.dim_cryptocurrencies (symbol, crypto_name, first_seen_at)", &assets)
        .await?;
    let markets = lines(
        world
            .markets
            .iter()
            .map(|m| format!("1\t{}\t{}\t{}\t{at}\n", m.fiat + 1, m.asset + 1, m.side.as_str())),
    );
    copy(
        pool,
        "warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)",
        &markets,
    )
    .await?;
    let methods =
        lines(
            world.catalog.methods.iter().map(|method| {
                format!("1\t{}\t{}\t{at}\n", method.identifier, escaped(&method.name))
            }),
        );
    copy(
        pool,
        "warehouse.dim_payment_methods (exchange_id, identifier, method_name, first_seen_at)",
        &methods,
    )
    .await?;
    sqlx::raw_sql(
        "INSERT INTO pipeline.fiat_catalog (exchange_id, fiat_id, is_listed, listed_at)
         SELECT 1, fiat_id, true, now() FROM warehouse.dim_fiat_currencies;
         INSERT INTO pipeline.catalog (market_id, is_listed, listed_at)
         SELECT market_id, true, now() FROM warehouse.dim_markets;",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Lines of `COPY`.
fn lines(rows: impl Iterator<Item = String>) -> String {
    rows.fold(String::new(), |text, row| text + &row)
}

async fn store(pool: &PgPool, day: NaiveDate, made: &Day) -> Result<()> {
    let versions = format!("warehouse.offer_versions ({VERSION_COLUMNS})");
    let dims = async {
        copy(
            pool,
            "pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, opened_by, opened_at, \
             planned_at, deadline_at, closed_at, books, books_complete, ads)",
            &made.batches,
        )
        .await?;
        // First the versions that end, then those that follow.
        let (keys, ends): (Vec<i32>, Vec<DateTime<Utc>>) =
            made.closed_advertisers.iter().copied().unzip();
        let mut tx = pool.begin().await?;
        sqlx::raw_sql(
            "ALTER TABLE warehouse.dim_advertisers ALTER advertiser_sk DROP IDENTITY IF EXISTS",
        )
        .execute(&mut *tx)
        .await?;
        sqlx::raw_sql("DROP INDEX IF EXISTS warehouse.dim_advertisers_current")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        copy(
            pool,
            "warehouse.dim_advertisers (advertiser_sk, advertiser_id, exchange_id, user_no, advertiser, user_type, \
             is_merchant, user_identity, user_grade, is_pro_merchant, identity_hash, valid_from, valid_to, \
             is_current, month_order_count, completion_rate, positive_rate, figures_at)",
            &made.advertisers,
        )
        .await?;
        sqlx::query(
            "UPDATE warehouse.dim_advertisers d SET is_current = false, valid_to = e.at
               FROM unnest($1::int[], $2::timestamptz[]) AS e (sk, at) WHERE d.advertiser_sk = e.sk",
        )
        .bind(keys)
        .bind(ends)
        .execute(pool)
        .await?;
        copy(
            pool,
            "warehouse.advertiser_figures (advertiser_id, observed_at, month_order_count, completion_rate, positive_rate)",
            &made.figures,
        )
        .await?;
        copy(
            pool,
            "warehouse.books (day, batch_id, market_id, verdict, first_total, last_total, min_total, max_total, \
             pages_planned, pages_read, pages_lost, pages_shed, pages_reread, listed_ads, distinct_ads, \
             duplicate_ads, refused_ads, estimated_missed, first_fetched_at, last_fetched_at, span_ms)",
            &made.books,
        )
        .await?;
        copy(
            pool,
            "warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at, declared_total, offer_ids, \
             active_minutes, promoted_position, duplicate_positions)",
            &made.pages,
        )
        .await
    };
    tokio::try_join!(dims, copy(pool, &versions, &made.versions))
        .with_context(|| format!("store {day}"))?;
    let stamp = format!("{:04}{:02}{:02}", day.year(), day.month(), day.day());
    for table in ["offer_versions", "book_pages", "books"] {
        let analyze = format!("ANALYZE warehouse.{table}_{stamp}");
        sqlx::raw_sql(AssertSqlSafe(analyze)).execute(pool).await?;
    }
    Ok(())
}

async fn copy(pool: &PgPool, into: &str, rows: &str) -> Result<()> {
    let mut connection = pool.acquire().await?;
    let mut copy = connection.copy_in_raw(&format!("COPY {into} FROM STDIN")).await?;
    for chunk in rows.as_bytes().chunks(CHUNK) {
        copy.send(chunk).await?;
    }
    copy.finish().await.with_context(|| format!("COPY {into}"))?;
    Ok(())
}

/// The marts of a day, by the coordinator's own statements.
async fn make_marts(pool: &PgPool, day: NaiveDate, made: &Day) -> Result<Duration> {
    let begun = Instant::now();
    for batches in made.batch_ids.chunks(MARTS_AT_ONCE) {
        let (first, last) = (batches[0], batches[batches.len() - 1]);
        let range = Batches::range(first, last).context("batches of one day, in order")?;
        let mut tx = pool.begin().await?;
        marts::make(&mut tx, range).await.with_context(|| format!("marts of {day}"))?;
        tx.commit().await?;
    }
    Ok(begun.elapsed())
}

/// What closing the last batches leaves behind, and statistics.
async fn finish(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(
        "ALTER TABLE warehouse.dim_advertisers ALTER advertiser_sk ADD GENERATED ALWAYS AS IDENTITY;
         CREATE UNIQUE INDEX dim_advertisers_current ON warehouse.dim_advertisers (exchange_id, user_no) WHERE is_current;
         INSERT INTO warehouse.latest_books (market_id, day, batch_id, verdict, read_at)
         SELECT DISTINCT ON (market_id) market_id, day, batch_id, verdict, read_at
           FROM warehouse.mart_books
          WHERE verdict <> 'partial' AND day >= (SELECT max(day) - 1 FROM warehouse.mart_books)
          ORDER BY market_id, batch_id DESC;
         UPDATE pipeline.catalog c SET last_total = b.last_total, last_read_at = l.read_at, last_batch_id = l.batch_id
           FROM warehouse.latest_books l
           JOIN warehouse.books b ON b.day = l.day AND b.batch_id = l.batch_id AND b.market_id = l.market_id
          WHERE c.market_id = l.market_id;",
    )
    .execute(pool)
    .await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(pool).await?;
    Ok(())
}

/// A database with the schema and nothing in it, beside the one at `url`.
pub(crate) async fn fresh_database(url: &url::Url, name: &str) -> Result<PgPool> {
    ensure!(
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()),
        "database {name:?} is not allowed: lower case letters, digits and _"
    );
    let admin = PgPoolOptions::new()
        .max_connections(1)
        .connect(url.as_str())
        .await
        .context("connect to DATABASE_URL")?;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
        .execute(&admin)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await?;
    let pool = open(url, name).await?;
    MIGRATOR.run(&pool).await?;
    Ok(pool)
}

/// The database of that name beside the one at `url`.
pub(crate) async fn open(url: &url::Url, name: &str) -> Result<PgPool> {
    let mut url = url.clone();
    url.set_path(name);
    PgPoolOptions::new()
        .max_connections(6)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(
                    "SET jit = off; SET maintenance_work_mem = '256MB'; SET work_mem = '64MB'",
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .connect(url.as_str())
        .await
        .with_context(|| format!("connect to database {name}"))
}

/// Prints what the database runs on and what the tables take.
pub(crate) async fn tell_sizes(pool: &PgPool) -> Result<()> {
    let server: String = sqlx::query_scalar(
        "SELECT format('PostgreSQL %s, shared_buffers %s', current_setting('server_version'), current_setting('shared_buffers'))",
    )
    .fetch_one(pool)
    .await?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{server}, {cores} cores");
    let sizes: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT coalesce(i.inhparent::regclass::text, c.oid::regclass::text), sum(greatest(c.reltuples, 0))::bigint,
                sum(pg_total_relation_size(c.oid))::bigint
           FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
          WHERE c.relnamespace = 'warehouse'::regnamespace AND c.relkind = 'r'
          GROUP BY 1 HAVING sum(pg_total_relation_size(c.oid)) > 1000000 ORDER BY 3 DESC",
    )
    .fetch_all(pool)
    .await?;
    for (relation, rows, bytes) in sizes {
        println!("{relation:<34} {rows:>12} rows {:>8} MB", bytes / 1_000_000);
    }
    Ok(())
}
