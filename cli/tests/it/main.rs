//! The real binary.

mod captures;
mod parse;
