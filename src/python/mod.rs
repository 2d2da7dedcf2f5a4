//! The binding: one thin file for each public class.

#![allow(missing_debug_implementations, reason = "Python has `repr`")]
#![allow(rustdoc::broken_intra_doc_links, reason = "an index in a docstring's example looks like a link")]

pub mod adapters;
pub mod adopted;
mod argument;
pub mod array;
mod attach;
pub mod attachment;
pub mod backing;
pub mod base;
pub mod buffer;
pub mod builder;
pub mod callback;
mod calls;
pub mod change;
pub mod convert;
pub mod dax;
pub mod device;
pub mod dirty;
mod enum_members;
pub mod error;
mod exporter;
mod file;
pub mod firmware_tables;
mod guess_table;
pub mod guesses;
mod import_once;
mod interrupt;
mod keywords;
pub mod kvm;
pub mod layout;
mod leaving;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod pin;
pub mod plan;
pub mod prealloc;
mod python_client;
mod queries;
pub mod region;
pub mod region_args;
pub mod region_key;
mod region_objects;
pub mod registry;
pub mod reservation;
pub mod space;
mod space_ref;
pub mod subscription;
pub mod transaction;
pub mod unplug;
pub mod unplug_request;
pub mod vhost_user;
