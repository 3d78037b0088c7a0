//! The functions of the warehouse and the commands that print them, on the small market, with numbers
//! computed by hand; and every query of `docs/queries.md` as it stands there.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};

use crate::market::Market;

impl Market {
    /// Rows of a query as JSON, numbers as text so that no digit is lost. `{day}` is the day of the market.
    async fn ask(&self, columns: &str, call: &str) -> Value {
        let call = call.replace("{day}", &self.day.to_string());
        let parts: Vec<&str> = columns.split(", ").collect();
        let list: Vec<String> = parts.iter().map(|column| format!("({column})::text")).collect();
        let sql = format!(
            "SELECT coalesce(jsonb_agg(jsonb_build_array({}) ORDER BY n), '[]')
               FROM (SELECT *, row_number() OVER () AS n FROM warehouse.{call}) q",
            list.join(", ")
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.db.pool).await.unwrap()
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn the_functions_answer_what_a_hand_computes() {
    let market = Market::create().await;
    let cases = [
        // The book as of a moment.
        (
            "verdict, completeness, ads, age, has_ads",
            "book_certificate('VES', 'USDT', 'BUY', '{day} 10:05Z')",
            json!([["complete", "1.00000", "3", "00:04:30", "true"]]),
        ),
        (
            "verdict, completeness, ads, age",
            "book_certificate('VES', 'USDT', 'BUY', '{day} 10:25Z')",
            json!([["drifted", "0.50000", "1", "00:04:30"]]),
        ),
        ("verdict", "book_certificate('VES', 'USDT', 'BUY', '{day} 10:00Z')", json!([])),
        (
            "place, price, available_amount, payment_methods, advertiser, month_order_count, verdict",
            "book('VES', 'USDT', 'BUY', '{day} 10:05Z')",
            json!([
                ["1", "100", "10", "{PagoMovil}", "alice", "120", "complete"],
                ["2", "102", "20", "{Banesco,PagoMovil}", "bob", "5", "complete"],
                ["3", "105", "100", "{Banesco}", "carol", "900", "complete"]
            ]),
        ),
        (
            "place, price",
            "book('VES', 'USDT', 'SELL', '{day} 10:05Z')",
            json!([["1", "98"], ["2", "95"]]),
        ),
        // History.
        (
            "(at AT TIME ZONE 'UTC')::time, complete_books, last_best_price, median_price, spread_ratio, outflow_lower, outflow_upper",
            "price_history('VES', 'USDT', 'BUY', '{day} 00:00Z', '{day} 23:59Z', 'batch')",
            json!([
                ["10:00:00", "1", "100", "102", "0.02020202", null, null],
                ["10:10:00", "1", "100", "101", "0.02020202", "6", "26"],
                ["10:20:00", "0", "1", "1", null, null, null],
                ["11:00:00", "1", "100", "101", "0.02020202", "0", "0"]
            ]),
        ),
        (
            "(at AT TIME ZONE 'UTC')::time, books, complete_books, first_best_price, min_best_price, max_best_price, last_best_price, mean_best_price, median_price, ads, spread_ratio, outflow_lower, outflow_upper",
            "price_history('VES', 'USDT', 'BUY', '{day} 10:30Z', '{day} 12:00Z', 'hour')",
            json!([
                [
                    "10:00:00",
                    "3",
                    "2",
                    "100",
                    "1",
                    "100",
                    "1",
                    "67",
                    "68",
                    "2.333333333333",
                    "0.02020202",
                    "6",
                    "26"
                ],
                [
                    "11:00:00",
                    "1",
                    "1",
                    "100",
                    "100",
                    "100",
                    "100",
                    "100",
                    "101",
                    "3",
                    "0.02020202",
                    "0",
                    "0"
                ]
            ]),
        ),
        (
            "books, complete_books, first_best_price, last_best_price, mean_best_price, outflow_lower, outflow_upper",
            "price_history('VES', 'USDT', 'BUY', '{day} 00:00Z', '{day} 00:00Z', 'day')",
            json!([["4", "3", "100", "100", "75.25", "6", "26"]]),
        ),
        // Payment methods.
        (
            "identifier, ads, available_amount, best_price, median_price, best_premium, median_premium",
            "payment_method_prices('VES', 'USDT', 'BUY', '{day} 10:05Z')",
            json!([
                ["Banesco", "2", "120", "102", "103.5", "0.02", "0.01470588"],
                ["PagoMovil", "2", "30", "100", "101", "0", "-0.00980392"]
            ]),
        ),
        (
            "identifier, books, mean_median_price, volatility",
            "payment_method_volatility('VES', 'USDT', 'BUY', '{day} 10:00Z', '{day} 10:15Z')",
            json!([
                ["Banesco", "2", "104.25", "1.06066017"],
                ["PagoMovil", "2", "100.75", "0.35355339"]
            ]),
        ),
        // Advertisers.
        (
            "user_no, advertiser, is_current",
            "find_advertisers('alicia')",
            json!([["u1", "alicia", "false"], ["u1", "alice", "true"]]),
        ),
        (
            "trade_type, books, uptime, best_ratio, ads_max, min_price, max_price, mean_amount, amount_share, outflow_lower, outflow_upper",
            "merchant_history('u1', '{day}', '{day}')",
            json!([
                [
                    "BUY",
                    "3",
                    "1.00000",
                    "1.00000",
                    "2",
                    "100",
                    "101",
                    "39.33333333",
                    "0.26940639",
                    "6",
                    "6"
                ],
                ["SELL", "4", "1.00000", "0.00000", "1", "95", "95", "40", "0.57142857", "0", "0"]
            ]),
        ),
        (
            "user_no, uptime, amount_share, best_ratio, outflow_lower, outflow_upper, outflow_share_upper",
            "market_shares('VES', 'USDT', 'BUY', '{day}', '{day}')",
            json!([
                ["u3", "1.00000", "0.68493151", "0.00000", "0", "0", "0"],
                ["u1", "1.00000", "0.26940639", "1.00000", "6", "6", "0.23076923"],
                ["u2", "0.33333", "0.0456621", "0.00000", "0", "20", "0.76923077"],
                ["u4", "0.00000", "0", null, "0", "0", "0"]
            ]),
        ),
        (
            "user_no, buy_uptime, sell_uptime, sell_amount_share",
            "market_makers('VES', 'USDT', '{day}', '{day}')",
            json!([
                ["u3", "1.00000", "1.00000", "0.42857143"],
                ["u1", "1.00000", "1.00000", "0.57142857"]
            ]),
        ),
        // Arbitrage.
        (
            "fiat_code, crypto_symbol, buy_price, sell_price, gain, depth",
            "arbitrage_sides('{day} 12:00Z')",
            json!([
                ["VES", "BTC", "10000000", "9900000", "-0.01", "2"],
                ["BOB", "BTC", "700000", "690000", "-0.01428571", "2"],
                ["VES", "USDT", "100", "98", "-0.02", "30"],
                ["BOB", "USDT", "7", "6", "-0.14285714", "200"]
            ]),
        ),
        // C is drifted, and its price of 1 is nowhere.
        (
            "fiat_code, crypto_symbol",
            "arbitrage_sides('{day} 10:30Z')",
            json!([["VES", "BTC"], ["BOB", "BTC"], ["BOB", "USDT"]]),
        ),
        (
            "from_fiat, to_fiat, asset_out, asset_back, rate, back_rate, gain",
            "arbitrage_fiats('{day} 12:00Z')",
            json!([["BOB", "VES", "BTC", "BTC", "14.142857142857", "0.069", "-0.02414286"]]),
        ),
        (
            "from_asset, to_asset, fiat_out, fiat_back, rate, back_rate, gain",
            "arbitrage_assets('{day} 12:00Z')",
            json!([["BTC", "USDT", "VES", "VES", "99000", "0.0000098", "-0.0298"]]),
        ),
        (
            "fiat_out, fiat_back, gain",
            "arbitrage_assets('{day} 10:30Z')",
            json!([["BOB", "VES", "-0.034"]]),
        ),
    ];
    let mut wrong = Vec::new();
    for (columns, call, expected) in cases {
        let answer = market.ask(columns, call).await;
        if answer != expected {
            wrong.push(format!("{call}\n  is        {answer}\n  should be {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    market.db.remove().await;
}

#[tokio::test]
async fn a_quote_walks_the_book_within_limits() {
    let market = Market::create().await;
    let cases = [
        // 800 of the best and the rest of the next: 153000 / 1516.
        ("1500, at => '{day} 10:05Z'", json!(["100.92348285", "{800,700}", "12800"])),
        // 200 would be too little for the second: the first gives back. 102000 / 1010.
        ("1000, at => '{day} 10:05Z'", json!(["100.99009901", "{500,500}", "12800"])),
        (
            "1000, payment_methods => '{Banesco}', at => '{day} 10:05Z'",
            json!(["102", "{1000}", "12000"]),
        ),
        // 200 are too little for the third, and the first can't give back enough: it is left out.
        ("1000, merchants_only => true, at => '{day} 10:05Z'", json!(["105", "{1000}", "10800"])),
        // At least 500/102 USDT of the second, rounded up.
        (
            "10, unit => 'asset', at => '{day} 10:05Z'",
            json!(["100.98039216", "{5.09803921,4.90196079}", "122.84593836"]),
        ),
        ("13000, at => '{day} 10:05Z'", json!([null, null, "12800"])),
        ("50, at => '{day} 10:05Z'", json!([null, null, "12800"])),
        // Ten minutes later: 151500 / 1504.
        ("1500, at => '{day} 10:15Z'", json!(["100.73138298", "{400,1100}", "15400"])),
    ];
    for (arguments, expected) in cases {
        let call = format!("quote('VES', 'USDT', 'BUY', {arguments})");
        assert_eq!(
            market.ask("price, amounts, capacity", &call).await,
            json!([expected]),
            "{call}"
        );
    }
    let sell = "quote('VES', 'USDT', 'SELL', 35, unit => 'asset', at => '{day} 10:05Z')";
    // 30 at 98 and 5 at 95.
    let columns = "price, orders, fiat_amount, asset_amount, best_price, worst_price";
    assert_eq!(
        market.ask(columns, sell).await,
        json!([["97.57142857", "2", "3415", "35", "98", "95"]])
    );
    assert_eq!(
        market
            .ask("price, verdict", "quote_history('VES', 'USDT', 'BUY', 1500, '{day} 09:55Z', '{day} 10:25Z', '10 min')")
            .await,
        json!([[null, null], ["100.92348285", "complete"], ["100.73138298", "complete"], [null, "drifted"]])
    );
    market.db.remove().await;
}

#[tokio::test]
async fn the_commands_tell_the_same() {
    let market = Market::create().await;
    let db = &market.db;
    let five_past = market.arg("10:05");
    let usdt = ["VES", "USDT", "BUY"];
    let run = |command: &str, rest: &[&str]| db.text(&[&[command], usdt.as_slice(), rest].concat());
    let json =
        |command: &str, rest: &[&str]| db.json(&[&[command], usdt.as_slice(), rest].concat());

    let (code, book) = json("book", &["--at", &five_past, "--limit", "2"]);
    assert_eq!((code, &book["certificate"]["verdict"]), (0, &json!("complete")));
    assert_eq!(book["ads"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&book["ads"][0]["price"], &book["ads"][1]["available_amount"]),
        (&json!("100"), &json!("20"))
    );
    // Within 5 %: all, 130 USDT up to 105.
    assert_eq!(
        book["depth"][3],
        json!({ "worse_percent": 5, "price": "105", "ads": 3, "amount": "130" })
    );
    let (_, text) = run("book", &["--at", &five_past, "--limit", "2"]);
    for part in [
        "USDT/VES BUY: complete, 100% of its ads, 3 ads",
        "alice (merchant)",
        "98.5%",
        "and 1 more",
        "█",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (code, text) = run("book", &["--at", &market.arg("09:00")]);
    assert_eq!(code, 66);
    assert!(text.contains("no book of USDT/VES BUY was read by"), "{text}");
    let (code, text) = db.text(&["book", "XXX", "USDT", "BUY"]);
    assert_eq!(
        (code, text.as_str()),
        (66, "p2p: fiat 'XXX' is not known (See dim_fiat_currencies; codes are in capitals)\n")
    );
    assert_eq!(db.text(&["book", "VES", "USDT", "KEEP"]).0, 64);
    assert_eq!(run("book", &["--at", "whenever"]).0, 64);

    let (code, quote) = json("quote", &["1000", "--at", &five_past]);
    assert_eq!(
        (code, &quote["price"], &quote["slippage"]),
        (0, &json!("100.99009901"), &json!("0.00990099"))
    );
    assert_eq!(quote["orders"][1]["amount"], "500");
    let (code, text) = run("quote", &["1000", "--merchants", "--at", &five_past]);
    assert_eq!(code, 0);
    assert!(text.contains("105 VES each, in 1 order, 5% worse than the best price 100"), "{text}");
    let (code, text) = run("quote", &["13000", "--method", "Banesco", "--at", &five_past]);
    assert_eq!(code, 3);
    assert!(text.contains("too thin: no orders make up 13000 VES; all ads by Banesco together could take 12000 VES at most"), "{text}");
    let (code, quote) = json("quote", &["13000", "--at", &five_past]);
    assert_eq!((code, &quote["price"], &quote["capacity"]), (3, &Value::Null, &json!("12800")));
    assert_eq!(run("quote", &["10", "--method", "Cash"]).0, 66);
    assert_eq!(run("quote", &["0"]).0, 64);
    assert_eq!(run("quote", &["10", "--from", "1h", "--step", "5s"]).0, 64);
    let (code, quotes) = json(
        "quote",
        &["1500", "--from", &market.arg("09:55"), "--to", &market.arg("10:25"), "--step", "10m"],
    );
    assert_eq!(
        (code, &quotes["steps"][2]["price"], &quotes["steps"][3]["price"]),
        (0, &json!("100.73138298"), &Value::Null)
    );
    let (_, text) = run(
        "quote",
        &["1500", "--from", &market.arg("09:55"), "--to", &market.arg("10:25"), "--step", "10m"],
    );
    assert!(
        text.contains("·█▁·") && text.contains("no book") && text.contains("drifted, too thin: 1"),
        "{text}"
    );
    market.db.remove().await;
}

#[tokio::test]
async fn gaps_and_names_are_told() {
    let market = Market::create().await;
    let db = &market.db;
    let usdt = ["history", "VES", "USDT", "BUY"];
    let run = |rest: &[&str]| db.text(&[usdt.as_slice(), rest].concat());
    let json = |rest: &[&str]| db.json(&[usdt.as_slice(), rest].concat());
    let (nine, noon) = (market.arg("09:00"), market.arg("11:59"));
    let (code, hours) = json(&["--from", &nine, "--to", &noon]);
    assert_eq!((code, &hours["gaps"]), (0, &json!(1)));
    assert_eq!(
        (&hours["steps"][0]["gap"], &hours["steps"][1]["mean_best_price"]),
        (&json!("no book"), &json!("67"))
    );
    let (_, batches) = json(&["--from", &nine, "--to", &noon, "--by", "batch"]);
    assert_eq!(
        (&batches["steps"][2]["gap"], &batches["steps"][2]["last_best_price"]),
        (&json!("drifted"), &json!("1"))
    );
    let (_, days) = json(&["--by", "day"]);
    assert_eq!(days["steps"].as_array().unwrap().len(), 31);
    let (_, text) = run(&["--by", "day"]);
    assert!(
        text.contains("30 without a complete book") && text.contains("no book: 29 days"),
        "{text}"
    );
    let day_before = (market.day - chrono::TimeDelta::days(1)).to_string();
    assert_eq!(run(&["--from", &day_before, "--to", &day_before]).0, 66);

    let (code, alice) = db.json(&["merchant", "alicia"]);
    assert_eq!((code, &alice["advertisers"][0]["versions"][1]["advertiser"]), (0, &json!("alice")));
    assert_eq!(
        (&alice["days"][0]["amount_share"], &alice["days"][0]["uptime"]),
        (&json!("0.26940639"), &json!("1.00000"))
    );
    let (_, text) = db.text(&["merchant", "u1"]);
    for part in ["alicia", "USDT/VES BUY", "26.94%", "10:00-11:00"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (code, text) = db.text(&["merchant", "bob"]);
    assert_eq!(code, 3);
    assert!(
        text.contains("2 advertisers") && text.contains("userNo u2") && text.contains("userNo u4"),
        "{text}"
    );
    assert_eq!(db.text(&["merchant", "nobody"]).0, 66);
    market.db.remove().await;
}

/// A book of which every page was read answers though an ad of it was refused, as it is the latest state; one that lost a
/// page does not. Flows are counted between complete books: an ad that was refused is not gone.
#[tokio::test]
async fn a_refused_ad_hides_no_book() {
    let market = Market::create().await;
    let kept = ("a1", "u1", 100, 4, [100, 800], ["PagoMovil"].as_slice());
    let back = ("a3", "u3", 105, 100, [1000, 10_000], ["Banesco"].as_slice());
    market.batch("12:00", "partial", &[kept]).await;
    market.batch("12:10", "complete", &[kept, back]).await;
    market.batch("13:00", "partial", &[kept]).await;
    market.batch("13:10", "lost", &[("a8", "u4", 1, 1, [1, 1], &["PagoMovil"])]).await;
    for by_an_earlier_version in [false, true] {
        if by_an_earlier_version {
            let unknown = "UPDATE warehouse.mart_books SET is_whole = NULL WHERE NOT is_whole";
            market.db.run(unknown).await;
        }
        for (columns, call, answer) in [
            (
                "verdict, completeness, ads, age",
                "book_certificate('VES', 'USDT', 'BUY', '{day} 13:15Z')",
                json!([["partial", "0.50000", "1", "00:14:30"]]),
            ),
            (
                "price, verdict",
                "book('VES', 'USDT', 'BUY', '{day} 13:15Z')",
                json!([["100", "partial"]]),
            ),
            (
                "price, verdict, completeness",
                "quote('VES', 'USDT', 'BUY', 100, at => '{day} 13:15Z')",
                json!([["100", "partial", "0.50000"]]),
            ),
            (
                "identifier, best_price, verdict",
                "payment_method_prices('VES', 'USDT', 'BUY', '{day} 13:15Z')",
                json!([["PagoMovil", "100", "partial"]]),
            ),
            (
                "(slot_at AT TIME ZONE 'UTC')::time, identifier, verdict",
                "payment_method_history('VES', 'USDT', 'BUY', '{day} 13:00Z', '{day} 13:59Z')",
                json!([["13:00:00", "PagoMovil", "partial"]]),
            ),
            (
                "(at AT TIME ZONE 'UTC')::time, complete_books, last_best_price, outflow_upper",
                "price_history('VES', 'USDT', 'BUY', '{day} 12:00Z', '{day} 13:59Z', 'batch')",
                json!([
                    ["12:00:00", "0", "100", null],
                    // Of a4, which is gone since 11:00; a3, which was refused meanwhile, is not.
                    ["12:10:00", "1", "100", "50"],
                    ["13:00:00", "0", "100", null]
                ]),
            ),
        ] {
            assert_eq!(market.ask(columns, call).await, answer, "{call}");
        }
    }
    let (from, to) = (market.arg("13:00"), market.arg("13:59"));
    let (_, batches) = market
        .db
        .json(&["history", "VES", "USDT", "BUY", "--by", "batch", "--from", &from, "--to", &to]);
    assert_eq!(
        (&batches["steps"][0]["gap"], &batches["steps"][0]["last_best_price"]),
        (&json!("partial"), &json!("100"))
    );
    market.db.remove().await;
}

/// Hours are of books of which every page was read, with ads refused or not.
#[tokio::test]
async fn hours_use_whole_books() {
    let market = Market::create().await;
    let ad = |price| ("a1", "u1", price, 4, [100, 800], ["PagoMovil"].as_slice());
    market.batch("12:00", "partial", &[ad(100)]).await;
    market.batch("12:10", "lost", &[ad(1)]).await;
    let hour =
        "(hour AT TIME ZONE 'UTC')::time, books, complete_books, used_books, mean_best_price";
    let hours = "mart_hours WHERE market_id = warehouse.market('VES', 'USDT', 'BUY') AND hour >= '{day} 12:00Z'";
    assert_eq!(market.ask(hour, hours).await, json!([["12:00:00", "2", "0", "1", "100"]]));
    market.db.remove().await;
}

/// The documentation can't rot: each query runs as it stands there.
#[tokio::test]
async fn documented_queries_run_verbatim() {
    let market = Market::create().await;
    let text = include_str!("../../../docs/queries.md");
    let mut connection = market.db.pool.acquire().await.unwrap();
    sqlx::raw_sql("SET search_path = warehouse").execute(&mut *connection).await.unwrap();
    let blocks: Vec<&str> =
        text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 30, "{} queries", blocks.len());
    let mut answered = 0;
    for block in &blocks {
        let rows =
            sqlx::raw_sql(AssertSqlSafe((*block).to_owned())).fetch_all(&mut *connection).await;
        let rows = rows.unwrap_or_else(|error| panic!("{error}\n{block}"));
        answered += usize::from(rows.iter().any(|row| !row.is_empty()));
    }
    // The rest asks about times of which the small market knows nothing.
    assert!(answered * 10 >= blocks.len() * 8, "{answered} of {} answered", blocks.len());
    // Everything that can be asked is documented.
    let names = sqlx::query(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'warehouse'::regnamespace AND proname NOT IN ('offer_id', 'trait')
          UNION
         SELECT relname FROM pg_class WHERE relnamespace = 'warehouse'::regnamespace AND NOT relispartition
            AND (relname LIKE 'mart\\_%' AND relkind IN ('r', 'p') OR relname IN ('dim_batches', 'market_overview'))",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    for name in names.iter().map(|row| row.get::<String, _>(0)) {
        assert!(text.contains(&format!("### `{name}")), "{name} has no section");
    }
    drop(connection);
    market.db.remove().await;
}
