//! The numbers of device requests.

use rustix::ioctl::Opcode;

/// The number of a request in the C library's type, which differs between C libraries.
#[allow(clippy::cast_possible_wrap, reason = "musl takes the same bits as a signed number")]
pub(super) const fn request(opcode: Opcode) -> libc::Ioctl {
    opcode as libc::Ioctl
}
