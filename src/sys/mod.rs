//! Every system call, with a safe signature and the kernel's error number as [`std::io::Error`].

#![allow(unsafe_code, reason = "this room is where system calls are made")]

mod cgroup;
pub mod copy;
pub mod epoll;
pub mod errno;
pub mod event;
pub mod file;
pub mod fork;
pub mod futex;
pub mod host;
mod ioctl;
pub mod kvm;
pub mod kvm_slot;
pub mod lock;
pub mod memory;
pub mod message;
pub mod new_file;
pub mod numa;
pub mod once;
pub mod pagemap;
pub mod poll;
pub mod process;
pub mod smaps;
pub mod socket;
pub mod span;
pub mod stream;
pub mod sync;
pub mod thread_end;
pub mod userfault;
