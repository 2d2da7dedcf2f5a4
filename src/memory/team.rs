//! Long work that is shared out to threads, all of which have ended before its caller goes on.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use crate::model::error::{Errno, Error, Interrupted, Result};
use crate::model::int::usize_of;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::room::{self, Room};
use crate::model::wait::Monitor;
use crate::sys::errno::ECANCELED;
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;

/// Less than this is not worth a thread.
const PER_THREAD: u64 = STEP;
const MAX_THREADS: usize = 16;
/// Between two looks at the caller's [`Interrupt`].
const LOOK: Duration = Duration::from_millis(20);

/// The threads that were asked for, or as many as are worth their while for so many bytes.
pub fn threads_for(bytes: u64, asked: Option<usize>) -> usize {
    let cpus = || available_parallelism().map_or(1, std::num::NonZero::get);
    match (asked, usize_of(bytes / PER_THREAD)) {
        (Some(asked), _) => asked.max(1),
        // The kernel is asked for the CPUs by files, which takes longer than a short scan.
        (None, 0 | 1) => 1,
        (None, most) => cpus().min(MAX_THREADS).min(most),
    }
}

/// The result of a step of the work: when it breaks off, the steps behind it are not wanted.
pub type Step<T> = Result<ControlFlow<T, T>>;

/// The state that the threads of a team have in common.
struct Shared<T, F> {
    step: F,
    count: usize,
    next: AtomicUsize,
    /// No step behind this one is wanted: it failed, or broke off.
    last: AtomicUsize,
    is_stopped: AtomicBool,
    given: Lock<Vec<(usize, T)>>,
    /// The failure of the first step that failed, as it would be told without threads.
    failure: Lock<Option<(usize, Error)>>,
    ended: Monitor<usize>,
}

/// Whether a step is still wanted, for the work in it to ask.
struct Wanted<'a> {
    is_stopped: &'a AtomicBool,
    last: &'a AtomicUsize,
    index: usize,
}

impl Interrupt for Wanted<'_> {
    fn check(&self) -> Result<(), Interrupted> {
        // Relaxed: a late look costs a little more work and no more.
        let is_wanted = !self.is_stopped.load(Ordering::Relaxed) && self.index <= self.last.load(Ordering::Relaxed);
        if is_wanted { Ok(()) } else { Err(Interrupted) }
    }
}

impl<T, F: Fn(usize, &dyn Interrupt) -> Step<T>> Shared<T, F> {
    fn new(count: usize, step: F) -> Result<Self> {
        Ok(Self {
            step,
            count,
            next: AtomicUsize::new(0),
            last: AtomicUsize::new(usize::MAX),
            is_stopped: AtomicBool::new(false),
            given: Lock::new(room::unwritten(count)?),
            failure: Lock::default(),
            ended: Monitor::default(),
        })
    }

    /// Does the next step; `false` when there is none, or none is wanted.
    fn advance(&self) -> Result<bool, Forked> {
        // Relaxed: the addition gives each step out once, and what a step needs was there before the threads.
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let wanted = Wanted { is_stopped: &self.is_stopped, last: &self.last, index };
        if index >= self.count || wanted.check().is_err() {
            return Ok(false);
        }
        let kept = (self.step)(index, &wanted).and_then(|given| {
            let (value, is_last) = match given {
                ControlFlow::Continue(value) => (value, false),
                ControlFlow::Break(value) => (value, true),
            };
            if is_last {
                self.last.fetch_min(index, Ordering::Relaxed);
            }
            self.given.lock()?.add((index, value))
        });
        if let Err(error) = kept {
            self.last.fetch_min(index, Ordering::Relaxed);
            let mut failure = self.failure.lock()?;
            if failure.as_ref().is_none_or(|(first, _)| index < *first) {
                *failure = Some((index, error));
            }
        }
        Ok(true)
    }

    /// Does steps until there is none. A forked child has no such thread, so that no lock is refused.
    fn work(&self) {
        let _ended = Ended(&self.ended);
        while self.advance().is_ok_and(|is_more| is_more) {}
    }

    /// The failure of the first step that failed.
    fn check(&self) -> Result<()> {
        let last = self.last.load(Ordering::Relaxed);
        self.failure.lock()?.take_if(|(index, _)| *index <= last).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The results of the steps, in their order.
    fn finish(&self) -> Result<Vec<T>> {
        self.check()?;
        let last = self.last.load(Ordering::Relaxed);
        let mut given = std::mem::take(&mut *self.given.lock()?);
        given.retain(|(index, _)| *index <= last);
        // A step that was not made, as one whose thread has panicked, must not pass for one that found nothing.
        if given.len() < self.count.min(last.saturating_add(1)) {
            let message = "a thread left some of its work undone: try again, or with threads=1".into();
            return Err(Error::Backing { message, errno: Errno::Refused(ECANCELED), region: None });
        }
        given.sort_unstable_by_key(|(index, _)| *index);
        room::collected(given.into_iter().map(|(_, value)| value))
    }
}

/// Tells that a thread has ended, however it does.
struct Ended<'a>(&'a Monitor<usize>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = self.0.change(|ended| *ended = ended.saturating_add(1));
    }
}

/// Threads that borrow from their caller, and therefore end before this does.
struct Team<'a, T, F> {
    shared: &'a Arc<Shared<T, F>>,
    threads: Vec<JoinHandle<()>>,
}

impl<'a, T: Send, F: Fn(usize, &dyn Interrupt) -> Step<T> + Sync + Send> Team<'a, T, F> {
    /// Starts so many threads, or as many as can be had.
    fn start(shared: &'a Arc<Shared<T, F>>, count: usize) -> Result<Self> {
        let mut team = Self { shared, threads: room::unwritten(count)? };
        for index in 0..count {
            let of_thread = Arc::clone(shared);
            let builder = Builder::new().name(format!("memory-{index}"));
            // SAFETY: what the thread borrows outlives it: `drop` waits for its end. A forked child has no such thread.
            let Ok(thread) = (unsafe { builder.spawn_unchecked(move || of_thread.work()) }) else { break };
            team.threads.push(thread);
        }
        Ok(team)
    }

    /// Waits for the threads, and asks the caller meanwhile whether to go on.
    fn watch(&self, ask: &mut dyn FnMut() -> Result<(), Interrupted>) -> Result<()> {
        let (ended, threads) = (&self.shared.ended, self.threads.len());
        let mut told = Ok(());
        loop {
            let all = *ended.wait(ended.lock()?, LOOK, |ended| *ended < threads)? >= threads;
            if told.is_ok() {
                told = ask();
                self.shared.is_stopped.fetch_or(told.is_err(), Ordering::Relaxed);
            }
            // The question may have come back in a child that it forked.
            if !ended.is_in_its_process() {
                return Err(Error::Forked);
            }
            if all {
                return told.map_err(Error::from);
            }
        }
    }
}

impl<T, F> Drop for Team<'_, T, F> {
    fn drop(&mut self) {
        if self.shared.ended.is_in_its_process() {
            // Not where all have ended, or none could be had: the caller does what is left.
            let is_left = self.shared.ended.lock().map_or(true, |ended| *ended < self.threads.len());
            self.shared.is_stopped.fetch_or(is_left, Ordering::Relaxed);
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
        // In a forked child nobody ends, and nobody borrows; and there is nothing behind a handle, which would detach it.
        self.threads.drain(..).for_each(std::mem::forget);
    }
}

/// Does `count` steps in so many threads, and returns what they gave, in order: up to the first that breaks off.
///
/// The error is that of the first step that fails. `ask` is called in the caller's thread, now and then; when it says stop, the steps
/// are asked to end. With one thread, or when none can be had, the caller does the work.
pub fn share_out<T: Send>(
    count: usize,
    threads: usize,
    step: impl Fn(usize, &dyn Interrupt) -> Step<T> + Sync + Send,
    ask: &mut dyn FnMut() -> Result<(), Interrupted>,
) -> Result<Vec<T>> {
    let shared = Arc::new(Shared::new(count, step)?);
    if threads > 1 {
        let team = Team::start(&shared, threads.min(count))?;
        let told = team.watch(ask);
        drop(team);
        if told.is_err() {
            // A failure comes before an interruption: it says why the work had ended.
            return shared.check().and(told.map(|()| Vec::new()));
        }
    }
    // What no thread has begun.
    while shared.advance()? {
        ask()?;
    }
    shared.finish()
}
