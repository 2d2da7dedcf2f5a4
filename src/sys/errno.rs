//! The kernel's error numbers, for the rooms that may not name `libc`.

use std::io::{Error, ErrorKind};

pub use libc::{
    EAGAIN, EBADF, EBUSY, ECANCELED, ECONNRESET, EEXIST, EFAULT, EINTR, EINVAL, EIO, EISDIR, EMFILE, ENFILE, ENODEV,
    ENOENT, ENOMEM, ENOSPC, EOVERFLOW, EPERM, ESRCH, ETIMEDOUT,
};

/// A refusal where no system call failed, with the number that the kernel has for such a case.
#[derive(Debug)]
struct Refusal {
    errno: i32,
    why: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.why)
    }
}

impl std::error::Error for Refusal {}

/// The error of what was not asked of the kernel, or not answered by it; its text has no number.
#[must_use]
pub fn refusal(errno: i32, why: &'static str) -> Error {
    Error::other(Refusal { errno, why })
}

/// The number of an error; one without a number counts as `EINVAL` when an input was wrong, else as `EIO`.
#[must_use]
pub fn of(error: &Error) -> i32 {
    let refused = || Some(error.get_ref()?.downcast_ref::<Refusal>()?.errno);
    let default = if error.kind() == ErrorKind::InvalidInput { EINVAL } else { EIO };
    error.raw_os_error().or_else(refused).unwrap_or(default)
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
        assert_eq!(of(&Error::from_raw_os_error(ENOSPC)), ENOSPC);
        assert_eq!(of(&refusal(ETIMEDOUT, "no answer")), ETIMEDOUT);
        assert_eq!(refusal(ETIMEDOUT, "no answer").to_string(), "no answer");
        assert_eq!(of(&Error::new(ErrorKind::InvalidInput, "zero pages")), EINVAL);
        assert_eq!(of(&Error::other("gone")), EIO);
    }
}
