//! `p2p replay`: archived answers parsed again, the difference told and, if wanted, corrected.
//!
//! As JSON: [`Shown`].

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use coordinator::planner::MarketPattern;
use coordinator::quality::Thresholds;
use coordinator::settings::read_thresholds;
use coordinator::store::remake::{self, Remade};
use serde::Serialize;
use shared::domain::{Market, Side};
use shared::settings::Vars;
use sqlx::PgPool;
use worker::replay::{self, Difference, Error, Found, Lock, Options};

use crate::format::{Table, counted};
use crate::span::Moment;
use crate::timeline;
use crate::{EXCHANGE, EXIT_TROUBLE, NotAllowed, NotFound};

/// What a replay found and did.
#[derive(Debug, Serialize)]
struct Shown {
    /// Slots looked at.
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    #[serde(flatten)]
    found: Found,
    /// What was made again after facts were corrected. `None`: nothing was applied.
    remade: Option<Remade>,
}

/// Replays the range.
pub async fn run(
    (from, to): (Moment, Moment),
    market: Option<&str>,
    apply: bool,
    max_differences: usize,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool =
        if apply { crate::connect_as_owner().await? } else { crate::connect_checked().await? };
    let now = timeline::now(&mut *pool.acquire().await?).await?;
    let (from, to) = (from.instant(now), to.instant(now));
    if from > to {
        return Err(NotAllowed(format!("--from {from} is after --to {to}")).into());
    }
    let markets = match market {
        Some(pattern) => Some(list_markets(&pool, pattern).await?),
        None => None,
    };
    let by = who(&pool).await?;
    let options = Options { exchange: EXCHANGE, from, to, markets, apply, by, max_differences };
    let lock = if apply { Some(Lock::take(&pool).await.map_err(explain)?) } else { None };
    let found = replay::run(&pool, &options).await.map_err(explain)?;
    if found.counts.pages == 0 {
        let why = format!(
            "no answer of the search is archived for closed batches with slots from {} to {} (p2p batches shows batches; archived answers are kept for days only)",
            from.format("%F %T UTC"),
            to.format("%F %T UTC"),
        );
        return Err(NotFound(why).into());
    }
    let remade = match lock {
        Some(lock) => {
            let remade = remake::run(&pool, &crate::replay::thresholds()?).await?;
            lock.release().await?;
            Some(remade)
        }
        None => None,
    };
    let is_fine =
        found.counts.not_stored == 0 && (found.is_applied || found.counts.differences() == 0);
    let shown = Shown { from, to, found, remade };
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

/// Finishes what was cut off.
pub async fn resume(json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_as_owner().await?;
    let lock = Lock::take(&pool).await.map_err(explain)?;
    let remade = remake::run(&pool, &crate::replay::thresholds()?).await?;
    lock.release().await?;
    if json {
        crate::print_json(&remade)?;
    } else {
        crate::print(&format!("{}\n", remade_line(&remade)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The thresholds of quality checks, as the coordinator reads them.
pub(crate) fn thresholds() -> anyhow::Result<Thresholds> {
    let mut vars = Vars::from_environment();
    let thresholds = read_thresholds(&mut vars);
    Ok(vars.finish(thresholds)?)
}

/// Who it is, for the record: role, host, process.
pub(crate) async fn who(pool: &PgPool) -> anyhow::Result<String> {
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(pool).await?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("{role}@{}:{}", host.trim(), std::process::id()))
}

/// What the operator can do about it.
pub(crate) fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::AlreadyRunning | Error::Forbidden { .. } => NotAllowed(error.to_string()).into(),
        other => other.into(),
    }
}

async fn list_markets(pool: &PgPool, pattern: &str) -> anyhow::Result<Vec<i32>> {
    let matcher: MarketPattern = pattern.parse().map_err(|error| NotAllowed(format!("{error}")))?;
    let rows: Vec<(i32, String, String, String)> = sqlx::query_as(
        "SELECT m.market_id, f.currency_code, a.symbol, m.trade_type
           FROM warehouse.dim_markets m
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies a USING (crypto_id)
          WHERE m.exchange_id = $1 ORDER BY m.market_id",
    )
    .bind(EXCHANGE.id())
    .fetch_all(pool)
    .await?;
    let is_it = |(_, fiat, asset, side): &&(i32, String, String, String)| {
        let market = side.parse::<Side>().and_then(|side| Market::new(fiat, asset, side));
        market.is_ok_and(|market| matcher.matches(&market))
    };
    let markets: Vec<i32> = rows.iter().filter(is_it).map(|row| row.0).collect();
    if markets.is_empty() {
        return Err(NotFound(format!("no market {pattern} is known")).into());
    }
    Ok(markets)
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let (found, counts) = (&shown.found, &shown.found.counts);
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let counted = |n: u64, one: &str, many: &str| counted(number(n), one, many);
    writeln!(
        text,
        "parser {}: {} of {}, {} taken, {} refused",
        found.parser_version,
        counted(counts.pages, "page", "pages"),
        counted(counts.batches, "batch", "batches"),
        counted(counts.ads, "ad", "ads"),
        counts.refused,
    )?;
    writeln!(
        text,
        "  ads: {} added, {} removed, {} changed; {} changed ({} recovered, {} lost); {} of advertisers",
        counts.added,
        counts.removed,
        counts.changed,
        counted(counts.pages_changed, "page", "pages"),
        counts.pages_recovered,
        counts.pages_lost,
        counted(counts.advertisers_changed, "fact", "facts"),
    )?;
    for (n, what) in [
        (
            counts.pages_beyond,
            "pages after the range were replayed, for they list versions that were corrected",
        ),
        (counts.not_archived, "stored pages could not be compared: their answers are not archived"),
        (counts.not_stored, "pages stay as they are: the database refuses their facts"),
        (counts.skipped, "archived answers skipped: lists, advertisers, errors"),
    ] {
        if n > 0 {
            writeln!(text, "  {n} {what}")?;
        }
    }
    let mut versions =
        Table::new(&["stored by", ">pages", ">added", ">removed", ">changed", ">pages changed"]);
    for (version, counts) in &found.by_parser_version {
        versions.row(vec![
            if *version == 0 { "not recorded".to_owned() } else { format!("parser {version}") },
            counts.pages.to_string(),
            counts.added.to_string(),
            counts.removed.to_string(),
            counts.changed.to_string(),
            counts.pages_changed.to_string(),
        ]);
    }
    writeln!(text, "\n{versions}")?;
    for difference in &found.differences {
        writeln!(text, "{}", line(difference))?;
    }
    if found.left_out > 0 {
        writeln!(text, "… and {} more (--all)", found.left_out)?;
    }
    match &shown.remade {
        Some(remade) => writeln!(text, "applied; {}", remade_line(remade))?,
        None if counts.differences() == 0 => writeln!(text, "no difference")?,
        None => writeln!(text, "nothing was changed: --apply corrects the facts")?,
    }
    Ok(text)
}

fn remade_line(remade: &Remade) -> String {
    if remade.batches == 0 {
        return "nothing had to be made again".to_owned();
    }
    let days: Vec<String> = remade.days.iter().map(ToString::to_string).collect();
    format!(
        "made again: {} of {}, marts of {}",
        counted(i64::try_from(remade.books).unwrap_or(i64::MAX), "book", "books"),
        counted(i64::try_from(remade.batches).unwrap_or(i64::MAX), "batch", "batches"),
        if days.is_empty() { "no day".to_owned() } else { days.join(", ") },
    )
}

fn line(difference: &Difference) -> String {
    let mut parts = vec![format!("{} batch {}", difference.kind, difference.batch_id)];
    if let (Some(market), Some(page)) = (&difference.market, difference.page) {
        parts.push(format!("{market} page {page}"));
    }
    parts.extend(difference.of.as_ref().map(ToString::to_string));
    let fields = difference.fields.iter();
    parts.extend(fields.map(|(field, (stored, read))| format!("{field}: {stored} → {read}")));
    parts.extend(difference.why.as_ref().map(|why| format!("({why})")));
    parts.join(" ")
}
