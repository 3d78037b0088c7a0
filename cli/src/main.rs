use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cli::ask::MarketArgs;
use cli::batch::Wanted;
use cli::history::By;
use cli::ops::requests::{Asking, Target};
use cli::quarantine::Filter;
use cli::quote::Asked;
use cli::span::{Moment, Span};
use cli::witness::Markets;
use shared::domain::{Market, Side};
use shared::exchange::Exchange;

/// The operator's tool.
///
/// Exit codes of all commands: 0 done, 1 an error, 3 something is not as it should be, 64 a setting
/// or an argument is not allowed, 66 what was asked for is not there. See `p2p exit-codes`.
#[derive(Parser)]
#[command(name = "p2p", version = shared::build::version())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the database's schema to this version (`OWNER_DATABASE_URL`, or else `DATABASE_URL`).
    ///
    /// Exit codes: 0 done, 1 it can't be migrated, 64 a setting is not allowed.
    Migrate,
    /// Read captured answers of the ad search as the worker would.
    ///
    /// Prints one JSON object per ad on stdout, with the rules that it breaks as `warnings`, and one per
    /// refusal on stderr; there too, what is odd about an answer as a whole: `warnings`, and `lenient`,
    /// what stood elsewhere or had another type. Exit codes: 0 all taken, 3 something was refused, 66 a
    /// file can't be read.
    Parse {
        #[arg(long, default_value = "binance")]
        exchange: Exchange,
        /// Fiat of the market, for example BOB.
        #[arg(long)]
        fiat: String,
        /// Asset of the market, for example USDT.
        #[arg(long)]
        asset: String,
        /// Side of the taker, as the search was asked for it: BUY or SELL.
        #[arg(long)]
        side: Side,
        /// Answers as sent, or in one of the forms that collectors keep them; `-` is stdin.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// What became of each slot: one line per batch, and per slot that no batch took.
    ///
    /// Newest last. A slot that no batch took is `skipped`, or `unrecorded`: due by the interval that
    /// the last leader kept, and nobody led to take it or to record it as skipped. A slot counts as
    /// unrecorded two minutes after it was due; until then a leader may still take it. Sums are those
    /// of the close; `-` where none were recorded. `again` are readings beyond the first of a page,
    /// `missed` is an estimate. Exit codes: 0 shown, 64 an argument is not allowed.
    Batches {
        /// Lines to show, 1 to 10000. The default holds without --since.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), default_value = "20", default_value_if("since", clap::builder::ArgPredicate::IsPresent, "10000"))]
        last: u32,
        /// Only slots since then: 90m, 24h, 7d.
        #[arg(long)]
        since: Option<Span>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// One batch.
    #[command(subcommand)]
    Batch(BatchCommand),
    /// The book of a market, now or at a moment: certificate, ads best first, depth.
    ///
    /// The last book of which no page was lost, read by then. Exit codes: 0 shown, 64 an argument is
    /// not allowed, 66 the market is not known, or no book was read by then, or its ads were dropped
    /// by age.
    Book {
        #[command(flatten)]
        market: MarketArgs,
        /// As of this moment: 2h (ago), 2026-11-23, "2026-11-23 10:00" (UTC), 2026-11-23T10:00:00Z.
        #[arg(long, value_name = "INSTANT")]
        at: Option<Moment>,
        /// Ads to show. Default: 20, with --json all.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What should have been read and was not: slots, markets, pages and lists, with reasons.
    ///
    /// Slots: skipped ones, those that nobody took and nobody recorded (`unrecorded`), batches that
    /// read nothing (`failed`) or were never planned (`unplanned`: no market was read), and batches
    /// open past their deadline (`overdue`). Runs of one kind and reason are one line.
    ///
    /// Markets: a gap is batches in a row without a good reading, which is one of which no page was
    /// lost or left out. It runs from the last good reading to the next one, or to the market's
    /// delisting, or is still open. Batches that had no book of the market are no gap by themselves:
    /// markets without ads are probed ever more rarely. Pages missed and batches are counted within
    /// --since; the last good reading before is looked for one day further back, and for open gaps
    /// however long ago it was.
    ///
    /// Lists of fiats, assets and payment methods that were not read. Books that drifted while they
    /// were read and ads in quarantine are no gaps; their figures are at the end.
    ///
    /// Exit codes: 0 no gaps, 3 gaps, 64 an argument is not allowed, 66 the fiat is not known.
    Gaps {
        /// How far to look back: 90m, 24h, 7d.
        #[arg(long, default_value = "24h")]
        since: Span,
        /// Only markets and lists of this fiat, for example VES. Slots are of all markets.
        #[arg(long)]
        fiat: Option<String>,
        /// Gaps of markets to show, open and long ones first. Default: 50, with --json all.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The prices of a market over time, with the gaps.
    ///
    /// Prices and stock rest on complete and drifted books (`books`: complete ones of all), flows on
    /// complete ones. What left the offer was traded or withdrawn. Exit codes: 0 shown, 64 an
    /// argument is not allowed, 66 the market is not known or no book was read in this time.
    History {
        #[command(flatten)]
        market: MarketArgs,
        /// From this moment: 24h (ago), 2026-11-23, "2026-11-23 10:00" (UTC). Default: a day before
        /// the end, by day 30 days.
        #[arg(long, value_name = "INSTANT")]
        from: Option<Moment>,
        /// Until this moment; default: now.
        #[arg(long, value_name = "INSTANT")]
        to: Option<Moment>,
        /// A row for each of these.
        #[arg(long, value_enum, default_value_t = By::Hour)]
        by: By,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The markets that the planner knows: listed or not, ads, last reading, changes, and when the lists
    /// of their fiats were read.
    ///
    /// `empty` counts readings in a row without ads, `left out` batches in a row without a request for
    /// the market. Exit codes: 0 shown, 64 an argument is not allowed, 66 the fiat is not known.
    Catalog {
        /// Only this fiat, for example VES.
        #[arg(long)]
        fiat: Option<String>,
        /// Also what is no longer listed, and every market.
        #[arg(long)]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Completions for a shell, on stdout.
    ///
    /// For bash: `p2p completions bash > /etc/bash_completion.d/p2p`. Exit codes: 0 printed, 64 the shell
    /// is not known.
    Completions { shell: clap_complete::Shell },
    /// What to mend: settings, servers, clocks, schema, roles, disk, partitions, queues, leader.
    ///
    /// Changes nothing and shows no password. Exit codes: 0 all is well, perhaps with warnings, 1 a
    /// server can't be reached, 3 there is something to do, 64 an argument is not allowed.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The exit codes of all commands.
    ///
    /// 0 done, and all is as it should be. 1 an error: a server that is away, a full disk, a schema that
    /// is too old. 3 done, and something is not as it should be. 64 a setting or an argument is not
    /// allowed. 66 what was asked for is not there. 130 ended by a signal. Each command's help says
    /// what 3 and 66 mean for it.
    ExitCodes {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Whether the coordinator or worker beside it is alive, as it says itself; for health checks.
    ///
    /// Asks by the same settings (`PROMETHEUS_HOST`, `PROMETHEUS_PORT`). Alive: its loops go on, whatever
    /// servers are away. Exit codes: 0 alive, 1 no answer, 3 not alive, 64 a setting is not allowed, or
    /// `ENABLE_METRICS` is false.
    Health {
        /// Whether it can do its work now: all that it needs answers.
        #[arg(long)]
        ready: bool,
    },
    /// The limit that workers share: look, set, pause, resume; obeyed within a second.
    ///
    /// Exit codes: 0 done, 1 Redis can't be used, 64 a rate is not allowed, 66 there is no such egress.
    #[command(subcommand)]
    Limiter(cli::limiter::Command),
    /// A man page for each command.
    ///
    /// Exit codes: 0 written, 1 the directory can't be written.
    Man {
        /// Directory, made if it is not there.
        #[arg(long)]
        out: PathBuf,
    },
    /// The queues: how many messages wait, consumers, what is in their hands, dead letters.
    ///
    /// Waiting messages and consumers are exact and of now (`AMQP_URL`); what is in the hands of
    /// consumers tells the broker's management (`RABBITMQ_MANAGEMENT_URL`), some seconds old. Exit codes:
    /// 0 shown, 1 the broker can't be used, 3 there are dead letters or a queue is not there, 64 a setting
    /// or an argument is not allowed.
    Queues(cli::ops::queues::QueuesArgs),
    /// One screen: healthy or not, what to do, the running batch, the last ones, workers, queues, limits.
    ///
    /// Only `DATABASE_URL` is needed; what else is away or not told is said to be. Exit codes: 0 healthy,
    /// perhaps with warnings, 3 not healthy, the database being away included, 64 a setting is not
    /// allowed.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The status live on the whole terminal; q quits.
    ///
    /// Looks once a second. Exit codes: 0 left by q, 1 the terminal can't be used, 64 a setting is not
    /// allowed or there is no terminal, 143 ended by SIGTERM.
    Watch,
    /// The workers: seen when, egress, rate, breaker, what each did in the last batch.
    ///
    /// One not seen for a minute is stale: the planner does not count on it. Exit codes: 0 shown, 3 none
    /// was seen within a minute, 64 a setting is not allowed.
    Workers {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The data dictionary as Markdown, made from the comments of the schema.
    ///
    /// Exit codes: 0 printed, 3 (--check) something lacks a comment.
    Dictionary {
        /// Print what lacks a comment, a meaning of NULL or its field instead; 3 if anything does.
        #[arg(long)]
        check: bool,
    },
    /// Days as Parquet files, each with a manifest: hashes, rows, completeness, batches.
    ///
    /// Writes DIR/day=YYYY-MM-DD/{offers,books}.parquet and DIR/dimensions/*.parquet. Only closed
    /// batches; a day that is not over says so in its manifest, which is written last. Exit codes: 0
    /// done, 1 an error, such as a full disk, 3 a day of the span was dropped by age, 64 a span or
    /// directory is not allowed, 66 nothing to export.
    Export {
        /// First UTC day, as 2026-11-22.
        #[arg(long)]
        from: chrono::NaiveDate,
        /// Last UTC day; at most 366 days.
        #[arg(long)]
        to: chrono::NaiveDate,
        /// New, empty, or of earlier exports.
        #[arg(long)]
        out: PathBuf,
    },
    /// What can be set, as Markdown: `docs/CONFIGURATION.md`.
    ///
    /// Exit codes: 0 printed.
    Settings {
        /// As the beginning of `.env.example`.
        #[arg(long)]
        env: bool,
    },
    /// What the database holds: partitions, days, rows, sizes, and bytes per reading.
    ///
    /// Tables up to 16 MiB are counted; rows of larger ones are the planner's estimate (`~`). A reading
    /// is one ad read once; its bytes are those of ads, pages and certificates with their indexes. Exit
    /// codes: 0 shown, 64 a setting is not allowed.
    Storage {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// An advertiser: identity with all its versions, figures, and its days in each market.
    ///
    /// `best` is the share of the books with an ad of it in which it has the best price. Exit codes:
    /// 0 shown, 3 several advertisers had this nickname (they are listed), 64 an argument is not
    /// allowed, 66 nobody had it.
    Merchant {
        /// Its userNo, or a nickname that it has or had.
        name: String,
        /// From the UTC day of this moment: 7d (ago), 2026-11-23. Default: a week before the end.
        #[arg(long, value_name = "INSTANT")]
        from: Option<Moment>,
        /// To the day of this moment; default: now.
        #[arg(long, value_name = "INSTANT")]
        to: Option<Moment>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What the quality checks said of a batch: value, threshold, verdict, and the markets concerned.
    ///
    /// Verdicts: pass; warn (told, and shown); fail (the markets concerned keep their last good state,
    /// or the batch lacks what it should hold); unknown (nothing can be said, with why). Markets whose
    /// newest book is held back are listed. With --market what is ordinary in one market, and what was
    /// last said of it. Exit codes: 0 nothing warns or fails (also with --market), 3 something does, 64
    /// an argument is not allowed, 66 there is no such batch or market.
    Quality {
        /// Number of a closed batch as `p2p batches` shows it, or `latest`, the last one.
        #[arg(default_value = "latest")]
        batch: Wanted,
        /// A market, as USDT/VES/BUY: its baseline and the last verdicts about it.
        #[arg(long, value_parser = cli::quality::parse_market, conflicts_with = "batch")]
        market: Option<Market>,
        /// Verdicts of the market to show.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000), default_value_t = 10)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What could not be taken: list, show, retry, discard.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// What an amount costs in a market: now, at a moment, or over time with --from.
    ///
    /// Walks the book from the best price, an order per ad, each within the limits of its ad. Exit
    /// codes: 0 shown, 3 the book is too thin for it (not with --from), 64 an argument is not
    /// allowed, 66 the market or the payment method is not known, or no book was read by then, or its
    /// ads were dropped by age.
    Quote {
        #[command(flatten)]
        asked: Asked,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The archive of answers, byte for byte: show one, figures, dictionaries.
    #[command(subcommand)]
    Raw(RawCommand),
    /// How answers of the exchange differ from the shapes that are known.
    ///
    /// Known are the shapes of the captures that this program was made with, and what was accepted.
    /// Exit codes: 0 nothing differs, or all of it was accepted, 3 findings are open.
    #[command(args_conflicts_with_subcommands = true)]
    Shapes {
        #[command(subcommand)]
        command: Option<ShapesCommand>,
        /// Accepted findings too.
        #[arg(long)]
        all: bool,
        /// As JSON, samples whole.
        #[arg(long)]
        json: bool,
    },
    /// Parse archived answers again with this version's parser, and tell what would differ.
    ///
    /// Compares the facts of closed batches with what this parser makes of the archived bytes: ads,
    /// pages, endings of their jobs, identities and figures of advertisers. Changes nothing unless told
    /// to with --apply; then it corrects the facts in place, and makes certificates, marts, latest
    /// state and the sums of batches again. It may be killed and run again at any time. Answers to
    /// requests for lists and pages of advertisers are not replayed; they are counted as skipped.
    ///
    /// Exit codes: 0 no difference, or applied; 1 an error; 3 differences that were not applied, or an
    /// answer whose facts the database refuses; 64 an argument is not allowed, or another replay is
    /// running; 66 nothing is archived there.
    Replay {
        /// Slots of the batches from this moment: 24h (ago), 2026-11-23, "2026-11-23 10:00" (UTC).
        #[arg(long, value_name = "INSTANT", required_unless_present = "resume")]
        from: Option<Moment>,
        /// Until this moment.
        #[arg(long, value_name = "INSTANT", required_unless_present = "resume")]
        to: Option<Moment>,
        /// Only these markets: VES, USDT/VES or USDT/VES/BUY.
        #[arg(long)]
        market: Option<String>,
        /// Change nothing; the default.
        #[arg(long, conflicts_with_all = ["apply", "resume"])]
        dry_run: bool,
        /// Correct the facts. As the owner of the tables (`OWNER_DATABASE_URL`), as `p2p migrate`.
        #[arg(long)]
        apply: bool,
        /// Only finish what a replay or retry that was killed left to be made again.
        #[arg(long, conflicts_with_all = ["from", "to", "market", "apply"])]
        resume: bool,
        /// Differences to tell one by one; all are counted.
        #[arg(long, default_value_t = 50)]
        details: u32,
        /// Tell all of them, however many.
        #[arg(long, conflicts_with = "details")]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The last batches in figures, and the best prices of the largest markets.
    ///
    /// Exit codes: 0 shown, 64 an argument is not allowed.
    Summary {
        /// Batches to show, the latest last, 1 to 1000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000), default_value_t = 2)]
        batches: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// How far the exchange's other view of its books agrees with ours.
    ///
    /// A few markets of each batch are held against it (`WITNESS_MARKETS_PER_BATCH`): ads with the same
    /// price in both agree; differences of ads that moved between the two readings are told apart;
    /// every other difference is listed. Exit codes: 0 all that was compared agrees, 3 something
    /// differs, 64 an argument is not allowed, 66 there is no such batch, or nothing was held against
    /// the witness.
    Witness {
        /// Number of a batch as `p2p batches` shows it, or `latest`, the last one that closed. Default: the
        /// last ones with checks.
        batch: Option<Wanted>,
        /// Batches to show, 1 to 1000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 6)]
        last: u32,
        /// Only this market: USDT/VES, USDT/VES/BUY.
        #[arg(long, value_name = "MARKET")]
        market: Option<Markets>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum RawCommand {
    /// What was asked and what came back: when, by whom, status, request, headers, body.
    ///
    /// Each answer that ended a job is archived, also empty and failed ones. Bodies are as sent, after
    /// their transfer compression was undone: `p2p raw show latest VES USDT BUY 1 --body | p2p parse
    /// --fiat VES --asset USDT --side BUY -`. Exit codes: 0 shown, 1 an error, such as damaged bytes, 64
    /// an argument is not allowed, 66 it is not there, and why: dropped, suspended, never read.
    Show {
        #[command(flatten)]
        asked: cli::raw::Asked,
        /// Only the body, exactly.
        #[arg(long, conflicts_with = "json")]
        body: bool,
        /// As JSON; bytes that are no UTF-8 in hexadecimal.
        #[arg(long)]
        json: bool,
    },
    /// Days, answers, bytes per ad with and without a dictionary, budget, suspensions.
    ///
    /// Bytes per ad are those of answers with ads, packed with request and headers. Exit codes: 0 shown,
    /// 64 a setting is not allowed.
    Stats {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Train a dictionary on pages of the last batches, and keep it if it is better than the newest.
    ///
    /// The leader does it in idle time when there is none, or the newest is a day old. Measured on pages
    /// that were held back. Exit codes: 0 kept, 3 not kept: too few pages, or it saves too little.
    Train {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum BatchCommand {
    /// Ask the leader to close a batch now: what is open of it expires, and what was read stays.
    ///
    /// Recorded with who asked and why, and obeyed within seconds; without a leader by the next one. Exit
    /// codes: 0 cancelled, or recorded and not answered yet, 3 refused, for the batch closed first, 64 it
    /// is closed already, 66 there is no such batch.
    Cancel {
        /// Number of the batch as `p2p batches` shows it, or `open`.
        batch: Target,
        #[command(flatten)]
        asking: Asking,
    },
    /// Ask the leader for a batch now, between two slots: the whole plan, or what a batch lost.
    ///
    /// One batch runs at a time, and none into the next slot: it is cut before it, and refused when less
    /// than 40 seconds are left. Recorded with who asked and why; a leader that has a batch answers when
    /// it is closed. Exit codes: 0 opened, or recorded and not answered yet, 3 refused, 64 the batch lost
    /// nothing or another request waits, 66 there is no such batch.
    Rerun {
        /// The batch to make good: its number, `latest`, or its slot, as "2026-11-23 10:00" (UTC).
        batch: Option<Target>,
        /// Only the markets of which that batch (default: the latest closed) lost or left out a page.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// What was asked of the leader, by whom and why, and what came of it.
    ///
    /// Exit codes: 0 shown, 64 an argument is not allowed.
    Requests {
        /// Requests to show, newest last, 1 to 10000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), default_value_t = 20)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Everything about one batch: times, jobs, workers, books, what was lost and why.
    ///
    /// What was kept by day (jobs and books) goes when the day is dropped; the batch itself stays.
    /// Exit codes: 0 shown, 64 an argument is not allowed, 66 there is no such batch.
    Show {
        /// Number of the batch as `p2p batches` shows it, `latest`, the last one that closed, or `open`,
        /// the one that runs.
        id: Wanted,
        /// Books that are not whole, and jobs that failed or expired, to show of each, 1 to 100000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), default_value_t = 20)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum ShapesCommand {
    /// Accept findings: they are known from then on, and no longer alerted.
    ///
    /// Exit codes: 0 accepted, 64 an argument is not allowed, 66 no finding has this path.
    Accept {
        #[command(flatten)]
        which: cli::shapes::Which,
    },
}

#[derive(Subcommand)]
enum QuarantineCommand {
    /// Entries, newest first. Exit codes: 0 shown, also if there are none; 64 an argument is not allowed.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Entries to show, 1 to 100000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), default_value_t = 50)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// One entry: where it came from, why it was refused, its bytes. Exit codes: 0 shown, 66 not there.
    Show {
        /// Number of the entry.
        id: i64,
        /// Only the bytes, exactly.
        #[arg(long, conflicts_with = "json")]
        body: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Parse entries again with this version's parser, and put what it takes where it belongs.
    ///
    /// An ad goes to its place on its page, a whole answer becomes the page or list it should have been;
    /// certificates, marts and latest state are made again, by the owner of the tables
    /// (`OWNER_DATABASE_URL`). What is refused again stays open and notes the try. Exit codes: 0 all are closed, or would be; 3 some are refused still, or their day was
    /// dropped by age; 64 an argument is not allowed, or a replay is running; 66 not there.
    Retry {
        /// Numbers of entries.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<i64>,
        /// All open entries, of those that the filters leave.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filter: Filter,
        /// Change nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Close entries that are not worth taking. Exit codes: 0 all are discarded, 3 one was closed before,
    /// 66 one is not there.
    Discard {
        /// Numbers of entries.
        #[arg(required = true)]
        ids: Vec<i64>,
        /// Why, for whoever asks later.
        #[arg(long)]
        why: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    shared::service::install_tls_provider();
    let arguments = match Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version come this way too. Where nobody reads it, there is nobody to tell.
            answer.print().ok();
            let is_error = answer.use_stderr();
            return ExitCode::from(if is_error { cli::EXIT_USAGE } else { 0 });
        }
    };
    let result = match arguments.command {
        Command::Migrate => cli::migrate::run().await,
        Command::Parse { exchange, fiat, asset, side, files } => {
            cli::parse::run(exchange, &fiat, &asset, side, &files)
        }
        Command::Batches { last, since, json } => cli::batches::run(last, since, json).await,
        Command::Batch(BatchCommand::Show { id, limit, json }) => {
            cli::batch::show(id, limit, json).await
        }
        Command::Batch(BatchCommand::Cancel { batch, asking }) => {
            cli::ops::requests::cancel(batch, asking).await
        }
        Command::Batch(BatchCommand::Rerun { batch, lost, asking }) => {
            cli::ops::requests::rerun(batch, lost, asking).await
        }
        Command::Batch(BatchCommand::Requests { limit, json }) => {
            cli::ops::requests::list(limit, json).await
        }
        Command::Catalog { fiat, all, json } => {
            cli::ops::catalog::run(fiat.as_deref(), all, json).await
        }
        Command::Completions { shell } => cli::ops::manual::completions(shell, Cli::command()),
        Command::Doctor { json } => cli::ops::doctor::run(json).await,
        Command::ExitCodes { json } => cli::ops::manual::exit_codes(json),
        Command::Health { ready } => cli::ops::alive::run(ready).await,
        Command::Man { out } => cli::ops::manual::man(&out, Cli::command()),
        Command::Queues(args) => cli::ops::queues::run(args).await,
        Command::Settings { env } => cli::settings::run(env),
        Command::Status { json } => cli::ops::status::run(json).await,
        Command::Watch => cli::ops::watch::run().await,
        Command::Workers { json } => cli::ops::workers::run(json).await,
        Command::Book { market, at, limit, json } => cli::book::run(&market, at, limit, json).await,
        Command::History { market, from, to, by, json } => {
            cli::history::run(&market, from, to, by, json).await
        }
        Command::Merchant { name, from, to, json } => {
            cli::merchant::run(&name, from, to, json).await
        }
        Command::Quality { batch, market, limit, json } => match market {
            Some(market) => cli::quality::market(&market, limit, json).await,
            None => cli::quality::run(batch, json).await,
        },
        Command::Quarantine(QuarantineCommand::List { filter, limit, json }) => {
            cli::quarantine::list(&filter, limit, json).await
        }
        Command::Quarantine(QuarantineCommand::Show { id, body, json }) => {
            cli::quarantine::show(id, body, json).await
        }
        Command::Quarantine(QuarantineCommand::Retry { ids, all: _, filter, dry_run, json }) => {
            cli::quarantine::retry(&ids, &filter, dry_run, json).await
        }
        Command::Quarantine(QuarantineCommand::Discard { ids, why }) => {
            cli::quarantine::discard(&ids, &why).await
        }
        Command::Replay { from, to, market, dry_run: _, apply, resume, details, all, json } => {
            let details = if all { usize::MAX } else { details as usize };
            match (from, to) {
                (Some(from), Some(to)) if !resume => {
                    cli::replay::run((from, to), market.as_deref(), apply, details, json).await
                }
                _ => cli::replay::resume(json).await,
            }
        }
        Command::Quote { asked, json } => cli::quote::run(&asked, json).await,
        Command::Gaps { since, fiat, limit, json } => {
            cli::gaps::run(since, fiat.as_deref(), limit, json).await
        }
        Command::Limiter(command) => cli::limiter::run(command).await,
        Command::Dictionary { check } => cli::dictionary::run(check).await,
        Command::Export { from, to, out } => cli::export::run(from, to, &out).await,
        Command::Shapes { command: Some(ShapesCommand::Accept { which }), .. } => {
            cli::shapes::accept(&which).await
        }
        Command::Shapes { command: None, all, json } => cli::shapes::list(all, json).await,
        Command::Storage { json } => cli::storage::run(json).await,
        Command::Raw(RawCommand::Show { asked, body, json }) => {
            cli::raw::show(&asked, body, json).await
        }
        Command::Raw(RawCommand::Stats { json }) => cli::raw::stats(json).await,
        Command::Raw(RawCommand::Train { json }) => cli::raw::train(json).await,
        Command::Witness { batch, last, market, json } => {
            cli::witness::run(batch, last, market.as_ref(), json).await
        }
        Command::Summary { batches, json } => cli::summary::run(batches, json).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("p2p: {error:#}");
        cli::exit_code(&error)
    })
}
