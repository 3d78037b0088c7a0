//! What the tables mean: versions and pages expand to a plain full copy of what the exchange served, and
//! the marts are what anybody computes from that copy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::sim::{CONFIG, FIATS, Reply, SEARCH, send};

/// A market that stands still while it is read, and moves fast between batches.
const STILL: &str = "--fiats 3 --assets 3 --ads 900 --manual-clock --tie-shuffle-per-mille 0 --churn-per-minute 20 \
                     --change-per-minute 60 --month-change-per-minute 60 --rename-per-hour 300 --latency-ms 0";
/// Ten minutes between batches.
const BETWEEN: &str = "advance?ms=600000";

/// An item of an answer, numbers with the digits that were sent.
#[derive(Deserialize)]
struct Item {
    adv: HashMap<String, Box<RawValue>>,
    advertiser: HashMap<String, Box<RawValue>>,
    #[serde(rename = "privilegeType")]
    privilege_type: Option<i64>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Item>,
}

/// Text or number as it stands, null as nothing.
fn plain(fields: &HashMap<String, Box<RawValue>>, key: &str) -> String {
    let raw = fields.get(key).map_or("null", |raw| raw.get());
    serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned()).replace("null", "")
}

/// A decimal without trailing zeros.
fn decimal(fields: &HashMap<String, Box<RawValue>>, key: &str) -> String {
    let text = plain(fields, key);
    text.parse::<Decimal>().map_or(text, |number| number.normalize().to_string())
}

fn methods(item: &Item) -> BTreeSet<String> {
    let methods: Vec<Value> = serde_json::from_str(item.adv["tradeMethods"].get()).unwrap();
    methods.iter().map(|method| method["identifier"].as_str().unwrap().to_owned()).collect()
}

/// An ad as one row of a plain table: what people build who know no better, and the measure of us.
#[derive(Clone)]
struct Row {
    batch: usize,
    market: String,
    adv_no: String,
    user_no: String,
    is_merchant: bool,
    is_promoted: bool,
    price: Decimal,
    amount: Decimal,
    methods: BTreeSet<String>,
    /// All columns, for comparison.
    text: String,
}

/// Reads every page of every market, as a collector would, into plain rows.
fn full_copy(address: &str, batch: usize) -> Vec<Row> {
    let post = |path: &str, body: &Value| {
        let mut answer = Vec::new();
        send(address, "POST", path, "", &body.to_string()).read_to_end(&mut answer).unwrap();
        Reply::parse(&answer)
    };
    let mut rows = Vec::new();
    for fiat in post(FIATS, &json!({})).json()["data"].as_array().unwrap() {
        let fiat = fiat["currencyCode"].as_str().unwrap();
        let config = post(CONFIG, &json!({ "fiat": fiat })).json();
        let areas = config["data"]["areas"].as_array().unwrap();
        let p2p = areas.iter().find(|area| area["area"] == "P2P").unwrap();
        for side in p2p["tradeSides"].as_array().unwrap() {
            for asset in side["assets"].as_array().unwrap() {
                let (side, asset) =
                    (side["side"].as_str().unwrap(), asset["asset"].as_str().unwrap());
                for page in 1.. {
                    let body = json!({"fiat": fiat, "asset": asset, "tradeType": side, "page": page, "rows": 20});
                    let page_of: Page = serde_json::from_slice(&post(SEARCH, &body).body).unwrap();
                    if page_of.data.is_empty() {
                        break;
                    }
                    for (position, item) in (1..).zip(&page_of.data) {
                        rows.push(row(batch, [fiat, asset, side], page, position, item));
                    }
                }
            }
        }
    }
    rows
}

fn row(batch: usize, [fiat, asset, side]: [&str; 3], page: u32, position: u32, item: &Item) -> Row {
    let (adv, user) = (&item.adv, &item.advertiser);
    let methods = methods(item);
    let listed: Vec<&str> = methods.iter().map(String::as_str).collect();
    let minutes = plain(user, "activeTimeInSecond")
        .parse::<u64>()
        .map_or(String::new(), |seconds| (seconds / 60).to_string());
    let mut columns = vec![
        batch.to_string(),
        format!("{fiat}/{asset}/{side}"),
        page.to_string(),
        position.to_string(),
        (if item.privilege_type == Some(8) { "t" } else { "f" }).to_owned(),
        plain(adv, "advNo"),
        plain(adv, "tradeType"),
    ];
    columns.extend(
        [
            "price",
            "surplusAmount",
            "tradableQuantity",
            "minSingleTransAmount",
            "maxSingleTransAmount",
            "dynamicMaxSingleTransAmount",
            "minSingleTransQuantity",
            "maxSingleTransQuantity",
            "dynamicMaxSingleTransQuantity",
            "commissionRate",
        ]
        .map(|key| decimal(adv, key)),
    );
    columns.extend(
        ["payTimeLimit", "classify", "assetScale", "fiatScale", "priceScale"]
            .map(|key| plain(adv, key)),
    );
    columns.push(listed.join(","));
    columns.extend(
        ["userNo", "nickName", "userType", "userIdentity", "userGrade"].map(|key| plain(user, key)),
    );
    columns.push(plain(user, "monthOrderCount"));
    columns.extend(["monthFinishRate", "positiveRate"].map(|key| decimal(user, key)));
    columns.push(minutes);
    Row {
        batch,
        market: columns[1].clone(),
        adv_no: plain(adv, "advNo"),
        user_no: plain(user, "userNo"),
        is_merchant: plain(user, "userType") == "merchant",
        is_promoted: item.privilege_type == Some(8),
        price: plain(adv, "price").parse().unwrap(),
        amount: plain(adv, "surplusAmount").parse().unwrap(),
        methods,
        text: columns.join("|"),
    }
}

/// The same columns out of versions and pages. `%` stands for the relation.
const EXPANDED: &str = "
SELECT concat_ws('|', n.number, concat_ws('/', f.currency_code, c.symbol, m.trade_type), p.page, l.position,
       (l.position = p.promoted_position) IS TRUE, v.adv_no, CASE m.trade_type WHEN 'BUY' THEN 'SELL' ELSE 'BUY' END,
       trim_scale(v.price), trim_scale(v.available_amount), trim_scale(v.tradable_quantity), trim_scale(v.min_limit),
       trim_scale(v.max_limit), trim_scale(v.dynamic_max_limit), trim_scale(v.min_quantity), trim_scale(v.max_quantity),
       trim_scale(v.dynamic_max_quantity), coalesce(trim_scale(v.commission_rate)::text, ''),
       coalesce(v.pay_time_limit_minutes::text, ''), v.classify, v.asset_scale, v.fiat_scale, v.price_scale,
       (SELECT string_agg(pm.identifier, ',' ORDER BY pm.identifier COLLATE \"C\")
          FROM warehouse.dim_payment_methods pm WHERE pm.payment_method_id = ANY (v.payment_method_ids)),
       a.user_no, a.advertiser, a.user_type, a.user_identity, a.user_grade, g.month_order_count,
       trim_scale(g.completion_rate), trim_scale(g.positive_rate), coalesce(p.active_minutes[l.position]::text, ''))
  FROM warehouse.book_pages p
  JOIN (SELECT batch_id, row_number() OVER (ORDER BY batch_id) - 1 AS number FROM pipeline.batches) n USING (batch_id)
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  JOIN warehouse.offer_contents v ON v.day = p.day AND v.id = l.id
  JOIN warehouse.dim_markets m ON m.market_id = p.market_id
  JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
  JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
  JOIN warehouse.dim_advertisers a USING (advertiser_sk)
 CROSS JOIN LATERAL (SELECT * FROM warehouse.advertiser_figures g
                      WHERE g.advertiser_id = a.advertiser_id AND g.observed_at <= p.fetched_at
                      ORDER BY g.observed_at DESC LIMIT 1) g";

fn assert_same(ours: &BTreeSet<String>, theirs: &BTreeSet<String>, what: &str) -> Result<()> {
    let lacking: Vec<_> = theirs.difference(ours).take(3).collect();
    let extra: Vec<_> = ours.difference(theirs).take(3).collect();
    ensure!(
        lacking.is_empty() && extra.is_empty(),
        "{what}: {} of ours, {} of theirs\nlacking {lacking:#?}\nextra {extra:#?}",
        ours.len(),
        theirs.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warehouse_is_what_was_served() -> Result<()> {
    let fleet = Fleet::start(STILL).await?;
    let _workers = [fleet.worker("a", &[])?, fleet.worker("b", &[])?];
    let address = fleet.exchange_url.strip_prefix("http://").context("an http URL")?.to_owned();
    let mut copy = Vec::new();
    for batch in 0..3 {
        if batch > 0 {
            fleet.admin(BETWEEN, &Value::Null).await?;
        }
        let address = address.clone();
        copy.extend(tokio::task::spawn_blocking(move || full_copy(&address, batch)).await?);
        assert_eq!(fleet.batch(&[]).await?, 0);
    }
    let expanded: Vec<String> = sqlx::query_scalar(EXPANDED).fetch_all(&fleet.pool).await?;
    let plain = copy.iter().map(|row| row.text.clone()).collect();
    assert_same(&expanded.into_iter().collect(), &plain, "versions and pages")?;
    // An ad is on a page as often as it was served there.
    let listed = "SELECT sum(cardinality(offer_ids)) FROM warehouse.book_pages";
    assert_eq!(usize::try_from(fleet.number(listed).await?)?, copy.len());
    // Change-only: far fewer versions than readings.
    let versions = fleet.number("SELECT count(*) FROM warehouse.offer_versions").await?;
    assert!(usize::try_from(versions)? * 4 < copy.len() * 3, "{versions} of {}", copy.len());

    // An ad that stands at the promoted place and at its ordinary one counts once, there.
    let mut books: BTreeMap<(usize, String), BTreeMap<String, Row>> = BTreeMap::new();
    for row in copy {
        let book = books.entry((row.batch, row.market.clone())).or_default();
        let known = book.get(&row.adv_no);
        if known.is_none_or(|known| known.is_promoted) {
            book.insert(row.adv_no.clone(), row);
        }
    }
    let facts: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws('|', n.number, m.market, o.offer_external_id, trim_scale(o.price), trim_scale(o.available_amount))
           FROM warehouse.fact_offers o
           JOIN (SELECT batch_id, row_number() OVER (ORDER BY batch_id) - 1 AS number FROM pipeline.batches) n USING (batch_id)
           JOIN (SELECT market_id, concat_ws('/', currency_code, symbol, trade_type) AS market FROM warehouse.dim_markets
                   JOIN warehouse.dim_fiat_currencies USING (fiat_id) JOIN warehouse.dim_cryptocurrencies USING (crypto_id)) m
             USING (market_id)",
    )
    .fetch_all(&fleet.pool)
    .await?;
    let rows = books.values().flat_map(BTreeMap::values);
    let once = rows.map(|row| {
        let (price, amount) = (row.price.normalize(), row.amount.normalize());
        format!("{}|{}|{}|{price}|{amount}", row.batch, row.market, row.adv_no)
    });
    assert_same(&facts.into_iter().collect(), &once.collect(), "fact_offers")?;
    assert_same(&stored_books(&fleet).await?, &computed_books(&books), "mart_books")?;
    assert_same(&stored_methods(&fleet).await?, &computed_methods(&books), "mart_book_methods")?;
    assert_same(
        &stored_advertisers(&fleet).await?,
        &computed_advertisers(&books),
        "mart_advertiser_days",
    )?;
    assert_same(&stored_days(&fleet).await?, &computed_days(&books), "mart_days")?;
    fleet.remove().await
}

type Books = BTreeMap<(usize, String), BTreeMap<String, Row>>;

fn round(number: Decimal, places: u32) -> String {
    number
        .round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero)
        .normalize()
        .to_string()
}

fn sum(numbers: impl Iterator<Item = Decimal>) -> Decimal {
    numbers.fold(Decimal::ZERO, |sum, number| sum + number)
}

/// With linear interpolation, as spreadsheets and numpy do. `fraction` in per cent.
fn percentile(sorted: &[Decimal], fraction: u64) -> Decimal {
    let place = Decimal::from(fraction) * Decimal::from(sorted.len() - 1) / Decimal::ONE_HUNDRED;
    let low =
        usize::try_from(place.trunc().mantissa() / 10_i128.pow(place.trunc().scale())).unwrap();
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (place - place.trunc())
}

fn is_buy(market: &str) -> bool {
    market.ends_with("/BUY")
}

fn best<'a>(rows: impl Iterator<Item = &'a Row>, market: &str) -> Option<Decimal> {
    let prices = rows.map(|row| row.price);
    if is_buy(market) { prices.min() } else { prices.max() }
}

fn computed_books(books: &Books) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for ((batch, market), book) in books {
        let mut prices: Vec<Decimal> = book.values().map(|row| row.price).collect();
        prices.sort_unstable();
        let best_price = best(book.values(), market).unwrap();
        let merchant = best(book.values().filter(|row| row.is_merchant), market);
        let stock = sum(book.values().map(|row| row.amount));
        let worth = sum(book.values().map(|row| row.amount * row.price));
        let depth = |percent: u32| {
            let factor = Decimal::new(i64::from(percent), 2);
            let is_near = |row: &&Row| {
                if is_buy(market) {
                    row.price <= best_price * (Decimal::ONE + factor)
                } else {
                    row.price >= best_price * (Decimal::ONE - factor)
                }
            };
            sum(book.values().filter(is_near).map(|row| row.amount)).normalize().to_string()
        };
        let (pair, _) = market.rsplit_once('/').unwrap();
        let side = |side: &str| {
            let market = format!("{pair}/{side}");
            best(books.get(&(*batch, market.clone()))?.values(), &market)
        };
        let spread = side("BUY").zip(side("SELL")).map(|(buy, sell)| {
            let ratio = (buy - sell) / ((buy + sell) / Decimal::TWO);
            format!("{}|{}", (buy - sell).normalize(), round(ratio, 8))
        });
        let users: BTreeSet<_> = book.values().map(|row| &row.user_no).collect();
        let merchants: BTreeSet<_> =
            book.values().filter(|row| row.is_merchant).map(|row| &row.user_no).collect();
        let mut line = vec![
            batch.to_string(),
            market.clone(),
            book.len().to_string(),
            book.values().filter(|row| row.is_merchant).count().to_string(),
            users.len().to_string(),
            merchants.len().to_string(),
            best_price.normalize().to_string(),
            merchant.map_or(String::new(), |price| price.normalize().to_string()),
            round(sum(prices.iter().copied()) / Decimal::from(prices.len()), 8),
            if stock.is_zero() { String::new() } else { round(worth / stock, 8) },
        ];
        line.extend([50, 10, 25, 75, 90].map(|fraction| round(percentile(&prices, fraction), 8)));
        line.extend([stock.normalize().to_string(), worth.normalize().to_string()]);
        line.extend([0, 1, 2, 5].map(depth));
        line.push(spread.unwrap_or_else(|| "|".to_owned()));
        line.push(flow(books, *batch, market, |_| true).unwrap_or_else(|| "|||||||".to_owned()));
        lines.insert(line.join("|"));
    }
    lines
}

/// Ads new, gone and changed, outflow and inflow with their bounds since the batch before, of the ads that
/// `counts` says.
fn flow(
    books: &Books,
    batch: usize,
    market: &str,
    counts: impl Fn(&Row) -> bool,
) -> Option<String> {
    let before = books.get(&(batch.checked_sub(1)?, market.to_owned()))?;
    let now = &books[&(batch, market.to_owned())];
    let (mut new, mut gone, mut changed) = (0, 0, 0);
    let [mut out_lower, mut out_upper, mut in_lower, mut in_upper] = [Decimal::ZERO; 4];
    for row in now.values().filter(|row| counts(row)) {
        match before.get(&row.adv_no) {
            None => {
                new += 1;
                in_upper += row.amount;
            }
            Some(old) => {
                changed += usize::from((old.price, old.amount) != (row.price, row.amount));
                let (less, more) = (old.amount - row.amount, row.amount - old.amount);
                out_lower += less.max(Decimal::ZERO);
                out_upper += less.max(Decimal::ZERO);
                in_lower += more.max(Decimal::ZERO);
                in_upper += more.max(Decimal::ZERO);
            }
        }
    }
    for old in before.values().filter(|row| counts(row)) {
        if !now.contains_key(&old.adv_no) {
            gone += 1;
            out_upper += old.amount;
        }
    }
    let flows = [out_lower, out_upper, in_lower, in_upper].map(|flow| flow.normalize().to_string());
    Some(format!("t|{new}|{gone}|{changed}|{}", flows.join("|")))
}

const NUMBERED: &str =
    "(SELECT batch_id, row_number() OVER (ORDER BY batch_id) - 1 AS number FROM pipeline.batches)";
const NAMED: &str = "(SELECT market_id, concat_ws('/', currency_code, symbol, trade_type) AS market FROM warehouse.dim_markets
    JOIN warehouse.dim_fiat_currencies USING (fiat_id) JOIN warehouse.dim_cryptocurrencies USING (crypto_id))";

/// Rows of a mart as text: `columns` after batch (if asked for) and market; NULL as nothing.
async fn stored(
    fleet: &Fleet,
    table: &str,
    numbered: bool,
    columns: &str,
    filter: &str,
) -> Result<BTreeSet<String>> {
    let columns: Vec<String> =
        columns.split(", ").map(|column| format!("coalesce(({column})::text, '')")).collect();
    let (number, join) = if numbered {
        ("n.number, ".to_owned(), format!("JOIN {NUMBERED} n USING (batch_id)"))
    } else {
        (String::new(), String::new())
    };
    let sql = format!(
        "SELECT concat_ws('|', {number}m.market, {}) FROM warehouse.{table} k {join} JOIN {NAMED} m USING (market_id) {filter}",
        columns.join(", ")
    );
    let rows: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&fleet.pool).await?;
    Ok(rows.into_iter().collect())
}

async fn stored_books(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let columns = "ads, merchant_ads, advertisers, merchants, best_price, best_merchant_price, mean_price, \
        weighted_mean_price, median_price, p10_price, p25_price, p75_price, p90_price, available_amount, available_fiat, \
        depth_best, depth_1pct, depth_2pct, depth_5pct, spread, spread_ratio, \
        CASE WHEN previous_batch_id IS NOT NULL AND flow_seconds >= 0 THEN 't' END, ads_new, ads_gone, ads_changed, \
        outflow_lower, outflow_upper, inflow_lower, inflow_upper";
    let filter = "WHERE verdict = 'complete' AND completeness = 1";
    stored(fleet, "mart_books", true, columns, filter).await
}

fn computed_methods(books: &Books) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for ((batch, market), book) in books {
        let all: BTreeSet<&String> = book.values().flat_map(|row| &row.methods).collect();
        for method in all {
            let rows: Vec<&Row> =
                book.values().filter(|row| row.methods.contains(method)).collect();
            let mut prices: Vec<Decimal> = rows.iter().map(|row| row.price).collect();
            prices.sort_unstable();
            let stock = sum(rows.iter().map(|row| row.amount));
            let worth = sum(rows.iter().map(|row| row.amount * row.price));
            let line = [
                batch.to_string(),
                market.clone(),
                method.clone(),
                rows.len().to_string(),
                best(rows.iter().copied(), market).unwrap().normalize().to_string(),
                round(sum(prices.iter().copied()) / Decimal::from(prices.len()), 8),
                if stock.is_zero() { String::new() } else { round(worth / stock, 8) },
                percentile(&prices, 50).normalize().to_string(),
                stock.normalize().to_string(),
            ];
            lines.insert(line.join("|"));
        }
    }
    lines
}

async fn stored_methods(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let columns = "identifier, ads, best_price, mean_price, weighted_mean_price, median_price, available_amount";
    let filter =
        "JOIN warehouse.dim_payment_methods USING (payment_method_id) WHERE verdict = 'complete'";
    stored(fleet, "mart_book_methods", true, columns, filter).await
}

fn computed_advertisers(books: &Books) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let markets: BTreeSet<&String> = books.keys().map(|(_, market)| market).collect();
    for market in markets {
        let of_market: Vec<_> = books.iter().filter(|((_, name), _)| name == market).collect();
        let users: BTreeSet<&String> =
            of_market.iter().flat_map(|(_, book)| book.values()).map(|row| &row.user_no).collect();
        for user in users {
            let (mut present, mut is_best, mut most) = (0, 0, 0);
            let (mut amount_sum, mut amount_max) = (Decimal::ZERO, Decimal::ZERO);
            let mut prices = Vec::new();
            let [mut lower, mut upper] = [Decimal::ZERO; 2];
            for ((batch, _), book) in &of_market {
                let own: Vec<&Row> = book.values().filter(|row| row.user_no == *user).collect();
                if !own.is_empty() {
                    present += 1;
                    let best_price = best(book.values(), market).unwrap();
                    is_best += usize::from(own.iter().any(|row| row.price == best_price));
                    most = most.max(own.len());
                    let stock = sum(own.iter().map(|row| row.amount));
                    amount_sum += stock;
                    amount_max = amount_max.max(stock);
                    prices.extend(own.iter().map(|row| row.price));
                }
                if let Some(flow) = flow(books, *batch, market, |row| row.user_no == *user) {
                    let parts: Vec<&str> = flow.split('|').collect();
                    lower += parts[4].parse::<Decimal>().unwrap();
                    upper += parts[5].parse::<Decimal>().unwrap();
                }
            }
            let line = [
                market.clone(),
                user.clone(),
                format!("{present}|{present}|{is_best}|{most}"),
                prices.iter().min().unwrap().normalize().to_string(),
                prices.iter().max().unwrap().normalize().to_string(),
                amount_max.normalize().to_string(),
                amount_sum.normalize().to_string(),
                lower.normalize().to_string(),
                upper.normalize().to_string(),
            ];
            lines.insert(line.join("|"));
        }
    }
    lines
}

/// Whether somebody is a merchant is of the last book that lists him: a book that he left tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_stays_what_he_was() -> Result<()> {
    let fleet = Fleet::start(STILL).await?;
    let _worker = fleet.worker("a", &[])?;
    ensure!(fleet.batch(&[]).await? == 0);
    sqlx::raw_sql(
        "UPDATE warehouse.mart_advertiser_days SET is_merchant = NOT is_merchant;
         CREATE TABLE warehouse.was AS TABLE warehouse.mart_advertiser_days",
    )
    .execute(&fleet.pool)
    .await?;
    fleet.admin(BETWEEN, &json!(null)).await?;
    ensure!(fleet.batch(&[]).await? == 0);
    let (gone, other): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE d.is_merchant <> w.is_merchant)
           FROM warehouse.mart_advertiser_days d JOIN warehouse.was w USING (day, market_id, advertiser_id)
          WHERE d.books = w.books AND d.outflow_upper > w.outflow_upper",
    )
    .fetch_one(&fleet.pool)
    .await?;
    assert!(gone > 0, "nobody left");
    assert_eq!(other, 0, "of {gone} who left");
    fleet.remove().await
}

async fn stored_advertisers(fleet: &Fleet) -> Result<BTreeSet<String>> {
    // Summed over days, should midnight pass meanwhile.
    let columns = "user_no, books, complete_books, best_books, ads_max, min_price, max_price, amount_max, \
        trim_scale(amount_sum), trim_scale(outflow_lower), trim_scale(outflow_upper)";
    let table = "mart_advertiser_sums";
    sqlx::raw_sql(
        "CREATE VIEW warehouse.mart_advertiser_sums AS
         SELECT market_id, user_no, sum(books) AS books, sum(complete_books) AS complete_books, sum(best_books) AS best_books,
                max(ads_max) AS ads_max, min(min_price) AS min_price, max(max_price) AS max_price, max(amount_max) AS amount_max,
                sum(amount_sum) AS amount_sum, sum(outflow_lower) AS outflow_lower, sum(outflow_upper) AS outflow_upper
           FROM warehouse.mart_advertiser_days JOIN warehouse.dim_advertisers a USING (advertiser_id)
          WHERE a.is_current GROUP BY market_id, user_no",
    )
    .execute(&fleet.pool)
    .await?;
    stored(fleet, table, false, columns, "").await
}

fn computed_days(books: &Books) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let markets: BTreeSet<&String> = books.keys().map(|(_, market)| market).collect();
    for market in markets {
        let of_market: Vec<_> = books.iter().filter(|((_, name), _)| name == market).collect();
        let bests: Vec<Decimal> =
            of_market.iter().map(|(_, book)| best(book.values(), market).unwrap()).collect();
        let count = Decimal::from(of_market.len());
        let ads = of_market.iter().map(|(_, book)| Decimal::from(book.len()));
        let stock = sum(of_market.iter().flat_map(|(_, book)| book.values()).map(|row| row.amount));
        let line = [
            market.clone(),
            of_market.len().to_string(),
            bests.iter().min().unwrap().normalize().to_string(),
            bests.iter().max().unwrap().normalize().to_string(),
            bests[0].normalize().to_string(),
            bests[bests.len() - 1].normalize().to_string(),
            round(sum(bests.iter().copied()) / count, 8),
            round(sum(ads) / count, 8),
            stock.normalize().to_string(),
        ];
        lines.insert(line.join("|"));
    }
    lines
}

async fn stored_days(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let columns = "k.books, k.min_best_price, k.max_best_price, k.first_best_price, k.last_best_price, \
        trim_scale(k.mean_best), trim_scale(k.mean_ads), trim_scale(k.amount_sum)";
    sqlx::raw_sql(
        "CREATE VIEW warehouse.mart_day_sums AS
         SELECT market_id, sum(used_books) AS books, min(min_best_price) AS min_best_price, max(max_best_price) AS max_best_price,
                (array_agg(first_best_price ORDER BY day))[1] AS first_best_price,
                (array_agg(last_best_price ORDER BY day DESC))[1] AS last_best_price,
                round(sum(mean_best_price * used_books) / sum(used_books), 8) AS mean_best,
                round(sum(mean_ads * used_books) / sum(used_books), 8) AS mean_ads, sum(amount_sum) AS amount_sum
           FROM warehouse.mart_days WHERE used_books > 0 GROUP BY market_id",
    )
    .execute(&fleet.pool)
    .await?;
    stored(fleet, "mart_day_sums", false, columns, "").await
}
