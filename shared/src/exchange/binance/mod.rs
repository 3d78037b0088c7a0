//! Binance P2P: the ad search of the web site, the pages of advertisers, the lists around them, and the
//! calls for agents, which are another view of the same ads.
//!
//! Undocumented and without promise, so everything here is tolerant of fields that come and go, and
//! strict about what an ad can't be stored without. Sans I/O: [`request`] makes the body of a call,
//! [`parse_search`] and its neighbours read an answer.

mod advertiser;
mod envelope;
mod fields;
mod lenient;
mod lists;
mod names;
mod quick;
mod request;
mod search;
mod shapes;
mod value;
mod wire;
mod witness;

pub use advertiser::{AdvertiserPage, is_advertiser_page, parse_advertiser};
pub use fields::LEFT_OUT;
pub use lists::{
    AssetListed, AssetLists, FiatListed, parse_assets, parse_fiat_list, parse_payment_methods,
};
pub use request::{Call, Payload, Request, SEARCH_ROWS, WITNESS_ROWS, request};
pub use search::{Page, parse_search, read_search};
pub use shapes::{WITH_VALUES, findings};
pub use wire::{AnswerError, rejection};
pub use witness::{WitnessAd, WitnessAds, parse_witness_ads, parse_witness_quote};

/// Version of the rules by which bytes become facts. Raise it with every change that can make other
/// facts of the same bytes.
pub const PARSER_VERSION: i16 = 5;
