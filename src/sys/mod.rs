//! Every system call, with a safe signature and the kernel's error number as [`std::io::Error`].

#![allow(unsafe_code, reason = "this room is where system calls are made")]

pub mod copy;
pub mod discard;
pub mod event;
pub mod file;
pub mod fork;
pub mod huge;
mod ioctl;
pub mod kvm;
pub mod limits;
pub mod memory;
pub mod numa;
pub mod smaps;
pub mod socket;
pub mod span;
pub mod stream;
pub mod vma;
