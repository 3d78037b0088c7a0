//! The Binance adapter on captured answers and on broken ones.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod advertiser;
mod archive;
mod lenient;
mod messages;
mod migrations;
mod search;
