//! The binding: one thin file for each public class.

#![allow(missing_debug_implementations, reason = "Python has `repr`")]

pub mod adapters;
pub mod adopted;
pub mod array;
pub mod backing;
pub mod base;
pub mod buffer;
pub mod builder;
pub mod change;
mod client;
pub mod clients;
pub mod convert;
pub mod dax;
pub mod description;
pub mod device;
pub mod dirty;
pub mod error;
mod handle;
pub mod interrupt;
pub mod kvm;
pub mod layout;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod pin;
pub mod plan;
pub mod prealloc;
pub mod region;
pub mod reservation;
pub mod space;
pub mod subscription;
pub mod tables;
pub mod transaction;
pub mod unplug;
pub mod vhost_user;
