//! Verbs that cut, join, move and protect regions, while their bytes stay where they are.

use pyo3::prelude::*;

use super::base::{PyBase, target};
use super::convert::{self, Address, Protection, Size};
use super::interrupt::detached;
use super::space::PySpace;
use super::transaction::PyTransaction;

#[pymethods]
impl PySpace {
    /// Cuts a region in two at the address `at` inside it, and returns the map just published; bytes, views and leases stay as they are.
    ///
    /// `x` is a region as `remove_region` takes it. The lower part keeps its name, the upper has none, and each can be removed, moved or protected
    /// by itself. Raises `UnmappedAddress`, `InvalidAddressRange` when `at` is not inside, `Misaligned` when it would cut a page of mapped memory, and
    /// `Unsupported` for devices, DAX windows and `may_block` memory.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> [region.size for region in space.split_region(0, 1 << 20)]
    /// [1048576, 3145728]
    fn split_region(&self, py: Python<'_>, x: &Bound<'_, PyAny>, at: Address) -> PyResult<Py<PyBase>> {
        let target = target(x, "x")?;
        let map = detached(py, None, |interrupt| self.inner().split(target, at.0, interrupt))?;
        self.base_of(py, &map)
    }

    /// Makes two neighbours one region, which were cut from one before, and returns the map just published; bytes, views and leases stay.
    ///
    /// `x` and `y` are regions as `remove_region` takes them, the lower first, whose name and options stay. Raises `UnmappedAddress`,
    /// `InvalidArgument` when the second does not follow the first, or when they differ in memory, type, protection or options, and `RegionBusy` when
    /// one that was moved to the other's side is held.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> _ = space.split_region(0, 1 << 20)
    /// >>> len(space.join_regions(0, 1 << 20))
    /// 1
    fn join_regions(&self, py: Python<'_>, x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<Py<PyBase>> {
        let (lower, upper) = (target(x, "x")?, target(y, "y")?);
        let map = detached(py, None, |interrupt| self.inner().join(lower, upper, interrupt))?;
        self.base_of(py, &map)
    }

    /// Shows a region's bytes at another base, and returns the map just published; host addresses and KVM's dirty log stay.
    ///
    /// `x` is a region as `remove_region` takes it; the new addresses may overlap the old ones, and then a guest's processors must be paused. A
    /// view says a guest address: a region that is held is `RegionBusy`. Raises `UnmappedAddress`, `LayoutViolation`, `RegionOverlap`, `Reserved`, and
    /// `Unsupported` as `split_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write_u64(0x1000, 7)
    /// >>> _ = space.move_region(0, 16 << 20)
    /// >>> space.memory.read_u64((16 << 20) + 0x1000)
    /// 7
    fn move_region(&self, py: Python<'_>, x: &Bound<'_, PyAny>, base: Address) -> PyResult<Py<PyBase>> {
        let target = target(x, "x")?;
        let map = detached(py, None, |interrupt| self.inner().relocate(target, base.0, interrupt))?;
        self.base_of(py, &map)
    }

    /// Makes a region larger, to `size` bytes in all, and returns the map just published; bytes, views and host addresses stay.
    ///
    /// `x` is a region as `remove_region` takes it. With `BackingOptions(max_size=)` it stays one region. Without, a neighbour comes behind it, like it and under the
    /// next name (`ram-2`), with memory of its own: a view can't cross from one to the other (`NotContiguous`). New bytes are zero, in a file those that
    /// come next. `split_region` and `remove_region` make it smaller. Raises `UnmappedAddress`, `InvalidAddressRange` for a `size` that is not above
    /// the region's, or above `max_size`, `InvalidArgument` for a buffer or a window, and what `insert_region` and `split_region` do.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> [(region.name, region.size) for region in space.grow_region("ram0", "6MiB")]
    /// [('ram0', 4194304), ('ram0-2', 2097152)]
    fn grow_region(&self, py: Python<'_>, x: &Bound<'_, PyAny>, size: Size) -> PyResult<Py<PyBase>> {
        let target = target(x, "x")?;
        let map = detached(py, None, |interrupt| self.inner().grow(&target, size.0, interrupt))?;
        self.base_of(py, &map)
    }

    /// Gives `[addr, addr + size)` another protection, and returns the map just published; regions that it begins or ends in are cut there.
    ///
    /// `prot_flags` are a `Prot`, an int or text such as `"r--"`. The lowest part of a region that is cut keeps the name. Where write is taken away,
    /// writable views and pins are `RegionBusy`, and readers go on; where read is, all are. The pages of the host allow what all windows on
    /// them allow together. A guest's processors must be paused as for `replace_region`. Raises `UnmappedAddress` for a hole, `InvalidAddressRange` for
    /// size 0, `InvalidArgument` for a device, and what `split_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> [(region.base, region.prot_flags.name) for region in space.protect(0xf0000, 0x10000, "r--")]
    /// [(0, 'READ|WRITE'), (983040, 'READ'), (1048576, 'READ|WRITE')]
    fn protect(&self, py: Python<'_>, addr: Address, size: Size, prot_flags: Protection) -> PyResult<Py<PyBase>> {
        let range = convert::range(addr, size)?;
        let map = detached(py, None, |interrupt| self.inner().protect(range, prot_flags.0, interrupt))?;
        self.base_of(py, &map)
    }
}

#[pymethods]
impl PyTransaction {
    /// Stages a cut; returns the staged map. Raises as `AddressSpace.split_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.transaction() as change:
    /// ...     len(change.split_region(0, 1 << 20))
    /// 2
    fn split_region(&self, x: &Bound<'_, PyAny>, at: Address) -> PyResult<PyBase> {
        let target = target(x, "x")?;
        self.stage(|transaction| transaction.split(&target, at.0))
    }

    /// Stages a union of two neighbours; returns the staged map. Raises as `AddressSpace.join_regions` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.transaction() as change:
    /// ...     _ = change.split_region(0, 1 << 20)
    /// ...     len(change.join_regions(0, 1 << 20))
    /// 1
    fn join_regions(&self, x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<PyBase> {
        let (lower, upper) = (target(x, "x")?, target(y, "y")?);
        self.stage(|transaction| transaction.join(&lower, &upper))
    }

    /// Stages a move; returns the staged map. Raises as `AddressSpace.move_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.transaction() as change:
    /// ...     change.move_region(0, 16 << 20).regions[0].base
    /// 16777216
    fn move_region(&self, x: &Bound<'_, PyAny>, base: Address) -> PyResult<PyBase> {
        let target = target(x, "x")?;
        self.stage(|transaction| transaction.relocate(&target, base.0))
    }

    /// Stages a growth; returns the staged map. Raises as `AddressSpace.grow_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.transaction() as change:
    /// ...     change.grow_region("ram0", "6MiB").last_addr
    /// 6291455
    fn grow_region(&self, x: &Bound<'_, PyAny>, size: Size) -> PyResult<PyBase> {
        let target = target(x, "x")?;
        self.stage(|transaction| transaction.grow(&target, size.0))
    }

    /// Stages another protection of a range; returns the staged map. Raises as `AddressSpace.protect` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.transaction() as change:
    /// ...     len(change.protect(0xf0000, 0x10000, "r--"))
    /// 3
    fn protect(&self, addr: Address, size: Size, prot_flags: Protection) -> PyResult<PyBase> {
        let range = convert::range(addr, size)?;
        self.stage(|transaction| transaction.protect(range, prot_flags.0))
    }
}
