//! How complete the books of the last closed batch are, by fiat and asset.

use std::collections::HashMap;

use maud::{Markup, html};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::format::{UNKNOWN, count, percent};
use super::panel::{empty, panel};

/// The two books of a fiat and an asset together.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Cell {
    pub fiat: String,
    pub asset: String,
    /// Different ads that were read.
    pub ads: i64,
    /// Share of the ads that were there, of both sides; `None`: a side was not read, so nothing is known.
    pub completeness: Option<Decimal>,
    /// Books that are neither complete nor empty, as `SELL partial`.
    pub lacking: Vec<String>,
}

/// The heat map of a batch.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Completeness {
    /// `None`: no batch has closed.
    pub batch_id: Option<i32>,
    /// Largest fiats first; at most [`FIATS`] of them.
    pub fiats: Vec<String>,
    /// Largest assets first; at most [`ASSETS`] of them.
    pub assets: Vec<String>,
    pub fiats_left_out: usize,
    pub assets_left_out: usize,
    pub cells: Vec<Cell>,
}

/// Rows shown at once; the others are a key press away.
const ROWS: usize = 12;
/// Rows at most.
const FIATS: usize = 120;
/// Columns at most: as many as a page can hold.
const ASSETS: usize = 10;

pub(super) async fn read(
    db: &mut PgConnection,
    batch_id: Option<i32>,
) -> Result<Completeness, sqlx::Error> {
    let Some(id) = batch_id else { return Ok(Completeness::default()) };
    let cells: Vec<Cell> = sqlx::query_as(
        "SELECT f.currency_code AS fiat, c.symbol AS asset, sum(b.distinct_ads) AS ads,
                CASE WHEN bool_and(b.estimated_missed IS NOT NULL) THEN
                     coalesce(sum(b.distinct_ads)::numeric
                              / nullif(sum(b.distinct_ads + b.estimated_missed + b.refused_ads), 0), 1) END AS completeness,
                coalesce(array_agg(m.trade_type || ' ' || b.verdict ORDER BY m.trade_type)
                         FILTER (WHERE b.verdict NOT IN ('complete', 'empty')), '{}') AS lacking
           FROM warehouse.books b
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
          WHERE b.batch_id = $1 AND b.day = DATE '1970-01-01' + ($1 >> 9)
          GROUP BY f.currency_code, c.symbol",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    Ok(arrange(id, cells))
}

/// Sorts by size and keeps what can be shown.
fn arrange(batch_id: i32, cells: Vec<Cell>) -> Completeness {
    let (mut fiats, fiats_left_out) = largest(&cells, |cell| &cell.fiat, FIATS);
    let (assets, assets_left_out) = largest(&cells, |cell| &cell.asset, ASSETS);
    let cells: Vec<Cell> = cells
        .into_iter()
        .filter(|cell| fiats.contains(&cell.fiat) && assets.contains(&cell.asset))
        .collect();
    // Of what is traded in the assets shown.
    fiats.retain(|fiat| cells.iter().any(|cell| cell.fiat == *fiat));
    let batch_id = Some(batch_id);
    Completeness { batch_id, fiats, assets, fiats_left_out, assets_left_out, cells }
}

fn largest(cells: &[Cell], name: impl Fn(&Cell) -> &String, most: usize) -> (Vec<String>, usize) {
    let mut sizes: HashMap<&String, i64> = HashMap::new();
    for cell in cells {
        *sizes.entry(name(cell)).or_default() += cell.ads;
    }
    let mut names: Vec<_> = sizes.into_iter().collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let left_out = names.len().saturating_sub(most);
    (names.into_iter().take(most).map(|(name, _)| name.clone()).collect(), left_out)
}

impl Cell {
    /// Which of the colours, worst first.
    fn heat(&self) -> &'static str {
        let Some(share) = self.completeness else { return "heat unknown" };
        match share {
            _ if share >= Decimal::ONE && self.lacking.is_empty() => "heat whole",
            _ if share >= Decimal::new(99, 2) => "heat high",
            _ if share >= Decimal::new(95, 2) => "heat mid",
            _ => "heat low",
        }
    }
}

pub(super) fn render(map: &Completeness) -> Markup {
    panel(
        "completeness",
        "Completeness",
        html! {
            @match map.batch_id {
                None => (empty("No batch has closed yet.")),
                Some(_) if map.cells.is_empty() => (empty("The last closed batch has no books.")),
                Some(id) => {
                    p.note {
                        "Ads read of those that were there, in batch " (id) ": both sides, largest markets first. "
                        "A mark says that a book is not complete."
                    }
                    @let (shown, more) = map.fiats.split_at(map.fiats.len().min(ROWS));
                    (table(map, shown, "Completeness by fiat and asset"))
                    @if !more.is_empty() {
                        details id="more-fiats" {
                            summary { (more.len()) " more fiats" }
                            (table(map, more, "Completeness of the other fiats"))
                        }
                    }
                    @if map.fiats_left_out + map.assets_left_out > 0 {
                        p.note {
                            "Not shown: " (map.fiats_left_out) " smaller fiats, " (map.assets_left_out) " smaller assets."
                        }
                    }
                },
            }
        },
    )
}

fn table(map: &Completeness, fiats: &[String], label: &str) -> Markup {
    let cells: HashMap<(&str, &str), &Cell> =
        map.cells.iter().map(|cell| ((cell.fiat.as_str(), cell.asset.as_str()), cell)).collect();
    html! {
        div.scroll role="group" aria-label=(label) tabindex="0" {
            table.heatmap {
                caption.unseen { (label) }
                thead { tr {
                    th scope="col" { "Fiat" }
                    @for asset in &map.assets { th scope="col" { (asset) } }
                } }
                tbody data-roving { @for fiat in fiats { tr {
                    th scope="row" { (fiat) }
                    @for asset in &map.assets {
                        @match cells.get(&(fiat.as_str(), asset.as_str())) {
                            Some(cell) => (render_cell(cell)),
                            None => td.none { span.unseen { "no market" } },
                        }
                    }
                } } }
            }
        }
    }
}

fn render_cell(cell: &Cell) -> Markup {
    let share = cell.completeness.map_or_else(|| UNKNOWN.to_owned(), percent);
    let lacking = cell.lacking.join(", ");
    html! {
        td class=(cell.heat()) {
            a href=(super::market::href(&cell.fiat, &cell.asset, "BUY")) id={ "cell-" (cell.fiat) "-" (cell.asset) } {
                (share)
                @if !cell.lacking.is_empty() { span.lack aria-hidden="true" { "!" } }
                span.tip {
                    (cell.asset) "/" (cell.fiat) ": " (count(cell.ads)) " ads"
                    @if cell.lacking.is_empty() { ", both sides good" } @else { ", " (lacking) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(fiat: &str, ads: i64) -> Cell {
        let (fiat, asset) = (fiat.to_owned(), "USDT".to_owned());
        Cell { fiat, asset, ads, completeness: Some(Decimal::ONE), lacking: Vec::new() }
    }

    #[test]
    fn the_largest_come_first_and_the_rest_is_counted() {
        let mut cells: Vec<Cell> = (0..150).map(|n| cell(&format!("F{n:03}"), n)).collect();
        cells.push(cell("VES", 1000));
        let map = arrange(1, cells);
        assert_eq!(
            (map.fiats[0].as_str(), map.fiats.len(), map.fiats_left_out),
            ("VES", FIATS, 31)
        );
        let text = render(&map).into_string();
        assert!(text.contains("108 more fiats") && text.contains("31 smaller fiats"), "{text}");
    }

    #[test]
    fn a_drifted_book_is_not_whole_though_no_ad_is_known_to_lack() {
        let drifted = Cell { lacking: vec!["BUY drifted".to_owned()], ..cell("VES", 5) };
        assert_eq!((cell("VES", 5).heat(), drifted.heat()), ("heat whole", "heat high"));
        assert_eq!(Cell { completeness: None, ..drifted }.heat(), "heat unknown");
    }
}
