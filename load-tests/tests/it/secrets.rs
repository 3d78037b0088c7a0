//! Least privilege and silence: a batch by users who may do no more than they need, and no password in
//! anything that the programs say, whether all is well or nothing is.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lapin::options::{BasicGetOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ConnectionProperties};
use load_tests::fleet::{Fleet, Process};
use shared::queue::{Role, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// Passwords that may be said nowhere.
const SECRETS: [&str; 11] = [
    "geheim-database",
    "geheim-owner",
    "geheim-query",
    "geheim-amqp",
    "geheim-redis",
    "geheim-management",
    "geheim-proxy",
    "geheim-otel",
    "geheim-ops-token-of-16",
    "geheim-slack",
    "geheim-pagerduty",
];

/// What was said, and by whom.
#[derive(Default)]
struct Told(Vec<(String, String)>);

impl Told {
    fn add(&mut self, who: impl Into<String>, said: impl Into<String>) {
        self.0.push((who.into(), said.into()));
    }

    /// An error with the line, if a secret was said. Everybody must have said something.
    fn must_hold_no_secret(&self) -> Result<()> {
        for (who, said) in &self.0 {
            ensure!(!said.trim().is_empty(), "{who} said nothing");
            for secret in SECRETS {
                let line = said.lines().find(|line| line.contains(secret));
                ensure!(line.is_none(), "{who} tells {secret}: {}", line.unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Status and body of an answer over HTTP. `authorization`: the header, if one is to be sent.
async fn http(method: &str, url: &Url, authorization: &str, body: &str) -> Result<(u16, String)> {
    let (host, port) = (url.host_str().context("host")?, url.port().context("port")?);
    let mut stream = TcpStream::connect((host, port)).await?;
    let path = &url[url::Position::BeforePath..];
    let authorization = match authorization {
        "" => String::new(),
        value => format!("authorization: {value}\r\n"),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{authorization}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("a head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// `guest:guest`.
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

async fn manage(method: &str, path: &str, body: &str) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    let base = std::env::var("RABBITMQ_MANAGEMENT_URL").context("RABBITMQ_MANAGEMENT_URL")?;
    let url = Url::parse(&base)?.join(path)?;
    let (status, answer) = http(method, &url, GUEST, body).await?;
    ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    Ok(())
}

/// A user of the broker with the permissions of a role, in a virtual host of its own.
async fn make_user(fleet: &Fleet, role: Role, name: &str) -> Result<()> {
    let permissions = Topology::new(&fleet.name).permissions(role);
    let user = serde_json::json!({ "password": "geheim-amqp", "tags": "" });
    manage("PUT", &format!("/api/users/{name}"), &user.to_string()).await?;
    let may = serde_json::json!({
        "configure": permissions.configure, "write": permissions.write, "read": permissions.read,
    });
    let path = format!("/api/permissions/{}/{name}", fleet.name);
    manage("PUT", &path, &may.to_string()).await
}

/// A user of Redis who may touch the keys of limiters only.
async fn redis(fleet: &Fleet, command: &str) -> Result<()> {
    let url = Url::parse(&fleet.servers.redis_url)?;
    let address = (url.host_str().context("host")?, url.port().context("port")?);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 512];
    let read = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    ensure!(!answer.starts_with('-'), "{command}: {answer}");
    Ok(())
}

fn with(url: &str, user: &str, password: &str) -> Result<Url> {
    let mut url = Url::parse(url)?;
    url.set_username(user).ok().context("user")?;
    url.set_password(Some(password)).ok().context("password")?;
    Ok(url)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A service of the fleet with its log, and where it serves.
struct Service {
    process: Process,
    log: std::path::PathBuf,
    metrics: u16,
    status: u16,
}

impl Service {
    fn start(
        fleet: &Fleet,
        name: &str,
        args: &[&str],
        settings: &[(&str, String)],
        format: &str,
    ) -> Result<Self> {
        let (metrics, status) = (free_port()?, free_port()?);
        let log = std::env::temp_dir().join(format!("{}_{name}_{metrics}.log", fleet.name));
        let mut command = fleet.command(name, args)?;
        command
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .env("ENABLE_METRICS", "true")
            .env("PROMETHEUS_PORT", metrics.to_string())
            .env("STATUS_PORT", status.to_string())
            .env("LOG_LEVEL", "trace")
            .env("LOG_FORMAT", format)
            .stderr(Stdio::from(std::fs::File::create(&log)?));
        Ok(Self { process: Process::spawn(command)?, log, metrics, status })
    }

    /// All that it serves, to who has the token.
    async fn tell(&self, told: &mut Told, name: &str) -> Result<()> {
        let of = |port: u16, path: &str| Url::parse(&format!("http://127.0.0.1:{port}{path}"));
        let bearer = "Bearer geheim-ops-token-of-16";
        let mut paths = vec![(self.metrics, "/metrics"), (self.metrics, "/readyz")];
        paths.push((self.metrics, "/healthz"));
        if name.starts_with("coordinator") {
            paths.extend([(self.status, "/"), (self.status, "/api/status.json")]);
        }
        for (port, path) in paths {
            let url = of(port, path)?;
            // It may not serve yet.
            let mut answer = http("GET", &url, bearer, "").await;
            for _ in 0..500 {
                if answer.is_ok() {
                    break;
                }
                tokio::time::sleep(load_tests::fleet::PULSE).await;
                answer = http("GET", &url, bearer, "").await;
            }
            let (status, body) = answer.with_context(|| format!("{name} {path}"))?;
            ensure!(status == 200 || path == "/readyz", "{name} {path}: {status}");
            told.add(format!("{name} {path}"), body);
            // Who has no token is told next to nothing.
            let (status, body) = http("GET", &url, "", "").await?;
            let is_told = path == "/readyz" || path == "/healthz";
            ensure!(is_told == (status != 401), "{name} {path} without the token: {status}");
            ensure!(!is_told || body == "true" || body == "false", "{name} {path}: {body}");
        }
        Ok(())
    }

    fn tell_log(&self, told: &mut Told, name: &str) -> Result<()> {
        told.add(format!("the log of {name}"), std::fs::read_to_string(&self.log)?);
        Ok(std::fs::remove_file(&self.log)?)
    }
}

/// What an operator asks.
const QUESTIONS: [&str; 9] = [
    "doctor",
    "doctor --json",
    "status --json",
    "workers --json",
    "queues --json",
    "queues dead show --json",
    "limiter show --json",
    "gaps --json",
    "migrate",
];

/// What `p2p` says to questions, on both streams.
async fn ask(
    fleet: &Fleet,
    told: &mut Told,
    questions: &[&str],
    settings: &[(&str, String)],
) -> Result<()> {
    for question in questions {
        let args: Vec<&str> = question.split(' ').collect();
        let mut command = fleet.command("p2p", &args)?;
        command.envs(settings.iter().map(|(name, value)| (*name, value.as_str())));
        let output = command.output().await?;
        let said = [output.stdout, output.stderr].concat();
        told.add(format!("p2p {question}"), String::from_utf8_lossy(&said).into_owned());
    }
    Ok(())
}

/// Settings of which each holds a secret.
fn settings(
    fleet: &Fleet,
    database: &Url,
    amqp: &Url,
    redis: &Url,
) -> Result<Vec<(&'static str, String)>> {
    let owner = with(&fleet.database_url, "postgres", "geheim-owner")?;
    Ok(vec![
        ("DATABASE_URL", database.to_string()),
        ("OWNER_DATABASE_URL", owner.to_string()),
        ("AMQP_URL", amqp.to_string()),
        ("REDIS_URL", redis.to_string()),
        ("RABBITMQ_MANAGEMENT_URL", "http://u:geheim-management@127.0.0.1:1".to_owned()),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://u:geheim-otel@127.0.0.1:1/?token=geheim-otel".to_owned(),
        ),
        ("OPS_TOKEN", "geheim-ops-token-of-16".to_owned()),
        ("SLACK_WEBHOOK_URL", "https://hooks.example/geheim-slack".to_owned()),
        ("PAGERDUTY_API_KEY", "geheim-pagerduty".to_owned()),
    ])
}

/// With every server there, each program as a user of its own: a batch is complete, and the log at its most
/// talkative tells no password.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_needs_no_more_than_it_is_given_and_tells_no_password() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 60 --seed 2").await?;
    manage("PUT", &format!("/api/vhosts/{}", fleet.name), "").await?;
    let user = |role: &str| format!("{}-{role}", fleet.name);
    for role in Role::ALL {
        make_user(&fleet, role, &user(role.as_str())).await?;
    }
    let user_of_redis = format!(
        "ACL SETUSER {} on >geheim-redis ~{{p2p:*}}:* +@all -@admin -@dangerous +info",
        fleet.name
    );
    redis(&fleet, &user_of_redis).await?;
    let database = with(&fleet.database_url, "p2p_writer", "geheim-database")?;
    let limiter = with(&fleet.servers.redis_url, &fleet.name, "geheim-redis")?;
    let amqp = |role: &str| -> Result<Url> {
        let mut url = with(&fleet.servers.amqp_url, &user(role), "geheim-amqp")?;
        url.set_path(&fleet.name);
        Ok(url)
    };
    let of = |role: &str| settings(&fleet, &database, &amqp(role)?, &limiter);
    let mut told = Told::default();
    // Nobody does its jobs yet, so it is there to be asked.
    let mut coordinator =
        Service::start(&fleet, "coordinator", &["run", "--once"], &of("coordinator")?, "pretty")?;
    coordinator.tell(&mut told, "coordinator").await?;
    let mut worker = Service::start(&fleet, "worker", &["run"], &of("worker")?, "json")?;
    worker.tell(&mut told, "worker").await?;
    let outcome = coordinator.process.wait().await?;
    ensure!(outcome.success(), "the coordinator ended with {outcome}");
    ask(&fleet, &mut told, &QUESTIONS, &of("operator")?).await?;
    ensure!(worker.process.terminate().await?.success(), "the worker failed");
    worker.tell_log(&mut told, "the worker")?;
    coordinator.tell_log(&mut told, "the coordinator")?;
    told.must_hold_no_secret()?;
    fleet.must_equal_truth().await?;

    // What a worker has no business with is refused to it.
    let connection =
        lapin::Connection::connect(amqp("worker")?.as_str(), ConnectionProperties::default())
            .await?;
    let channel = connection.create_channel().await?;
    let reports = format!("{}.reports", fleet.name);
    let refused = channel.basic_get(reports.as_str().into(), BasicGetOptions::default()).await;
    ensure!(refused.is_err(), "a worker may read reports");
    let channel = connection.create_channel().await?;
    let other = channel.queue_declare(
        "other".into(),
        QueueDeclareOptions::default(),
        FieldTable::default(),
    );
    ensure!(other.await.is_err(), "a worker may make queues");
    let channel = connection.create_channel().await?;
    let events = format!("{}.events", fleet.name);
    let sent = channel
        .basic_publish(
            events.as_str().into(),
            "batch.closed".into(),
            BasicPublishOptions::default(),
            b"no",
            BasicProperties::default(),
        )
        .await;
    // The broker refuses by closing the channel.
    let asked = channel.basic_qos(1, BasicQosOptions::default()).await;
    ensure!(sent.is_err() || asked.is_err(), "a worker may publish events");
    drop(connection);

    manage("DELETE", &format!("/api/vhosts/{}", fleet.name), "").await?;
    for role in Role::ALL {
        manage("DELETE", &format!("/api/users/{}", user(role.as_str())), "").await?;
    }
    redis(&fleet, &format!("ACL DELUSER {}", fleet.name)).await?;
    fleet.remove().await
}

/// With every server away, refused or misspelt.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_fails_tells_a_password() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    let mut told = Told::default();
    // Nobody listens there.
    let away = |scheme: &str, path: &str, secret: &str| {
        Url::parse(&format!("{scheme}://u:{secret}@127.0.0.1:1{path}"))
    };
    let amqp = away("amqp", "/%2f", "geheim-amqp")?;
    let limiter = away("redis", "/0", "geheim-redis")?;
    let database = with(&fleet.database_url, "p2p_writer", "geheim-database")?;

    // The database is there, the others are not: both programs go on trying.
    let mut all = settings(&fleet, &database, &amqp, &limiter)?;
    all.push(("EGRESS_PROXY_URL", "http://u:geheim-proxy@127.0.0.1:1".to_owned()));
    for format in ["json", "pretty"] {
        let mut worker = Service::start(&fleet, "worker", &["run"], &all, format)?;
        let mut coordinator = Service::start(&fleet, "coordinator", &["run"], &all, format)?;
        worker.tell(&mut told, "worker without servers").await?;
        coordinator.tell(&mut told, "coordinator without servers").await?;
        worker.process.terminate().await?;
        coordinator.process.terminate().await?;
        worker.tell_log(&mut told, "a worker without servers")?;
        coordinator.tell_log(&mut told, "a coordinator without servers")?;
    }
    ask(&fleet, &mut told, &QUESTIONS, &all).await?;

    // The broker and Redis refuse the password.
    let amqp = with(&fleet.servers.amqp_url, "nobody", "geheim-amqp")?;
    let limiter = with(&fleet.servers.redis_url, "nobody", "geheim-redis")?;
    let all = settings(&fleet, &database, &amqp, &limiter)?;
    let mut worker = Service::start(&fleet, "worker", &["run"], &all, "json")?;
    worker.tell(&mut told, "worker who is refused").await?;
    worker.process.terminate().await?;
    worker.tell_log(&mut told, "a worker who is refused")?;
    ask(&fleet, &mut told, &QUESTIONS, &all).await?;

    // The database is away: what starts ends. Its password stands in the query.
    let mut database = away("postgres", "/d", "geheim-database")?;
    database.query_pairs_mut().append_pair("password", "geheim-query");
    let mut all = settings(&fleet, &database, &amqp, &limiter)?;
    all[1].1 = database.to_string();
    for (name, args) in [("worker", &["run"][..]), ("coordinator", &["run"])] {
        let mut service = Service::start(&fleet, name, args, &all, "pretty")?;
        service.process.wait().await?;
        service.tell_log(&mut told, "one without a database")?;
    }
    // Each waits for as long as a connection may take.
    ask(&fleet, &mut told, &["doctor --json", "migrate"], &all).await?;

    // Settings that can't be used.
    let bad = [
        ("DATABASE_URL", "postgres://u:geheim-database@h:x/d"),
        ("DATABASE_URL", "postgres://u@h/d?pasword=geheim-query"),
        ("DATABASE_URL", "u:geheim-database@h"),
        ("OWNER_DATABASE_URL", "postgres://u@h/d?sslmode=geheim-owner"),
        ("AMQP_URL", "amqp:u:geheim-amqp@h"),
        ("AMQP_URL", "amqp://u:geheim-amqp@[::1]/x"),
        ("REDIS_URL", "rediss://u:geheim-redis@h/0#geheim-redis"),
        ("REDIS_URL", "redis://h/0?protocol=geheim-redis"),
        ("RABBITMQ_MANAGEMENT_URL", "u:geheim-management@h"),
        ("EGRESS_PROXY_URL", "socks4://u:geheim-proxy@h"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "u:geheim-otel"),
        ("OPS_TOKEN", "geheim-slack"),
    ];
    let good = settings(&fleet, &database, &amqp, &limiter)?;
    for (name, value) in bad {
        let mut all = good.clone();
        all.push((name, value.to_owned()));
        for (program, args) in [("worker", &["run"][..]), ("coordinator", &["run", "--once"])] {
            let mut service = Service::start(&fleet, program, args, &all, "pretty")?;
            service.process.wait().await?;
            service.tell_log(&mut told, &format!("{program} with a bad {name}"))?;
        }
        let mut command = fleet.command("p2p", &["doctor", "--json"])?;
        command.envs(all.iter().map(|(name, value)| (*name, value.as_str())));
        let output = command.output().await?;
        let said = [output.stdout, output.stderr].concat();
        told.add(format!("doctor with a bad {name}"), String::from_utf8_lossy(&said).into_owned());
    }
    told.must_hold_no_secret()?;
    fleet.remove().await
}
