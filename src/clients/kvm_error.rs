//! What KVM refuses, told with what may be behind it.

use std::io;
use std::sync::Arc;

use crate::model::error::{Errno, Error};
use crate::model::format::hex;
use crate::model::region::SharedRegion;

const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const EIO: i32 = 5;

pub(super) fn refused(region: &SharedRegion, what: &str, error: &io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(EEXIST) => "; a slot that is not ours overlaps it",
        Some(EINVAL) => {
            "; the number may be one of the machine's owner (first_slot= leaves room), or the slot was deleted by others"
        }
        Some(EIO) => "; the machine belongs to another process",
        _ => "",
    };
    let message = format!("KVM refused {what} {region} of {} bytes: {error}{hint}", hex(region.size()));
    Error::Backing { message, errno: Errno::from(error), region: Some(Arc::clone(region)) }
}
