//! The clients that must follow every change of an address space: KVM's memory slots, the memory table of a vhost-user
//! back-end, and followers in other processes.

pub mod kvm;
pub mod partial_pages;
pub mod share;
pub mod vhost_user;

use std::fs::File;
use std::os::fd::RawFd;

use crate::model::error::{Errno, Error, Result};
use crate::sys::file;

/// A descriptor of our own for what the caller may close at any time.
pub fn duplicate(fd: RawFd) -> Result<File> {
    file::duplicate(fd).map_err(|error| Error::Backing {
        message: format!("file descriptor {fd} can't be duplicated: {error}"),
        errno: Errno::from(&error),
        region: None,
    })
}
