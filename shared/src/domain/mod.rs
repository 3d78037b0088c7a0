//! The vocabulary as types. Touches nothing outside itself.

mod ad;
mod batch;
mod market;
mod rules;

pub use ad::{Ad, AdDetails, Advertiser, Json, PaymentMethod, Profile, Refusal};
pub use batch::{BatchId, BatchIdError, MAX_ADS_PER_PAGE, MAX_JOBS_PER_BATCH, offer_version_id};
pub use market::{Market, MarketError, Side, page_count};
pub use rules::{Level, Rule, Warning, names as rule_names};
