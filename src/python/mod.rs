//! The binding: one thin file for each public class.

#![allow(missing_debug_implementations, reason = "Python has `repr`")]

pub mod array;
pub mod base;
pub mod buffer;
pub mod change;
pub mod convert;
pub mod description;
pub mod error;
mod handle;
pub mod interrupt;
pub mod layout;
pub mod mapping;
pub mod memory;
pub mod numa;
pub mod pin;
pub mod region;
pub mod space;
pub mod transaction;
