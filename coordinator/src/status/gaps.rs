//! Markets that the last closed batch did not read to the end.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::format::{UNKNOWN, count, span};
use super::panel::{Mark, empty, panel};

/// A market of which pages are missing since its last whole reading.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Gap {
    pub fiat: String,
    pub asset: String,
    pub side: String,
    /// `partial`, `failed` or `shed`, as in the certificate.
    pub verdict: String,
    /// Pages that were lost or left out.
    pub pages_missing: i64,
    /// `None`: never read to the end.
    pub last_read_at: Option<DateTime<Utc>>,
    pub last_read_seconds_ago: Option<i64>,
}

/// The gaps that are open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gaps {
    pub total: i64,
    /// The largest markets first; at most [`SHOWN`].
    pub largest: Vec<Gap>,
}

/// Gaps shown; `p2p gaps` lists all.
const SHOWN: i64 = 10;

pub(super) async fn read(
    db: &mut PgConnection,
    batch_id: Option<i32>,
) -> Result<Gaps, sqlx::Error> {
    let Some(batch_id) = batch_id else { return Ok(Gaps::default()) };
    let total = sqlx::query_scalar(
        "SELECT count(*) FROM warehouse.books
          WHERE batch_id = $1 AND day = DATE '1970-01-01' + ($1 >> 9) AND verdict IN ('partial', 'failed', 'shed')",
    );
    let total = total.bind(batch_id).fetch_one(&mut *db).await?;
    let largest = sqlx::query_as(
        "SELECT f.currency_code AS fiat, c.symbol AS asset, m.trade_type AS side, b.verdict,
                (b.pages_lost + b.pages_shed)::bigint AS pages_missing, k.last_read_at,
                extract(epoch FROM now() - k.last_read_at)::bigint AS last_read_seconds_ago
           FROM warehouse.books b
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
           LEFT JOIN pipeline.catalog k USING (market_id)
          WHERE b.batch_id = $1 AND b.day = DATE '1970-01-01' + ($1 >> 9) AND b.verdict IN ('partial', 'failed', 'shed')
          ORDER BY coalesce(k.last_total, b.last_total, 0) DESC, f.currency_code, c.symbol, m.trade_type
          LIMIT $2",
    );
    let largest = largest.bind(batch_id).bind(SHOWN).fetch_all(db).await?;
    Ok(Gaps { total, largest })
}

pub(super) fn render(gaps: &Gaps) -> Markup {
    panel(
        "gaps",
        "Open gaps",
        html! {
            @if gaps.largest.is_empty() {
                (empty("None: the last closed batch read every book it planned."))
            } @else {
                div.scroll role="group" aria-label="Open gaps" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "Market" } th scope="col" { "Book" }
                            th.number scope="col" { "Pages missing" } th.number scope="col" { "Last whole reading" }
                        } }
                        tbody { @for gap in &gaps.largest { tr {
                            th scope="row" {
                                a href=(super::market::href(&gap.fiat, &gap.asset, &gap.side)) {
                                    (gap.asset) "/" (gap.fiat) " " (gap.side)
                                }
                            }
                            td { (Mark::Warn) " " @if gap.verdict == "shed" { "left out" } @else { (gap.verdict) } }
                            td.number { (count(gap.pages_missing)) }
                            td.number {
                                @match gap.last_read_seconds_ago {
                                    Some(seconds) => { (span(seconds)) " ago" },
                                    None => (UNKNOWN),
                                }
                            }
                        } } }
                    }
                }
                @let more = gaps.total - i64::try_from(gaps.largest.len()).unwrap_or(0);
                @if more > 0 { p.note { "and " (count(more)) " more: " code { "p2p gaps" } } }
            }
        },
    )
}
