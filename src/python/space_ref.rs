//! The share that each class has in a live space.

use std::ops::Deref;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::space::AddressSpace;

/// A share in a space; the last one to go dismisses its clients and unmaps its memory, which takes long, without the interpreter's
/// lock.
#[derive(Clone, Debug)]
pub(super) struct SpaceRef(Arc<AddressSpace>);

impl SpaceRef {
    pub(super) fn new(space: AddressSpace) -> Self {
        Self(Arc::new(space))
    }
}

impl Deref for SpaceRef {
    type Target = Arc<AddressSpace>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for SpaceRef {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) > 1 {
            return;
        }
        let end = || {
            self.0.dismiss();
            drop(self.0.take_memory());
        };
        // At the interpreter's end there is no lock to let go; dropping the space then ends it all the same.
        let _ = Python::try_attach(|py| py.detach(end));
    }
}
