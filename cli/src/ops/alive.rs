//! `p2p health`: whether the coordinator or worker beside it is alive, as it says itself. For health checks of
//! containers, in which there is nothing else that speaks HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use shared::settings::{BadSettings, Vars};
use shared::telemetry;

use crate::EXIT_TROUBLE;

/// Longest wait for the answer: below the five seconds that Docker and Kubernetes give a check here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Asks `/healthz`, or `/readyz` if `ready`, by the settings of the process that is asked.
pub async fn run(ready: bool) -> anyhow::Result<ExitCode> {
    let address = read(Vars::from_environment())?;
    let (path, word) = if ready { ("readyz", "ready") } else { ("healthz", "alive") };
    let url = format!("http://{address}/{path}");
    let client = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let unknown = || format!("{url} does not tell whether the process is {word}");
    let answer = client.get(&url).send().await.with_context(unknown)?;
    let is_good = answer.status().is_success();
    // Another program that has the port says something else.
    let told: Value = answer.json().await.with_context(unknown)?;
    if is_good {
        crate::print(&format!("{word}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::print(&format!("not {word}{}\n", reasons(&told)))?;
    Ok(ExitCode::from(EXIT_TROUBLE))
}

/// Why not, as far as it was told.
fn reasons(told: &Value) -> String {
    let reasons = told["reasons"].as_array().into_iter().flatten();
    let reasons: Vec<_> = reasons.filter_map(Value::as_str).collect();
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}

/// Where the process serves its health, as seen from beside it.
fn read(mut vars: Vars) -> Result<SocketAddr, BadSettings> {
    let address = telemetry::served_at(&mut vars);
    if address.is_none() {
        vars.problem("ENABLE_METRICS=false: health is served with the metrics only".to_owned());
    }
    let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    vars.finish(address.map_or(nowhere, from_beside))
}

/// Who listens on all addresses is asked on the loopback one.
fn from_beside(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(vars: &[(&str, &str)]) -> Result<String, String> {
        read(Vars::from_pairs(vars.iter().copied()))
            .map(|address| address.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn it_asks_where_the_process_serves() {
        assert_eq!(address(&[]).unwrap(), "127.0.0.1:9090");
        let all = [("PROMETHEUS_HOST", "0.0.0.0"), ("PROMETHEUS_PORT", "9191")];
        assert_eq!(address(&all).unwrap(), "127.0.0.1:9191");
        assert_eq!(address(&[("PROMETHEUS_HOST", "::")]).unwrap(), "[::1]:9090");
        assert_eq!(address(&[("PROMETHEUS_HOST", "10.0.0.1")]).unwrap(), "10.0.0.1:9090");
        assert!(address(&[("ENABLE_METRICS", "false")]).unwrap_err().contains("ENABLE_METRICS"));
    }
}
