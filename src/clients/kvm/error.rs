//! The errors of KVM, each with a hint at what may be behind it.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::model::error::{Errno, Error};
use crate::model::format::hex;
use crate::model::region::SharedRegion;
use crate::sys::errno::{self, EEXIST, EFAULT, EINVAL, EIO, ENOENT};
use crate::sys::host::Host;

/// KVM refused `what` of, or for, a region.
pub(super) fn refused(region: &SharedRegion, what: &str, error: &io::Error) -> Error {
    let hint = match errno::of(error) {
        EFAULT => "; KVM has a larger slot under its number: the machine's owner has given that to another",
        ENOENT => "; its slot was deleted, or the log of that switched off, by others",
        EINVAL if Host::default().physical_end().is_some_and(|end| region.end() > end) => {
            "; it lies beyond the physical addresses that this host's processors have"
        }
        EEXIST => "; a slot that is not ours overlaps it",
        EINVAL => {
            "; the number may be one of the machine's owner (first_slot= leaves room), or the slot was deleted by others"
        }
        EIO => "; the machine belongs to another process",
        _ => "",
    };
    let message = format!("KVM refused {what} {region} of {} bytes: {error}{hint}", hex(region.size()));
    Error::Backing { message, errno: Errno::from(error), region: Some(Arc::clone(region)) }
}

/// The descriptor is not one of a virtual machine.
pub(super) fn not_a_machine(vm_fd: RawFd, error: &io::Error) -> Error {
    let message = format!("file descriptor {vm_fd} is not a KVM virtual machine (KVM_CREATE_VM makes one): {error}");
    Error::Backing { message, errno: Errno::from(error), region: None }
}

/// The kernel, or this machine, does not have a feature.
pub(super) fn unsupported(feature: &'static str, how: &str) -> Error {
    let message = format!("the virtual machine has no {feature}: it needs {how}");
    Error::Unsupported { message, feature, how: how.into(), region: None }
}

/// No region's writes, or not those of one region, are logged.
pub(super) fn not_logged(what: &str) -> Error {
    let how = String::from("call set_dirty_log(region, True), or attach with dirty_log=True");
    let message = format!("the guest's writes to {what} are not logged: {how}");
    Error::Unsupported { message, feature: "dirty log", how, region: None }
}
