//! The share in a live space that each of its classes holds.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::calls;
use crate::image::lazy::Filler;
use crate::space::AddressSpace;
use crate::sys::once::Once;

/// A share in a space; when the last one goes, its clients leave and its memory is unmapped.
#[derive(Clone, Debug)]
pub(super) struct SpaceRef(Arc<OwnedSpace>);

impl SpaceRef {
    pub(super) fn new(space: AddressSpace) -> Self {
        Self(Arc::new(OwnedSpace { space, filler: Once::new() }))
    }

    /// The filler of its memory, when it was restored so; the same for each of its handles.
    pub(super) fn filler(&self) -> &Once<Arc<Filler>> {
        &self.0.filler
    }

    /// A reference that keeps nothing alive.
    pub(super) fn downgrade(&self) -> Weak<OwnedSpace> {
        Arc::downgrade(&self.0)
    }
}

impl Deref for SpaceRef {
    type Target = AddressSpace;

    #[inline]
    fn deref(&self) -> &AddressSpace {
        &self.0.space
    }
}

/// A space as its shares own it together.
#[derive(Debug)]
pub(super) struct OwnedSpace {
    space: AddressSpace,
    filler: Once<Arc<Filler>>,
}

impl Deref for OwnedSpace {
    type Target = AddressSpace;

    fn deref(&self) -> &AddressSpace {
        &self.space
    }
}

impl Drop for OwnedSpace {
    fn drop(&mut self) {
        let end = || {
            self.space.dismiss();
            self.space.abandon_memory();
        };
        // Unmapping takes long, and clients take the interpreter's lock: it is let go for them. At the interpreter's end there is none
        // to let go, and the space is dropped with what it has.
        let _ = calls::attach(|py| calls::detach(py, end));
    }
}
