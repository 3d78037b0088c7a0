//! The Binance adapter on captured answers and on broken ones.

mod search;
