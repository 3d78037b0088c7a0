//! What a reading of an ad costs to keep: in the tables of this schema, in a plain table with a row per ad
//! and reading, and in that table as a Parquet file.
//!
//! Batches are read by the real programs; then their rows go once more into tables of the same form, batch
//! by batch and a transaction for each group of pages, so that sizes and WAL are those of nothing else.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use sqlx::AssertSqlSafe;

use crate::figures::{Column, Figures};
use crate::run::{Batch, Load, Running, wal_bytes};

/// Batches of a day, for which a day is reckoned from those that were read: one in which all ads are new,
/// and others like the mean of the rest.
const BATCHES_A_DAY: f64 = 144.0;
/// Jobs whose rows go in one transaction, as in the group of a worker under load.
const GROUP: i32 = 32;

/// Tables of one form, and the statements that fill them with the jobs `{from}` to `{until}` of a batch.
struct Form {
    name: &'static str,
    make: &'static str,
    tables: &'static [&'static str],
    fill: &'static str,
}

const FORMS: [Form; 2] = [
    Form {
        name: "versions and pages",
        make: "CREATE TABLE kept_pages (LIKE warehouse.book_pages INCLUDING ALL);
               CREATE TABLE kept_versions (LIKE warehouse.offer_versions INCLUDING ALL)",
        tables: &["kept_pages", "kept_versions"],
        fill: "INSERT INTO kept_pages
               SELECT * FROM warehouse.book_pages WHERE batch_id = {batch} AND ordinal BETWEEN {from} AND {until};
               INSERT INTO kept_versions
               SELECT v.* FROM warehouse.offer_versions v
                WHERE v.id IN (SELECT unnest(p.offer_ids) FROM warehouse.book_pages p
                                WHERE p.batch_id = {batch} AND p.ordinal BETWEEN {from} AND {until})
                  AND NOT EXISTS (SELECT FROM kept_versions k WHERE k.day = v.day AND k.id = v.id)
                ORDER BY v.id",
    },
    Form {
        name: "a row per ad and reading",
        make: "CREATE TABLE plain AS SELECT * FROM warehouse.fact_offers WITH NO DATA;
               CREATE INDEX ON plain (market_id, extraction_timestamp);
               CREATE INDEX ON plain (advertiser_sk, extraction_timestamp)",
        tables: &["plain"],
        fill: "INSERT INTO plain
               SELECT o.* FROM warehouse.fact_offers o
                 JOIN pipeline.jobs j ON j.day = o.day AND j.batch_id = o.batch_id AND j.market_id = o.market_id
                  AND j.page = o.page AND j.state = 'done' AND j.kind = 'search'
                WHERE o.batch_id = {batch} AND j.ordinal BETWEEN {from} AND {until}
                ORDER BY j.ordinal, o.rank",
    },
];

pub(crate) async fn measure(load: &Load, batches: usize) -> Result<Vec<Column>> {
    ensure!(batches > 1, "the first batch says nothing of those after it");
    let mut running = Running::start(load).await?;
    let mut all = Vec::new();
    for number in 0..batches {
        if number > 0 {
            running.let_time_pass().await?;
        }
        all.push(running.batch().await?);
        eprintln!("batch {} of {batches}", number + 1);
    }
    let mut columns = Vec::new();
    for form in &FORMS {
        columns.push(Column::new(form.name, &[keep(&running.fleet, form, &all).await?]));
    }
    columns.push(Column::new("Parquet", &[parquet(&running.fleet, &all).await?]));
    columns.push(Column::new("raw archive", &[archive(&running.fleet, &all).await?]));
    running.remove().await?;
    Ok(columns)
}

async fn size(fleet: &Fleet, tables: &[&str]) -> Result<f64> {
    let mut bytes = 0.0;
    for table in tables {
        let sql = format!("SELECT pg_total_relation_size('{table}')::float8");
        bytes += sqlx::query_scalar::<_, f64>(AssertSqlSafe(sql)).fetch_one(&fleet.pool).await?;
    }
    Ok(bytes)
}

async fn keep(fleet: &Fleet, form: &Form, batches: &[Batch]) -> Result<Figures> {
    sqlx::raw_sql(form.make).execute(&fleet.pool).await?;
    // What is written in whole pages after a checkpoint says more of checkpoints than of rows.
    sqlx::raw_sql("CHECKPOINT").execute(&fleet.pool).await?;
    let (mut sizes, mut wal, mut readings) = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        let last: i32 =
            sqlx::query_scalar("SELECT max(ordinal) FROM warehouse.book_pages WHERE batch_id = $1")
                .bind(batch.id)
                .fetch_one(&fleet.pool)
                .await?;
        let (size_before, wal_before) = (size(fleet, form.tables).await?, wal_bytes(fleet).await?);
        for from in (0..=last).step_by(usize::try_from(GROUP)?) {
            let fill = form
                .fill
                .replace("{batch}", &batch.id.to_string())
                .replace("{from}", &from.to_string())
                .replace("{until}", &(from + GROUP - 1).to_string());
            sqlx::raw_sql(AssertSqlSafe(fill)).execute(&fleet.pool).await?;
        }
        wal.push(wal_bytes(fleet).await? - wal_before);
        sizes.push(size(fleet, form.tables).await? - size_before);
        readings.push(batch.figures["ads"]);
    }
    let mut figures = Figures::new();
    for (name, bytes) in [("bytes", sizes), ("WAL bytes", wal)] {
        let (first, rest) = per_reading(&bytes, &readings)?;
        let day = (first + (BATCHES_A_DAY - 1.0) * rest) / BATCHES_A_DAY;
        figures.insert(format!("{name} per reading, first batch"), first);
        figures.insert(format!("{name} per reading, other batches"), rest);
        figures.insert(format!("{name} per reading, a day of 144"), day);
    }
    let stored: f64 =
        batches[1..].iter().map(|batch| batch.figures["share of ads stored anew"]).sum();
    #[expect(clippy::cast_precision_loss, reason = "some dozens of batches")]
    figures.insert("share of ads stored anew".to_owned(), stored / (batches.len() - 1) as f64);
    Ok(figures)
}

/// Of the first batch, and of the others together.
fn per_reading(bytes: &[f64], readings: &[f64]) -> Result<(f64, f64)> {
    let (first, others) = bytes.split_first().context("no batch")?;
    let (first_readings, other_readings) = readings.split_first().context("no batch")?;
    let (others, other_readings): (f64, f64) = (others.iter().sum(), other_readings.iter().sum());
    Ok((first / first_readings, others / other_readings))
}

/// All facts as `p2p export` writes them: a row per ad and reading, sorted, zstd.
async fn parquet(fleet: &Fleet, batches: &[Batch]) -> Result<Figures> {
    let (from, until): (String, String) = sqlx::query_as(
        "SELECT min(day)::text, max(day)::text FROM pipeline.batches WHERE state = 'closed'",
    )
    .fetch_one(&fleet.pool)
    .await?;
    let out = std::env::temp_dir().join(&fleet.name).join("export");
    let to = out.to_str().context("the path of the export")?;
    let args = ["export", "--from", &from, "--to", &until, "--out", to];
    let done = fleet.command("p2p", &args)?.output().await?;
    ensure!(done.status.success(), "{done:?}");
    let readings: f64 = batches.iter().map(|batch| batch.figures["ads"]).sum();
    let bytes = bytes_of(&out, "offers.parquet")?;
    let name = "bytes per reading, all batches".to_owned();
    Ok([(name, bytes / readings)].into())
}

/// Bytes of the files of this name below a directory.
fn bytes_of(directory: &Path, name: &str) -> Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            bytes += bytes_of(&path, name)?;
        } else if path.file_name().is_some_and(|file| file == name) {
            #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
            let size = path.metadata()?.len() as f64;
            bytes += size;
        }
    }
    Ok(bytes)
}

/// The archived answers, by whether a dictionary was there already.
async fn archive(fleet: &Fleet, batches: &[Batch]) -> Result<Figures> {
    let rows: Vec<(bool, f64)> = sqlx::query_as(
        "SELECT dictionary_id IS NOT NULL, sum(pg_column_size(content))::float8 / nullif(sum(ads), 0)
           FROM pipeline.raw_pages WHERE ads > 0 GROUP BY 1",
    )
    .fetch_all(&fleet.pool)
    .await?;
    let mut figures = Figures::new();
    for (has_dictionary, bytes) in rows {
        let name = if has_dictionary { "with" } else { "without" };
        figures.insert(format!("bytes per reading, {name} dictionary"), bytes);
    }
    let readings: f64 = batches.iter().map(|batch| batch.figures["ads"]).sum();
    let sql = "SELECT sum(pg_total_relation_size(i.inhrelid))::float8 FROM pg_inherits i
                WHERE i.inhparent = 'pipeline.raw_pages'::regclass";
    let bytes: f64 = sqlx::query_scalar(sql).fetch_one(&fleet.pool).await?;
    figures.insert("bytes per reading, all batches".to_owned(), bytes / readings);
    Ok(figures)
}
