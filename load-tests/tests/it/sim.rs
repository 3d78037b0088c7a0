//! A running simulator and a client of few lines: HTTP/1.1, one request per connection.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use load_tests::truth::{AdContent, MarketKey, Record};
use serde_json::{Value, json};

pub(crate) const SEARCH: &str = "/bapi/c2c/v2/friendly/c2c/adv/search";
pub(crate) const FIATS: &str = "/bapi/c2c/v1/friendly/c2c/trade-rule/fiat-list";
pub(crate) const CONFIG: &str = "/bapi/c2c/v2/friendly/c2c/portal/config";

pub(crate) struct Sim {
    child: Child,
    address: String,
    pub(crate) truth: PathBuf,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Takes what a connection yielded until it was closed.
    pub(crate) fn parse(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Self { status, headers: lines.map(header).collect(), body: answer[end + 4..].to_vec() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// Sends a request to an address; the caller reads.
pub(crate) fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

impl Sim {
    /// Starts on a free port with the clock standing still.
    pub(crate) fn start(args: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let truth = std::env::temp_dir().join(format!("sim-{}-{number}.jsonl", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_exchange-sim"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "--manual-clock", "--truth"])
            .arg(&truth)
            .args(args.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start exchange-sim");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("the first line");
        Self { address: address.to_owned(), child, truth }
    }

    /// Sends a request; what the connection then yields is the caller's.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        send(&self.address, method, path, headers, body)
    }

    pub(crate) fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let mut answer = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut answer).unwrap();
        Reply::parse(&answer)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, "", &body.to_string())
    }

    pub(crate) fn page(&self, market: &MarketKey, page: usize) -> Value {
        self.raw_page(market, page).json()
    }

    pub(crate) fn raw_page(&self, market: &MarketKey, page: usize) -> Reply {
        let MarketKey { fiat, asset, side } = market;
        self.post(
            SEARCH,
            &json!({"fiat": fiat, "asset": asset, "tradeType": side, "page": page, "rows": 20, "payTypes": []}),
        )
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.admin(&format!("advance?ms={ms}"), &Value::Null);
    }

    pub(crate) fn admin(&self, call: &str, body: &Value) {
        let reply = self.post(&format!("/sim/{call}"), body);
        assert_eq!(reply.status, 204, "{}", String::from_utf8_lossy(&reply.body));
    }

    /// The markets that the exchange itself names.
    pub(crate) fn markets(&self) -> Vec<MarketKey> {
        let mut markets = Vec::new();
        for fiat in self.post(FIATS, &json!({})).json()["data"].as_array().unwrap() {
            let code = &fiat["currencyCode"];
            let config = self.post(CONFIG, &json!({ "fiat": code })).json();
            let areas = config["data"]["areas"].as_array().unwrap();
            let p2p = areas.iter().find(|area| area["area"] == "P2P").unwrap();
            for side in p2p["tradeSides"].as_array().unwrap() {
                for asset in side["assets"].as_array().unwrap() {
                    let text = |value: &Value| value.as_str().unwrap().to_owned();
                    markets.push(MarketKey {
                        fiat: text(code),
                        asset: text(&asset["asset"]),
                        side: text(&side["side"]),
                    });
                }
            }
        }
        markets
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let text = std::fs::read_to_string(&self.truth).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What is listed now, by the truth log.
    pub(crate) fn listed(&self) -> HashMap<(MarketKey, String), AdContent> {
        let mut listed = HashMap::new();
        for record in self.records() {
            match record {
                Record::Listed(event) | Record::Changed(event) => {
                    listed.insert((event.market, event.adv_no), event.ad.unwrap());
                }
                Record::Delisted(event) => {
                    assert!(listed.remove(&(event.market, event.adv_no)).is_some());
                }
                Record::Header(_) | Record::Advertiser(_) => {}
            }
        }
        listed
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(&self.truth).ok();
    }
}

/// What a parser sees of an item.
pub(crate) fn content(item: &Value) -> AdContent {
    let adv = &item["adv"];
    let text = |key: &str| adv[key].as_str().unwrap_or_else(|| panic!("{key}")).to_owned();
    let methods = adv["tradeMethods"].as_array().unwrap().iter();
    let mut payment_methods: Vec<String> =
        methods.map(|method| method["identifier"].as_str().unwrap().to_owned()).collect();
    payment_methods.sort();
    payment_methods.dedup();
    AdContent {
        price: text("price"),
        surplus_amount: text("surplusAmount"),
        tradable_quantity: text("tradableQuantity"),
        min_amount: text("minSingleTransAmount"),
        max_amount: text("maxSingleTransAmount"),
        dynamic_max_amount: text("dynamicMaxSingleTransAmount"),
        min_quantity: text("minSingleTransQuantity"),
        max_quantity: text("maxSingleTransQuantity"),
        dynamic_max_quantity: text("dynamicMaxSingleTransQuantity"),
        pay_time_limit: adv["payTimeLimit"].as_u64().map(|minutes| minutes.try_into().unwrap()),
        payment_methods,
        classify: text("classify"),
        user_no: item["advertiser"]["userNo"].as_str().unwrap().to_owned(),
        voucher_template: Some(adv["voucherTemplate"].clone()).filter(|value| !value.is_null()),
        adv_system_label_ret: Some(adv["advSystemLabelRet"].clone())
            .filter(|value| !value.is_null()),
    }
}
