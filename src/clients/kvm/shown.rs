//! The part of a region that a guest is shown, and how.

use std::sync::Arc;

use crate::memory::region::MappedRegion;
use crate::model::region::{PROT_NONE, PROT_READ, PROT_WRITE, RegionType, SharedRegion};
use crate::model::runs::Run;
use crate::sys::kvm::KVM_MEM_READONLY;

/// A window as a run, without the flag of the log.
pub(super) fn run_of(window: &Arc<MappedRegion>) -> Run {
    let flags = if is_read_only(window.desc()) { KVM_MEM_READONLY } else { 0 };
    let at = window.window().shown().base();
    Run { guest: window.shown_at(), storage: window.storage().id(), at, flags }
}

/// Whether a guest may touch it: memory that nobody may has no slot, so that a touch is an exit. A DAX window shows what is mapped into it.
pub(super) fn is_reachable(region: &SharedRegion) -> bool {
    region.prot_flags != PROT_NONE || region.region_type == RegionType::DaxMemory
}

/// The guest's writes to it are exits; a window without any protection shows what is mapped into it.
pub(super) fn is_read_only(region: &SharedRegion) -> bool {
    region.prot_flags & (PROT_READ | PROT_WRITE) == PROT_READ
}
