//! `p2p parse` and the exit codes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CAPTURE: &str = "../fixtures/binance/search/search-BNB-KZT-BUY-2022-06-20T17-34-p1.json";
const MARKET: [&str; 7] = ["parse", "--fiat", "KZT", "--asset", "BNB", "--side", "BUY"];

fn p2p(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_p2p"))
        .args(args)
        .env("DATABASE_URL", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ads_are_lines_with_decimals_as_texts() {
    let output = p2p(&[&MARKET[..], &[CAPTURE]].concat(), b"");
    assert_eq!(output.status.code(), Some(0));
    let ads = lines(&output.stdout);
    assert_eq!(ads.len(), 10);
    assert_eq!(ads[0]["price"], "102830.00");
    assert_eq!(ads[0]["advertiser"]["completion_rate"], "0.9666666666666667");
    assert!(output.stderr.is_empty());
}

#[test]
fn stdin_is_a_dash() {
    let capture = std::fs::read(CAPTURE).unwrap();
    let output = p2p(&[&MARKET[..], &["-"]].concat(), &capture);
    assert_eq!((output.status.code(), lines(&output.stdout).len()), (Some(0), 10));
}

#[test]
fn refusals_go_to_stderr_and_into_the_exit_code() {
    let broken = String::from_utf8(std::fs::read(CAPTURE).unwrap()).unwrap();
    let broken = broken.replacen(r#""price":"102830.00""#, r#""price":"cheap""#, 1);
    let output = p2p(&[&MARKET[..], &["-"]].concat(), broken.as_bytes());
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(lines(&output.stdout).len(), 9);
    let refusals = lines(&output.stderr);
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0]["reason"], "not_a_decimal");
    assert_eq!(refusals[0]["field"], "adv.price");
}

#[test]
fn what_is_odd_and_what_is_read_leniently_is_told() {
    let odd = String::from_utf8(std::fs::read(CAPTURE).unwrap()).unwrap();
    let odd = odd.replacen(r#""price":"102830.00""#, r#""PRICE":102830.001"#, 1);
    let output = p2p(&[&MARKET[..], &["-"]].concat(), odd.as_bytes());
    assert_eq!(output.status.code(), Some(0), "nothing is refused");
    let ads = lines(&output.stdout);
    assert_eq!((ads.len(), &ads[0]["price"]), (10, &"102830.001".into()));
    assert_eq!(ads[0]["warnings"][0]["rule"], "price_scale");
    assert_eq!(lines(&output.stderr)[0]["lenient"][0], "adv.price at adv.PRICE");
}

#[test]
fn bytes_that_are_no_text_are_told_of_their_ad() {
    let mut bytes = std::fs::read(CAPTURE).unwrap();
    let at = bytes.windows(9).position(|text| text == b"102830.00").unwrap();
    bytes[at] = 0xff;
    let output = p2p(&[&MARKET[..], &["-"]].concat(), &bytes);
    assert_eq!((output.status.code(), lines(&output.stdout).len()), (Some(3), 9));
    let refusals = lines(&output.stderr);
    assert_eq!((&refusals[0]["reason"], &refusals[0]["position"]), (&"bad_text".into(), &0.into()));
}

#[test]
fn what_is_no_answer_is_refused_as_a_whole() {
    let output = p2p(&[&MARKET[..], &["-"]].concat(), b"<html>Request blocked</html>");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(lines(&output.stderr)[0]["reason"], "unparsable");
}

#[test]
fn a_line_that_was_cut_is_named_and_costs_itself_only() {
    let line = std::fs::read_to_string(CAPTURE).unwrap().replace(['\n', '\r'], "");
    let lines_of_file = format!("{line}\n{}\n{line}\n", &line[..line.len() / 2]);
    let output = p2p(&[&MARKET[..], &["-"]].concat(), lines_of_file.as_bytes());
    assert_eq!((output.status.code(), lines(&output.stdout).len()), (Some(3), 20));
    let refusals = lines(&output.stderr);
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0]["line"], 2);
    assert_eq!(refusals[0]["reason"], "unparsable");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = p2p(&[&MARKET[..], &["nowhere.json"]].concat(), b"");
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.json"));
}

#[test]
fn an_argument_that_is_not_allowed_is_named() {
    for (args, named) in [
        (&["parse", "--fiat", "A B", "--asset", "C", "--side", "BUY", "-"][..], "A B"),
        (&["gaps", "--since", "1x"][..], "90m, 24h or 7d"),
        (&["batches", "--last", "0"][..], "--last"),
        (&["batch", "show", "x"][..], "latest"),
        (&["frobnicate"][..], "frobnicate"),
    ] {
        let output = p2p(args, b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {error}");
        assert!(error.contains(named), "{args:?}: {error}");
    }
}

#[test]
fn a_missing_setting_is_named() {
    let output = p2p(&["migrate"], b"");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("DATABASE_URL is not set"));
}

#[test]
fn the_page_of_an_advertiser_is_its_figures_and_the_ads_of_all_its_markets() {
    let page = "../fixtures/binance/profile/profile-and-ads-s10d81aa57f853ad684a638ea73649ad2.json";
    let output = p2p(&[&MARKET[..], &[page]].concat(), b"");
    assert_eq!(output.status.code(), Some(0));
    let lines = lines(&output.stdout);
    assert_eq!(lines.len(), 9, "the figures and eight ads");
    assert_eq!(lines[0]["user_no"], "s10d81aa57f853ad684a638ea73649ad2");
    assert_eq!(
        (&lines[0]["orders"], &lines[0]["btc_volume"]),
        (&3919.into(), &"328.87018813".into())
    );
    assert!(lines[1..].iter().all(|ad| ad["fiat"] == "BND" && ad["price_type"].is_i64()));
    let sides: Vec<_> = lines[1..].iter().map(|ad| ad["trade_type"].as_str().unwrap()).collect();
    assert_eq!(sides.iter().filter(|side| **side == "SELL").count(), 7, "the advertiser buys");
}
