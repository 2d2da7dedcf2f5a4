//! Tests of several rooms at once.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod change_clients;
mod map_races;
mod memory;
#[cfg(feature = "shuttle")]
mod proofs;
