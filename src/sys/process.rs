//! Other processes.

use std::io::Result;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::errno::{self, EINVAL};

/// A descriptor that is readable once a process has ended, also while others have its sockets open. Refused where it is gone already.
pub fn watch(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| errno::refusal(EINVAL, "no process of this pid namespace has such a number"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
