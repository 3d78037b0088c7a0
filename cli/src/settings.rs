//! `p2p settings`: what can be set, as `docs/CONFIGURATION.md` and `.env.example`.
//!
//! Names, defaults, what is allowed and who reads it come from the programs themselves, which are asked to read
//! settings and watched ([`shared::settings::Asked`]). What only people need to know stands in [`ROWS`]; a
//! setting without a row there is an error, and so is a row that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;

use anyhow::ensure;
use shared::settings::{Database, Setting, Vars};

use crate::ops::Servers;

/// What people need to know of a setting, beside what its reader says.
struct Described {
    name: &'static str,
    meaning: &'static str,
    unit: &'static str,
    /// What is allowed beyond what the reader says.
    rule: Option<&'static str>,
    /// The default in words, where it is not a value.
    default: Option<&'static str>,
    /// For `.env.example`, where the default would tell nothing.
    example: Option<&'static str>,
    is_secret: bool,
}

impl Described {
    const fn new(name: &'static str, meaning: &'static str) -> Self {
        let (rule, default, example) = (None, None, None);
        Self { name, meaning, unit: "", rule, default, example, is_secret: false }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    const fn rule(self, rule: &'static str) -> Self {
        Self { rule: Some(rule), ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }
}

/// Default in words of what must be set.
const NEEDED: &str = "needed";

enum Row {
    Section(&'static str),
    Setting(Described),
}

/// In the order in which they are shown.
const ROWS: &[Row] = &[
    Row::Section("Servers"),
    Row::Setting(Described::new("DATABASE_URL", "PostgreSQL. A server on another machine is spoken to by TLS and verified (`sslmode=verify-full`) unless the URL says otherwise; `require` is verified, too: see [TLS](#tls)").default(NEEDED).example("postgres://postgres@127.0.0.1:5432/p2p").secret()),
    Row::Setting(Described::new("OWNER_DATABASE_URL", "the same database as the owner of its tables: for `p2p migrate`, for `p2p replay --apply`, `--resume` and `p2p quarantine retry`, and for the coordinator to drop what is old. Needed where `DATABASE_URL` is that of [`p2p_writer`](../README.md#roles)").default("`DATABASE_URL`").example("postgres://postgres@127.0.0.1:5432/p2p").secret()),
    Row::Setting(Described::new("DB_POOL_SIZE", "connections of a process, and …")),
    Row::Setting(Described::new("DB_MAX_OVERFLOW", "… connections beyond that. The pool opens up to the sum of both, one by one as they are needed")),
    Row::Setting(Described::new("AMQP_URL", "RabbitMQ. `?heartbeat=10` (seconds) and `frame_max=8192` (bytes) are added unless the URL has them").default(NEEDED).example("amqp://guest:guest@127.0.0.1:5672/%2f").secret()),
    Row::Setting(Described::new("AMQP_PREFIX", "first part of the names of queues and exchange: tells several installations on one broker apart")),
    Row::Setting(Described::new("REDIS_URL", "Redis, for the limiter").default(NEEDED).example("redis://127.0.0.1:6379/0").secret()),
    Row::Setting(Described::new("RABBITMQ_MANAGEMENT_URL", "RabbitMQ's management, with user and password, which alone tells what is in the hands of consumers: without it that is not told").default("none").example("http://guest:guest@127.0.0.1:15672").secret()),
    Row::Setting(Described::new("TLS_CA_FILE", "an authority, or several, in PEM, for the certificates of the three servers and the management: trusted beside those of the system (Redis: instead of them)").rule("a file with certificates in PEM").default("none").example("/etc/p2p/ca.pem")),
    Row::Setting(Described::new("TLS_CLIENT_CERT_FILE", "certificate, with its chain, that is shown to a server that asks for one").rule("a file with certificates in PEM").default("none").example("/etc/p2p/client.pem")),
    Row::Setting(Described::new("TLS_CLIENT_KEY_FILE", "its key").rule("a file with a private key in PEM; both or none").default("none").example("/etc/p2p/client.key")),
    Row::Section("Schedule"),
    Row::Setting(Described::new("EXTRACTION_INTERVAL_MINUTES", "time between slots, which lie on the wall clock (UTC)").unit("minutes").rule("a divisor of 1440")),
    Row::Setting(Described::new("BATCH_DEADLINE_SECONDS", "time from its slot after which a batch is cut").unit("seconds").rule("less than the interval")),
    Row::Setting(Described::new("MISFIRE_GRACE_SECONDS", "a slot found later than this is skipped").unit("seconds").rule("less than the interval")),
    Row::Setting(Described::new("PRIORITY_MARKETS", "markets that are read before others when the requests do not suffice for all").rule("each a fiat (`VES`), an asset in it (`USDT/VES`) or one side of that (`USDT/VES/BUY`)").default("none").example("USDT/VES,BOB,USDT/EUR/BUY")),
    Row::Setting(Described::new("REREAD_PERCENT", "requests for reading moved pages again, in percent of the pages of a batch; unless it is 0, ten in any batch").unit("percent")),
    Row::Setting(Described::new("FIATS", "the only fiats to read").rule("such as `VES,BOB`").default("all")),
    Row::Setting(Described::new("CATALOG_REFRESH_HOURS", "age at which the lists of fiats, assets and payment methods are read again").unit("hours")),
    Row::Setting(Described::new("CATALOG_REFRESH_PER_BATCH", "fiats whose lists are refreshed in one batch; those of new fiats are always read")),
    Row::Setting(Described::new("ADVERTISER_REQUESTS_PER_BATCH", "pages of advertisers read in one batch at most, from what the market leaves of its requests; 0: none ([below](../README.md#pages-of-advertisers))")),
    Row::Setting(Described::new("ADVERTISER_REFRESH_HOURS", "age at which the page of an advertiser is read again").unit("hours")),
    Row::Section("Retention"),
    Row::Setting(Described::new("RETENTION_FACTS_DAYS", "ads, pages, certificates and jobs are kept so long; the latest state and the planner need three days").unit("days")),
    Row::Setting(Described::new("RETENTION_MARTS_DAYS", "the same of marts; those kept by the month go a month at a time").unit("days").rule("no less than `RETENTION_FACTS_DAYS`").default("1095, or `RETENTION_FACTS_DAYS` if that is more").example("1095")),
    Row::Setting(Described::new("RETENTION_QUARANTINE_DAYS", "the same of what could not be taken: without its job nobody knows of which market an entry was").unit("days").rule("no more than `RETENTION_FACTS_DAYS`").default("35, or `RETENTION_FACTS_DAYS` if that is less").example("35")),
    Row::Setting(Described::new("RETENTION_RAW_DAYS", "the same of answers byte for byte").unit("days").rule("no more than `RETENTION_FACTS_DAYS`").default("7, or `RETENTION_FACTS_DAYS` if that is less").example("7")),
    Row::Setting(Described::new("RAW_ARCHIVE_MB", "how large these may be, in MiB with their indexes (6144 are seven days of 30,000 ads every ten minutes); older days go sooner if they are larger. 0: none are archived").unit("MiB")),
    Row::Section("Quality"),
    Row::Setting(Described::new("COMPLETENESS_THRESHOLD", "least part of the declared pages and ads that a batch must have read").unit("share of 1")),
    Row::Setting(Described::new("PRICE_ANOMALY_THRESHOLD", "largest deviation of a market's median price from its last cycles").unit("share of 1")),
    Row::Setting(Described::new("VOLUME_DROP_THRESHOLD", "largest drop of a market's ads or stock against the last 24 hours").unit("share of 1")),
    Row::Setting(Described::new("WITNESS_MARKETS_PER_BATCH", "markets that a batch holds against the exchange's other view; two requests each, all together at most one of a hundred; 0: none")),
    Row::Setting(Described::new("WITNESS_AGREEMENT_THRESHOLD", "share of a market's compared ads that must agree; below it is an error in the log").unit("share of 1")),
    Row::Section("Rate limit"),
    Row::Setting(Described::new("INITIAL_RATE_LIMIT", "requests per minute to begin with. Worker: what all workers of an egress send together. Coordinator: what a batch is planned with while no worker was seen within a minute").unit("requests a minute").rule("for a worker from `MIN_RATE_LIMIT` to `MAX_RATE_LIMIT`")),
    Row::Setting(Described::new("MIN_RATE_LIMIT", "lowest rate to which refusals cut; and what all workers together send while Redis is away").unit("requests a minute")),
    Row::Setting(Described::new("MAX_RATE_LIMIT", "highest rate to which quiet time raises").unit("requests a minute")),
    Row::Setting(Described::new("RATE_LIMIT_BACKOFF_FACTOR", "by what a refusal multiplies the rate").unit("share of 1")),
    Row::Setting(Described::new("RATE_LIMIT_MEMORY_SECONDS", "how long a refused rate is remembered").unit("seconds")),
    Row::Setting(Described::new("RATE_LIMIT_WINDOW_SECONDS", "length of the window by which the exchange is taken to count").unit("seconds")),
    Row::Setting(Described::new("MAX_IN_FLIGHT", "requests on the way at once, of all workers of an egress")),
    Row::Setting(Described::new("BREAKER_FAILURES", "failures without a success after which the breaker opens")),
    Row::Setting(Described::new("RATE_LIMIT_BURST", "requests that may follow each other without a pause")),
    Row::Setting(Described::new("EGRESS_ID", "the address that the exchange sees: limits are kept per egress")),
    Row::Setting(Described::new("EGRESS_PROXY_URL", "proxy through which requests leave").default("none").example("socks5://user:password@127.0.0.1:1080").secret()),
    Row::Section("Requests"),
    Row::Setting(Described::new("MAX_WORKERS", "most jobs in flight in one worker process; no more are taken than `MAX_RATE_LIMIT` feeds in three seconds. Besides them what that feeds in a tenth of a second, while a group is stored, and at most two that read pages of advertisers")),
    Row::Setting(Described::new("REQUEST_TIMEOUT_SECONDS", "from the first byte sent to the last received").unit("seconds")),
    Row::Setting(Described::new("MAX_RETRIES", "tries after the first when a request times out, the connection fails or the exchange answers 5xx. Refusals (429, 418, 403) are not counted here: they pause all workers of the egress")),
    Row::Setting(Described::new("USER_AGENT", "who asks, in every request").default("`p2p-market-data/` and the version").example("p2p-market-data/0.1.0")),
    Row::Setting(Described::new("BINANCE_BASE_URL", "the exchange, or a simulated one")),
    Row::Setting(Described::new("BINANCE_SEARCH_ENDPOINT", "the ad search").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_PAIRS_ENDPOINT", "assets of a fiat").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_FIATS_ENDPOINT", "list of fiats").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_PAYMENT_METHODS_ENDPOINT", "payment methods of a fiat").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_ADVERTISER_ENDPOINT", "the page of an advertiser").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_WITNESS_BASE_URL", "where the exchange's other view is").default("`https://www.binance.com` beside the default of `BINANCE_BASE_URL`, else what that says").example("https://www.binance.com")),
    Row::Setting(Described::new("BINANCE_WITNESS_ADS_ENDPOINT", "first ads of a market there").rule("a path of that host")),
    Row::Setting(Described::new("BINANCE_WITNESS_QUOTE_ENDPOINT", "price of a market there").rule("a path of that host")),
    Row::Section("Names and logs"),
    Row::Setting(Described::new("COORDINATOR_ID", "names the process in the ledger").default("host name, process number and chance").example("coordinator-1")),
    Row::Setting(Described::new("WORKER_ID", "names the process in ledger and limiter, which counts workers by it").rule("different for each worker").default("host name, process number and chance").example("worker-1")),
    Row::Setting(Described::new("USER", "who asks, in `pipeline.requests`; most shells say it")),
    Row::Setting(Described::new("LOG_LEVEL", "what is logged, to stderr").rule("`error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,sqlx=warn`")),
    Row::Setting(Described::new("LOG_FORMAT", "`auto`: pretty on a terminal, JSON elsewhere")),
    Row::Setting(Described::new("ENABLE_METRICS", "whether metrics are served at `/metrics`, and health at `/healthz` and `/readyz`")),
    Row::Setting(Described::new("PROMETHEUS_HOST", "where")),
    Row::Setting(Described::new("PROMETHEUS_PORT", "at which port: one of its own for each process of a machine. A port that is taken is an error in the log, and the process works without")),
    Row::Setting(Described::new("STATUS_HOST", "where the status page is served")),
    Row::Setting(Described::new("STATUS_PORT", "at which port; 0: nowhere")),
    Row::Setting(Described::new("OPS_TOKEN", "token for `/metrics`, the reasons of `/healthz` and `/readyz`, and the status page: `Authorization: Bearer`, or as password with any name, which a browser asks for. Needed where one of the two addresses is not a loopback one; `none`: whoever reaches the ports may read").rule("16 characters or more, or `none`").default("none").example("none").secret()),
    Row::Setting(Described::new("OTEL_EXPORTER_OTLP_ENDPOINT", "OpenTelemetry collector (gRPC, without TLS) for traces").default("none").example("http://127.0.0.1:4317").secret()),
    Row::Setting(Described::new("OTEL_TRACES_SAMPLER", "which traces are sent; after `parentbased_` only of roots")),
    Row::Setting(Described::new("OTEL_TRACES_SAMPLER_ARG", "share of the traces for `traceidratio`").unit("share of 1")),
];

/// A program that reads a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Program {
    Coordinator,
    Worker,
    P2p,
}

impl Program {
    const ALL: [Self; 3] = [Self::Coordinator, Self::Worker, Self::P2p];

    fn letter(self) -> char {
        match self {
            Self::Coordinator => 'C',
            Self::Worker => 'W',
            Self::P2p => 'P',
        }
    }

    /// What it asks for when everything that can be set is set.
    fn asks(self) -> anyhow::Result<BTreeMap<String, Setting>> {
        // Some settings are read only if they are there.
        const SET: [(&str, &str); 6] = [
            ("DATABASE_URL", "postgres://h/d"),
            ("OWNER_DATABASE_URL", "postgres://h/d"),
            ("AMQP_URL", "amqp://h"),
            ("REDIS_URL", "redis://h"),
            ("RABBITMQ_MANAGEMENT_URL", "http://h"),
            ("EGRESS_PROXY_URL", "http://h"),
        ];
        let mut vars = Vars::from_pairs(SET);
        let asked = vars.asked();
        match self {
            Self::Coordinator => drop(coordinator::settings::Settings::read(vars)?),
            Self::Worker => drop(worker::settings::Settings::read(vars)?),
            Self::P2p => {
                Database::read_owner(&mut vars);
                coordinator::settings::read_thresholds(&mut vars);
                shared::telemetry::served_at(&mut vars);
                drop(vars.text("USER", UNKNOWN_USER));
                drop(Servers::read_from(vars)?);
            }
        }
        let mut settings = asked.settings();
        // The owner's connection is read by either name.
        if let Some(setting) = settings.get_mut("OWNER_DATABASE_URL") {
            setting.default = None;
        }
        Ok(settings)
    }
}

/// Who asks, if the environment does not say.
pub const UNKNOWN_USER: &str = "somebody";

/// A setting as the programs read it.
struct Known {
    setting: Setting,
    programs: BTreeSet<Program>,
}

/// All that can be set, by name.
fn known() -> anyhow::Result<BTreeMap<String, Known>> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    for program in Program::ALL {
        for (name, setting) in program.asks()? {
            let known = all
                .entry(name.clone())
                .or_insert_with(|| Known { setting: setting.clone(), programs: BTreeSet::new() });
            ensure!(
                known.setting == setting,
                "{name}: {program:?} reads {setting:?}, another program {:?}",
                known.setting
            );
            known.programs.insert(program);
        }
    }
    let described: BTreeSet<&str> = described().map(|one| one.name).collect();
    for name in all.keys() {
        ensure!(described.contains(name.as_str()), "{name} is read, and not described");
    }
    for name in described {
        ensure!(all.contains_key(name), "{name} is described, and nobody reads it");
    }
    Ok(all)
}

fn described() -> impl Iterator<Item = &'static Described> {
    ROWS.iter().filter_map(|row| match row {
        Row::Section(_) => None,
        Row::Setting(described) => Some(described),
    })
}

/// Prints the documentation, or what `.env.example` begins with.
pub fn run(env: bool) -> anyhow::Result<ExitCode> {
    crate::print(&if env { example()? } else { markdown()? })?;
    Ok(ExitCode::SUCCESS)
}

const HEAD: &str = "\
# Settings

Made by `make settings` from what the programs read; do not edit it.

Settings are environment variables. `coordinator`, `worker` and `p2p` also read a `.env` file from the working
directory, or the nearest directory above that has one; what the environment says goes before it. An empty
value counts as absent. All problems are told together, with name, value and what is allowed; values of
secrets are never shown. Columns C, W, P: read by coordinator, worker, `p2p`. `p2p doctor` reads the settings
of all three. 🔒: a secret, or may hold one.
";

const TAIL: &str = "
## TLS

`amqps://`, `rediss://` and `https://` are verified: certificate, chain and host name. For PostgreSQL `sslmode` says it:

| `sslmode` | |
| --- | --- |
| none, server on this machine | encrypted if the server can; not verified |
| none, server elsewhere | as `verify-full` |
| `verify-full`, `require` | encrypted; certificate, chain and host name verified |
| `verify-ca` | the same without the host name |
| `prefer` | encrypted if the server can; not verified |
| `disable` | not encrypted: for a network that you trust |

`sslrootcert`, `sslcert` and `sslkey` in the URL go before `TLS_CA_FILE` and its kin. The client library also
takes `PGSSLMODE` and other `PG…` variables for what the URL does not say.

## Others

Libraries read `OTEL_*` other than the above for traces, and `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`
(without `EGRESS_PROXY_URL`, for requests to the exchange), from the environment only. `HOSTNAME` is part of the
default of the two names. `exchange-sim` is told by its command line (`exchange-sim serve --help`);
`exchange-sim verify` takes its database from `DATABASE_URL` of the environment, and does not read `.env`.

`SLACK_WEBHOOK_URL`, `PAGERDUTY_API_KEY` and `ALERT_ON_FAILURES` are for Alertmanager, which delivers alerts; no program
here reads them.
";

fn markdown() -> anyhow::Result<String> {
    let known = known()?;
    let mut text = HEAD.to_owned();
    for row in ROWS {
        match row {
            Row::Section(name) => {
                let head = "| name | default | allowed | unit | meaning | C | W | P |";
                write!(text, "\n## {name}\n\n{head}\n|{}\n", " --- |".repeat(8))?;
            }
            Row::Setting(one) => {
                let Known { setting, programs } = &known[one.name];
                let lock = if one.is_secret { " 🔒" } else { "" };
                let value = setting.default.as_deref().map(code);
                let default = one.default.map(str::to_owned).or(value).unwrap_or_default();
                let allowed = [setting.allowed.as_deref(), one.rule].into_iter().flatten();
                let allowed = allowed.collect::<Vec<_>>().join("; ");
                let allowed = if allowed.is_empty() { "any text" } else { &allowed };
                let read = Program::ALL.map(|program| {
                    if programs.contains(&program) {
                        format!(" {} |", program.letter())
                    } else {
                        " |".to_owned()
                    }
                });
                let read = read.concat();
                let (name, unit, meaning) = (one.name, one.unit, one.meaning);
                writeln!(
                    text,
                    "| `{name}`{lock} | {default} | {allowed} | {unit} | {meaning} |{read}"
                )?;
            }
        }
    }
    text.push_str(TAIL);
    Ok(text)
}

fn code(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("`{value}`") }
}

/// Last line of what is made of `.env.example`; what follows is kept by hand.
pub const END_OF_EXAMPLE: &str = "# --- alerts ---";
/// Characters of a line of `.env.example`.
const LINE_CHARS: usize = 100;

const EXAMPLE_HEAD: &str = "\
# All settings. Copy this file to `.env` and remove the `#` before what you want to set. What is
# commented shows the default, or an example where there is none. What each allows is told in
# docs/CONFIGURATION.md; down to the part of alerts this is made by `make settings`.
#
# `.env` is for development and for Docker Compose. What the environment says goes before it.
# [C] coordinator, [W] worker, [P] p2p.
";

fn example() -> anyhow::Result<String> {
    let known = known()?;
    let mut text = EXAMPLE_HEAD.to_owned();
    for row in ROWS {
        match row {
            Row::Section(name) => {
                let name = name.to_lowercase();
                writeln!(text, "\n# --- {name} {}\n", "-".repeat(LINE_CHARS - 7 - name.len()))?;
            }
            Row::Setting(one) => {
                let Known { setting, programs } = &known[one.name];
                let read: Vec<String> = programs.iter().map(|one| one.letter().into()).collect();
                let unit =
                    if one.unit.is_empty() { String::new() } else { format!(" ({})", one.unit) };
                let meaning = plain(one.meaning);
                let default = match one.default {
                    None => String::new(),
                    Some(NEEDED) => ". Needed".to_owned(),
                    Some(words) => format!(". Default: {}", plain(words)),
                };
                let words = format!("[{}] {meaning}{unit}{default}.", read.join(" "));
                text.push_str(&comment(&words));
                let value = one.example.or(setting.default.as_deref()).unwrap_or_default();
                writeln!(text, "#{}={value}", one.name)?;
            }
        }
    }
    Ok(text)
}

/// Without the marks of Markdown: of a link its text.
fn plain(markdown: &str) -> String {
    let mut text = markdown.replace('`', "");
    while let Some((before, rest)) = text.split_once('[')
        && let Some((words, rest)) = rest.split_once("](")
        && let Some((_, after)) = rest.split_once(')')
    {
        text = format!("{before}{words}{after}");
    }
    text
}

/// Words as lines of a comment.
fn comment(words: &str) -> String {
    let mut text = String::new();
    let mut line = "#".to_owned();
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS {
            text.push_str(&line);
            text.push('\n');
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    text + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    /// On a difference: `make settings`, and look at what changed.
    #[test]
    fn the_documentation_is_made_of_what_the_programs_read() {
        let committed = std::fs::read_to_string(format!("{ROOT}/docs/CONFIGURATION.md")).unwrap();
        assert_eq!(committed, markdown().unwrap());
    }

    #[test]
    fn the_example_names_the_same_settings() {
        let committed = std::fs::read_to_string(format!("{ROOT}/.env.example")).unwrap();
        let (made, by_hand) = committed.split_once(END_OF_EXAMPLE).unwrap();
        assert_eq!(made.trim_end(), example().unwrap().trim_end());
        // What follows is for Alertmanager and Compose: none of it is a setting of ours, which would have two lines.
        let known = known().unwrap();
        for name in by_hand.lines().filter_map(|line| line.trim_start_matches('#').split_once('='))
        {
            assert!(!known.contains_key(name.0), "{} stands there twice", name.0);
        }
    }

    #[test]
    fn secrets_have_no_default_that_could_be_one() {
        let known = known().unwrap();
        for one in described().filter(|one| one.is_secret) {
            assert_eq!(known[one.name].setting.default, None, "{}", one.name);
        }
    }
}
