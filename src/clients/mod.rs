//! Who must follow every change of an address space: KVM's memory slots, and the memory table of a vhost-user backend.

pub mod kvm;
mod kvm_error;
mod kvm_table;
pub mod vhost_user;
mod vhost_user_connection;
