//! What a reading of an ad costs to keep: in the tables of this schema, in a plain table with a row per ad
//! and reading, and in that table as a Parquet file.
//!
//! Batches are read by the real programs; then their rows go once more into tables of the same form, batch
//! by batch and a transaction for each group of pages, so that sizes and WAL are those of nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use sqlx::AssertSqlSafe;

use crate::figures::{Column, Figures};
use crate::packing;
use crate::run::{self, Batch, Load, Running};

/// What changes and comes on the real exchange, of a full-depth book.
const MEASURED_RATES: &str = "--change-per-minute 5 --churn-per-minute 2";
/// Batches of a day, for which a day is reckoned from those that were read: one in which all ads are new,
/// and others like the mean of the rest.
const BATCHES_A_DAY: f64 = 144.0;
/// Share of ads stored anew for which a day is reckoned besides.
const REFERENCE_SHARE: f64 = 0.07;
/// Jobs whose rows go in one transaction, as in the group of a worker under load.
const GROUP: i32 = 32;

/// Tables of one form, and the statements that fill them with the jobs `{from}` to `{until}` of a batch.
/// `{day}` ends the names of the day's partitions.
struct Form {
    name: &'static str,
    make: &'static str,
    /// Each with what it fills; what only helps and is not to be kept fills `None`.
    fill: &'static [(Option<Kept>, &'static str)],
}

/// A table that is measured.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// A row per page, or per ad and reading: costs the same with each batch.
    Readings(&'static str),
    /// Rows for what is new.
    Contents(&'static str),
}

impl Kept {
    fn table(self) -> &'static str {
        match self {
            Self::Readings(table) | Self::Contents(table) => table,
        }
    }
}

/// The versions that pages of these jobs saw first.
macro_rules! new_versions {
    ($columns:literal, $from:literal, $kept:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $from,
            " v
              WHERE v.day = '{day}' AND v.id IN (
                    SELECT unnest(p.offer_ids) FROM warehouse.book_pages_{day} p
                     WHERE p.batch_id = {batch} AND p.ordinal BETWEEN {from} AND {until})
                AND NOT EXISTS (SELECT FROM ",
            $kept,
            " k WHERE k.id = v.id)
              ORDER BY v.id"
        )
    };
}

const FORMS: [Form; 4] = [
    Form {
        name: "versions and pages",
        make: "CREATE TABLE kept_pages (LIKE warehouse.book_pages_{day} INCLUDING ALL);
               CREATE TABLE kept_versions (LIKE warehouse.offer_versions_{day} INCLUDING ALL)",
        fill: &[
            (
                Some(Kept::Readings("kept_pages")),
                "INSERT INTO kept_pages
                 SELECT * FROM warehouse.book_pages_{day} WHERE batch_id = {batch} AND ordinal BETWEEN {from} AND {until}",
            ),
            (
                Some(Kept::Contents("kept_versions")),
                concat!(
                    "INSERT INTO kept_versions ",
                    new_versions!("v.*", "warehouse.offer_versions_{day}", "kept_versions")
                ),
            ),
        ],
    },
    // Without traits, the columns in the order of the parent.
    Form {
        name: "spelled out",
        make: "CREATE TABLE spelled_pages (LIKE warehouse.book_pages INCLUDING ALL);
               CREATE TABLE spelled_versions (LIKE warehouse.offer_versions INCLUDING ALL)",
        fill: &[
            (
                Some(Kept::Readings("spelled_pages")),
                "INSERT INTO spelled_pages
                 SELECT * FROM warehouse.book_pages
                  WHERE day = '{day}' AND batch_id = {batch} AND ordinal BETWEEN {from} AND {until}",
            ),
            (
                Some(Kept::Contents("spelled_versions")),
                concat!(
                    "INSERT INTO spelled_versions ",
                    new_versions!("v.*, NULL::integer", "warehouse.offer_contents", "spelled_versions")
                ),
            ),
        ],
    },
    // What could be: what rarely changes of an ad apart from what does, numbers as numbers, and the lists of
    // a page as bytes.
    Form {
        name: "split, an experiment",
        make: "CREATE TABLE split_pages (fetched_at timestamptz NOT NULL, batch_id integer NOT NULL,
                   market_id integer NOT NULL, ordinal integer NOT NULL, declared_total integer, page smallint NOT NULL,
                   promoted_position smallint, parser_version smallint, is_lenient boolean, ids bytea NOT NULL,
                   minutes bytea NOT NULL, duplicate_positions smallint[], privilege_types smallint[],
                   PRIMARY KEY (batch_id, market_id, ordinal));
               CREATE TABLE split_known (adv_no text, rest bigint, id integer NOT NULL, PRIMARY KEY (adv_no, rest));
               CREATE TABLE split_ads (id integer PRIMARY KEY, market_id integer NOT NULL, advertiser_sk integer NOT NULL,
                   pay_time_limit_minutes smallint, adv_no numeric(20) NOT NULL, min_limit numeric(20, 8) NOT NULL,
                   max_limit numeric(20, 8) NOT NULL, payment_methods bytea NOT NULL, voucher_template jsonb, system_labels jsonb);
               CREATE TABLE split_versions (content_hash bigint NOT NULL, id integer PRIMARY KEY, ad integer NOT NULL,
                   traits integer, price numeric(20, 8) NOT NULL, available_amount numeric(20, 8) NOT NULL,
                   tradable_quantity numeric(20, 8), dynamic_max_limit numeric(20, 8), min_quantity numeric(20, 8),
                   max_quantity numeric(20, 8), dynamic_max_quantity numeric(20, 8))",
        fill: &[
            (
                Some(Kept::Readings("split_pages")),
                "INSERT INTO split_pages
                 SELECT fetched_at, batch_id, market_id, ordinal, declared_total, page, promoted_position, parser_version,
                        is_lenient, (SELECT string_agg(int4send(id), '' ORDER BY n) FROM unnest(offer_ids) WITH ORDINALITY l (id, n)),
                        (SELECT string_agg(int2send(coalesce(m, -1::smallint)), '' ORDER BY n)
                           FROM unnest(active_minutes) WITH ORDINALITY l (m, n)),
                        duplicate_positions, privilege_types
                   FROM warehouse.book_pages_{day} WHERE batch_id = {batch} AND ordinal BETWEEN {from} AND {until}",
            ),
            (
                None,
                concat!(
                    "INSERT INTO split_known ",
                    new_versions!(
                        "v.adv_no, hashtextextended(concat_ws('|', v.market_id, v.advertiser_sk, v.pay_time_limit_minutes,
                         v.min_limit, v.max_limit, v.payment_method_ids, v.voucher_template, v.system_labels), 0), v.id",
                        "warehouse.offer_versions_{day}",
                        "split_versions"
                    ),
                    " ON CONFLICT DO NOTHING"
                ),
            ),
            (
                Some(Kept::Contents("split_ads")),
                "INSERT INTO split_ads
                 SELECT v.id, v.market_id, v.advertiser_sk, v.pay_time_limit_minutes, v.adv_no::numeric, v.min_limit, v.max_limit,
                        (SELECT coalesce(string_agg(int2send(m::smallint), ''), '') FROM unnest(v.payment_method_ids) m),
                        v.voucher_template, v.system_labels
                   FROM split_known k JOIN warehouse.offer_versions_{day} v ON v.day = '{day}' AND v.id = k.id
                  WHERE NOT EXISTS (SELECT FROM split_ads a WHERE a.id = k.id)
                  ORDER BY v.id",
            ),
            (
                Some(Kept::Contents("split_versions")),
                concat!(
                    "INSERT INTO split_versions ",
                    new_versions!(
                        "v.content_hash, v.id,
                         (SELECT k.id FROM split_known k WHERE k.adv_no = v.adv_no AND k.rest = hashtextextended(concat_ws('|',
                          v.market_id, v.advertiser_sk, v.pay_time_limit_minutes, v.min_limit, v.max_limit, v.payment_method_ids,
                          v.voucher_template, v.system_labels), 0)),
                         v.traits, v.price, v.available_amount, v.tradable_quantity, v.dynamic_max_limit, v.min_quantity,
                         v.max_quantity, v.dynamic_max_quantity",
                        "warehouse.offer_versions_{day}",
                        "split_versions"
                    )
                ),
            ),
        ],
    },
    Form {
        name: "a row per ad and reading",
        make: "CREATE TABLE plain AS SELECT * FROM warehouse.fact_offers WITH NO DATA;
               CREATE INDEX ON plain (market_id, extraction_timestamp);
               CREATE INDEX ON plain (advertiser_sk, extraction_timestamp)",
        fill: &[(
            Some(Kept::Readings("plain")),
            "INSERT INTO plain
             SELECT o.* FROM warehouse.fact_offers o
               JOIN pipeline.jobs j ON j.day = o.day AND j.batch_id = o.batch_id AND j.market_id = o.market_id
                AND j.page = o.page AND j.state = 'done' AND j.kind = 'search'
              WHERE o.batch_id = {batch} AND j.ordinal BETWEEN {from} AND {until}
              ORDER BY j.ordinal, o.rank",
        )],
    },
];

/// Measures `runs` times, in a database of its own each.
pub(crate) async fn measure(load: &Load, batches: usize, runs: usize) -> Result<Vec<Column>> {
    let mut load = load.clone();
    if load.exchange.is_empty() {
        MEASURED_RATES.clone_into(&mut load.exchange);
    }
    let mut forms: Vec<(&str, Vec<Figures>)> = Vec::new();
    for run in 1..=runs {
        eprintln!("storage, run {run} of {runs}");
        for (name, figures) in
            run::with(&load, async |running| once(running, batches).await).await?
        {
            match forms.iter_mut().find(|(form, _)| *form == name) {
                Some((_, all)) => all.push(figures),
                None => forms.push((name, vec![figures])),
            }
        }
    }
    Ok(forms.iter().map(|(name, all)| Column::new(*name, all)).collect())
}

/// What each form takes.
async fn once(running: &mut Running<'_>, batches: usize) -> Result<Vec<(&'static str, Figures)>> {
    let mut all = Vec::new();
    for number in 0..batches {
        if number > 0 {
            running.let_time_pass().await?;
        }
        let batch = running.batch().await?;
        // The first of a day stores all ads anew, and the forms are of the tables of one day.
        let is_of_the_day = all.first().is_none_or(|first: &Batch| first.day() == batch.day());
        ensure!(
            is_of_the_day,
            "midnight fell before batch {} of {batches}: begin anew",
            number + 1
        );
        all.push(batch);
        eprintln!("batch {} of {batches}", number + 1);
    }
    let mut forms = Vec::new();
    for form in &FORMS {
        forms.push((form.name, keep(running.fleet, form, &all).await?));
    }
    forms.push(("Parquet", parquet(running.fleet, &all).await?));
    let (fleet, last) = (running.fleet, all[batches - 1].id);
    let mut archived = archive(fleet, &all).await?;
    archived.extend(packing::measure(fleet, all[batches - 2].id, last).await?);
    forms.push(("raw archive", archived));
    Ok(forms)
}

async fn size(fleet: &Fleet, table: &str) -> Result<f64> {
    let sql = format!("SELECT pg_total_relation_size('{table}')::float8");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&fleet.pool).await?)
}

/// Bytes of one batch.
#[derive(Clone, Copy, Default)]
struct Bytes {
    readings: f64,
    contents: f64,
}

impl Bytes {
    fn add(&mut self, kept: Kept, bytes: f64) {
        match kept {
            Kept::Readings(_) => self.readings += bytes,
            Kept::Contents(_) => self.contents += bytes,
        }
    }
}

async fn keep(fleet: &Fleet, form: &Form, batches: &[Batch]) -> Result<Figures> {
    let day: String = sqlx::query_scalar(
        "SELECT DISTINCT to_char(day, 'YYYYMMDD') FROM pipeline.batches WHERE state = 'closed'",
    )
    .fetch_one(&fleet.pool)
    .await?;
    let day = day.as_str();
    let made = form.make.replace("{day}", day);
    sqlx::raw_sql(AssertSqlSafe(made)).execute(&fleet.pool).await?;
    // What is written in whole pages after a checkpoint says more of checkpoints than of rows.
    sqlx::raw_sql("CHECKPOINT").execute(&fleet.pool).await?;
    let (mut sizes, mut wal) = (Vec::new(), Vec::new());
    let mut before: BTreeMap<&str, f64> = BTreeMap::new();
    for batch in batches {
        let mut written = Bytes::default();
        let last: i32 =
            sqlx::query_scalar("SELECT max(ordinal) FROM warehouse.book_pages WHERE batch_id = $1")
                .bind(batch.id)
                .fetch_one(&fleet.pool)
                .await?;
        for from in (0..=last).step_by(usize::try_from(GROUP)?) {
            for (kept, fill) in form.fill {
                let fill = fill
                    .replace("{day}", day)
                    .replace("{batch}", &batch.id.to_string())
                    .replace("{from}", &from.to_string())
                    .replace("{until}", &(from + GROUP - 1).to_string());
                let bytes = insert(fleet, &fill).await?;
                kept.inspect(|kept| written.add(*kept, bytes));
            }
        }
        let mut grown = Bytes::default();
        for kept in form.fill.iter().filter_map(|(kept, _)| *kept) {
            let now = size(fleet, kept.table()).await?;
            grown.add(kept, now - before.insert(kept.table(), now).unwrap_or(0.0));
        }
        sizes.push(grown);
        wal.push(written);
    }
    let mut figures = Figures::new();
    let left = pack_indexes(fleet, form).await?;
    let packed = sizes.iter().map(|bytes| Bytes {
        readings: bytes.readings * left.readings,
        contents: bytes.contents * left.contents,
    });
    let over = a_day(&packed.collect::<Vec<_>>(), batches)?;
    figures.insert("bytes per reading, a day of 144 that is over".to_owned(), over);
    for (name, bytes) in [("bytes", sizes), ("WAL bytes", wal)] {
        reckon(name, &bytes, batches, &mut figures)?;
    }
    figures.insert(
        "share of ads stored anew".to_owned(),
        of_others(batches, stored_anew) / of_others(batches, ads),
    );
    Ok(figures)
}

/// Builds the indexes anew and full, as a coordinator does with those of days that are over; the shares of the bytes
/// that are left.
async fn pack_indexes(fleet: &Fleet, form: &Form) -> Result<Bytes> {
    let (mut before, mut after) = (Bytes::default(), Bytes::default());
    for kept in form.fill.iter().filter_map(|(kept, _)| *kept) {
        let table = kept.table();
        before.add(kept, size(fleet, table).await?);
        let indexes: Vec<String> = sqlx::query_scalar(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::regclass",
        )
        .bind(table)
        .fetch_all(&fleet.pool)
        .await?;
        for index in indexes {
            let pack = format!("ALTER INDEX {index} SET (fillfactor = 100); REINDEX INDEX {index}");
            sqlx::raw_sql(AssertSqlSafe(pack)).execute(&fleet.pool).await?;
        }
        after.add(kept, size(fleet, table).await?);
    }
    // A form without contents has none before and after.
    let share = |after: f64, before: f64| if before > 0.0 { after / before } else { 1.0 };
    Ok(Bytes {
        readings: share(after.readings, before.readings),
        contents: share(after.contents, before.contents),
    })
}

/// Runs an insert; the bytes of WAL that it wrote.
async fn insert(fleet: &Fleet, statement: &str) -> Result<f64> {
    let explained = format!("EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) {statement}");
    let plan: serde_json::Value =
        sqlx::query_scalar(AssertSqlSafe(explained)).fetch_one(&fleet.pool).await?;
    plan[0]["Plan"]["WAL Bytes"].as_f64().context("the plan tells no bytes of WAL")
}

fn ads(batch: &Batch) -> f64 {
    batch.figures["ads"]
}

fn stored_anew(batch: &Batch) -> f64 {
    batch.figures["share of ads stored anew"] * ads(batch)
}

/// The sum over all batches but the first.
fn of_others(batches: &[Batch], figure: impl Fn(&Batch) -> f64) -> f64 {
    batches[1..].iter().map(figure).sum()
}

/// Bytes per reading of a day, of those of its first batches.
fn a_day(bytes: &[Bytes], batches: &[Batch]) -> Result<f64> {
    let (first, others) = bytes.split_first().context("no batch")?;
    let first = (first.readings + first.contents) / ads(&batches[0]);
    let others: f64 = others.iter().map(|b| b.readings + b.contents).sum();
    Ok(mean_of_day(first, others / of_others(batches, ads)))
}

/// Of a day with such a first batch and such others.
fn mean_of_day(first: f64, other: f64) -> f64 {
    (first + (BATCHES_A_DAY - 1.0) * other) / BATCHES_A_DAY
}

/// Bytes per reading of the first batch, of the others together, and of a day.
fn reckon(name: &str, bytes: &[Bytes], batches: &[Batch], figures: &mut Figures) -> Result<()> {
    let (first, others) = bytes.split_first().context("no batch")?;
    let readings = of_others(batches, ads);
    let first_bytes = (first.readings + first.contents) / ads(&batches[0]);
    let others_of = |part: fn(&Bytes) -> f64| others.iter().map(part).sum::<f64>();
    let (listing, contents) = (others_of(|b| b.readings) / readings, others_of(|b| b.contents));
    let other_bytes = listing + contents / readings;
    let mut put = |what: &str, value: f64| {
        figures.insert(format!("{name} {what}"), value);
    };
    put("per reading, first batch", first_bytes);
    put("per reading, other batches", other_bytes);
    put("per reading, a day of 144", a_day(bytes, batches)?);
    if contents > 0.0 {
        let one = contents / of_others(batches, stored_anew);
        put("per reading, of pages", listing);
        put("of a version", one);
        put(
            "per reading, a day with 7 % anew",
            mean_of_day(first_bytes, listing + REFERENCE_SHARE * one),
        );
    }
    Ok(())
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
