//! How throughput, close, plan and questions grow with workers, jobs in flight, and ads.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use sqlx::AssertSqlSafe;

use crate::figures::{Column, Figures, median};
use crate::plot::{Curve, svg};
use crate::run::{self, CLOSE_MS, Load, MAX_ADS, MAX_FIATS};

/// Worker processes, and jobs in flight in one.
const WORKERS: [usize; 4] = [1, 2, 4, 8];
const IN_HAND: [usize; 6] = [5, 10, 20, 50, 100, 200];
/// Times as many ads.
const SIZES: [u64; 3] = [1, 3, 10];
/// Times as many fiats, with the same ads.
const FIATS: [u64; 3] = [1, 2, 4];
/// Times that a question is asked.
const ASKED: usize = 5;

/// The pair with most ads on one side, of which the first question is asked.
const LARGEST: &str =
    "SELECT quote_literal(fiat_code), quote_literal(crypto_symbol) FROM warehouse.market_overview
                        ORDER BY ads DESC NULLS LAST LIMIT 1";

/// Questions of the documentation, by name.
fn questions(fiat: &str, asset: &str) -> [(&'static str, String); 3] {
    [
        (
            "Q1 of the largest market",
            format!(
                "SELECT trade_type, min(price), sum(available_amount) FROM warehouse.mv_latest_market_state
                  WHERE fiat_code = {fiat} AND crypto_symbol = {asset} GROUP BY trade_type"
            ),
        ),
        (
            "overview of all markets",
            "SELECT count(*) FROM warehouse.market_overview".to_owned(),
        ),
        (
            "all ads of the latest state",
            "SELECT count(*) FROM warehouse.mv_latest_market_state".to_owned(),
        ),
    ]
}

/// Measures all curves and draws them into `directory`.
pub(crate) async fn draw(load: &Load, batches: usize, directory: &Path) -> Result<Vec<Column>> {
    for (option, value, times, most) in
        [("ads", load.ads, SIZES, MAX_ADS), ("fiats", load.fiats, FIATS, MAX_FIATS)]
    {
        let times = times.into_iter().max().unwrap_or(1);
        ensure!(
            value <= most / times,
            "--{option} {value}: allowed are 1 to {}, for up to {times} times as many are measured and the \
             exchange has at most {most}",
            most / times
        );
    }
    std::fs::create_dir_all(directory)?;
    let mut columns = Vec::new();
    let read = "ads_per_s, opened to last end";
    let mut by_workers = Vec::new();
    for workers in WORKERS {
        let load = Load { workers, ..load.clone() };
        let column = steady(&format!("{workers} workers"), &load, batches, false).await?;
        by_workers.push((places(workers)?, column.figures[read]));
        columns.push(column);
    }
    let curve = |name: &str, points| Curve { name: name.to_owned(), points };
    let picture = svg(
        "Ads a second by worker processes",
        "worker processes",
        "ads/s",
        &[curve("steady state", by_workers)],
    );
    write(directory, "bench-workers.svg", &picture)?;
    let mut by_hand = Vec::new();
    for in_hand in IN_HAND {
        let load = Load { in_hand, ..load.clone() };
        let column = steady(&format!("{in_hand} in flight"), &load, batches, false).await?;
        by_hand.push((places(in_hand)?, column.figures[read]));
        columns.push(column);
    }
    let picture = svg(
        "Ads a second by jobs in flight in one worker",
        "jobs in flight (MAX_WORKERS)",
        "ads/s",
        &[curve("steady state", by_hand)],
    );
    write(directory, "bench-prefetch.svg", &picture)?;
    let mut by_size: Vec<Curve> = Vec::new();
    for times in SIZES {
        let load = Load { ads: load.ads * times, ..load.clone() };
        let column = steady(&format!("{} ads", load.ads), &load, batches, true).await?;
        let x = places(usize::try_from(load.ads)?)?;
        let drawn = column.figures.iter().filter(|(name, _)| {
            name.starts_with("ms, ") || *name == "plan_ms" || name.starts_with("close_ms, ")
        });
        for (name, value) in drawn {
            let name = name.trim_start_matches("ms, ").replace("_ms", "");
            match by_size.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push((x, *value)),
                None => by_size.push(Curve { name, points: vec![(x, *value)] }),
            }
        }
        columns.push(column);
    }
    let (questions, steps): (Vec<Curve>, Vec<Curve>) = by_size
        .into_iter()
        .partition(|curve| !curve.name.starts_with("close") && curve.name != "plan");
    let picture = svg("Close and plan by ads of the market", "ads", "ms", &steps);
    write(directory, "bench-close.svg", &picture)?;
    let picture = svg("Questions by ads of the market", "ads", "ms", &questions);
    write(directory, "bench-questions.svg", &picture)?;
    let (columns_by_markets, picture) = by_markets(load, batches).await?;
    columns.extend(columns_by_markets);
    write(directory, "bench-markets.svg", &picture)?;
    Ok(columns)
}

/// What further markets cost that hold the same ads, and its picture.
async fn by_markets(load: &Load, batches: usize) -> Result<(Vec<Column>, String)> {
    const DRAWN: [(&str, &str); 3] =
        [("opened to last end", "read_ms"), ("close", CLOSE_MS), ("plan", "plan_ms")];
    let mut columns: Vec<Column> = Vec::new();
    let mut curves = DRAWN.map(|(name, _)| Curve { name: name.to_owned(), points: Vec::new() });
    for times in FIATS {
        let load = Load { fiats: load.fiats * times, ..load.clone() };
        let mut column = steady(&format!("{} fiats", load.fiats), &load, batches, false).await?;
        let (markets, ads) = (column.figures["markets"], column.figures["ads"]);
        let read = ads / column.figures["ads_per_s, opened to last end"] * 1000.0;
        column.figures.insert("read_ms".to_owned(), read);
        for ((_, figure), curve) in DRAWN.iter().zip(&mut curves) {
            curve.points.push((markets, column.figures[*figure]));
        }
        if let Some(before) = columns.first() {
            for (_, figure) in DRAWN {
                let more = column.figures[figure] - before.figures[figure];
                let each = more / (markets - before.figures["markets"]);
                column.figures.insert(format!("{figure}, each further market"), each);
            }
        }
        columns.push(column);
    }
    let title = "A batch by markets that hold the same ads";
    Ok((columns, svg(title, "markets", "ms", &curves)))
}

fn places(count: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(count).context("a small number")?))
}

fn write(directory: &Path, name: &str, picture: &str) -> Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, picture).with_context(|| format!("write {}", path.display()))
}

/// Batches after the first.
async fn steady(name: &str, load: &Load, batches: usize, asks: bool) -> Result<Column> {
    eprintln!("{name}");
    run::with(load, async |running| {
        running.batch().await?;
        let mut all = Vec::new();
        for _ in 0..batches {
            let mut figures = running.steady().await?.figures;
            if asks {
                figures.extend(ask(running.fleet).await?);
            }
            all.push(figures);
        }
        Ok(Column::new(name, &all))
    })
    .await
}

async fn ask(fleet: &Fleet) -> Result<Figures> {
    let (fiat, asset): (String, String) =
        sqlx::query_as(LARGEST).fetch_one(&fleet.pool).await.context("the largest market")?;
    let mut figures = Figures::new();
    for (name, sql) in questions(&fiat, &asset) {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let since = Instant::now();
            sqlx::query(AssertSqlSafe(sql.clone())).fetch_all(&fleet.pool).await.context(name)?;
            times.push(since.elapsed().as_secs_f64() * 1000.0);
        }
        figures.insert(format!("ms, {name}"), median(times));
    }
    Ok(figures)
}
