//! What waits for its transaction is packed already.

use chrono::Utc;
use shared::archive::{Dictionary, Lengths, Samples, Transcript, unpack};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use sqlx::PgPool;
use worker::client::Answer;
use worker::store::archive::Archive;
use worker::store::{Store, ToStore};

use crate::contents::publish;
use crate::identity::{ad, advertiser, page_of};
use crate::{make_day, settings};

fn transcript(number: usize) -> Transcript {
    let body = format!("{{\"advNo\":\"{number}\",\"asset\":\"USDT\",\"fiat\":\"VES\"}}");
    let request = b"POST /search\n{}".to_vec();
    Transcript { request, headers: b"content-type: application/json".to_vec(), body: body.into() }
}

/// A page of a batch of today, whose job is out, with the answer that it was read from.
async fn waiting(pool: &PgPool, archive: &Archive, batch: u16, sent: &Transcript) -> ToStore {
    let at = Utc::now();
    let mut one = page_of(vec![ad(advertiser("somebody", 1))], at);
    one.job.batch_id = BatchId::new(at.date_naive(), batch.into()).unwrap();
    publish(pool, &one.job).await;
    let answer = Answer { status: 200, transcript: sent.clone(), fetched_at: at };
    one.ending.answer = Some(archive.pack(&one.job.work, answer));
    one
}

/// A dictionary that comes while an answer waits, after which the one of before may be deleted: the answer is
/// stored with the new one, and its bytes are what they were.
#[sqlx::test(migrations = "../migrations")]
async fn what_waits_is_packed_with_the_dictionary_of_its_transaction(pool: PgPool) {
    make_day(&pool, Utc::now().date_naive()).await;
    let archive = Archive::new().unwrap();
    let mut store = Store::new(pool.clone(), &settings(&[]), archive.clone());
    for batch in 1..=3_u16 {
        // Packed with the dictionary of the batch before, if there was any.
        let sent = transcript(batch.into());
        let one = waiting(&pool, &archive, batch, &sent).await;
        let mut samples = Samples::default();
        (0..500).for_each(|n| samples.add(&transcript(n * usize::from(batch) + 10)));
        let content = samples.train().unwrap();
        let trained = Dictionary::new(&content).unwrap().id();
        sqlx::query(
            "INSERT INTO pipeline.raw_dictionaries
                    (dictionary_id, exchange_id, content, trained_at, samples, test_ads, test_bytes,
                     test_bytes_plain, test_bytes_trained)
             VALUES ($1, $2, $3, clock_timestamp(), 1, 1, 1, 1, 1)",
        )
        .bind(trained)
        .bind(Exchange::Binance.id())
        .bind(content)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query("DELETE FROM pipeline.raw_dictionaries WHERE dictionary_id <> $1")
            .bind(trained)
            .execute(&pool)
            .await
            .unwrap();
        let (day, raw) = (one.job.batch_id.day(), one.job.batch_id.raw());
        store.store(&[one]).await.unwrap();
        let (id, request, headers, body, content): (Option<i32>, i32, i32, i32, Vec<u8>) = sqlx::query_as(
            "SELECT dictionary_id, request_bytes, headers_bytes, body_bytes, content FROM pipeline.raw_pages
              WHERE day = $1 AND batch_id = $2",
        )
        .bind(day)
        .bind(raw)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(id, Some(trained), "batch {batch}");
        let dictionary = Dictionary::load(&pool, trained).await.unwrap();
        let lengths = Lengths::from_columns(request, headers, body).unwrap();
        assert_eq!(unpack(&content, lengths, Some(&dictionary)).unwrap(), sent, "batch {batch}");
    }
}

/// While the archive is suspended nothing is packed. An answer that waits when it is resumed is archived whole.
#[sqlx::test(migrations = "../migrations")]
async fn what_waits_when_the_archive_is_resumed_is_archived(pool: PgPool) {
    make_day(&pool, Utc::now().date_naive()).await;
    sqlx::query(
        "INSERT INTO pipeline.raw_suspensions (exchange_id, reason, from_at, bytes, budget_bytes)
         VALUES ($1, 'off', clock_timestamp(), 0, 0)",
    )
    .bind(Exchange::Binance.id())
    .execute(&pool)
    .await
    .unwrap();
    let archive = Archive::new().unwrap();
    archive.refresh(&mut pool.acquire().await.unwrap(), Exchange::Binance).await.unwrap();
    let mut store = Store::new(pool.clone(), &settings(&[]), archive.clone());
    for (batch, archived) in [(1_u16, 0), (2, 1)] {
        let sent = transcript(batch.into());
        let one = waiting(&pool, &archive, batch, &sent).await;
        store.store(&[one]).await.unwrap();
        let rows: Vec<(i32, i32, i32, Vec<u8>)> = sqlx::query_as(
            "SELECT request_bytes, headers_bytes, body_bytes, content FROM pipeline.raw_pages",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        assert_eq!(rows.len(), archived, "batch {batch}");
        for (request, headers, body, content) in rows {
            let lengths = Lengths::from_columns(request, headers, body).unwrap();
            assert_eq!(unpack(&content, lengths, None).unwrap(), sent);
        }
        sqlx::query("UPDATE pipeline.raw_suspensions SET to_at = clock_timestamp()")
            .execute(&pool)
            .await
            .unwrap();
    }
}
