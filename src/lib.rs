//! A virtual machine's guest physical address space and the memory behind it.
//!
//! One immutable snapshot stands behind one atomic pointer. Readers take it without a lock; writers take turns, ask every client, and
//! publish the next snapshot with one store, or change nothing. `docs/design.md` explains the whole. The rooms, each of which
//! imports only from those before it:
//!
//! - [`sys`] has every system call, with a safe signature.
//! - [`model`] is the map as pure data: regions, layouts, changes, plans, errors.
//! - [`dump`] finds the memory in dumps of other programs.
//! - [`memory`] turns descriptions into mapped bytes, and accesses them where a touch may fault.
//! - [`space`] is the live address space: snapshot, turn, change. [`space::AddressSpace::change`] is its heart.
//! - [`clients`] follow its changes: KVM's slots, vhost-user's memory table.
//! - [`image`] is memory on disk and back.
//! - [`stream`] is memory on its way to another process.
//! - [`python`] binds it all, one file for each public class.
//!
//! None of it is an interface for Rust programs: the rooms are private, so that only the code in here can break their invariants.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("dbs-address-space needs a 64-bit, little-endian Linux (x86_64 or aarch64)");

mod clients;
mod dump;
mod image;
mod memory;
mod model;
mod python;
mod space;
mod stream;
mod sys;
#[cfg(test)]
#[path = "../tests/rust/mod.rs"]
mod tests;

/// The rooms that `benches/rust` measures, for nobody else.
#[cfg(feature = "benches")]
pub mod measured {
    pub use crate::model::{allocator, change, interrupt, layout, range, region, region_map, reservations, source};
    pub use crate::space::{AddressSpace, removal};
}

#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use super::python::attachment::PyAttachment;
    #[pymodule_export]
    use super::python::backing::{PyBackingOptions, PyNumaPolicy};
    #[pymodule_export]
    use super::python::base::PyBase;
    #[pymodule_export]
    use super::python::buffer::{copied_buffer, fill_buffer};
    #[pymodule_export]
    use super::python::builder::{PyBuilder, PyHotplug};
    #[pymodule_export]
    use super::python::callback::{check_function, checked_answer};
    #[pymodule_export]
    use super::python::change::PyChange;
    #[pymodule_export]
    use super::python::checked::{
        check_type, checked_int, checked_range, checked_size, checked_threads, checked_timeout, parse_protection,
        parse_region_type, parse_source_type, protection_text, size_text,
    };
    #[pymodule_export]
    use super::python::checkpoint::PyCheckpoint;
    #[pymodule_export]
    use super::python::dax::PyDaxWindow;
    #[pymodule_export]
    use super::python::dirty::PyDirtyPages;
    #[pymodule_export]
    use super::python::dump::{PyDumpReader, PyPieces};
    #[pymodule_export]
    use super::python::file::checked_descriptor;
    #[pymodule_export]
    use super::python::firmware_tables::{_ram_once, device_tree, e820, slit, srat};
    #[pymodule_export]
    use super::python::guesses::{guessed, guessed_name};
    #[pymodule_export]
    use super::python::image::{PyImage, PyImagePart};
    #[pymodule_export]
    use super::python::kvm::PyKvmSlots;
    #[pymodule_export]
    use super::python::layout::{PyLayout, usable_end};
    #[pymodule_export]
    use super::python::loop_observer::PyLoopObserver;
    #[pymodule_export]
    use super::python::machine::PyMachine;
    #[pymodule_export]
    use super::python::mapping::PyMapping;
    #[pymodule_export]
    use super::python::memory::PyMemory;
    #[pymodule_export]
    use super::python::memory::search::PyPattern;
    #[pymodule_export]
    use super::python::memory::wait::PyValueBell;
    #[pymodule_export]
    use super::python::new_file::PyNewFile;
    #[pymodule_export]
    use super::python::numa::{PyNumaIdTable, PyNumaNode, PyNumaNodeInfo};
    #[pymodule_export]
    use super::python::numa_region_info::PyNumaRegionInfo;
    #[pymodule_export]
    use super::python::part::PyPart;
    #[pymodule_export]
    use super::python::pin::PyPin;
    #[pymodule_export]
    use super::python::plan::PyPlan;
    #[pymodule_export]
    use super::python::prealloc::PyPreallocHandle;
    #[pymodule_export]
    use super::python::region::PyRegion;
    #[pymodule_export]
    use super::python::reservation::PyReservation;
    #[pymodule_export]
    use super::python::share::PyShare;
    #[pymodule_export]
    use super::python::space::PySpace;
    #[pymodule_export]
    use super::python::stream::{PyStreamReceiver, PyStreamSender};
    #[pymodule_export]
    use super::python::subscription::PySubscription;
    #[pymodule_export]
    use super::python::tracker::PyTracker;
    #[pymodule_export]
    use super::python::transaction::PyTransaction;
    #[pymodule_export]
    use super::python::unplug_request::PyUnplugRequest;
    #[pymodule_export]
    use super::python::vhost_user::PyVhostUserClient;

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
