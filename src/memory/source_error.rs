//! The errors of memory that can't be opened, mapped or changed.

use std::io;
use std::sync::Arc;

use crate::model::error::{Errno, Error};
use crate::model::region::SharedRegion;
use crate::sys::errno::{self, EMFILE, ENFILE, ENOMEM};

/// An error of the kernel's with what was asked and what to do.
pub fn failed(region: &SharedRegion, what: &str, error: &io::Error) -> Error {
    let advice = match errno::of(error) {
        EMFILE => "; raise RLIMIT_NOFILE (ulimit -n, resource.setrlimit): each memfd takes a descriptor",
        ENFILE => "; raise fs.file-max",
        ENOMEM => "; too little memory, or too many mappings (vm.max_map_count)",
        _ => "",
    };
    let message = format!("{region}: {what}: {error}{advice}");
    Error::Backing { message, errno: Errno::from(error), region: Some(Arc::clone(region)) }
}

/// A refusal of our own, with the number that the kernel would have for it.
pub(super) fn refused(region: &SharedRegion, why: &str, errno: i32) -> Error {
    let message = format!("cannot map {region}: {why}");
    Error::Backing { message, errno: Errno::Refused(errno), region: Some(Arc::clone(region)) }
}

/// The refusal of memory that can't be copied safely.
pub(super) fn special(region: &SharedRegion) -> Error {
    Error::Unsupported {
        message: format!(
            "cannot map {region}: its memory can't be read through process_vm_readv (pages of a device, or a memfd_secret), \
             so a fault of it could not be caught"
        ),
        feature: "guarded access to device pages and secret memory",
        how: "copy the bytes into a region of RAM, or use the file's own read and write".into(),
        region: Some(Arc::clone(region)),
    }
}
