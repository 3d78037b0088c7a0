//! Chromium, headless, by its `WebDriver`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::http::Method;
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use url::Url;

/// Longest wait for what the page must come to show.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks.
const PULSE: Duration = Duration::from_millis(100);
/// Height of the window; pictures are as high as their page.
const HEIGHT: u32 = 900;
/// Highest picture.
const MAX_HEIGHT: u64 = 8000;
/// Keys of the `WebDriver` protocol.
const TAB: &str = "\u{e004}";

/// No network but the page, and nothing kept.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--disable-dev-shm-usage",
];

pub(crate) struct Browser {
    client: Client,
    driver: Child,
    profile: PathBuf,
    width: AtomicU32,
}

impl Browser {
    pub(crate) async fn start() -> Result<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start chromedriver: `make e2e` installs it")?;
        let mut lines = BufReader::new(driver.stdout.take().context("stdout")?).lines();
        let port = loop {
            let line = lines.next_line().await?.context("chromedriver says no port")?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = std::env::temp_dir().join(format!("e2e-profile-{}", std::process::id()));
        let data = format!("--user-data-dir={}", profile.display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([data.as_str()]).collect();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let options = json!({ "goog:chromeOptions": { "args": flags } });
        builder.capabilities(options.as_object().context("an object")?.clone());
        let client = builder.connect(&format!("http://127.0.0.1:{port}")).await;
        let client = client.context("start Chromium")?;
        let browser = Self { client, driver, profile, width: AtomicU32::new(1280) };
        browser.width(1280).await?;
        Ok(browser)
    }

    pub(crate) async fn open(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("open {url}"))
    }

    pub(crate) async fn run(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute(script, Vec::new()).await?)
    }

    /// A script that calls its last argument when it is done.
    pub(crate) async fn run_async(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute_async(script, Vec::new()).await?)
    }

    /// Waits until a script says true.
    pub(crate) async fn until(&self, script: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.run(script).await? != true {
            if Instant::now() > end {
                bail!("not within {PATIENCE:?}: {script}");
            }
            tokio::time::sleep(PULSE).await;
        }
        Ok(())
    }

    /// Keys to whatever has the focus.
    pub(crate) async fn keys(&self, keys: &str) -> Result<()> {
        Ok(self.client.active_element().await?.send_keys(keys).await?)
    }

    /// Tab until a condition holds.
    pub(crate) async fn tab_to(&self, condition: &str, most: usize) -> Result<()> {
        for _ in 0..most {
            self.keys(TAB).await?;
            if self.run(&format!("return {condition}")).await? == true {
                return Ok(());
            }
        }
        bail!("{most} tab stops do not lead to {condition}")
    }

    pub(crate) async fn dark(&self, dark: bool) -> Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tools("Emulation.setEmulatedMedia", json!({ "features": features })).await
    }

    pub(crate) async fn script(&self, enabled: bool) -> Result<()> {
        self.tools("Emulation.setScriptExecutionDisabled", json!({ "value": !enabled })).await
    }

    pub(crate) async fn width(&self, width: u32) -> Result<()> {
        self.width.store(width, Ordering::Relaxed);
        self.size(width, u64::from(HEIGHT)).await
    }

    async fn size(&self, width: u32, height: u64) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.tools("Emulation.setDeviceMetricsOverride", size).await
    }

    pub(crate) async fn source(&self) -> Result<String> {
        Ok(self.client.source().await?)
    }

    /// The whole page as PNG.
    pub(crate) async fn picture(&self) -> Result<Vec<u8>> {
        let height = self.run("return document.documentElement.scrollHeight").await?;
        let height = height.as_u64().context("a height")?.min(MAX_HEIGHT);
        let width = self.width.load(Ordering::Relaxed);
        self.size(width, height).await?;
        let picture = self.client.screenshot().await?;
        self.size(width, u64::from(HEIGHT)).await?;
        Ok(picture)
    }

    /// Ends browser and driver.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.client.close().await?;
        self.driver.kill().await?;
        // A profile that lingers harms nobody.
        std::fs::remove_dir_all(&self.profile).ok();
        Ok(())
    }

    async fn tools(&self, command: &'static str, parameters: Value) -> Result<()> {
        let done: Result<Value, CmdError> =
            self.client.issue_cmd(DevTools { command, parameters }).await;
        done.map(drop).context(command)
    }
}

/// A command of Chromium's own protocol, through the driver.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (Method::POST, Some(body.to_string()))
    }
}
