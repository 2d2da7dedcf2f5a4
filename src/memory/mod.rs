//! The real memory: from a region's description to bytes that can be read and written.
//!
//! [`source`] opens what a region asks for, [`storage`] maps it through vm-memory, [`mapper`] does so for one region after the other.
//! [`region`] is a mapped region, a [`window`] on its storage, and [`mapped_regions`] are all of a snapshot, built for fast look-up.
//! [`path`] says how memory may be touched: directly where no touch can fault, through the kernel elsewhere.
//!
//! [`access`] plans what a verb takes of a range, in [`section`]s of regions, and refuses or does it. Sections are borrowed from the
//! snapshot; what goes on when the snapshot is let go holds a [`lease`] ([`leased_sections`]), which vetoes the removal of the region; a storage
//! knows its leases by their [`places`].

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by callers")]
#![allow(unsafe_code, reason = "this room is where raw guest pointers are copied")]

mod abandoned_copy;
pub mod access;
mod advice;
pub mod atomic;
pub mod buffer;
pub mod capture;
pub mod compare;
pub mod copies;
pub mod copy;
mod data;
pub mod dax;
pub mod dax_window;
pub mod difference;
pub mod dirty;
pub mod discard;
pub mod exported;
mod extent;
pub mod fast_path;
pub mod following;
mod gate;
pub mod hash;
pub mod held_lease;
pub mod host;
mod host_files;
mod host_index;
mod host_limits;
mod host_nodes;
pub mod huge_pools;
pub mod judge;
pub mod kept;
pub mod lazy;
pub mod lease;
pub mod leased_sections;
mod live;
pub mod mapped_regions;
pub mod mapper;
pub mod memory_stats;
mod mmap;
pub mod operation;
mod os_error;
pub mod part;
pub mod path;
pub mod places;
mod plan_needs;
pub mod prealloc;
pub mod present;
pub mod progress;
pub mod protection;
mod quiet;
pub mod region;
pub mod region_change;
pub mod reset;
pub mod scan;
pub mod search;
pub mod section;
pub mod shadow;
pub mod source;
mod source_error;
pub mod sparse;
pub mod storage;
pub mod suspects;
pub mod team;
pub mod topology;
pub mod tracking;
pub mod transfer;
pub mod translate;
mod untorn;
pub mod value;
pub mod watch;
pub mod window;
pub mod zero_pages;
