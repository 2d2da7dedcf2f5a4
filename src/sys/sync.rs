//! The one place that says which atomics, threads and pointer to the snapshot the protocols between threads are made of: the real ones,
//! or those of `shuttle`, which tries their interleavings in `make proofs`.

#[cfg(not(feature = "shuttle"))]
mod chosen {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
    pub use std::thread;

    pub use arc_swap::ArcSwap;
}

#[cfg(feature = "shuttle")]
mod chosen {
    use std::sync::Arc;

    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::Mutex as PlayedMutex;
    pub use shuttle::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

    pub mod thread {
        pub use shuttle::thread::*;

        /// The others run meanwhile: `shuttle`'s own lets this one run on, in some schedules for ever.
        pub fn sleep(_: std::time::Duration) {
            yield_now();
        }
    }

    /// The pointer to the snapshot, before each use of which another thread may run.
    #[derive(Debug)]
    pub struct ArcSwap<T>(arc_swap::ArcSwap<T>);

    impl<T> ArcSwap<T> {
        pub fn from_pointee(value: T) -> Self {
            Self(arc_swap::ArcSwap::from_pointee(value))
        }

        pub fn load(&self) -> arc_swap::Guard<Arc<T>> {
            thread::yield_now();
            self.0.load()
        }

        pub fn load_full(&self) -> Arc<T> {
            thread::yield_now();
            self.0.load_full()
        }

        pub fn swap(&self, new: Arc<T>) -> Arc<T> {
            thread::yield_now();
            self.0.swap(new)
        }
    }
}

pub use chosen::*;

/// Tries a scene, which begins its own threads, in many of its interleavings.
#[cfg(all(test, feature = "shuttle"))]
pub fn prove(scene: impl Fn() + Send + Sync + 'static) {
    const SCHEDULES: usize = 250;
    let scene = std::sync::Arc::new(scene);
    let again = std::sync::Arc::clone(&scene);
    shuttle::check_random(move || scene(), SCHEDULES);
    // Few switches, at the worst places.
    shuttle::check_pct(move || again(), SCHEDULES, 3);
}
