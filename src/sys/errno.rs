//! The kernel's error numbers, for the rooms that may not name `libc`.

use std::io::{Error, ErrorKind};

pub use libc::{
    EBADF, EEXIST, EFAULT, EINVAL, EIO, EISDIR, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, ENOSPC, EOVERFLOW, EPERM,
    ETIMEDOUT,
};

/// The error with a number, as a failed system call gives it.
#[must_use]
pub fn error(errno: i32) -> Error {
    Error::from_raw_os_error(errno)
}

/// The number of an error; one that no system call gave counts as `EINVAL` when an input was wrong, else as `EIO`.
#[must_use]
pub fn of(error: &Error) -> i32 {
    let default = if error.kind() == ErrorKind::InvalidInput { EINVAL } else { EIO };
    error.raw_os_error().unwrap_or(default)
}

/// `Err` with the thread's errno for a negative result of a system call.
pub(super) fn check<T: Default + PartialOrd>(result: T) -> std::io::Result<T> {
    if result < T::default() { Err(Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_number() {
        assert_eq!(of(&error(ENOSPC)), ENOSPC);
        assert_eq!(of(&Error::new(ErrorKind::InvalidInput, "zero pages")), EINVAL);
        assert_eq!(of(&Error::other("gone")), EIO);
    }
}
