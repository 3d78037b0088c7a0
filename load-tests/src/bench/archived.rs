//! Archived answers, unpacked.

use anyhow::{Context, Result};
use shared::archive::{Dictionary, Lengths, Transcript, unpack};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

/// Unpacks rows of `pipeline.raw_pages`, one after the other; keeps the dictionary of the last.
pub(crate) struct Unpacker<'a> {
    pool: &'a PgPool,
    dictionary: Option<Dictionary>,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(pool: &'a PgPool) -> Self {
        Self { pool, dictionary: None }
    }

    /// The answer of a row with `content`, `request_bytes`, `headers_bytes`, `body_bytes` and `dictionary_id`.
    pub(crate) async fn transcript(&mut self, row: &PgRow) -> Result<Transcript> {
        let id: Option<i32> = row.try_get("dictionary_id")?;
        if let Some(id) = id
            && self.dictionary.as_ref().is_none_or(|known| known.id() != id)
        {
            self.dictionary = Some(Dictionary::load(self.pool, id).await?);
        }
        let [request, headers, body] =
            ["request_bytes", "headers_bytes", "body_bytes"].map(|name| row.try_get(name));
        let lengths = Lengths::from_columns(request?, headers?, body?).context("lengths")?;
        let content: Vec<u8> = row.try_get("content")?;
        Ok(unpack(&content, lengths, self.dictionary.as_ref().filter(|_| id.is_some()))?)
    }
}
