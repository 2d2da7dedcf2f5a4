//! The error number of what the operating system refused.

use std::io;

use crate::model::error::Errno;
use crate::sys::errno;

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        let number = errno::of(error);
        if error.raw_os_error().is_some() { Self::Failed(number) } else { Self::Refused(number) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_call_has_a_number_of_its_own() {
        assert_eq!(Errno::from(&io::Error::from_raw_os_error(errno::EMFILE)), Errno::Failed(errno::EMFILE));
        assert_eq!(Errno::from(&errno::refusal(errno::ETIMEDOUT, "no answer")), Errno::Refused(errno::ETIMEDOUT));
        assert_eq!(Errno::from(&io::Error::other("gone")), Errno::Refused(errno::EIO));
    }
}
