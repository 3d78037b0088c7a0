//! Every documented question, asked many times: how long it takes, and what it touches.
//!
//! What a question touches is read from the server's own counts of its transaction, which see into
//! functions as no `EXPLAIN` does: which partitions were read, and which of them from end to end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::IndexedRandom;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

/// Purpose of [`rng_for`](load_tests::market::rng_for).
const SAMPLES: u64 = 78;
/// Longest that a question about the present may take at p95, and any other.
const NOW_LIMIT: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_millis(500);
/// Tables by the day, whose partitions are facts: read from end to end by none of the questions.
const FACTS: [&str; 3] = ["offer_versions_", "book_pages_", "books_"];
/// Tables by the month that grow as fast as batches are read.
const MARTS: [&str; 3] = ["mart_books_", "mart_book_methods_", "mart_advertiser_days_"];

/// Tables that only ever grow.
const GROWING: [&str; 3] = ["dim_advertisers", "advertiser_figures", "offer_terms"];
/// Bytes up to which a partition may be read from end to end: shortly after midnight, and in the first hours
/// of a month, it has so few pages that an index spares little.
const FEW_BYTES: i64 = 64 * 8_192;

/// What a question is asked of.
struct Sample {
    market: String,
    fiat: String,
    asset: String,
    method: String,
    user_no: String,
    /// Roughly 500 and 20,000 USD in the fiat.
    amounts: [String; 2],
    /// Days that there are.
    days: u32,
    /// Minutes back from now, anywhere in the data.
    back: u32,
}

/// A question people ask.
struct Question {
    name: &'static str,
    kind: Kind,
    /// Days of facts that it may touch.
    fact_days: usize,
    sql: fn(&Sample) -> String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// About the present.
    Now,
    /// About the past.
    Past,
    /// A sample query as people type it, which costs what it costs: timed, and held to nothing.
    Verbatim,
}

impl Kind {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Now => Some(NOW_LIMIT),
            Self::Past => Some(LIMIT),
            Self::Verbatim => None,
        }
    }
}

const fn ask(
    name: &'static str,
    kind: Kind,
    fact_days: usize,
    sql: fn(&Sample) -> String,
) -> Question {
    Question { name, kind, fact_days, sql }
}

/// The last book of a market may be of yesterday, shortly after midnight.
const QUESTIONS: &[Question] = &[
    ask("Q1", Kind::Now, 2, |_| {
        "SELECT trade_type, MIN(price) as best_price, SUM(available_amount) as total_liquidity
         FROM mv_latest_market_state
         WHERE fiat_code = 'VES' AND crypto_symbol = 'USDT'
         GROUP BY trade_type"
            .to_owned()
    }),
    ask("Q2", Kind::Verbatim, 400, |_| {
        "SELECT advertiser, SUM(available_amount) as total_volume, AVG(completion_rate) as avg_completion_rate,
                COUNT(DISTINCT offer_external_id) as offer_count
         FROM fact_offers fo JOIN dim_advertisers da ON fo.advertiser_sk = da.advertiser_sk
         WHERE extraction_timestamp > NOW() - INTERVAL '24 hours' AND da.is_merchant = TRUE
         GROUP BY advertiser ORDER BY total_volume DESC LIMIT 10"
            .to_owned()
    }),
    ask("Q3", Kind::Verbatim, 400, |_| {
        "SELECT dpm.method_name, STDDEV(fo.price) as price_volatility, AVG(fo.price) as avg_price
         FROM fact_offers fo
         JOIN fact_offer_payment_methods fopm ON fo.offer_id = fopm.offer_id
         JOIN dim_payment_methods dpm ON fopm.payment_method_id = dpm.payment_method_id
         WHERE fo.fiat_id = (SELECT fiat_id FROM dim_fiat_currencies WHERE currency_code = 'VES')
           AND fo.crypto_id = (SELECT crypto_id FROM dim_cryptocurrencies WHERE symbol = 'USDT')
           AND fo.extraction_timestamp > NOW() - INTERVAL '24 hours'
         GROUP BY dpm.method_name ORDER BY price_volatility DESC"
            .to_owned()
    }),
    ask("market_overview, one pair", Kind::Now, 0, |s| {
        format!(
            "SELECT * FROM market_overview WHERE fiat_code = {} AND crypto_symbol = {}",
            s.fiat, s.asset
        )
    }),
    ask("market_overview, all", Kind::Now, 0, |_| {
        "SELECT fiat_code, crypto_symbol, trade_type, best_price, median_price, ads, age FROM market_overview WHERE ads > 0"
            .to_owned()
    }),
    ask("book_certificate", Kind::Now, 2, |s| {
        format!("SELECT * FROM book_certificate({})", s.market)
    }),
    ask("book", Kind::Now, 2, |s| format!("SELECT * FROM book({})", s.market)),
    ask("quote", Kind::Now, 2, |s| format!("SELECT * FROM quote({}, {})", s.market, s.amounts[0])),
    ask("quote, large", Kind::Now, 2, |s| {
        format!("SELECT * FROM quote({}, {})", s.market, s.amounts[1])
    }),
    ask("quote, by method of merchants", Kind::Now, 2, |s| {
        format!(
            "SELECT * FROM quote({}, {}, 'fiat', ARRAY[{}], true)",
            s.market, s.amounts[0], s.method
        )
    }),
    ask("payment_method_prices", Kind::Now, 2, |s| {
        format!("SELECT * FROM payment_method_prices({})", s.market)
    }),
    ask("arbitrage_sides", Kind::Now, 0, |_| "SELECT * FROM arbitrage_sides()".to_owned()),
    ask("arbitrage_fiats", Kind::Now, 0, |_| "SELECT * FROM arbitrage_fiats()".to_owned()),
    ask("arbitrage_assets", Kind::Now, 0, |_| "SELECT * FROM arbitrage_assets()".to_owned()),
    ask("find_advertisers", Kind::Now, 0, |s| {
        format!("SELECT * FROM find_advertisers({})", s.user_no)
    }),
    ask("book as of", Kind::Past, 2, |s| format!("SELECT * FROM book({}, {})", s.market, at(s))),
    ask("quote as of", Kind::Past, 2, |s| {
        format!("SELECT * FROM quote({}, {}, at => {})", s.market, s.amounts[1], at(s))
    }),
    ask("quote_history, a day by hours", Kind::Past, 3, |s| {
        format!(
            "SELECT * FROM quote_history({}, {}, {at} - interval '24 hours', {at})",
            s.market,
            s.amounts[0],
            at = at(s)
        )
    }),
    ask("price_history, a day by batches", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM price_history({}, now() - interval '24 hours', now(), 'batch')",
            s.market
        )
    }),
    ask("price_history, all by batches", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM price_history({}, now() - interval '{} days', now(), 'batch')",
            s.market, s.days
        )
    }),
    ask("price_history, all by hours", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM price_history({}, now() - interval '{} days', now())",
            s.market, s.days
        )
    }),
    ask("price_history, all by days", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM price_history({}, now() - interval '{} days', now(), 'day')",
            s.market, s.days
        )
    }),
    ask("payment_method_history, a day", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM payment_method_history({}, now() - interval '24 hours', now(), ARRAY[{}])",
            s.market, s.method
        )
    }),
    ask("payment_method_volatility, a day", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM payment_method_volatility({}, now() - interval '24 hours', now())",
            s.market
        )
    }),
    ask("merchant_history, all", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM merchant_history({}, current_date - {}, current_date)",
            s.user_no, s.days
        )
    }),
    ask("market_shares, two days", Kind::Past, 0, |s| {
        format!("SELECT * FROM market_shares({}, current_date - 1, current_date)", s.market)
    }),
    ask("market_shares, all", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM market_shares({}, current_date - {}, current_date)",
            s.market, s.days
        )
    }),
    ask("market_makers, a week", Kind::Past, 0, |s| {
        format!(
            "SELECT * FROM market_makers({}, {}, current_date - 6, current_date)",
            s.fiat, s.asset
        )
    }),
];

fn at(sample: &Sample) -> String {
    format!("now() - interval '{} minutes'", sample.back)
}

/// How one question fared.
struct Answered {
    name: &'static str,
    kind: Kind,
    times: Vec<Duration>,
    rows: usize,
    buffers: u64,
    /// Most days of facts that it touched at once.
    fact_days: usize,
    /// What is wrong with what it touched.
    wrong: Vec<String>,
}

impl Answered {
    fn percentile(&self, per_cent: usize) -> Duration {
        self.times[(self.times.len() - 1) * per_cent / 100]
    }

    fn is_slow(&self) -> bool {
        self.kind.limit().is_some_and(|limit| self.percentile(95) > limit)
    }
}

/// Asks all questions `rounds` times each and prints the figures. Whether what they touch is right, and
/// whether all are fast enough.
pub(crate) async fn ask_all(
    pool: &PgPool,
    days: u32,
    seed: u64,
    rounds: u32,
    plans: &Path,
) -> Result<(bool, bool)> {
    std::fs::create_dir_all(plans).with_context(|| format!("create {}", plans.display()))?;
    let samples = samples(pool, days, seed, rounds).await?;
    let mut connection = pool.acquire().await?;
    sqlx::raw_sql("RESET work_mem; SET search_path = warehouse").execute(&mut *connection).await?;
    println!(
        "{:<34} {:>6} {:>9} {:>9} {:>9} {:>8} {:>9} {:>5}",
        "question", "runs", "p50 ms", "p95 ms", "max ms", "rows", "buffers", "days"
    );
    let (mut right, mut fast) = (true, true);
    for question in QUESTIONS {
        let answered = answer(&mut connection, question, &samples, plans).await?;
        let note = match answered.kind.limit() {
            Some(limit) if answered.is_slow() => format!("  over {} ms", limit.as_millis()),
            _ => String::new(),
        };
        println!(
            "{:<34} {:>6} {:>9} {:>9} {:>9} {:>8} {:>9} {:>5}{note}",
            answered.name,
            answered.times.len(),
            millis(answered.percentile(50)),
            millis(answered.percentile(95)),
            millis(answered.percentile(100)),
            answered.rows,
            answered.buffers,
            answered.fact_days,
        );
        for wrong in &answered.wrong {
            println!("  WRONG: {wrong}");
        }
        fast &= !answered.is_slow();
        right &= answered.wrong.is_empty();
    }
    println!("plans are in {}", plans.display());
    Ok((right, fast))
}

fn millis(time: Duration) -> String {
    let tenths = time.as_micros() / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

async fn samples(pool: &PgPool, days: u32, seed: u64, rounds: u32) -> Result<Vec<Sample>> {
    let mut rng = load_tests::market::rng_for(seed, SAMPLES, 0);
    // Half of them the largest markets, which are asked for most and cost most.
    let markets: Vec<PgRow> = sqlx::query(
        "SELECT quote_literal(fiat_code) AS fiat, quote_literal(crypto_symbol) AS asset, quote_literal(trade_type) AS side,
                round(median_price * 500, 2)::text AS small, round(median_price * 20000, 2)::text AS large,
                (SELECT quote_literal(identifier)
                   FROM warehouse.mart_book_methods m JOIN warehouse.dim_payment_methods USING (payment_method_id)
                  WHERE m.market_id = o.market_id AND m.day = o.day AND m.batch_id = o.batch_id
                  ORDER BY m.ads DESC LIMIT 1) AS method,
                (SELECT quote_literal(user_no)
                   FROM warehouse.mart_advertiser_days d JOIN warehouse.dim_advertisers a ON a.advertiser_id = d.advertiser_id AND a.is_current
                  WHERE d.market_id = o.market_id AND d.day = o.day ORDER BY d.amount_sum DESC LIMIT 1) AS user_no
           FROM warehouse.market_overview o
          WHERE ads >= 5 AND crypto_symbol = 'USDT'
          ORDER BY ads DESC",
    )
    .fetch_all(pool)
    .await?;
    let largest = &markets[..markets.len().min(10)];
    let mut samples = Vec::new();
    for round in 0..rounds {
        let of = if round.is_multiple_of(2) { largest } else { &markets[..] };
        let row = of.choose(&mut rng).context("no market has ads")?;
        let (fiat, asset): (String, String) = (row.get("fiat"), row.get("asset"));
        let side: String = row.get("side");
        samples.push(Sample {
            market: format!("{fiat}, {asset}, {side}"),
            fiat,
            asset,
            method: row.get("method"),
            user_no: row.get("user_no"),
            amounts: [row.get("small"), row.get("large")],
            days,
            // Not in the first day, so that there is a day before it.
            back: rng.random_range(10..days.max(2) * 1_440 - 1_430),
        });
    }
    Ok(samples)
}

async fn answer(
    connection: &mut PgConnection,
    question: &Question,
    samples: &[Sample],
    plans: &Path,
) -> Result<Answered> {
    let mut answered = Answered {
        name: question.name,
        kind: question.kind,
        times: Vec::new(),
        rows: 0,
        buffers: 0,
        fact_days: 0,
        wrong: Vec::new(),
    };
    let rounds = if question.kind == Kind::Verbatim { samples.len().min(3) } else { samples.len() };
    for (round, sample) in samples[..rounds].iter().enumerate() {
        let sql = (question.sql)(sample);
        // What earlier transactions read is out of the counts only once it has been reported.
        sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await?;
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        let begun = Instant::now();
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.clone())).fetch_all(&mut *connection).await;
        let rows = rows.with_context(|| format!("{}: {sql}", question.name))?;
        answered.times.push(begun.elapsed());
        answered.rows = answered.rows.max(rows.len());
        look(connection, question, &mut answered).await?;
        sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
        if round == 0 {
            answered.buffers = explain(connection, question.name, &sql, plans).await?;
        }
    }
    answered.times.sort_unstable();
    answered.wrong.sort_unstable();
    answered.wrong.dedup();
    Ok(answered)
}

/// What the open transaction has read.
async fn look(
    connection: &mut PgConnection,
    question: &Question,
    answered: &mut Answered,
) -> Result<()> {
    let touched: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, coalesce(seq_scan, 0), pg_relation_size(relid)
           FROM pg_stat_xact_user_tables
          WHERE schemaname = 'warehouse' AND coalesce(seq_scan, 0) + coalesce(idx_scan, 0) > 0",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut days: BTreeMap<&str, usize> = BTreeMap::new();
    for (relation, scans, bytes) in &touched {
        let of = |names: &[&'static str]| {
            let is_of = |name: &&&str| {
                relation
                    .strip_prefix(**name)
                    .is_some_and(|day| day.bytes().all(|b| b.is_ascii_digit()))
            };
            names.iter().find(is_of).copied()
        };
        if let Some(parent) = of(&FACTS) {
            *days.entry(parent).or_default() += 1;
        }
        let is_partition = of(&FACTS).is_some() || of(&MARTS).is_some();
        let is_large = is_partition && *bytes > FEW_BYTES || GROWING.contains(&relation.as_str());
        if *scans > 0 && question.kind != Kind::Verbatim && is_large {
            answered.wrong.push(format!("{relation} is read from end to end"));
        }
    }
    let most = days.values().copied().max().unwrap_or(0);
    answered.fact_days = answered.fact_days.max(most);
    if most > question.fact_days {
        answered
            .wrong
            .push(format!("{most} days of facts are read, {} are allowed", question.fact_days));
    }
    Ok(())
}

/// Keeps the plan; the buffers it took.
async fn explain(
    connection: &mut PgConnection,
    name: &str,
    sql: &str,
    plans: &Path,
) -> Result<u64> {
    let statement = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut *connection).await?;
    let top = &plan[0]["Plan"];
    let buffers = ["Shared Hit Blocks", "Shared Read Blocks"]
        .iter()
        .filter_map(|key| top[*key].as_u64())
        .sum();
    let mut text = format!("-- {name}\n{sql};\n\n");
    writeln!(text, "{}", serde_json::to_string_pretty(&plan)?)?;
    let file = plans.join(name.replace([' ', ','], "_") + ".txt");
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(buffers)
}
