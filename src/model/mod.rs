//! The map of an address space as pure data: no I/O, no `unsafe`, no Python.
//!
//! A [`region::Region`] describes a range and where its bytes will live, a [`layout::Layout`] says what may lie where, and a
//! [`map::Map`] is the immutable, sorted set of regions that readers share.

pub mod allocator;
pub mod backing;
pub mod change;
pub mod dirty;
pub mod error;
pub mod hexdump;
pub mod int;
pub mod interrupt;
pub mod invalid;
pub mod layout;
pub mod machine;
pub mod map;
pub mod numa;
pub mod pattern;
pub mod plan;
pub mod policy;
pub mod range;
pub mod region;
pub mod source;
pub mod starts;
pub mod table;
pub mod tables;
pub mod text;
pub mod wait;
