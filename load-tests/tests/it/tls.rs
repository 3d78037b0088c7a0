//! TLS to real servers: with the right authority all works, with a wrong one or a wrong host name nothing
//! does, for each of the three.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process, Servers};
use shared::exchange::Exchange;
use shared::limiter::Limiter;
use shared::queue::{Inspector, Topology};
use shared::settings::{Broker, Database, Redis, Vars};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Servers that speak TLS, with certificates for `localhost`; they end with this.
struct TlsStack {
    environment: BTreeMap<String, String>,
    /// Waits for the end of its stdin.
    child: Child,
}

impl TlsStack {
    async fn up() -> Result<Self> {
        let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/stack");
        let mut child = Command::new(stack)
            .args(["--tls", "run", "sh", "-c", "env; echo; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("dev/stack")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut environment = BTreeMap::new();
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once('=') {
                environment.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(Self { environment, child })
    }

    fn get(&self, name: &str) -> Result<&str> {
        self.environment.get(name).map(String::as_str).context(name.to_owned())
    }

    async fn down(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait().await?.success(), "dev/stack failed");
        Ok(())
    }
}

/// What the settings say connects to each server, or the error of the whole chain.
async fn connect(pairs: &[(&str, &str)]) -> Result<[Result<(), String>; 3]> {
    let mut vars = Vars::from_pairs(pairs.iter().copied());
    let (database, broker, redis) =
        (Database::read(&mut vars), Broker::read(&mut vars), Redis::read(&mut vars));
    let (database, broker, redis) = vars.finish((database, broker, redis))?;
    let postgres = async { shared::store::connect(&database, "test").await.map(drop) };
    let rabbitmq =
        async { Inspector::connect(&broker, &Topology::new("p2p"), "test").await?.close().await };
    let limiter = async { Limiter::new(&redis, Exchange::Binance, "tls")?.show().await.map(drop) };
    Ok([told(postgres.await), told(rabbitmq.await), told(limiter.await)])
}

fn told<E: Into<anyhow::Error>>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| format!("{:#}", error.into()))
}

async fn tried(pairs: Vec<(String, String)>) -> Result<[Result<(), String>; 3]> {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    connect(&pairs).await
}

const URLS: [&str; 3] = ["DATABASE_URL", "AMQP_URL", "REDIS_URL"];

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_server_is_spoken_to() -> Result<()> {
    shared::service::install_tls_provider();
    let stack = TlsStack::up().await?;
    let urls = [stack.get(URLS[0])?, stack.get(URLS[1])?, stack.get(URLS[2])?];
    let named = |urls: &[&str; 3], ca: Option<&str>| -> Vec<(String, String)> {
        let urls = URLS.iter().zip(urls).map(|(name, url)| ((*name).to_owned(), (*url).to_owned()));
        urls.chain(ca.map(|ca| ("TLS_CA_FILE".to_owned(), ca.to_owned()))).collect()
    };
    let (right, other) = (stack.get("TLS_CA_FILE")?, stack.get("OTHER_CA_FILE")?);

    assert_eq!(tried(named(&urls, Some(right))).await?, [Ok(()), Ok(()), Ok(())]);

    // An authority of the same name that signed nothing, or none but those of the system.
    for ca in [Some(other), None] {
        for (name, result) in URLS.iter().zip(tried(named(&urls, ca)).await?) {
            let error = result.err().with_context(|| format!("{name} is believed with {ca:?}"))?;
            assert!(error.contains("certificate"), "{name}, {ca:?}: {error}");
        }
    }

    // The right authority, but the certificate is for another name.
    let elsewhere = urls.map(|url| url.replace("localhost", "127.0.0.1"));
    let elsewhere = elsewhere.each_ref().map(String::as_str);
    for (name, result) in URLS.iter().zip(tried(named(&elsewhere, Some(right))).await?) {
        let error =
            result.err().with_context(|| format!("{name} is believed under another name"))?;
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }

    // A server without TLS is not spoken to by who asked for it.
    let plain = Servers::from_environment()?.database_url;
    let asked = format!("{plain}?sslmode=require");
    let [postgres, _, _] = tried(named(&[&asked, urls[1], urls[2]], Some(right))).await?;
    let error = postgres.unwrap_err();
    assert!(error.contains("does not support TLS"), "{error}");

    run_a_batch(&stack).await?;
    stack.down().await
}

/// A batch over TLS alone, by the real programs, who show certificates of their own.
async fn run_a_batch(stack: &TlsStack) -> Result<()> {
    let ca = stack.get("TLS_CA_FILE")?;
    let servers = Servers {
        database_url: format!("{}&sslrootcert={ca}", stack.get("DATABASE_URL")?),
        redis_url: stack.get("REDIS_URL")?.to_owned(),
        amqp_url: stack.get("PLAIN_AMQP_URL")?.to_owned(),
    };
    let name = Fleet::new_name();
    let directory = std::env::temp_dir().join(&name);
    let mut fleet =
        Fleet::start_as(name, servers, &directory, None, "--fiats 2 --ads 200 --seed 3").await?;
    stack.get("AMQP_URL")?.clone_into(&mut fleet.servers.amqp_url);
    let own = ["TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE"];
    let own = own.map(|name| stack.get(name).map(|path| (name, path)));
    let own = own.into_iter().collect::<Result<Vec<_>>>()?;
    let mut worker: Process = fleet.worker("tls", &own)?;
    let outcome = fleet.batch(&own).await?;
    ensure!(outcome == 0, "the coordinator ended with {outcome}");
    let shown: i64 = fleet
        .number(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
              WHERE application_name = 'worker' AND client_dn = '/CN=postgres'",
        )
        .await?;
    ensure!(shown > 0, "PostgreSQL was shown no certificate");
    let plain: i64 = fleet
        .number(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
              WHERE application_name = 'worker' AND NOT ssl",
        )
        .await?;
    ensure!(plain == 0, "the worker has connections without TLS");
    ensure!(worker.terminate().await?.success(), "the worker failed");
    fleet.must_equal_truth().await?;
    stack.get("PLAIN_AMQP_URL")?.clone_into(&mut fleet.servers.amqp_url);
    fleet.remove().await
}
