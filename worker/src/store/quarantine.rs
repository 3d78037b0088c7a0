//! What could not be taken, with its bytes.

use std::borrow::Cow;

use shared::domain::{BatchId, Refusal};
use shared::exchange::binance::PARSER_VERSION;
use shared::job::{EndState, Failure};
use sqlx::PgConnection;

use super::{StoreError, ToStore};
use crate::handler::{Ending, Facts};

/// Puts refused ads, and the answers of failed jobs, into quarantine.
pub(super) async fn insert(
    connection: &mut PgConnection,
    group: &[&ToStore],
) -> Result<(), StoreError> {
    for one in group {
        for entry in entries(&one.ending) {
            entry.insert(connection, one.job.batch_id, one.job.ordinal).await?;
        }
    }
    Ok(())
}

fn entries(ending: &Ending) -> Vec<Entry<'_>> {
    match (&ending.facts, &ending.answer) {
        (Facts::Page(page), _) => page.refusals.iter().map(Entry::of_ad).collect(),
        (Facts::Advertiser(page), _) => page.refusals.iter().map(Entry::of_ad).collect(),
        (_, Some(answer)) if ending.state == EndState::Failed && !is_void(ending) => {
            let reason = ending.reason.unwrap_or_default();
            let detail = ending.detail.as_deref().unwrap_or_default();
            match answer.body() {
                Ok(body) => vec![Entry::of_answer(reason, detail, body)],
                // What this worker packed itself a moment ago. The job's end must not be lost for it.
                Err(error) => {
                    tracing::error!(%error, "the body of an answer is lost");
                    let detail = Cow::Owned(format!("{detail} (its body is lost: {error})"));
                    vec![Entry { detail, ..Entry::of_answer(reason, "", Cow::default()) }]
                }
            }
        }
        _ => Vec::new(),
    }
}

/// Whether the exchange gave no answer to what was asked: no parser will ever take one of these.
fn is_void(ending: &Ending) -> bool {
    const VOID: [Failure; 4] =
        [Failure::RateLimited, Failure::ServerError, Failure::Redirect, Failure::EmptyBody];
    VOID.iter().any(|failure| ending.reason == Some(failure.as_str()))
}

pub(crate) struct Entry<'a> {
    scope: &'static str,
    position: Option<i32>,
    adv_no: Option<&'a str>,
    reason: &'static str,
    field: Option<&'a str>,
    detail: Cow<'a, str>,
    body: Cow<'a, [u8]>,
}

impl<'a> Entry<'a> {
    pub(crate) fn of_answer(reason: &'static str, detail: &'a str, body: Cow<'a, [u8]>) -> Self {
        Self {
            scope: "answer",
            position: None,
            adv_no: None,
            reason,
            field: None,
            detail: Cow::Borrowed(detail),
            body,
        }
    }

    pub(crate) fn of_ad(refusal: &'a Refusal) -> Self {
        Self {
            scope: "ad",
            position: i32::try_from(refusal.position).ok(),
            // Text from an ad that was refused may hold what a database can't.
            adv_no: refusal.adv_no.as_deref().filter(|text| !text.contains('\0')),
            reason: refusal.reason.as_str(),
            field: refusal.field.as_deref(),
            detail: Cow::Borrowed(&refusal.detail),
            body: Cow::Borrowed(&refusal.raw),
        }
    }

    /// One by one: refusals are rare, and a flood of them is bounded by the size of a page. What is there
    /// already, with the same bytes at the same place, is the same refusal.
    pub(crate) async fn insert(
        self,
        connection: &mut PgConnection,
        batch_id: BatchId,
        ordinal: u32,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO pipeline.quarantine
                    (day, batch_id, ordinal, scope, position, adv_no, reason, field, detail,
                     parser_version, body, quarantined_at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now()
              WHERE NOT EXISTS (SELECT FROM pipeline.quarantine
                                 WHERE day = $1 AND batch_id = $2 AND ordinal = $3 AND scope = $4
                                   AND position IS NOT DISTINCT FROM $5 AND body = $11)",
        )
        .bind(batch_id.day())
        .bind(batch_id.raw())
        .bind(ordinal.cast_signed())
        .bind(self.scope)
        .bind(self.position)
        .bind(self.adv_no)
        .bind(self.reason)
        .bind(self.field)
        .bind(self.detail.replace('\0', "\u{fffd}"))
        .bind(PARSER_VERSION)
        .bind(self.body.as_ref())
        .execute(connection)
        .await?;
        Ok(())
    }
}
