//! `p2p raw`: the raw archive: answers byte for byte, its figures, and its dictionaries.
//!
//! As JSON: [`Shown`], [`Stats`], [`Trained`].

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use coordinator::archive::{self, Training};
use coordinator::store::archive::Measured;
use rust_decimal::Decimal;
use serde::Serialize;
use shared::archive::{Dictionary, Lengths, Transcript, unpack};
use shared::domain::{BatchId, Side};
use sqlx::PgConnection;

use crate::batch::{self, Wanted};
use crate::format::{self, Table, UNKNOWN, count, counted};
use crate::{EXCHANGE, EXIT_TROUBLE, NotAllowed, NotFound};

/// Which answer is asked for.
#[derive(Args)]
pub struct Asked {
    /// Number of the batch as `p2p batches` shows it, `latest`, the last one that closed, or `open`.
    batch: Wanted,
    /// Market and page: VES USDT BUY 1, or USDT/VES/BUY 1.
    #[arg(value_name = "MARKET PAGE", num_args = 0..=4, required_unless_present = "ordinal")]
    place: Vec<String>,
    /// The job of this number instead, also of a list or an advertiser.
    #[arg(long, conflicts_with_all = ["place", "reading"], value_parser = clap::value_parser!(i32).range(0..))]
    ordinal: Option<i32>,
    /// The page may have been read several times: this reading, from 1. Default: the last one archived.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    reading: Option<u32>,
}

/// A page of a market.
struct Place {
    fiat: String,
    asset: String,
    side: Side,
    page: i16,
}

impl Place {
    fn name(&self) -> String {
        format!("page {} of {}/{} {}", self.page, self.asset, self.fiat, self.side.as_str())
    }

    fn parse(words: &[String]) -> Result<Self, NotAllowed> {
        let shown = words.join(" ");
        let bad = || {
            NotAllowed(format!(
                "{shown:?}: allowed are a market and the number of a page, such as VES USDT BUY 1 or USDT/VES/BUY 1"
            ))
        };
        let (market, page) =
            words.split_last().map(|(page, market)| (market, page)).ok_or_else(bad)?;
        let (fiat, asset, side) = match market {
            [market] => {
                let mut parts = market.split('/');
                match [parts.next(), parts.next(), parts.next(), parts.next()] {
                    [Some(asset), Some(fiat), Some(side), None] => (fiat, asset, side),
                    _ => return Err(bad()),
                }
            }
            [fiat, asset, side] => (fiat.as_str(), asset.as_str(), side.as_str()),
            _ => return Err(bad()),
        };
        let page = page.parse().ok().filter(|page| *page > 0).ok_or_else(bad)?;
        let side = side.parse().map_err(|_| bad())?;
        Ok(Self { fiat: fiat.to_owned(), asset: asset.to_owned(), side, page })
    }
}

/// A job that may have left its answer.
#[derive(Debug, sqlx::FromRow)]
struct Job {
    ordinal: i32,
    kind: String,
    subject: Option<String>,
    page: Option<i16>,
    state: String,
    reason: Option<String>,
    http_status: Option<i16>,
    ended_at: Option<DateTime<Utc>>,
    is_archived: bool,
}

/// An answer as it is archived.
#[derive(Debug, Serialize)]
struct Shown {
    batch_id: i32,
    ordinal: i32,
    /// `search`, `fiat_list`, `assets`, `payment_methods` or `advertiser`.
    kind: String,
    /// Market of a search, fiat of a list, advertiser; `None`: the list of fiats.
    subject: Option<String>,
    page: Option<i16>,
    /// Which reading of the page it is, of how many.
    reading: usize,
    readings: usize,
    /// How the job ended.
    state: String,
    reason: Option<String>,
    #[serde(flatten)]
    archived: Archived,
    request: Text,
    headers: Text,
    body: Text,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Archived {
    fetched_at: DateTime<Utc>,
    http_status: i16,
    egress_id: String,
    parser_version: i16,
    /// `None`: packed without one.
    dictionary_id: Option<i32>,
    ads: i16,
    request_bytes: i32,
    headers_bytes: i32,
    body_bytes: i32,
    /// As packed.
    content_bytes: i32,
    #[serde(skip)]
    content: Vec<u8>,
}

/// Bytes for a reader: text, or hexadecimal where they are no UTF-8.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Text(String),
    Hex(String),
}

impl Text {
    fn new(bytes: &[u8]) -> Self {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Self::Text(text.to_owned());
        }
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::Hex(pairs.concat())
    }

    /// On a terminal: lines as they are, nothing that moves the cursor.
    fn lines(&self) -> String {
        match self {
            Self::Text(text) => text.lines().fold(String::new(), |mut all, line| {
                all.push_str(&format::name(line));
                all.push('\n');
                all
            }),
            Self::Hex(hex) => format!("no UTF-8, in hexadecimal: {hex}\n"),
        }
    }
}

/// Prints an archived answer, or only the bytes of its body.
pub async fn show(asked: &Asked, body_only: bool, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let db = &mut *snapshot;
    let batch = batch::find(db, asked.batch).await?;
    let place = match asked.ordinal {
        None => Some(Place::parse(&asked.place)?),
        Some(_) => None,
    };
    let jobs = match (&place, asked.ordinal) {
        (Some(place), _) => list_readings(db, batch, place).await?,
        (None, ordinal) => list_job(db, batch, ordinal.unwrap_or_default()).await?,
    };
    let name = place
        .map_or_else(|| format!("job {}", asked.ordinal.unwrap_or_default()), |place| place.name());
    let readings = jobs.len();
    let index = match asked.reading {
        Some(reading) => usize::try_from(reading)? - 1,
        None => jobs.iter().rposition(|job| job.is_archived).unwrap_or(readings.saturating_sub(1)),
    };
    let Some(job) = jobs.into_iter().nth(index) else {
        return Err(no_job(db, batch, &name, readings).await?.into());
    };
    let Some(archived) = find_archived(db, batch, job.ordinal).await? else {
        return Err(why_not(db, batch, &name, &job).await?.into());
    };
    let Transcript { request, headers, body } = open(db, &archived).await?;
    if body_only {
        crate::print_bytes(&body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let [request, headers, body] = [request, headers, body].map(|part| Text::new(&part));
    let Job { ordinal, kind, subject, page, state, reason, .. } = job;
    let batch_id = batch.raw();
    let reading = index + 1;
    let shown = Shown {
        batch_id,
        ordinal,
        kind,
        subject,
        page,
        reading,
        readings,
        state,
        reason,
        archived,
        request,
        headers,
        body,
    };
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

const JOBS: &str = "SELECT j.ordinal, j.kind,
                coalesce(c.symbol || '/' || f.currency_code || ' ' || m.trade_type, jf.currency_code,
                         j.advertiser_id::text) AS subject,
                j.page, j.state, j.reason, j.http_status, j.ended_at, r.ordinal IS NOT NULL AS is_archived
           FROM pipeline.jobs j
           LEFT JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
           LEFT JOIN warehouse.dim_markets m USING (market_id)
           LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           LEFT JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
           LEFT JOIN warehouse.dim_fiat_currencies jf ON jf.fiat_id = j.fiat_id
          WHERE j.day = $1 AND j.batch_id = $2 AND ";

/// The jobs that read a page, in their order.
async fn list_readings(
    db: &mut PgConnection,
    batch: BatchId,
    place: &Place,
) -> anyhow::Result<Vec<Job>> {
    let market: Option<i32> = sqlx::query_scalar(
        "SELECT m.market_id FROM warehouse.dim_markets m
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
          WHERE m.exchange_id = $1 AND f.currency_code = $2 AND c.symbol = $3 AND m.trade_type = $4",
    )
    .bind(EXCHANGE.id())
    .bind(&place.fiat)
    .bind(&place.asset)
    .bind(place.side.as_str())
    .fetch_optional(&mut *db)
    .await?;
    let Some(market) = market else {
        let Place { fiat, asset, side, .. } = place;
        return Err(
            NotFound(format!("the market {asset}/{fiat} {} is not known", side.as_str())).into()
        );
    };
    let statement =
        format!("{JOBS} j.kind = 'search' AND j.market_id = $3 AND j.page = $4 ORDER BY j.ordinal");
    let jobs = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(batch.day()).bind(batch.raw());
    Ok(jobs.bind(market).bind(place.page).fetch_all(db).await?)
}

async fn list_job(db: &mut PgConnection, batch: BatchId, ordinal: i32) -> anyhow::Result<Vec<Job>> {
    let statement = sqlx::AssertSqlSafe(format!("{JOBS} j.ordinal = $3"));
    let jobs = sqlx::query_as(statement).bind(batch.day()).bind(batch.raw()).bind(ordinal);
    Ok(jobs.fetch_all(db).await?)
}

async fn find_archived(
    db: &mut PgConnection,
    batch: BatchId,
    ordinal: i32,
) -> anyhow::Result<Option<Archived>> {
    let archived = sqlx::query_as(
        "SELECT fetched_at, http_status, egress_id, parser_version, dictionary_id, ads, request_bytes,
                headers_bytes, body_bytes, octet_length(content) AS content_bytes, content
           FROM pipeline.raw_pages WHERE day = $1 AND batch_id = $2 AND ordinal = $3",
    );
    let archived = archived.bind(batch.day()).bind(batch.raw()).bind(ordinal);
    Ok(archived.fetch_optional(db).await?)
}

async fn open(db: &mut PgConnection, archived: &Archived) -> anyhow::Result<Transcript> {
    let dictionary = match archived.dictionary_id {
        Some(id) => Some(Dictionary::load(db, id).await?),
        None => None,
    };
    let lengths =
        Lengths::from_columns(archived.request_bytes, archived.headers_bytes, archived.body_bytes);
    Ok(unpack(&archived.content, lengths.unwrap_or_default(), dictionary.as_ref())?)
}

/// Why there is no job of this name.
async fn no_job(
    db: &mut PgConnection,
    batch: BatchId,
    name: &str,
    readings: usize,
) -> anyhow::Result<NotFound> {
    if readings > 0 {
        let times = counted(i64::try_from(readings)?, "time", "times");
        return Ok(NotFound(format!("{name} was read {times} in batch {}", batch.raw())));
    }
    Ok(match dropped(db, "jobs", batch.day()).await? {
        Some(Dropped { reason, .. }) => NotFound(format!(
            "the jobs of {} were dropped by {reason}: what was read is not known any more",
            batch.day()
        )),
        None => NotFound(format!("{name} was not planned in batch {}", batch.raw())),
    })
}

/// Why a job has left no answer.
async fn why_not(
    db: &mut PgConnection,
    batch: BatchId,
    name: &str,
    job: &Job,
) -> anyhow::Result<NotFound> {
    if let Some(Dropped { reason, dropped_at }) = dropped(db, "raw_pages", batch.day()).await? {
        let when =
            dropped_at.map_or_else(|| "now".to_owned(), |at| format!("at {}", format::instant(at)));
        return Ok(NotFound(format!(
            "{name} is gone: the archived answers of {} were dropped by {reason}, {when}",
            batch.day()
        )));
    }
    let state = match &job.reason {
        Some(reason) => format!("{} ({reason})", job.state),
        None => job.state.clone(),
    };
    let Some(ended_at) = job.ended_at.filter(|_| job.http_status.is_some()) else {
        return Ok(NotFound(format!("{name} has no answer: its job {} is {state}", job.ordinal)));
    };
    let suspended: Option<(String, DateTime<Utc>, Option<DateTime<Utc>>)> = sqlx::query_as(
        "SELECT reason, from_at, to_at FROM pipeline.raw_suspensions
          WHERE exchange_id = $1 AND from_at <= $2 + $3::interval AND coalesce(to_at, 'infinity') >= $2 - $3::interval
          ORDER BY from_at DESC LIMIT 1",
    )
    .bind(EXCHANGE.id())
    .bind(ended_at)
    .bind(SUSPENSION_LAG)
    .fetch_optional(db)
    .await?;
    Ok(NotFound(match suspended {
        Some((reason, from, to)) => format!(
            "{name} was read and not archived: the archive was suspended ({reason}) from {} to {}",
            format::instant(from),
            to.map_or_else(|| "now".to_owned(), format::instant)
        ),
        None => format!(
            "{name} ended {state} at {} without a complete answer that was archived",
            format::instant(ended_at)
        ),
    }))
}

/// Workers learn of a suspension's begin and end within so long.
const SUSPENSION_LAG: &str = "1 minute";

#[derive(sqlx::FromRow)]
struct Dropped {
    /// `age` or `budget`.
    reason: String,
    /// `None`: it is going.
    dropped_at: Option<DateTime<Utc>>,
}

async fn dropped(
    db: &mut PgConnection,
    table: &str,
    day: NaiveDate,
) -> anyhow::Result<Option<Dropped>> {
    let dropped = sqlx::query_as(
        "SELECT reason, dropped_at FROM pipeline.dropped_partitions
          WHERE schema_name = 'pipeline' AND table_name = $1 AND $2 BETWEEN first_day AND last_day",
    );
    Ok(dropped.bind(table).bind(day).fetch_optional(db).await?)
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let subject =
        shown.subject.as_deref().map_or_else(String::new, |subject| format!(" {subject}"));
    let page = shown.page.map_or_else(String::new, |page| format!(" page {page}"));
    let again = if shown.readings > 1 {
        format!(", reading {} of {}", shown.reading, shown.readings)
    } else {
        String::new()
    };
    writeln!(
        text,
        "batch {}, job {}: {}{subject}{page}{again}",
        shown.batch_id, shown.ordinal, shown.kind
    )?;
    let archived = &shown.archived;
    let reason = shown.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    writeln!(
        text,
        "  {}{reason}, status {}, fetched {} by egress {}, parser {}",
        shown.state,
        archived.http_status,
        format::instant(archived.fetched_at),
        format::name(&archived.egress_id),
        archived.parser_version
    )?;
    let bytes = archived.request_bytes + archived.headers_bytes + archived.body_bytes;
    let dictionary = archived
        .dictionary_id
        .map_or_else(|| "no dictionary".to_owned(), |id| format!("dictionary {id}"));
    writeln!(
        text,
        "  {}, {} bytes in {}, {dictionary}",
        counted(archived.ads.into(), "ad", "ads"),
        count(bytes),
        count(archived.content_bytes)
    )?;
    for (title, part) in
        [("request", &shown.request), ("headers", &shown.headers), ("body", &shown.body)]
    {
        write!(text, "\n{title}:\n{}", part.lines())?;
    }
    Ok(text)
}

/// The archive in figures.
#[derive(Debug, Serialize)]
struct Stats {
    /// With indexes, all days together.
    bytes: i64,
    /// As the leader last saw it. `None`: no coordinator led since the archive is there.
    leader: Option<LeaderView>,
    suspensions: Vec<SuspensionRow>,
    days: Vec<Day>,
    /// Bytes per ad of answers with ads.
    #[serde(with = "rust_decimal::serde::str_option")]
    bytes_per_ad_plain: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::str_option")]
    bytes_per_ad_trained: Option<Decimal>,
    dictionaries: Vec<DictionaryRow>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct LeaderView {
    budget_bytes: i64,
    looked_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct SuspensionRow {
    reason: String,
    from_at: DateTime<Utc>,
    /// `None`: it lasts.
    to_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Day {
    day: NaiveDate,
    answers: i64,
    ads: i64,
    /// Of request, headers and body.
    raw_bytes: i64,
    /// The same as packed.
    content_bytes: i64,
    /// On disk, with rows and indexes.
    bytes: i64,
    /// Of answers with ads, packed without a dictionary and with one.
    plain_ads: i64,
    plain_bytes: i64,
    trained_ads: i64,
    trained_bytes: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct DictionaryRow {
    dictionary_id: i32,
    trained_at: DateTime<Utc>,
    bytes: i32,
    samples: i32,
    test_ads: i32,
    test_bytes: i64,
    test_bytes_plain: i64,
    test_bytes_trained: i64,
}

/// Suspensions and dictionaries that are shown, the latest.
const SHOWN_ROWS: i64 = 10;

/// Prints the archive in figures.
pub async fn stats(json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let stats = read_stats(&mut snapshot).await?;
    if json {
        crate::print_json(&stats)?;
    } else {
        crate::print(&stats_text(&stats)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read_stats(db: &mut PgConnection) -> anyhow::Result<Stats> {
    let days: Vec<Day> = sqlx::query_as(
        "SELECT d.day, count(r.day) AS answers, coalesce(sum(r.ads), 0)::bigint AS ads,
                coalesce(sum(r.request_bytes::bigint + r.headers_bytes + r.body_bytes), 0)::bigint AS raw_bytes,
                coalesce(sum(octet_length(r.content)), 0)::bigint AS content_bytes, d.bytes,
                coalesce(sum(r.ads) FILTER (WHERE r.dictionary_id IS NULL), 0)::bigint AS plain_ads,
                coalesce(sum(octet_length(r.content)) FILTER (WHERE r.ads > 0 AND r.dictionary_id IS NULL), 0)::bigint
                    AS plain_bytes,
                coalesce(sum(r.ads) FILTER (WHERE r.dictionary_id IS NOT NULL), 0)::bigint AS trained_ads,
                coalesce(sum(octet_length(r.content)) FILTER (WHERE r.ads > 0 AND r.dictionary_id IS NOT NULL), 0)::bigint
                    AS trained_bytes
           FROM pipeline.raw_days() d LEFT JOIN pipeline.raw_pages r USING (day)
          GROUP BY d.day, d.bytes ORDER BY d.day",
    )
    .fetch_all(&mut *db)
    .await?;
    let leader = sqlx::query_as(
        "SELECT budget_bytes, looked_at FROM pipeline.raw_state WHERE exchange_id = $1",
    );
    let leader = leader.bind(EXCHANGE.id()).fetch_optional(&mut *db).await?;
    let suspensions = sqlx::query_as(
        "SELECT reason, from_at, to_at FROM pipeline.raw_suspensions WHERE exchange_id = $1
          ORDER BY from_at DESC LIMIT $2",
    );
    let suspensions = suspensions.bind(EXCHANGE.id()).bind(SHOWN_ROWS).fetch_all(&mut *db).await?;
    let dictionaries = sqlx::query_as(
        "SELECT dictionary_id, trained_at, octet_length(content) AS bytes, samples, test_ads, test_bytes,
                test_bytes_plain, test_bytes_trained
           FROM pipeline.raw_dictionaries WHERE exchange_id = $1 ORDER BY trained_at DESC LIMIT $2",
    );
    let dictionaries = dictionaries.bind(EXCHANGE.id()).bind(SHOWN_ROWS).fetch_all(db).await?;
    let sum = |part: fn(&Day) -> i64| days.iter().map(part).sum::<i64>();
    Ok(Stats {
        bytes: sum(|day| day.bytes),
        bytes_per_ad_plain: per(sum(|day| day.plain_bytes), sum(|day| day.plain_ads)),
        bytes_per_ad_trained: per(sum(|day| day.trained_bytes), sum(|day| day.trained_ads)),
        leader,
        suspensions,
        days,
        dictionaries,
    })
}

/// With one decimal; `None` for a share of nothing.
fn per(bytes: i64, number: i64) -> Option<Decimal> {
    Decimal::from(bytes).checked_div(Decimal::from(number)).map(|share| share.round_dp(1))
}

fn per_or_unknown(bytes: i64, number: i64) -> String {
    per(bytes, number).map_or_else(|| UNKNOWN.to_owned(), |per| per.to_string())
}

fn stats_text(stats: &Stats) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let mut table = Table::new(&[
        "day",
        ">answers",
        ">ads",
        ">sent",
        ">packed",
        ">on disk",
        ">bytes/ad plain",
        ">with dictionary",
    ]);
    for day in stats.days.iter().filter(|day| day.answers > 0) {
        table.row(vec![
            day.day.to_string(),
            count(day.answers),
            count(day.ads),
            format::bytes(day.raw_bytes),
            format::bytes(day.content_bytes),
            format::bytes(day.bytes),
            per_or_unknown(day.plain_bytes, day.plain_ads),
            per_or_unknown(day.trained_bytes, day.trained_ads),
        ]);
    }
    if table.is_empty() {
        writeln!(text, "nothing is archived")?;
    } else {
        writeln!(text, "\n{table}")?;
    }
    match &stats.leader {
        None => writeln!(text, "  {}; no leader has looked yet", format::bytes(stats.bytes))?,
        Some(leader) => writeln!(
            text,
            "  {} of {}, as the leader saw at {}",
            format::bytes(stats.bytes),
            format::bytes(leader.budget_bytes),
            format::instant(leader.looked_at)
        )?,
    }
    for row in &stats.suspensions {
        let to = row.to_at.map_or_else(|| "now".to_owned(), format::instant);
        writeln!(
            text,
            "  suspended ({}) from {} to {to}",
            row.reason,
            format::instant(row.from_at)
        )?;
    }
    for row in &stats.dictionaries {
        let ads = i64::from(row.test_ads);
        writeln!(
            text,
            "  dictionary {} of {} on {} pages: {} bytes per ad without, {} with",
            row.dictionary_id,
            format::instant(row.trained_at),
            count(row.samples),
            per_or_unknown(row.test_bytes_plain, ads),
            per_or_unknown(row.test_bytes_trained, ads)
        )?;
    }
    Ok(text)
}

/// What came of training.
#[derive(Debug, Serialize)]
struct Trained {
    /// `None`: none was kept.
    dictionary_id: Option<i32>,
    /// Pages there were. `None`: enough.
    too_few: Option<usize>,
    measured: Option<Measured>,
}

/// Trains a dictionary, and keeps it if it is better than the newest.
pub async fn train(json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let training = archive::train(&pool, EXCHANGE).await?;
    let (dictionary_id, too_few, measured) = match training {
        Training::TooFew(pages) => (None, Some(pages), None),
        Training::NoBetter(measured) => (None, None, Some(measured)),
        Training::Kept(id, measured) => (Some(id), None, Some(measured)),
    };
    if json {
        crate::print_json(&Trained { dictionary_id, too_few, measured })?;
    } else {
        crate::print(&trained_text(dictionary_id, too_few, measured)?)?;
    }
    let is_kept = dictionary_id.is_some();
    Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

fn trained_text(
    id: Option<i32>,
    too_few: Option<usize>,
    measured: Option<Measured>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    if let Some(pages) = too_few {
        let pages = counted(i64::try_from(pages)?, "page", "pages");
        writeln!(text, "the last batches have {pages} with ads in the archive: too few")?;
    }
    if let Some(measured) = measured {
        let ads = i64::try_from(measured.test_ads)?;
        writeln!(
            text,
            "trained on {} pages; on others, of {} ads: {} bytes per ad as sent, {} packed without a dictionary, {} with it",
            measured.samples,
            count(ads),
            per_or_unknown(i64::try_from(measured.test_bytes)?, ads),
            per_or_unknown(i64::try_from(measured.test_bytes_plain)?, ads),
            per_or_unknown(i64::try_from(measured.test_bytes_trained)?, ads)
        )?;
        match id {
            Some(id) => writeln!(text, "kept as dictionary {id}: workers use it within seconds")?,
            None => writeln!(text, "not kept: it saves too little over what there is")?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_named_in_two_ways() {
        for words in ["VES USDT BUY 3", "USDT/VES/BUY 3"] {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            assert_eq!(Place::parse(&words).unwrap().name(), "page 3 of USDT/VES BUY");
        }
        for words in [
            "VES USDT BUY",
            "USDT/VES 3",
            "USDT/VES/UP 3",
            "USDT/VES/BUY 0",
            "3",
            "USDT/VES/BUY/1 1",
        ] {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            assert!(Place::parse(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn odd_bytes_are_shown_as_what_they_are() {
        assert_eq!(Text::new(b"a\x1b[2J\nb").lines(), "a\u{fffd}[2J\nb\n");
        assert!(Text::new(b"\xff").lines().contains("ff"));
    }
}
