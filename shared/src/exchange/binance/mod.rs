//! Binance P2P: the ad search of the web site and the lists around it.
//!
//! Undocumented and without promise, so everything here is tolerant of fields that come and go, and
//! strict about what an ad can't be stored without. Sans I/O: [`request`] makes the body of a call,
//! [`parse_search`] and its neighbours read an answer.

mod lists;
mod request;
mod search;
mod value;
mod wire;

pub use lists::{
    AssetListed, AssetLists, FiatListed, parse_assets, parse_fiat_list, parse_payment_methods,
};
pub use request::{Call, Request, SEARCH_ROWS, request};
pub use search::{Page, parse_search};
pub use wire::{AnswerError, rejection};

/// Version of the rules by which bytes become facts. Raise it with every change that can make other
/// facts of the same bytes.
pub const PARSER_VERSION: i16 = 1;
