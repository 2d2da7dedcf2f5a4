//! Integers of 1, 2, 4 and 8 bytes.

use pyo3::prelude::*;
use vm_memory::ByteValued;

use super::PyMemory;
use crate::memory::buffer::Output;
use crate::python::argument::Argument;
use crate::python::convert::{self, Address, Size, narrow, narrow_signed};

impl PyMemory {
    #[inline]
    pub(super) fn read_int<T: ByteValued + Default>(&self, py: Python<'_>, addr: Address) -> PyResult<T> {
        match self.short(|_, memory| Ok(memory.read_int_direct(addr.0)))? {
            Some(value) => Ok(value),
            None => self.read_int_slowly(py, addr),
        }
    }

    #[cold]
    fn read_int_slowly<T: ByteValued + Default>(&self, py: Python<'_>, addr: Address) -> PyResult<T> {
        let mut value = T::default();
        let output = Output::from(value.as_mut_slice());
        self.read_slowly(py, convert::range(addr, Size::of(output.size()))?, &output)?;
        Ok(value)
    }

    #[inline]
    fn write_int<T: ByteValued>(&self, py: Python<'_>, addr: Address, value: T) -> PyResult<()> {
        if self.short(|_, memory| Ok(memory.write_int_direct(addr.0, value)))? {
            return Ok(());
        }
        self.write_from(py, addr, value.as_slice().into(), false)
    }
}

macro_rules! integer {
    ($type:ty, $kind:literal, $bytes:literal, $read:ident, $write:ident, $narrow:ident) => {
        #[pymethods]
        impl PyMemory {
            #[doc = concat!("Reads ", $kind, " integer of ", $bytes, " at any address, little-endian unless `big`.")]
            ///
            /// Aligned reads of directly copied memory do not tear. Raises as `read` does.
            ///
            /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
            /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
            #[doc = concat!(">>> space.map_memory().", stringify!($read), "(0)")]
            /// 0
            #[pyo3(signature = (addr, *, big=false))]
            fn $read(&self, py: Python<'_>, addr: Address, big: bool) -> PyResult<$type> {
                let value: $type = self.read_int(py, addr)?;
                Ok(if big { value.swap_bytes() } else { value })
            }

            #[doc = concat!("Writes ", $kind, " integer of ", $bytes, " at any address, little-endian unless `big`.")]
            ///
            /// Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
            /// `write` does.
            ///
            /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
            /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
            /// >>> memory = space.map_memory()
            #[doc = concat!(">>> memory.", stringify!($write), "(0, 7)")]
            #[doc = concat!(">>> memory.", stringify!($read), "(0)")]
            /// 7
            #[pyo3(signature = (addr, value, *, big=false))]
            fn $write(&self, py: Python<'_>, addr: Address, value: &Bound<'_, PyAny>, big: bool) -> PyResult<()> {
                let value: $type = $narrow(value.as_borrowed()).argument("value")?;
                self.write_int(py, addr, if big { value.swap_bytes() } else { value })
            }
        }
    };
}

integer!(u8, "an unsigned", "1 byte", read_u8, write_u8, narrow);
integer!(u16, "an unsigned", "2 bytes", read_u16, write_u16, narrow);
integer!(u32, "an unsigned", "4 bytes", read_u32, write_u32, narrow);
integer!(u64, "an unsigned", "8 bytes", read_u64, write_u64, narrow);
integer!(i8, "a signed", "1 byte", read_i8, write_i8, narrow_signed);
integer!(i16, "a signed", "2 bytes", read_i16, write_i16, narrow_signed);
integer!(i32, "a signed", "4 bytes", read_i32, write_i32, narrow_signed);
integer!(i64, "a signed", "8 bytes", read_i64, write_i64, narrow_signed);
