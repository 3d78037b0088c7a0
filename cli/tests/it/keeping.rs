//! `p2p dictionary`, `p2p storage`, `p2p export`, and what the others say of days that were dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use crate::database::Database;
use crate::ops::text;

/// The committed dictionary is what the schema says, and nothing in the schema is silent.
#[tokio::test]
async fn the_dictionary_is_the_schema() {
    let db = Database::create().await;
    let (code, text) = db.text(&["dictionary", "--check"]);
    assert_eq!((code, text.as_str()), (0, ""));
    let (_, dictionary) = db.text(&["dictionary"]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/data-dictionary.md");
    let committed = std::fs::read_to_string(path).unwrap();
    let differs = dictionary.lines().zip(committed.lines()).find(|(new, old)| new != old);
    assert!(
        dictionary == committed,
        "docs/data-dictionary.md is stale, run `make dictionary`: {differs:?}"
    );
    // What the check is for.
    db.run("CREATE TABLE warehouse.silent (x integer)").await;
    db.run("COMMENT ON COLUMN warehouse.offer_versions.price IS 'Price.'").await;
    db.run("CREATE FUNCTION warehouse.mute() RETURNS integer LANGUAGE sql RETURN 1").await;
    let (code, text) = db.text(&["dictionary", "--check"]);
    assert_eq!(code, 3, "{text}");
    for part in [
        "relation warehouse.silent has no comment",
        "column warehouse.silent.x has no comment",
        "column warehouse.offer_versions.price names no field",
        "column warehouse.fact_offers.price names no field",
        "function warehouse.mute() has no comment",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    db.remove().await;
}

#[tokio::test]
async fn storage_tells_sizes_rows_and_bytes_per_reading() {
    let db = Database::create().await;
    let market = db.market("USDT", "VES").await;
    db.closed(1, "complete", None).await;
    db.book(1, market, "complete", [1, 1, 0, 0]).await;
    db.run("UPDATE pipeline.batches SET ads = 1000").await;
    db.run(
        "INSERT INTO pipeline.dropped_partitions VALUES
            ('warehouse', 'books_20200101', 'books', '2020-01-01', '2020-01-01', 4096, 7, now(), now()),
            ('warehouse', 'books_20200102', 'books', '2020-01-02', '2020-01-02', 4096, 7, now(), NULL)",
    )
    .await;
    let (code, storage) = db.json(&["storage"]);
    assert_eq!(code, 0);
    let relation = |name: &str| {
        let relations = storage["relations"].as_array().unwrap();
        relations.iter().find(|relation| relation["relation"] == name).unwrap().clone()
    };
    let books = relation("warehouse.books");
    assert_eq!((&books["rows"], &books["is_exact"]), (&json!(1), &json!(true)), "{books}");
    assert!(books["partitions"].as_i64().unwrap() >= 5 && books["oldest_day"].is_string());
    let parts: i64 = ["heap_bytes", "index_bytes", "toast_bytes"]
        .iter()
        .map(|part| books[*part].as_i64().unwrap())
        .sum();
    assert!(books["total_bytes"].as_i64().unwrap() >= parts, "{books}");
    assert_eq!(relation("warehouse.dim_exchanges")["partitions"], 0);
    let facts = &storage["facts"];
    assert_eq!((&facts["readings"], &facts["batches"]), (&json!(1000), &json!(1)));
    let bytes: i64 = ["offer_versions", "book_pages", "books"]
        .iter()
        .map(|name| relation(&format!("warehouse.{name}"))["total_bytes"].as_i64().unwrap())
        .sum();
    assert_eq!(facts["bytes"], bytes);
    assert_eq!(
        storage["dropped"],
        json!({"partitions": 1, "bytes": 4096, "last_day": "2020-01-01", "waiting": 1})
    );
    let (_, text) = db.text(&["storage"]);
    for part in ["bytes per reading", "dropped: 1 partition, 4.0 KiB, up to 2020-01-01"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    db.remove().await;
}

/// A day that was dropped is told from a day that was not read.
#[tokio::test]
async fn dropped_days_are_told() {
    let db = Database::create().await;
    db.leader(db.slot(3)).await;
    let id = db.closed(2, "complete", None).await;
    let (_, before) = db.json(&["gaps", "--since", "3d"]);
    assert!(before["dropped_through"].is_null(), "{before}");
    db.run(
        "INSERT INTO pipeline.dropped_partitions
         SELECT s, t || '_x', t, current_date - 2, current_date, 0, 0, now(), now()
           FROM (VALUES ('warehouse', 'books'), ('pipeline', 'jobs')) v (s, t)",
    )
    .await;
    let (_, after) = db.json(&["gaps", "--since", "3d"]);
    assert!(after["dropped_through"].is_string(), "{after}");
    let (_, text) = db.text(&["gaps", "--since", "3d"]);
    assert!(text.contains("were dropped by age"), "{text}");
    let (code, text) = db.text(&["batch", "show", &id.to_string()]);
    assert_eq!(code, 0);
    assert!(text.contains("The day of this batch was dropped"), "{text}");
    db.remove().await;
}

/// A market whose latest state went with its day was read once all the same.
#[tokio::test]
async fn a_market_without_a_latest_state_was_read_before() {
    let db = Database::create().await;
    db.leader(db.slot(3)).await;
    let market = db.market("USDT", "VES").await;
    db.closed(2, "partial", None).await;
    db.book(2, market, "failed", [1, 0, 1, 0]).await;
    let (_, never) = db.json(&["gaps"]);
    assert_eq!(never["markets"][0]["is_never_read"], true, "{never}");
    db.run("UPDATE pipeline.catalog SET last_read_at = now() - interval '40 d'").await;
    let (_, once) = db.json(&["gaps"]);
    assert_eq!(once["markets"][0]["is_never_read"], false, "{once}");
    assert!(once["markets"][0]["seconds"].as_i64().unwrap() > 39 * 86_400, "{once}");
    db.remove().await;
}

struct Out(PathBuf);

impl Out {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("export_{}_{name}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        Self(path)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Two ads of one page, one of them with everything that is odd, the other with every NULL there may be.
async fn fill(db: &Database, n: i64) -> (String, i32) {
    let market = db.market("USDT", "VES").await;
    let id = db.closed(n, "complete", None).await;
    db.book(n, market, "complete", [1, 1, 0, 0]).await;
    let day: String =
        sqlx::query_scalar("SELECT day::text FROM pipeline.batches WHERE batch_id = $1")
            .bind(id)
            .fetch_one(&db.pool)
            .await
            .unwrap();
    for sql in [
        "UPDATE warehouse.books SET distinct_ads = 2, estimated_missed = NULL",
        "INSERT INTO warehouse.dim_payment_methods (exchange_id, identifier, method_name, first_seen_at)
         VALUES (1, 'Bank', 'Bank', now()), (1, 'Zelle', 'Zelle', now())",
        "INSERT INTO warehouse.dim_advertisers (exchange_id, user_no, advertiser, is_merchant, is_pro_merchant,
                                                identity_hash, valid_from, is_current, figures_at, badges, completion_rate)
         VALUES (1, 's1', E'Ñandú 🦤 \"x\",\\n ', true, false, 1, now(), true, now(), '{a,NULL}', 0.123456789012345678901234567890)",
        "INSERT INTO warehouse.offer_versions
                (day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, available_amount,
                 min_limit, max_limit, payment_method_ids, tradable_quantity, terms, is_tradable)
         SELECT b.day, v.id, 1, 1, -1, '2026-01-01 00:00:00.123456Z', v.adv_no, v.price, 0.00000001, 0, 999999999999.99999999,
                v.methods, v.quantity, v.terms, v.flag
           FROM warehouse.books b, (VALUES (1, '12345678901234567890', 36.5, '{1,2}'::int[], 1.1, E'línea\\tuno', true),
                                           (2, '2', 0.00000001, '{}', NULL, NULL, NULL)) v (id, adv_no, price, methods, quantity, terms, flag)",
        "INSERT INTO warehouse.book_pages
                (day, batch_id, market_id, page, ordinal, fetched_at, offer_ids, active_minutes, promoted_position)
         SELECT day, batch_id, market_id, 1, 0, last_fetched_at, '{1,2}', '{NULL,5}', 1 FROM warehouse.books",
    ] {
        db.run(sql).await;
    }
    (day, id)
}

/// Rows of a file, by column, as text.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let reader = SerializedFileReader::try_from(path).unwrap();
    let row = |row: parquet::errors::Result<parquet::record::Row>| {
        let row = row.unwrap();
        row.get_column_iter().map(|(name, field)| (name.clone(), field.to_string())).collect()
    };
    reader.get_row_iter(None).unwrap().map(row).collect()
}

fn manifest(out: &Path, day: &str) -> Value {
    let text = std::fs::read_to_string(out.join(format!("day={day}/manifest.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn an_export_holds_every_row_and_is_the_same_again() {
    let db = Database::create().await;
    let (day, id) = fill(&db, 1).await;
    let out = Out::new("rows");
    let path = out.0.to_str().unwrap();
    let args = ["export", "--from", &day, "--to", &day, "--out", path];
    let (code, text) = db.text(&args);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 batch, 2 ads"), "{text}");
    let offers = rows(&out.0.join(format!("day={day}/offers.parquet")));
    assert_eq!(offers.len(), 2);
    let seen = |index: usize, column: &str| offers[index][column].clone();
    // The promoted one has no rank and comes first.
    for (column, first, second) in [
        ("offer_external_id", "\"12345678901234567890\"", "\"2\""),
        ("price", "36.50000000", "0.00000001"),
        ("max_limit", "999999999999.99999999", "999999999999.99999999"),
        ("tradable_quantity", "1.10000000", "null"),
        ("rank", "null", "1"),
        ("terms", "\"línea\tuno\"", "null"),
        ("is_tradable", "true", "null"),
        ("payment_method_ids", "[1, 2]", "[]"),
        ("payment_methods", "[\"Bank\", \"Zelle\"]", "[]"),
        ("advertiser_active_minutes", "null", "5"),
        ("advertiser", "\"Ñandú 🦤 \"x\",\n \"", "\"Ñandú 🦤 \"x\",\n \""),
        ("fiat_code", "\"VES\"", "\"VES\""),
        ("trade_type", "\"BUY\"", "\"BUY\""),
        ("user_no", "\"s1\"", "\"s1\""),
    ] {
        assert_eq!((seen(0, column), seen(1, column)), (first.into(), second.into()), "{column}");
    }
    let advertisers = rows(&out.0.join("dimensions/dim_advertisers.parquet"));
    assert_eq!(advertisers[0]["badges"], "[\"a\", null]");
    assert_eq!(advertisers[0]["completion_rate"], "\"0.123456789012345678901234567890\"");
    let first = manifest(&out.0, &day);
    assert_eq!(first["batches"][0]["batch_id"], id);
    assert_eq!(first["is_day_over"].as_bool().unwrap(), first["day"] != json!(today(&db).await));
    assert_eq!(first["completeness"]["ads"], 2);
    assert_eq!(first["completeness"]["books_complete"], 1);
    assert_eq!(first["completeness"]["books_unknown"], 1);
    assert_eq!(first["files"][0]["rows"], 2);
    // Again, over what a cut run left: the same bytes.
    std::fs::write(out.0.join(format!("day={day}/offers.parquet.partial")), "cut").unwrap();
    assert_eq!(db.text(&args).0, 0);
    assert_eq!(manifest(&out.0, &day), first);
    assert!(!out.0.join(format!("day={day}/offers.parquet.partial")).exists());
    // Only closed batches.
    db.run("UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL").await;
    assert_eq!(db.text(&args).0, 66);
    db.remove().await;
}

async fn today(db: &Database) -> String {
    sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::date::text")
        .fetch_one(&db.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_export_that_can_not_be_made_says_why() {
    let db = Database::create().await;
    let out = Out::new("errors");
    let path = out.0.to_str().unwrap();
    let export = |from: &str, to: &str, out: &str| {
        db.text(&["export", "--from", from, "--to", to, "--out", out])
    };
    let (code, text) = export("2026-01-02", "2026-01-01", path);
    assert!(code == 64 && text.contains("1 to 366 days"), "{code} {text}");
    assert_eq!(export("2024-01-01", "2026-01-01", path).0, 64);
    assert_eq!(export("2026-02-30", "2026-03-01", path).0, 64);
    let (code, text) = export("2026-01-01", "2026-01-02", path);
    assert!(code == 66 && text.contains("nothing to export"), "{code} {text}");
    assert!(!out.0.exists(), "nothing is written where nothing is to export");
    let (day, _) = fill(&db, 1).await;
    // Something else stands there.
    std::fs::create_dir_all(&out.0).unwrap();
    std::fs::write(out.0.join("thesis.doc"), "mine").unwrap();
    let (code, text) = export(&day, &day, path);
    assert!(code == 64 && text.contains("thesis.doc"), "{code} {text}");
    std::fs::remove_file(out.0.join("thesis.doc")).unwrap();
    let inside = out.0.join(format!("day={day}"));
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(inside.join("notes"), "mine").unwrap();
    let (code, text) = export(&day, &day, path);
    assert!(code == 64 && text.contains("notes"), "{code} {text}");
    assert!(!inside.join("manifest.json").exists());
    std::fs::remove_file(inside.join("notes")).unwrap();
    // A file stands where the directory would.
    let file = out.0.join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text) = export(&day, &day, file.to_str().unwrap());
    assert!(code == 1 && text.contains("make the directory"), "{code} {text}");
    std::fs::remove_file(&file).unwrap();
    // Two at once.
    let lock = std::fs::File::create(out.0.join(".p2p-export.lock")).unwrap();
    lock.lock().unwrap();
    let (code, text) = export(&day, &day, path);
    assert!(code == 64 && text.contains("another export"), "{code} {text}");
    drop(lock);
    // A day that cannot be written whole has no manifest.
    std::fs::create_dir_all(inside.join("books.parquet.partial")).unwrap();
    let (code, text) = export(&day, &day, path);
    assert!(code == 1 && text.contains("books.parquet.partial"), "{code} {text}");
    assert!(!inside.join("manifest.json").exists());
    std::fs::remove_dir(inside.join("books.parquet.partial")).unwrap();
    assert_eq!(export(&day, &day, path).0, 0);
    // Dropped by age is not the same as never read.
    db.run(
        "INSERT INTO pipeline.dropped_partitions
         SELECT 'warehouse', 'x', 'books', day - 1, day - 1, 0, 0, now(), now() FROM pipeline.batches",
    )
    .await;
    let before: String = sqlx::query_scalar("SELECT (day - 1)::text FROM pipeline.batches")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    let (code, text) = export(&before, &day, path);
    assert!(code == 3 && text.contains("dropped by age"), "{code} {text}");
    db.remove().await;
}

/// `p2p_writer` may not change facts, so where the owner's URL is told it is taken.
#[tokio::test]
async fn what_corrects_facts_does_it_as_the_owner() {
    let db = Database::create().await;
    let writer = db.url.replace("postgres@", "p2p_writer@");
    let nothing = ["replay", "--from", "1h", "--to", "1m", "--apply"];
    // Nothing is archived.
    for (args, done) in
        [(&nothing[..], 66), (&["replay", "--resume"], 0), (&["quarantine", "retry", "--all"], 0)]
    {
        let (code, told) = text(&[("DATABASE_URL", &writer)], args);
        assert!(code == 64 && told.contains("p2p_writer may not: run it as the owner"), "{told}");
        let both = [("DATABASE_URL", writer.as_str()), ("OWNER_DATABASE_URL", &db.url)];
        let (code, told) = text(&both, args);
        assert_eq!(code, done, "{args:?}: {told}");
    }
    // What only looks needs no owner.
    let away =
        [("DATABASE_URL", writer.as_str()), ("OWNER_DATABASE_URL", "postgres://h.invalid/d")];
    assert_eq!(text(&away, &["quarantine", "retry", "--all", "--dry-run"]).0, 0);
    db.remove().await;
}
