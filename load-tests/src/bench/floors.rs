//! What nothing could be faster than: the database alone, the broker alone, the parser alone, on the same
//! rows, messages and answers that a batch had.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use load_tests::fleet::Fleet;
use shared::archive::{Dictionary, Packer, Samples, Transcript};
use shared::domain::Market;
use shared::exchange::binance;
use shared::job::Work;
use shared::queue::{Consumer, Message, Publisher, Queue, Topology};
use shared::settings::{Broker, Vars};
use sqlx::postgres::PgPoolCopyExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::archived::Unpacker;
use crate::figures::Figures;
use crate::meter::{self, Meter};

/// Messages given to the publisher at once, as the coordinator does.
const PUBLISH_CHUNK: usize = 500;
/// Deliveries in hand, of jobs and of reports.
const PREFETCH: u16 = 200;
/// Bytes of a job and of a report, about.
const JOB_BYTES: usize = 300;
const REPORT_BYTES: usize = 150;
/// Times that what runs in this process is timed.
const ROUNDS: u32 = 5;
/// Bytes given to `COPY` at once.
const CHUNK: usize = 1 << 20;

/// All floors of a batch.
pub(crate) async fn measure(fleet: &Fleet, meter: &Meter, batch: i32) -> Result<Figures> {
    let (ads, pages): (i64, i64) = sqlx::query_as(
        "SELECT ads::bigint, pages_read::bigint FROM pipeline.batches WHERE batch_id = $1",
    )
    .bind(batch)
    .fetch_one(&fleet.pool)
    .await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of ads and pages are small")]
    let (ads, messages) = (ads as f64, pages as f64);
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    for (name, with_archive) in [("facts", false), ("facts and archive", true)] {
        let (seconds, cpu) = copy(fleet, meter, batch, with_archive).await?;
        put(&format!("ads_per_s, COPY of {name}"), ads / seconds);
        put(&format!("cpu_s_per_1000_ads COPY of {name}"), cpu / ads * 1000.0);
    }
    let (seconds, cpu) = messages_alone(fleet, meter, usize::try_from(pages)?).await?;
    put("ads_per_s, messages alone", ads / seconds);
    put("cpu_s_per_1000_ads messages alone", cpu / ads * 1000.0);
    put("cpu_us_per_page messages alone", cpu / messages * 1e6);
    let answers = answers(fleet, batch).await?;
    ensure!(!answers.is_empty(), "nothing is archived of batch {batch}");
    // Each is timed on its own, after a round that warms up.
    let mut time = |name: &str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        work()?;
        let from = meter::own()?;
        for _ in 0..ROUNDS {
            work()?;
        }
        let cpu = (meter::own()? - from) / f64::from(ROUNDS);
        put(&format!("cpu_s_per_1000_ads {name}"), cpu / ads * 1000.0);
        Ok(())
    };
    time("parsing alone", &mut || {
        for (market, transcript) in &answers {
            let page = binance::parse_search(market, &transcript.body)?;
            std::hint::black_box(&page);
        }
        Ok(())
    })?;
    let work = |market: &Market| Work::Search {
        market_id: 1,
        market: market.clone(),
        page: 1,
        ads_expected: true,
    };
    time("shapes alone", &mut || {
        for (market, transcript) in &answers {
            std::hint::black_box(binance::findings(&work(market), &transcript.body));
        }
        Ok(())
    })?;
    let samples: Samples =
        answers.iter().step_by(4).map(|(_, transcript)| transcript).take(500).collect();
    let dictionary = Arc::new(Dictionary::new(&samples.train()?)?);
    let packer = Packer::new(Some(dictionary))?;
    let mut bytes = 0;
    time("packing alone", &mut || {
        bytes = 0;
        for (_, transcript) in &answers {
            bytes += packer.pack(transcript)?.len();
        }
        Ok(())
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    put("archive_bytes_per_ad, dictionary of these pages", bytes as f64 / ads);
    Ok(figures)
}

/// The rows of a batch into tables of the same form, by one connection in one transaction: seconds, and
/// CPU seconds of the server.
async fn copy(fleet: &Fleet, meter: &Meter, batch: i32, with_archive: bool) -> Result<(f64, f64)> {
    let of_batch = |table: &str| format!("SELECT * FROM {table} WHERE batch_id = {batch}");
    // What does not name the batch that wrote it has the times of its answers.
    let of_time = |table: &str, written: &str| {
        format!(
            "SELECT t.* FROM {table} t, pipeline.batches b
              WHERE b.batch_id = {batch} AND ({written})",
        )
    };
    let within = |time: &str| format!("t.{time} BETWEEN b.opened_at AND b.closed_at");
    let versions = format!("t.day = b.day AND {}", within("first_seen_at"));
    // New ones, and those that were written over.
    let advertisers = ["valid_from", "valid_to", "figures_at"].map(within).join(" OR ");
    let mut sources = vec![
        ("pipeline.jobs", of_batch("pipeline.jobs")),
        ("warehouse.book_pages", of_batch("warehouse.book_pages")),
        ("warehouse.offer_versions", of_time("warehouse.offer_versions", &versions)),
        ("warehouse.dim_advertisers", of_time("warehouse.dim_advertisers", &advertisers)),
        (
            "warehouse.advertiser_figures",
            of_time("warehouse.advertiser_figures", &within("observed_at")),
        ),
    ];
    if with_archive {
        sources.push(("pipeline.raw_pages", of_batch("pipeline.raw_pages")));
    }
    let mut copies = Vec::new();
    for (number, (table, rows)) in sources.into_iter().enumerate() {
        let into = format!("floor_{number}");
        let make = format!(
            "DROP TABLE IF EXISTS {into}; CREATE TABLE {into} (LIKE {table} INCLUDING ALL)"
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&fleet.pool).await?;
        let out = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
        let mut stream = fleet.pool.copy_out_raw(&out).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        copies.push((into, bytes));
    }
    let mut connection = PgConnection::connect(&fleet.database_url).await?;
    let from = meter.read()?;
    let since = Instant::now();
    let mut tx = connection.begin().await?;
    for (into, bytes) in &copies {
        let mut copy = tx.copy_in_raw(&format!("COPY {into} FROM STDIN (FORMAT binary)")).await?;
        for chunk in bytes.chunks(CHUNK) {
            copy.send(chunk).await?;
        }
        copy.finish().await?;
    }
    tx.commit().await?;
    let seconds = since.elapsed().as_secs_f64();
    let cpu = meter::used(&from, &meter.read()?);
    Ok((seconds, cpu.get("postgres").copied().unwrap_or_default()))
}

/// As many jobs and reports through queues of the same kind, with confirms and acknowledgements, and
/// nothing else: seconds, and CPU seconds of the broker and of this process.
async fn messages_alone(fleet: &Fleet, meter: &Meter, pages: usize) -> Result<(f64, f64)> {
    let broker =
        Broker::read(&mut Vars::from_pairs([("AMQP_URL", fleet.servers.amqp_url.as_str())]));
    let topology = Topology::new(&fleet.floor());
    let publisher = Publisher::new(&broker, topology.clone(), "bench");
    let queues = [Queue::NormalJobs, Queue::Reports];
    let (consumer, [mut jobs, mut reports]) =
        Consumer::start(&broker, &topology, "bench", queues, PREFETCH);
    let warm = [Queue::NormalJobs, Queue::Reports].map(|queue| Message::To(queue, vec![b' ']));
    publisher.publish(&warm).await?;
    jobs.recv().await.context("a job")?.ack().await?;
    reports.recv().await.context("a report")?.ack().await?;
    let (from, own) = (meter.read()?, meter::own()?);
    let since = Instant::now();
    let publish = async {
        let one = Message::To(Queue::NormalJobs, vec![b' '; JOB_BYTES]);
        let chunk = vec![one; PUBLISH_CHUNK];
        let mut left = pages;
        while left > 0 {
            let now = left.min(PUBLISH_CHUNK);
            publisher.publish(&chunk[..now]).await?;
            left -= now;
        }
        anyhow::Ok(())
    };
    let work = async {
        let mut left = pages;
        while left > 0 {
            let mut group = Vec::new();
            left -= jobs.recv_many(&mut group, usize::from(PREFETCH)).await;
            let report = Message::To(Queue::Reports, vec![b' '; REPORT_BYTES]);
            publisher.publish(&vec![report; group.len()]).await?;
            for job in group {
                job.ack().await?;
            }
        }
        anyhow::Ok(())
    };
    let fold = async {
        for _ in 0..pages {
            reports.recv().await.context("a report")?.ack().await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(publish, work, fold)?;
    let seconds = since.elapsed().as_secs_f64();
    let cpu = meter::used(&from, &meter.read()?).get("rabbitmq").copied().unwrap_or_default()
        + meter::own()?
        - own;
    consumer.close().await;
    Ok((seconds, cpu))
}

/// The archived answers of a batch's pages, with their markets.
async fn answers(fleet: &Fleet, batch: i32) -> Result<Vec<(Market, Transcript)>> {
    let rows = sqlx::query(
        "SELECT f.currency_code, c.symbol, m.trade_type, r.content, r.request_bytes, r.headers_bytes,
                r.body_bytes, r.dictionary_id
           FROM pipeline.jobs j
           JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
          WHERE j.batch_id = $1 AND j.kind = 'search'",
    )
    .bind(batch)
    .fetch_all(&fleet.pool)
    .await?;
    let mut unpacker = Unpacker::new(&fleet.pool);
    let mut answers = Vec::with_capacity(rows.len());
    for row in rows {
        let transcript = unpacker.transcript(&row).await?;
        let market = Market {
            fiat: row.try_get::<String, _>("currency_code")?.parse()?,
            asset: row.try_get::<String, _>("symbol")?.parse()?,
            side: row.try_get::<String, _>("trade_type")?.parse()?,
        };
        answers.push((market, transcript));
    }
    Ok(answers)
}
