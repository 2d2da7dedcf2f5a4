//! Memory on disk and back: image files, chains of them, and what they are made of.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by whoever made the file")]

pub mod assemble;
pub mod chain;
pub mod chunk;
pub mod header;
pub mod lazy;
pub mod merge;
pub mod pace;
pub mod part;
pub mod patient;
pub mod plan;
pub mod restore;
pub mod save;
pub mod uffd_server;
mod verify;
pub mod writer;
