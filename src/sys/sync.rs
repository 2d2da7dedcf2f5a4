//! The one place that says which atomics and threads the protocols between threads are made of: those of `std`, or those of `shuttle`,
//! which tries their interleavings in `make proofs`.

#[cfg(not(feature = "shuttle"))]
mod chosen {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicU32, Ordering};
}

#[cfg(feature = "shuttle")]
mod chosen {
    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::atomic::{AtomicU32, Ordering};
}

pub use chosen::*;
