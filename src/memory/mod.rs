//! The real memory: from a region's description to bytes that can be read and written.
//!
//! [`source`] opens what a region asks for, [`mapping`] maps it through vm-memory, [`region`] is one mapped region with its
//! [`lease`]s, [`mapped_regions`] all of them, built for fast look-up. [`access`] plans what an access touches and refuses or does it, by
//! direct copies where a touch can't fault and through the kernel elsewhere ([`section`]).

#![allow(unsafe_code, reason = "this room is where raw guest pointers are copied")]

mod abandoned_copy;
pub mod access;
pub mod advice;
pub mod atomic;
pub mod buffer;
pub mod copy;
pub mod dax;
pub mod dax_table;
pub mod dirty;
pub mod discard;
pub mod host;
pub mod lease;
pub mod mapped_regions;
pub mod mapper;
pub mod mapping;
pub mod memory_stats;
pub mod mmap;
mod os_error;
pub mod prealloc;
pub mod region;
pub mod scan;
pub mod search;
pub mod section;
pub mod source;
pub mod topology;
pub mod transfer;
pub mod translate;
