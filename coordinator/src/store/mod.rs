//! What the coordinator writes: slots, batches, the ledger, and the close of a batch.

pub mod batches;
pub mod catalog;
pub mod close;
pub mod drift;
pub mod jobs;
