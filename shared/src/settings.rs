//! Settings from the environment. No other module reads it.
//!
//! A binary asks a [`Vars`] for every setting it has, by name, with default and allowed range; all
//! problems are collected and printed together. In development a `.env` file in the working
//! directory fills in what the environment lacks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::tls::{self, Tls};

/// Exit code for settings that can't be used (`EX_USAGE`).
pub const EXIT_BAD_SETTINGS: u8 = 64;

/// Variables, and what was wrong with those that were asked for.
#[derive(Debug)]
pub struct Vars {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
    asked: Asked,
}

/// What was asked for so far, by name: the documentation of settings is made of it, so that it says what
/// the programs do.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<BTreeMap<String, Setting>>>);

/// A setting as a program asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// `None`: there is none.
    pub default: Option<String>,
    /// `None`: any text.
    pub allowed: Option<String>,
}

impl Asked {
    /// All settings, by name.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, Setting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who asks first whether a setting is there asks again for its value.
    fn note(&self, name: &str, default: Option<String>, allowed: Option<String>) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let setting = asked.entry(name.to_owned()).or_default();
        setting.default = default.or(setting.default.take());
        setting.allowed = allowed.or(setting.allowed.take());
    }
}

/// Every setting that can't be used, with name, value and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("settings can't be used:\n  {}", .0.join("\n  "))]
pub struct BadSettings(Vec<String>);

impl BadSettings {
    /// What is wrong, one by one.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl Vars {
    /// The environment, and `.env` beneath it.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        match dotenvy::dotenv_iter() {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok((name, value)) => drop(values.insert(name, value)),
                        Err(error) => problems.push(unread_entry(&error)),
                    }
                }
            }
            Err(error) if error.not_found() => {}
            Err(error) => problems.push(unread_entry(&error)),
        }
        // Not `vars()`: it panics where a value is not UTF-8.
        values.extend(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }));
        Self { values, problems, asked: Asked::default() }
    }

    /// Given variables, for tests.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let values = pairs.into_iter().map(own).collect();
        Self { values, problems: Vec::new(), asked: Asked::default() }
    }

    /// What is asked for, also after this was handed on.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked.clone()
    }

    /// Notes a problem, such as two settings that contradict each other.
    pub fn problem(&mut self, problem: String) {
        // What is part of several settings is told once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The settings, if nothing was wrong.
    pub fn finish<T>(self, settings: T) -> Result<T, BadSettings> {
        if self.problems.is_empty() { Ok(settings) } else { Err(BadSettings(self.problems)) }
    }

    /// Text; an empty variable counts as absent.
    #[must_use]
    pub fn text(&self, name: &str, default: &str) -> String {
        self.asked.note(name, Some(default.to_owned()), None);
        self.get(name).unwrap_or(default).to_owned()
    }

    /// Text that may be absent.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        self.asked.note(name, None, None);
        self.get(name).map(str::to_owned)
    }

    /// A number within `allowed`.
    pub fn number<T>(&mut self, name: &str, default: T, allowed: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let range = format!("{} to {}", allowed.start(), allowed.end());
        self.asked.note(name, Some(default.to_string()), Some(range.clone()));
        let Some(value) = self.get(name) else {
            return default;
        };
        match value.trim().parse::<T>() {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let problem = format!("{name}={value:?}: allowed are {range}");
                self.problem(problem);
                default
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.asked.note(name, Some(default.to_string()), Some("true, false".to_owned()));
        match self.get(name).map(str::trim) {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                let problem = format!("{name}={other:?}: allowed are true and false");
                self.problems.push(problem);
                default
            }
        }
    }

    /// One of `allowed`, of which the first is the default.
    ///
    /// # Panics
    /// If nothing is allowed.
    pub fn choice(&mut self, name: &str, allowed: &[&'static str]) -> &'static str {
        let (default, list) = (*allowed.first().expect("a choice"), allowed.join(", "));
        self.asked.note(name, Some(default.to_owned()), Some(list.clone()));
        let Some(value) = self.get(name).map(str::trim) else { return default };
        let chosen = allowed.iter().find(|one| **one == value).copied();
        if chosen.is_none() {
            let problem = format!("{name}={value:?}: allowed are {list}");
            self.problem(problem);
        }
        chosen.unwrap_or(default)
    }

    /// An IP address; `None`: it can't be used, which was noted.
    pub fn address(&mut self, name: &str, default: &str) -> Option<IpAddr> {
        const ALLOWED: &str = "an address such as 127.0.0.1 or 0.0.0.0";
        self.asked.note(name, Some(default.to_owned()), Some(ALLOWED.to_owned()));
        let value = self.get(name).unwrap_or(default);
        let Ok(address) = value.trim().parse() else {
            let problem = format!("{name}={value:?}: allowed is {ALLOWED}");
            self.problem(problem);
            return None;
        };
        Some(address)
    }

    /// A span of whole seconds within `allowed`.
    pub fn seconds(&mut self, name: &str, default: u64, allowed: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(name, default, allowed))
    }

    /// The first part of names on the broker.
    pub fn prefix(&mut self, name: &str, default: &str) -> String {
        const MAX_CHARS: usize = 100;
        let allowed = format!("1 to {MAX_CHARS} characters");
        self.asked.note(name, Some(default.to_owned()), Some(allowed.clone()));
        let prefix = self.text(name, default);
        if prefix.len() > MAX_CHARS {
            self.problem(format!("{name}={prefix:?}: allowed are {allowed}"));
        }
        prefix
    }

    /// A list of codes separated by commas; empty when absent.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        self.asked.note(name, Some(String::new()), Some("a list, separated by commas".to_owned()));
        let parts = self.get(name).unwrap_or_default().split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// A name for this process that no other has, on whatever machine: host, process and chance.
    #[must_use]
    pub fn process_id(&self, role: &str) -> String {
        let host = self.get("HOSTNAME").unwrap_or(role);
        format!("{host}-{}-{:04x}", std::process::id(), rand::random::<u16>())
    }

    /// A URL with one of `schemes`. Values of URLs hold passwords and are never shown.
    ///
    /// # Panics
    /// Never: the only URL that is taken for granted is a constant.
    pub fn url(&mut self, name: &str, default: Option<&str>, schemes: &[&str]) -> url::Url {
        let allowed =
            schemes.iter().map(|scheme| format!("{scheme}://…")).collect::<Vec<_>>().join(" or ");
        self.asked.note(name, default.map(str::to_owned), Some(allowed.clone()));
        let stand_in = || url::Url::parse(UNSET_URL).expect("a constant URL");
        let Some(value) = self.get(name).or(default) else {
            self.problems.push(format!("{name} is not set: needed is {allowed}"));
            return stand_in();
        };
        match url::Url::parse(value) {
            Ok(url) if schemes.contains(&url.scheme()) => url,
            _ => {
                self.problems
                    .push(format!("{name} is not a URL that can be used: allowed is {allowed}"));
                stand_in()
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }
}

/// What stands for a URL that can't be used, whose problem was noted.
const UNSET_URL: &str = "unset://";
const UNSET: &str = "unset";

/// `PostgreSQL`: `DATABASE_URL`, `DB_POOL_SIZE`, `DB_MAX_OVERFLOW`.
#[derive(Clone)]
pub struct Database {
    pub url: url::Url,
    pub tls: Tls,
    /// Connections a process may open: pool size and overflow together. The pool opens them one by
    /// one as they are needed and closes idle ones.
    pub max_connections: u32,
}

impl Database {
    pub fn read(vars: &mut Vars) -> Self {
        let size = vars.number("DB_POOL_SIZE", 20, 1..=1000);
        let overflow = vars.number("DB_MAX_OVERFLOW", 10, 0..=1000);
        Self::read_url(vars, "DATABASE_URL", size + overflow)
    }

    /// The database as the owner of its tables reaches it: `OWNER_DATABASE_URL`, or as everybody does.
    /// One connection, for migrations and for what is dropped by age.
    pub fn read_owner(vars: &mut Vars) -> Self {
        let name = match vars.optional("OWNER_DATABASE_URL") {
            Some(_) => "OWNER_DATABASE_URL",
            None => "DATABASE_URL",
        };
        Self::read_url(vars, name, 1)
    }

    fn read_url(vars: &mut Vars, name: &str, max_connections: u32) -> Self {
        let database = Self {
            url: vars.url(name, None, &["postgres", "postgresql"]),
            tls: Tls::read(vars),
            max_connections,
        };
        if database.url.scheme() != UNSET
            && let Err(problem) = tls::postgres(&database.url, &database.tls)
        {
            vars.problem(format!("{name} {problem}"));
        }
        database
    }

    /// How to reach it; see [`tls`].
    pub fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        tls::postgres(&self.url, &self.tls)
            .map_err(|problem| sqlx::Error::Configuration(format!("the URL {problem}").into()))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (max_connections {})", redacted(&self.url), self.max_connections)
    }
}

/// `RabbitMQ`: `AMQP_URL`.
#[derive(Clone)]
pub struct Broker {
    pub url: url::Url,
    pub tls: Tls,
}

/// Seconds between heartbeats unless the URL says otherwise: a dead link is noticed within two.
const HEARTBEAT_SECS: &str = "10";
/// Bytes of a frame unless the URL says otherwise: room for a job. The client keeps 64 times as much for each
/// connection, which with the broker's 128 KB is 8 MB.
const FRAME_BYTES: &str = "8192";

impl Broker {
    pub fn read(vars: &mut Vars) -> Self {
        let mut url = vars.url("AMQP_URL", None, &["amqp", "amqps"]);
        // The client library goes to localhost instead.
        if url.scheme() != UNSET && url.host_str().is_none_or(|host| host.starts_with('[')) {
            vars.problem("AMQP_URL: allowed is the name of a host, or its IPv4 address".to_owned());
        }
        for (name, value) in [("heartbeat", HEARTBEAT_SECS), ("frame_max", FRAME_BYTES)] {
            if !url.query_pairs().any(|(given, _)| given == name) {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        Self { url, tls: Tls::read(vars) }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.url))
    }
}

/// Redis: `REDIS_URL`.
#[derive(Clone)]
pub struct Redis {
    pub url: url::Url,
    pub tls: Tls,
}

impl Redis {
    pub fn read(vars: &mut Vars) -> Self {
        let redis =
            Self { url: vars.url("REDIS_URL", None, &["redis", "rediss"]), tls: Tls::read(vars) };
        // `#insecure` would have a certificate of anybody.
        let is_good = redis.url.fragment().is_none() && redis.client().is_ok();
        if redis.url.scheme() != UNSET && !is_good {
            vars.problem(
                "REDIS_URL is not a URL that can be used: allowed is redis[s]://user:password@host:port/number"
                    .to_owned(),
            );
        }
        redis
    }

    /// A client, which connects when it is asked to.
    pub fn client(&self) -> Result<redis::Client, redis::RedisError> {
        match self.url.scheme() {
            "rediss" => redis::Client::build_with_tls(self.url.as_str(), self.tls.redis()),
            _ => redis::Client::open(self.url.as_str()),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.url))
    }
}

/// What is wrong with `.env`. Of a line that can't be read the name is told at most, for the rest may be a
/// secret.
fn unread_entry(error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(line, _) = error else {
        return format!(".env: {error}");
    };
    let name = line.split_once('=').map_or("", |(name, _)| name.trim());
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let which = if is_name { name } else { "a line" };
    format!(
        ".env: {which} can't be read: allowed is NAME=VALUE, the value in quotes if it has blanks"
    )
}

/// A URL without its password, query and fragment, fit for logs. A user without a password may be a key.
#[must_use]
pub fn redacted(url: &url::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let is_hidden = if url.password().is_some() {
        url.set_password(Some("***"))
    } else if url.username().is_empty() {
        Ok(())
    } else {
        url.set_username("***")
    };
    if is_hidden.is_err() {
        return format!("{}://…", url.scheme());
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_file_is_never_shown() {
        let told = |line: &str| {
            let error = dotenvy::from_read_iter(line.as_bytes()).find_map(Result::err).unwrap();
            unread_entry(&error)
        };
        assert!(told("REDIS_URL=\"redis://:geheim@h").contains("REDIS_URL can't be read"));
        for line in [
            "REDIS_URL=\"redis://:geheim@h",
            "OPS_TOKEN=my geheim token",
            "geheim without a sign",
            "a geheim=x y",
        ] {
            assert!(!told(line).contains("geheim"), "{}", told(line));
        }
    }

    #[test]
    fn what_may_be_a_secret_of_a_url_is_not_shown() {
        for (url, shown) in [
            ("http://u:geheim@h/p?geheim#geheim", "http://u:***@h/p"),
            ("socks5h://geheim@h:1", "socks5h://***@h:1"),
            ("redis://:geheim@h/0", "redis://:***@h/0"),
            ("postgres://h/d", "postgres://h/d"),
        ] {
            assert_eq!(redacted(&url::Url::parse(url).unwrap()), shown);
        }
    }

    #[test]
    fn all_problems_are_told_together_with_name_value_and_range() {
        let mut vars = Vars::from_pairs([
            ("MAX_WORKERS", "none"),
            ("ENABLE_METRICS", "yes"),
            ("AMQP_URL", "http://x"),
        ]);
        vars.number("MAX_WORKERS", 20, 1..=500);
        vars.flag("ENABLE_METRICS", true);
        Broker::read(&mut vars);
        Database::read(&mut vars);
        let error = vars.finish(()).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"
        settings can't be used:
          MAX_WORKERS="none": allowed are 1 to 500
          ENABLE_METRICS="yes": allowed are true and false
          AMQP_URL is not a URL that can be used: allowed is amqp://… or amqps://…
          DATABASE_URL is not set: needed is postgres://… or postgresql://…
        "#);
    }

    #[test]
    fn an_empty_variable_is_absent() {
        let mut vars = Vars::from_pairs([("MAX_WORKERS", " ")]);
        assert_eq!(vars.number("MAX_WORKERS", 20, 1..=500), 20);
        vars.finish(()).unwrap();
    }

    #[test]
    fn passwords_are_never_shown() {
        let mut vars =
            Vars::from_pairs([("DATABASE_URL", "postgres://u:geheim@h/db?sslkey=geheim")]);
        let shown = format!("{:?}", Database::read(&mut vars));
        assert!(!shown.contains("geheim"), "{shown}");
    }

    #[test]
    fn the_owner_comes_as_everybody_unless_told() {
        let own = |pairs: &[(&str, &str)]| {
            let mut vars = Vars::from_pairs(pairs.iter().copied());
            let owner = Database::read_owner(&mut vars);
            vars.finish(owner.url.to_string()).map_err(|error| error.to_string())
        };
        let all = ("DATABASE_URL", "postgres://w@h/d");
        assert_eq!(own(&[all]).unwrap(), "postgres://w@h/d");
        assert_eq!(
            own(&[all, ("OWNER_DATABASE_URL", "postgres://o@h/d")]).unwrap(),
            "postgres://o@h/d"
        );
        let error = own(&[all, ("OWNER_DATABASE_URL", "o@h")]).unwrap_err();
        assert!(error.contains("OWNER_DATABASE_URL"), "{error}");
    }

    #[test]
    fn the_broker_url_always_has_a_heartbeat_and_small_frames() {
        for (given, read) in [
            ("amqp://h/%2f", "amqp://h/%2f?heartbeat=10&frame_max=8192"),
            ("amqp://h/%2f?heartbeat=4", "amqp://h/%2f?heartbeat=4&frame_max=8192"),
            ("amqp://h/%2f?frame_max=16384", "amqp://h/%2f?frame_max=16384&heartbeat=10"),
        ] {
            let mut vars = Vars::from_pairs([("AMQP_URL", given)]);
            assert_eq!(Broker::read(&mut vars).url.as_str(), read);
        }
    }
}
