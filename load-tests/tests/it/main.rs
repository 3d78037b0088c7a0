//! Starts the real binary and reads it over HTTP, as a collector would.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod advertisers;
mod archive;
mod backup;
mod certificates;
mod drift;
mod errors;
mod faults;
mod keeping;
mod limits;
mod measured;
mod operate;
mod quality;
mod replay;
mod scrape;
mod secrets;
mod served;
mod sim;
mod system;
mod tls;
mod traces;
mod upgrade;
mod verified;
mod warehouse;
mod witness;
