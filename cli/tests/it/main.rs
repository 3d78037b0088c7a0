//! The real binary.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod captures;
mod database;
mod keeping;
mod ledger;
mod limiter;
mod market;
mod ops;
mod parse;
mod questions;
mod shapes;
mod walk;
