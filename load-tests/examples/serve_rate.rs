//! How many search pages a running simulator serves per second.
//!
//! `cargo run --release -p load-tests --example serve_rate -- 127.0.0.1:8085 [connections] [pages]`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().context("name the address of the simulator")?;
    let connections: u32 = args.next().map_or(Ok(4), |text| text.parse())?;
    let pages: u32 = args.next().map_or(Ok(5_000), |text| text.parse())?;
    let started = Instant::now();
    let readers: Vec<_> = (0..connections)
        .map(|reader| {
            let address = address.clone();
            thread::spawn(move || read(&address, pages / connections, reader))
        })
        .collect();
    let mut bytes = 0;
    for reader in readers {
        bytes += reader.join().ok().context("a reader panicked")??;
    }
    let ms = started.elapsed().as_millis().max(1);
    let per_second = u128::from(pages / connections * connections) * 1_000 / ms;
    println!(
        "{pages} pages in {ms} ms: {per_second}/s, {} kB each",
        bytes / 1_000 / u64::from(pages.max(1))
    );
    Ok(())
}

/// Reads pages of one market over one connection; gives the bytes of the bodies.
fn read(address: &str, pages: u32, reader: u32) -> Result<u64> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut bytes = 0;
    let mut body = Vec::new();
    for page in 0..pages {
        let page = (page + reader * 7) % 50 + 1;
        let request = format!(
            r#"{{"fiat":"INR","asset":"USDT","tradeType":"SELL","page":{page},"rows":20,"payTypes":[]}}"#
        );
        // In one piece: small writes would wait for the other side's delayed acknowledgements.
        let head = format!(
            "POST /bapi/c2c/v2/friendly/c2c/adv/search HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{request}",
            request.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            answers.read_line(&mut line)?;
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse()?;
            }
        }
        body.resize(length, 0);
        answers.read_exact(&mut body)?;
        bytes += u64::try_from(length)?;
    }
    Ok(bytes)
}
