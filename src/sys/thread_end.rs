//! Threads that C ends from below: `pthread_exit` unwinds them, and no Rust frame may be unwound that way.

use std::cell::UnsafeCell;
use std::ffi::c_void;
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

/// While this lives, `pthread_exit` in this thread waits for ever instead of unwinding: what the frames hold stays as it is.
///
/// Guards end in the reverse order of their beginning, as locals do.
#[derive(Debug)]
pub struct EndGuard {
    /// Not on the stack: glibc runs an entry once the frame that holds it is unwound, which for any other address is at once.
    entry: Box<UnsafeCell<Entry>>,
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl EndGuard {
    /// Begins to hold up this thread's end.
    #[must_use]
    pub fn new() -> Self {
        let guard = Self { entry: Box::default(), _this_thread: std::marker::PhantomData };
        if let Some((push, _)) = functions() {
            // SAFETY: the entry is large enough, and stays where it is until it is popped.
            unsafe { push(guard.entry.get().cast(), wait_for_ever, std::ptr::null_mut()) };
        }
        guard
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Some((_, pop)) = functions() {
            // SAFETY: the entry was pushed in this thread, and those pushed since are popped.
            unsafe { pop(self.entry.get().cast(), 0) };
        }
    }
}

extern "C" fn wait_for_ever(_: *mut c_void) {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
