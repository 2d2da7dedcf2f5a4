//! The live address space: one immutable snapshot behind one `ArcSwap`.
//!
//! Readers take the [`state::SpaceState`] without a lock. Writers take [`turn::Turn`]s, and a [`change`] is the only way from one
//! map to the next: checked, prepared by every [`client`], published with one store, or undone.

pub mod adopt;
pub mod build;
pub mod change;
pub mod checkpoint;
pub mod client;
mod counters;
pub mod follow;
pub mod following;
pub mod fork;
pub mod lease;
pub mod memory_participant;
pub mod point;
pub mod prepared;
pub mod proposal;
pub mod removal;
pub mod reserve;
pub mod restore;
#[allow(clippy::module_inception, reason = "the room's main thing")]
pub mod space;
pub mod state;
pub mod stats;
pub mod subscribe;
pub mod subscription;
pub mod tracker;
pub mod transaction;
pub mod turn;
pub mod unplug;
pub mod wait_value;

pub use space::AddressSpace;
