//! What an archived ad costs in bytes and time, by how hard zstd tries and what it knows beforehand.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Result, ensure};
use load_tests::fleet::Fleet;
use shared::archive::{Dictionary, Packer, Samples, Transcript};
use sqlx::Row;
use zstd::bulk::Compressor;
use zstd::dict::EncoderDictionary;

use crate::archived::Unpacker;
use crate::figures::Figures;
use crate::meter;

/// Pages that a dictionary is trained on, as the coordinator does.
const SAMPLES: usize = 400;
/// Levels of zstd that are measured beside our settings.
const LEVELS: [i32; 4] = [1, 3, 6, 9];
/// Pages that are packed, from all over the batch.
const MEASURED: usize = 400;
/// Times that all of them are packed, after one that warms up.
const ROUNDS: u32 = 3;

/// A page, as it would stand in a frame.
struct Page {
    key: (i32, i32),
    ads: f64,
    transcript: Transcript,
}

/// Packs a page, given its index and how it stands in a frame; the bytes that it takes.
type Pack<'a> = &'a mut dyn FnMut(usize, &Page, &[u8]) -> Result<usize>;

impl Page {
    fn whole(&self) -> Vec<u8> {
        let Transcript { request, headers, body } = &self.transcript;
        [request.as_slice(), headers, body].concat()
    }
}

/// Packs the pages of `batch`, with a dictionary of those of the batch `before` and with the page's own
/// reading then.
pub(crate) async fn measure(fleet: &Fleet, before: i32, batch: i32) -> Result<Figures> {
    let (before, all) = (pages(fleet, before).await?, pages(fleet, batch).await?);
    ensure!(!all.is_empty(), "nothing is archived of batch {batch}");
    let pages: Vec<&Page> = all.iter().step_by(all.len().div_ceil(MEASURED)).collect();
    let ads: f64 = pages.iter().map(|page| page.ads).sum();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = pages.len() as f64;
    let mut figures = Figures::new();
    let mut time = |name: &str, pack: Pack<'_>| {
        let wholes: Vec<Vec<u8>> = pages.iter().map(|page| page.whole()).collect();
        let (mut bytes, mut from) = (0, 0.0);
        for round in 0..=ROUNDS {
            if round == 1 {
                from = meter::own()?;
            }
            bytes = 0;
            for (index, (page, whole)) in pages.iter().zip(&wholes).enumerate() {
                bytes += pack(index, page, whole)?;
            }
        }
        let cpu = (meter::own()? - from) / f64::from(ROUNDS);
        figures.insert(format!("packed us a page, {name}"), cpu / count * 1e6);
        #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
        figures.insert(format!("packed bytes an ad, {name}"), bytes as f64 / ads);
        anyhow::Ok(())
    };
    let step = before.len().div_ceil(SAMPLES).max(1);
    let samples: Samples = before.iter().step_by(step).map(|page| &page.transcript).collect();
    let trained = samples.train()?;
    let packer = Packer::new(Some(Arc::new(Dictionary::new(&trained)?)))?;
    time("as workers do", &mut |_, page, _| Ok(black_box(packer.pack(&page.transcript)?).len()))?;
    let packer = Packer::new(None)?;
    time("no dictionary", &mut |_, page, _| Ok(black_box(packer.pack(&page.transcript)?).len()))?;
    for level in LEVELS {
        let prepared = EncoderDictionary::copy(&trained, level);
        let mut compressor = Compressor::with_prepared_dictionary(&prepared)?;
        let name = format!("level {level}");
        time(&name, &mut |_, _, whole| Ok(black_box(compressor.compress(whole)?).len()))?;
    }
    let known: HashMap<(i32, i32), Vec<u8>> =
        before.iter().map(|page| (page.key, page.whole())).collect();
    let none = Vec::new();
    let earlier: Vec<&Vec<u8>> =
        pages.iter().map(|page| known.get(&page.key).unwrap_or(&none)).collect();
    for level in LEVELS {
        let mut compressor = Compressor::new(level)?;
        let name = format!("reading before, level {level}");
        time(&name, &mut |index, _, whole| {
            compressor.set_dictionary(level, earlier[index])?;
            Ok(black_box(compressor.compress(whole)?).len())
        })?;
    }
    Ok(figures)
}

/// The archived pages of a batch that show ads.
async fn pages(fleet: &Fleet, batch: i32) -> Result<Vec<Page>> {
    let rows = sqlx::query(
        "SELECT j.market_id, j.page::integer AS page, r.ads::float8 AS ads, r.content, r.request_bytes,
                r.headers_bytes, r.body_bytes, r.dictionary_id
           FROM pipeline.jobs j JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
          WHERE j.batch_id = $1 AND j.kind = 'search' AND r.ads > 0
          ORDER BY j.ordinal",
    )
    .bind(batch)
    .fetch_all(&fleet.pool)
    .await?;
    let mut unpacker = Unpacker::new(&fleet.pool);
    let mut pages = Vec::with_capacity(rows.len());
    for row in rows {
        pages.push(Page {
            key: (row.try_get("market_id")?, row.try_get("page")?),
            ads: row.try_get("ads")?,
            transcript: unpacker.transcript(&row).await?,
        });
    }
    Ok(pages)
}
