//! Memory on its way to another process: the bytes on the wire, the side that sends and the side that receives.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by the other side")]

pub mod connection;
mod digests;
pub mod receive;
pub mod record;
pub mod send;
