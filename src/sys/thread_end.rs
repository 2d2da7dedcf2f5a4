//! Threads that C ends from below: `pthread_exit` unwinds them, and no Rust frame may be unwound that way.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::transmute;
use std::time::Duration;

use super::once::Once;

type Routine = extern "C" fn(*mut c_void);
type Push = unsafe extern "C" fn(*mut c_void, Routine, *mut c_void);
type Pop = unsafe extern "C" fn(*mut c_void, i32);

/// The C library's list of what a thread does at its end, under the names that the macro `pthread_cleanup_push` of its header had (glibc)
/// or has (musl). Looked up when it runs: glibc moved them to another library and version.
fn functions() -> Option<(Push, Pop)> {
    static FUNCTIONS: Once<Option<(Push, Pop)>> = Once::new();
    *FUNCTIONS.get_or_init(|| {
        // SAFETY: looks up names that end with a zero.
        let find = |name: &std::ffi::CStr| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        let (push, pop) = (find(c"_pthread_cleanup_push"), find(c"_pthread_cleanup_pop"));
        if push.is_null() || pop.is_null() {
            return None;
        }
        // SAFETY: both C libraries have functions of these types under the names.
        Some(unsafe { (transmute::<*mut c_void, Push>(push), transmute::<*mut c_void, Pop>(pop)) })
    })
}

/// Room for an entry of the list: a routine, its argument, a number and a pointer in glibc; musl has no number.
#[repr(C)]
#[derive(Debug, Default)]
struct Entry([usize; 8]);

/// How many guards a thread has, and its entry of the list while there are any.
#[derive(Debug, Default)]
struct Guards {
    count: Cell<usize>,
    /// Neither on the stack nor beside the count: glibc runs an entry there once the frames below it are unwound, any other at once.
    entry: Box<UnsafeCell<Entry>>,
}

thread_local! {
    static GUARDS: Guards = Guards::default();
}

/// While this lives, `pthread_exit` in this thread waits for ever instead of unwinding: what the frames hold stays as it is.
#[derive(Debug)]
pub struct EndGuard {
    _this_thread: PhantomData<*const ()>,
}

impl EndGuard {
    /// Begins to hold up this thread's end.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        // A thread whose locals are gone has unwound what there was.
        let _ = GUARDS.try_with(Guards::add);
        Self { _this_thread: PhantomData }
    }
}

impl Drop for EndGuard {
    #[inline]
    fn drop(&mut self) {
        let _ = GUARDS.try_with(Guards::remove);
    }
}

impl Guards {
    /// Only the first one makes an entry: the others are a matter of counting.
    #[inline]
    fn add(&self) {
        let before = self.count.replace(self.count.get().saturating_add(1));
        if let (0, Some((push, _))) = (before, functions()) {
            // SAFETY: the entry is large enough, is not in the list, and stays where it is until it is popped.
            unsafe { push(self.entry.get().cast(), wait_for_ever, std::ptr::null_mut()) };
        }
    }

    #[inline]
    fn remove(&self) {
        let before = self.count.replace(self.count.get().saturating_sub(1));
        if let (1, Some((_, pop))) = (before, functions()) {
            // SAFETY: the entry was pushed in this thread, and whoever pushed one since has popped it.
            unsafe { pop(self.entry.get().cast(), 0) };
        }
    }
}

extern "C" fn wait_for_ever(_: *mut c_void) {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_thread_does_not_end_while_it_has_a_guard() {
        static IS_UNWOUND: AtomicBool = AtomicBool::new(false);
        struct Frame;
        impl Drop for Frame {
            fn drop(&mut self) {
                IS_UNWOUND.store(true, Ordering::Release);
            }
        }
        let (is_there, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (_frame, _first) = (Frame, EndGuard::new());
            drop(EndGuard::new());
            is_there.send(()).unwrap();
            // SAFETY: no frame is unwound, which is what the test is about.
            unsafe { libc::pthread_exit(std::ptr::null_mut()) }
        });
        is_ready.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!IS_UNWOUND.load(Ordering::Acquire));
    }
}
