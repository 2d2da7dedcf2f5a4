//! The map of an address space as pure data: no I/O, no `unsafe`, no Python. Of system calls it knows only the locks.
//!
//! A [`region::Region`] describes a range and where its bytes will live, a [`layout::Layout`] says what may lie where, and a
//! [`region_map::RegionMap`] is the immutable, sorted set of regions that readers share.

pub mod address_index;
pub mod alias;
pub mod allocator;
pub mod backing;
pub mod bytes;
pub mod change;
mod columns;
pub mod cut;
pub mod dirty;
pub mod error;
pub mod firmware_tables;
pub mod fold;
pub mod format;
pub mod grow;
pub mod hexdump;
pub mod hyper_transport;
pub mod ids;
pub mod int;
pub mod interrupt;
pub mod invalid;
pub mod journal;
pub mod layout;
pub mod machine;
pub mod numa;
pub mod pattern;
pub mod pci_address;
pub mod pieces;
pub mod plan;
pub mod plan_text;
mod plan_windows;
pub mod policy;
pub mod protect;
pub mod quote;
pub mod ram_cursor;
pub mod range;
pub mod region;
pub mod region_map;
mod region_type;
pub mod reservations;
pub mod reserved;
pub mod room;
pub mod rows;
pub mod runs;
#[cfg(test)]
mod small_scope;
pub mod source;
pub mod table;
pub mod terminal_table;
pub mod tracking;
pub mod unplug;
pub mod wait;
