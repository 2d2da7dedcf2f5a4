//! The clients that must follow every change of an address space: KVM's memory slots, and the memory table of a vhost-user backend.

pub mod kvm;
pub mod partial_pages;
pub mod vhost_user;
