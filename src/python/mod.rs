//! The binding: one thin file for each public class.

#![allow(missing_debug_implementations, reason = "Python has `repr`")]

pub mod adapters;
pub mod array;
pub mod base;
pub mod buffer;
pub mod change;
mod client;
pub mod clients;
pub mod convert;
pub mod description;
pub mod device;
pub mod dirty;
pub mod error;
mod handle;
pub mod interrupt;
pub mod kvm;
pub mod layout;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod pin;
pub mod region;
pub mod space;
pub mod subscription;
pub mod transaction;
pub mod vhost_user;
