//! What the quality checks said of the last batch that was checked.

use maud::{Markup, html};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::panel::{Mark, empty, panel};

/// What one check said of a batch.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Verdict {
    pub batch_id: i32,
    pub check_name: String,
    pub verdict: String,
    /// `fatal` or `warning`.
    pub level: String,
    /// `None`: nothing could be measured.
    #[serde(with = "rust_decimal::serde::str_option")]
    pub value: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::str")]
    pub threshold: Decimal,
    /// Why nothing can be said.
    pub reason: Option<String>,
}

/// Verdicts of the newest batch that has some; empty: none has.
pub(super) async fn list(db: &mut PgConnection) -> Result<Vec<Verdict>, sqlx::Error> {
    sqlx::query_as(
        "SELECT q.batch_id, q.check_name, q.verdict, q.level, trim_scale(q.value) AS value,
                trim_scale(q.threshold) AS threshold, q.reason
           FROM (SELECT day, batch_id FROM pipeline.quality_results ORDER BY day DESC, batch_id DESC LIMIT 1) last
           JOIN pipeline.quality_results q USING (day, batch_id)
          ORDER BY array_position(ARRAY['fail', 'warn', 'unknown'], q.verdict), q.check_name",
    )
    .fetch_all(db)
    .await
}

pub(super) fn render(verdicts: &[Verdict]) -> Markup {
    panel(
        "quality",
        "Quality",
        html! {
            @if let Some(first) = verdicts.first() {
                p.note { "Of batch " (first.batch_id) "." }
                ul.verdicts {
                    @for verdict in verdicts { li {
                        @match verdict.verdict.as_str() {
                            "pass" => (Mark::Good),
                            "fail" => (Mark::Bad),
                            _ => (Mark::Warn),
                        }
                        " " strong { (verdict.check_name.replace('_', " ")) } ": " (verdict.verdict)
                        @if let Some(value) = verdict.value {
                            span.note { " (" (value.round_dp(4).normalize()) ", threshold " (verdict.threshold.normalize()) ")" }
                        }
                        @if let Some(reason) = &verdict.reason { span.note { " " (reason) } }
                    } }
                }
            } @else {
                (empty("No batch was checked yet."))
            }
        },
    )
}
