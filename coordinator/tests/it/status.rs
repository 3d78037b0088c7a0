//! The status page as a browser asks for it, on a real database and a real broker.

use std::net::SocketAddr;
use std::time::Duration;

use coordinator::status;
use serde_json::Value;
use shared::endpoint::Access;
use shared::settings::{Database, Vars};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{settings, url_of, variable};

/// Longest wait for anything: it bounds a hang, not a speed.
const PATIENCE: Duration = Duration::from_mins(1);
const HOSTILE: &str = "<script>alert(1)</script>";

/// A served page, until it is dropped.
struct Page {
    address: SocketAddr,
    _serving: DropGuard,
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The value of a header.
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} is missing in {}", self.head))
    }

    /// A panel, from its id to the end of its section.
    fn panel(&self, id: &str) -> &str {
        let start = format!("<section class=\"panel\" id=\"{id}\"");
        let (_, rest) =
            self.body.split_once(&start).unwrap_or_else(|| panic!("{id}: {}", self.body));
        rest.split_once("</section>").unwrap().0
    }
}

impl Page {
    async fn serve(pool: &PgPool) -> Self {
        Self::serve_to(pool, Access::open()).await
    }

    async fn serve_to(pool: &PgPool, access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = settings(pool);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        tokio::spawn(async move {
            let database = Database::read(&mut Vars::from_pairs([(
                "DATABASE_URL",
                settings.database.url.as_str(),
            )]));
            status::serve(listener, access, &database, settings.broker, settings.topology, token)
                .await
        });
        Self { address, _serving: shutdown.drop_guard() }
    }

    async fn ask(&self, method: &str, path: &str, more: &str) -> Answer {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: page\r\nconnection: close\r\n{more}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = connection.read_to_string(&mut text);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }
}

/// A viewer of what changes.
struct Viewer(BufReader<TcpStream>);

impl Viewer {
    /// The stream, and the status of the answer.
    async fn connect(page: &Page) -> (Self, u16) {
        let mut connection = TcpStream::connect(page.address).await.unwrap();
        connection.write_all(b"GET /events HTTP/1.1\r\nhost: page\r\n\r\n").await.unwrap();
        let mut viewer = Self(BufReader::new(connection));
        let status = viewer.line().await.split(' ').nth(1).unwrap().parse().unwrap();
        (viewer, status)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        assert!(tokio::time::timeout(PATIENCE, read).await.expect("a line").unwrap() > 0, "ended");
        line
    }

    /// The next update.
    async fn update(&mut self) -> Value {
        loop {
            if let Some(data) = self.line().await.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// The first update in which a panel says `words`.
    async fn wait_for(&mut self, panel: &str, words: &str) -> Value {
        loop {
            let update = self.update().await;
            if update["panels"][panel].as_str().is_some_and(|panel| panel.contains(words)) {
                return update;
            }
        }
    }
}

async fn seed(pool: &PgPool) {
    // One session: it uses temporary tables.
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql(include_str!("status_seed.sql")).execute(&mut *connection).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn every_panel_shows_what_there_is(pool: PgPool) {
    seed(&pool).await;
    let page = Page::serve(&pool).await;
    let answer = page.get("/").await;
    assert_eq!(answer.status, 200);
    let all = [
        ("running", &["reads the market", "<strong>3</strong> of 10 jobs, 60 ads", "partial"][..]),
        ("slots", &["complete", "partial", "skipped", "late", "running"]),
        ("completeness", &["VES", "EUR", "100 %", "80 %", "SELL partial", "/market?fiat=EUR"]),
        ("queues", &["jobs.normal", "dead"]),
        ("workers", &["worker-live", "worker-gone", "Nobody leads"]),
        ("limits", &["egress-a", "egress-b", "open until", "90"]),
        ("quality", &["No batch was checked yet."]),
        ("gaps", &["USDT/EUR SELL", "BTC/EUR SELL", "partial"]),
    ];
    for (id, words) in all {
        for word in words {
            assert!(answer.panel(id).contains(word), "{word} in {id}: {}", answer.panel(id));
        }
    }
    for word in
        ["Broken. No coordinator leads", "breaker of egress-b", "is partial", "OPERATIONS.md#"]
    {
        assert!(answer.body.contains(word), "{word}: {}", answer.body);
    }
    // The largest first.
    let map = answer.panel("completeness");
    assert!(map.find(">VES<") < map.find(">EUR<"), "{map}");
    let json = page.get("/api/status.json").await.json();
    assert_eq!(json["level"], "broken");
    assert_eq!(json["database_away_since"], Value::Null);
    let status = &json["status"];
    assert_eq!((&status["running"]["done"], &status["gaps"]["total"]), (&3.into(), &2.into()));
    let states: Vec<&str> = status["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["complete", "skipped", "partial", "running"]);
    assert!(status["queues"]["asked"].is_array(), "{status}");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_empty_database_is_shown_as_such(pool: PgPool) {
    let page = Page::serve(&pool).await;
    let answer = page.get("/").await;
    assert_eq!(answer.status, 200);
    for (id, words) in [
        ("running", "No batch runs now."),
        ("slots", "No slot came due within a day"),
        ("completeness", "No batch has closed yet."),
        ("workers", "No worker was seen within a day."),
        ("limits", "No egress"),
        ("quality", "No batch was checked yet."),
        ("gaps", "None"),
    ] {
        assert!(answer.panel(id).contains(words), "{id}: {}", answer.panel(id));
    }
    assert_eq!(page.get("/market?fiat=VES&asset=USDT&side=BUY").await.status, 404);
}

/// A slot that came due and was not recorded is told as such.
#[sqlx::test(migrations = "../migrations")]
async fn what_nobody_recorded_is_not_silent(pool: PgPool) {
    seed(&pool).await;
    sqlx::query("DELETE FROM pipeline.slots WHERE state = 'skipped'").execute(&pool).await.unwrap();
    let json = Page::serve(&pool).await.get("/api/status.json").await.json();
    assert_eq!(json["status"]["slots"][1]["state"], "unrecorded");
}

#[sqlx::test(migrations = "../migrations")]
async fn verdicts_of_quality_are_shown_where_there_are_some(pool: PgPool) {
    seed(&pool).await;
    sqlx::raw_sql(
        "INSERT INTO pipeline.quality_results (day, batch_id, check_name, value, threshold, level, verdict, reason, details, checked_at)
         SELECT day, batch_id, 'completeness', 0.5, 0.95, 'fatal', 'fail', NULL, '{}', now() FROM pipeline.batches
          WHERE outcome = 'partial'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let page = Page::serve(&pool).await;
    let answer = page.get("/").await;
    assert!(
        answer.panel("quality").contains("(0.5, threshold 0.95)"),
        "{}",
        answer.panel("quality")
    );
    assert!(answer.body.contains("The quality check completeness failed."), "{}", answer.body);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_market_shows_its_book_and_its_prices(pool: PgPool) {
    seed(&pool).await;
    let page = Page::serve(&pool).await;
    let answer = page.get("/market?fiat=ves&asset=usdt&side=BUY").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let book = answer.panel("book");
    assert!(book.contains("Certificate: <strong>complete</strong>"), "{book}");
    assert!(book.find(">101<") < book.find(">102<") && book.contains("10 to 500"), "{book}");
    // Two prices with a missing batch between them: two dots, no line.
    let prices = answer.panel("prices");
    assert_eq!(prices.matches("<circle").count(), 4, "{prices}");
    assert!(!prices.contains("<polyline") && prices.contains("1 gap:"), "{prices}");
    let json = page.get("/api/market.json?fiat=VES&asset=USDT&side=BUY").await.json();
    assert_eq!((&json["ads"][0]["price"], &json["certificate"]["ads"]), (&"101".into(), &2.into()));
    assert_eq!(json["prices"].as_array().unwrap().len(), 2);
    for (query, words) in [
        ("fiat=XXX&asset=USDT&side=BUY", "fiat"),
        ("fiat=VES&asset=USDT&side=UP", "BUY or SELL"),
        ("fiat=VES&asset=USDT&side=BUY&span=year", "day, week or month"),
    ] {
        let answer = page.get(&format!("/market?{query}")).await;
        assert!(answer.status == 404 && answer.body.contains(words), "{query}: {}", answer.body);
    }
}

/// Nicknames, reasons and queries are text, whatever they contain.
#[sqlx::test(migrations = "../migrations")]
async fn hostile_text_stays_text(pool: PgPool) {
    seed(&pool).await;
    let page = Page::serve(&pool).await;
    let answer = page.get("/market?fiat=VES&asset=USDT&side=BUY").await;
    assert!(!answer.body.contains(HOSTILE), "{}", answer.body);
    assert!(answer.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"), "{}", answer.body);
    assert!(page.get("/").await.body.contains("1 page lost &lt;b&gt;"));
    let asked = "/market?fiat=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&asset=USDT&side=BUY";
    let echoed = page.get(asked).await.body;
    assert!(!echoed.to_lowercase().contains(HOSTILE), "{echoed}");
}

#[sqlx::test(migrations = "../migrations")]
async fn nothing_can_be_written_and_nothing_foreign_run(pool: PgPool) {
    let page = Page::serve(&pool).await;
    for path in ["/", "/market", "/events", "/api/status.json", "/style.css", "/nowhere"] {
        let refused = page.ask("POST", path, "content-length: 0\r\n").await;
        assert!([404, 405].contains(&refused.status), "{path}: {}", refused.head);
    }
    let answer = page.get("/").await;
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-frame-options"), "DENY");
    assert_eq!(answer.header("cache-control"), "no-store");
    // The policy forbids both.
    assert!(!answer.body.contains(" style=") && !answer.body.contains("<style"), "{}", answer.body);
    let head = page.ask("HEAD", "/", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in ["/style.css", "/script.js", "/icon.svg"] {
        let first = page.get(path).await;
        let known = format!("if-none-match: {}\r\n", first.header("etag"));
        let again = page.ask("GET", path, &known).await;
        assert_eq!((first.status, again.status, again.body.as_str()), (200, 304, ""), "{path}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn viewers_are_sent_what_changes(pool: PgPool) {
    seed(&pool).await;
    let page = Page::serve(&pool).await;
    let (mut viewer, status) = Viewer::connect(&page).await;
    assert_eq!(status, 200);
    viewer.wait_for("running", "<strong>3</strong> of 10 jobs").await;
    sqlx::query("UPDATE pipeline.jobs SET state = 'done', ended_at = now() WHERE ordinal = 5")
        .execute(&pool)
        .await
        .unwrap();
    let update = viewer.wait_for("running", "<strong>4</strong> of 10 jobs").await;
    // What did not change is not sent.
    assert!(update["panels"]["slots"].is_null(), "{update}");
    sqlx::query(
        "UPDATE pipeline.batches SET state = 'closed', outcome = 'complete', closed_at = now() WHERE state = 'open'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let update = viewer.wait_for("running", "No batch runs now.").await;
    assert!(
        update["panels"]["slots"].as_str().is_some_and(|slots| !slots.contains("running")),
        "{update}"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn viewers_are_bounded(pool: PgPool) {
    let page = Page::serve(&pool).await;
    let mut viewers = Vec::new();
    for _ in 0..status::MAX_VIEWERS {
        let (viewer, status) = Viewer::connect(&page).await;
        assert_eq!(status, 200);
        viewers.push(viewer);
    }
    let refused = page.get("/events").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "60"));
    assert_eq!(page.get("/").await.status, 200, "the page itself is there for all");
    // A place that was left is taken again.
    drop(viewers.pop());
    let placed = async { while Viewer::connect(&page).await.1 != 200 {} };
    tokio::time::timeout(PATIENCE, placed).await.expect("a place");
}

/// Without the database the page says so and shows what it last read; with it again, what there is.
#[sqlx::test(migrations = "../migrations")]
async fn a_database_that_is_away_is_told(pool: PgPool) {
    seed(&pool).await;
    let page = Page::serve(&pool).await;
    let before = page.get("/api/status.json").await.json();
    let options = variable("DATABASE_URL").parse().unwrap();
    let admin = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let url = url_of(&pool);
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let allow = |allowed: bool| {
        AssertSqlSafe(format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS {allowed}"))
    };
    sqlx::query(allow(false)).execute(&admin).await.unwrap();
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = $1 AND application_name = 'coordinator status page'",
    )
    .bind(&name)
    .execute(&admin)
    .await
    .unwrap();
    let until = async |is_away: bool| {
        let looked = async {
            loop {
                let json = page.get("/api/status.json").await.json();
                if json["database_away_since"].is_null() != is_away {
                    return json;
                }
            }
        };
        tokio::time::timeout(PATIENCE, looked).await.expect("the page notices")
    };
    let away = until(true).await;
    assert_eq!((&away["level"], away["findings"].as_array().unwrap().len()), (&"broken".into(), 1));
    assert_eq!(away["status"]["slots"], before["status"]["slots"]);
    let answer = page.get("/").await;
    assert_eq!(answer.status, 200);
    for words in ["Broken. The database can&#39;t be read", "What follows is old: it was read at"] {
        let words = [words.to_owned(), words.replace("&#39;", "'")];
        assert!(words.iter().any(|words| answer.body.contains(words)), "{}", answer.body);
    }
    assert_eq!(page.get("/market?fiat=VES&asset=USDT&side=BUY").await.status, 503);
    sqlx::query(allow(true)).execute(&admin).await.unwrap();
    let back = until(false).await;
    assert!(back["status"]["read_at"].as_str() > away["status"]["read_at"].as_str(), "{back}");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_has_the_token_sees_the_page(pool: PgPool) {
    let page = Page::serve_to(&pool, Access::by("correct-horse-battery")).await;
    for path in ["/", "/market", "/events", "/api/status.json", "/api/market.json", "/style.css"] {
        let answer = page.get(path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: Basic"), "{path}: {}", answer.head);
        assert!(!answer.body.contains("<html"), "{path}");
    }
    let wrong = page.ask("GET", "/", "authorization: Bearer correct-horse-batterx\r\n").await;
    assert_eq!(wrong.status, 401);
    let bearer = "authorization: Bearer correct-horse-battery\r\n";
    assert_eq!(page.ask("GET", "/", bearer).await.status, 200);
    // What a browser sends once it was told: any name, and the token.
    let basic = "authorization: Basic bWU6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5\r\n";
    assert_eq!(page.ask("GET", "/api/status.json", basic).await.status, 200);
}
