//! The exchange that the collector is tested against.
//!
//! - [`market`]: a world of fiats, assets, advertisers and ads, made from a seed, and its evolution.
//! - [`api`]: the HTTP answers, byte for byte in the shape of the captures in `fixtures/binance`.
//! - [`truth`]: the log of every state that a request could have seen.
//! - [`limit`]: the strict rate limit.
//! - [`respond`]: an answer onto the wire, broken ones too.
//! - [`serve`]: the server that joins these.
//! - [`verify`]: compares a collector's database with the truth log.
//! - [`fleet`]: real processes on real servers against it.
//! - [`link`]: a link to a server that can be cut.
//! - [`chaos`]: faults at every step of a batch, and what must hold afterwards.
//!
//! The one rule that all depends on: a state is written to the truth log, with its time, before any
//! answer can show it.

pub mod api;
pub mod chaos;
pub mod fleet;
pub mod limit;
pub mod link;
pub mod market;
pub mod respond;
pub mod serve;
pub mod truth;
pub mod verify;
