//! Writers take turns: a token rather than a mutex guard, so that waiting for it can be interrupted and re-entry is refused.
//!
//! A plain mutex would deadlock in three ways: against the interpreter's lock, which a client's phase takes; against itself, when a
//! phase changes the space; and against a thread that a phase started and waits for. The first is the caller's to avoid, by letting
//! the interpreter's lock go before it waits here; the second is refused at once; only a time limit can end the third.

use crate::model::quote::quoted;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::error::{Error, Interrupted, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::{Monitor, SLICE};
use crate::sys::sync::thread::{self, ThreadId};

/// How long writers wait for one call of a client before they give up.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The writer that has the turn, and its phase.
#[derive(Debug)]
struct TurnOwner {
    thread: ThreadId,
    /// The client that is being called.
    client: Option<Arc<str>>,
    /// Whether code of a user's is being called, a client or another, which may wait for one of those that wait for the turn.
    is_calling: bool,
    phase: &'static str,
    /// When the phase began.
    since: Instant,
}

impl TurnOwner {
    fn begin(thread: ThreadId) -> Self {
        Self { thread, client: None, is_calling: false, phase: "change", since: Instant::now() }
    }

    fn enter(&mut self, client: Option<&Arc<str>>, is_calling: bool, phase: &'static str) {
        (self.client, self.is_calling, self.phase) = (client.cloned(), is_calling, phase);
        self.since = Instant::now();
    }

    fn refusal(&self) -> String {
        format!(
            "a change from inside a change: this thread is in the {}; make it after that has returned",
            self.whereabouts()
        )
    }

    fn whereabouts(&self) -> String {
        let client = self.client.as_ref().map(|name| format!(" of client {}", quoted(name)));
        format!("{}{} since {:.1} s", self.phase, client.unwrap_or_default(), self.since.elapsed().as_secs_f64())
    }

    fn check_client_timeout(&self) -> Result<()> {
        if !self.is_calling || self.since.elapsed() < CLIENT_TIMEOUT {
            return Ok(());
        }
        let message = format!(
            "another change is in the {}, and this one will not wait for it any longer: nothing was changed; \
             a client, signal handler or progress function must not wait for a thread that changes the space or takes what is being removed",
            self.whereabouts()
        );
        Err(Error::Client { message, raised: None })
    }
}

/// The right to publish the next snapshot.
#[derive(Debug, Default)]
pub struct Turn(Monitor<Option<TurnOwner>>);

/// A turn taken; dropping it lets the next writer in.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct TurnGuard<'a> {
    turn: &'a Turn,
    interrupt: &'a dyn Interrupt,
}

impl Turn {
    /// Waits for the turn; must be called without the interpreter's lock. A thread that has it already is refused at once.
    pub fn take<'a>(&'a self, interrupt: &'a dyn Interrupt) -> Result<TurnGuard<'a>> {
        let thread = thread::current().id();
        loop {
            let owner = self.0.lock()?;
            // A client's phase, or a signal handler in one, changes the space: waiting for itself it would never end.
            if let Some(owner) = owner.as_ref().filter(|owner| owner.thread == thread) {
                return Err(Error::Reentrant { message: owner.refusal() });
            }
            let mut owner = self.0.wait(owner, SLICE, |owner| owner.is_some())?;
            // Given up only while a client is being called: mapping and unmapping may take minutes, and end by themselves.
            owner.as_ref().map_or(Ok(()), TurnOwner::check_client_timeout)?;
            if owner.is_none() {
                *owner = Some(TurnOwner::begin(thread));
                return Ok(TurnGuard { turn: self, interrupt });
            }
            // The check may run a signal handler of the user, which may change this very space.
            drop(owner);
            interrupt.check()?;
        }
    }

    /// The turn if nobody has it: one who may not wait, for it has the interpreter's lock, and who calls nobody in its turn.
    pub fn try_take<'a>(&'a self, interrupt: &'a dyn Interrupt) -> Result<Option<TurnGuard<'a>>> {
        let mut owner = self.0.lock()?;
        if owner.is_some() {
            return Ok(None);
        }
        *owner = Some(TurnOwner::begin(thread::current().id()));
        Ok(Some(TurnGuard { turn: self, interrupt }))
    }

    /// Refuses to wait longer for a client that has not come back within [`CLIENT_TIMEOUT`].
    pub fn check_client_timeout(&self) -> Result<()> {
        self.0.lock()?.as_ref().map_or(Ok(()), TurnOwner::check_client_timeout)
    }

    /// Whether the running thread has the turn.
    pub fn is_mine(&self) -> Result<bool> {
        Ok(self.0.lock()?.as_ref().is_some_and(|owner| owner.thread == thread::current().id()))
    }
}

impl TurnGuard<'_> {
    /// Refuses to go on in a child that a client forked and came back in: what is left to do is the parent's.
    pub(super) fn check_process(&self) -> Result<()> {
        if self.turn.0.is_in_its_process() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Notes which client is being called, for the errors of others; its time begins anew.
    pub(super) fn enter(&self, client: Option<&Arc<str>>, phase: &'static str) {
        let Ok(mut owner) = self.turn.0.lock() else { return };
        if let Some(owner) = owner.as_mut() {
            owner.enter(client, client.is_some(), phase);
        }
    }

    /// Asks the writer's interrupt, which may run code of the user's: unless a client is being called, that has its own time.
    fn ask(&self, question: impl FnOnce() -> Result<(), Interrupted>) -> Result<(), Interrupted> {
        let is_first = self.turn.0.lock().is_ok_and(|mut owner| {
            owner.as_mut().is_some_and(|owner| {
                let is_first = !owner.is_calling;
                if is_first {
                    owner.enter(None, true, "signal handler or progress function");
                }
                is_first
            })
        });
        let answer = question();
        if is_first {
            self.enter(None, "change");
        }
        answer
    }
}

/// The writer's interrupt, for all that is asked or reported in the turn.
impl Interrupt for TurnGuard<'_> {
    fn check(&self) -> Result<(), Interrupted> {
        self.ask(|| self.interrupt.check())
    }

    fn check_now(&self) -> Result<(), Interrupted> {
        self.ask(|| self.interrupt.check_now())
    }

    fn progress(&self, stage: &'static str, done: u64, total: u64) -> Result<(), Interrupted> {
        self.ask(|| self.interrupt.progress(stage, done, total))
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // All waiters are woken, for each may be about to give up: one that was chosen and left would strand the others.
        // Refused only in a forked child, where nobody waits.
        let _ = self.turn.0.change(|owner| *owner = None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::model::interrupt::Uninterrupted;

    /// Says stop at the first question.
    struct Stop;

    impl Interrupt for Stop {
        fn check(&self) -> Result<(), Interrupted> {
            Err(Interrupted)
        }
    }

    #[test]
    fn one_writer_has_the_turn_at_a_time() {
        let (turn, inside, most) = (Turn::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _guard = turn.take(&Uninterrupted).unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(!turn.is_mine().unwrap());
    }

    #[test]
    fn a_thread_that_has_the_turn_is_refused_another() {
        let turn = Turn::default();
        let guard = turn.take(&Uninterrupted).unwrap();
        guard.enter(Some(&"kvm".into()), "prepare");
        let Err(Error::Reentrant { message }) = turn.take(&Uninterrupted) else { panic!() };
        assert!(turn.is_mine().unwrap() && message.contains("prepare of client \"kvm\""), "{message}");
        drop(guard);
        drop(turn.take(&Uninterrupted).unwrap());
    }

    #[test]
    fn who_may_not_wait_gets_a_turn_that_is_free_and_no_other() {
        let turn = Turn::default();
        let guard = turn.try_take(&Uninterrupted).unwrap().unwrap();
        assert!(turn.try_take(&Uninterrupted).unwrap().is_none());
        assert!(turn.is_mine().unwrap());
        drop(guard);
        drop(turn.take(&Uninterrupted).unwrap());
    }

    #[test]
    fn a_wait_for_the_turn_can_be_interrupted_and_the_turn_is_still_the_others() {
        let (turn, is_over) = (Turn::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let guard = turn.take(&Uninterrupted).unwrap();
            scope.spawn(|| {
                assert!(!turn.is_mine().unwrap());
                assert!(matches!(turn.take(&Stop), Err(Error::Interrupted)));
                is_over.store(true, Ordering::SeqCst);
            });
            while !is_over.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(turn.is_mine().unwrap());
            drop(guard);
        });
    }

    /// Looks at the turn from where a signal handler or progress function runs.
    struct Looks<'a>(&'a Turn, AtomicBool);

    impl Interrupt for Looks<'_> {
        fn check(&self) -> Result<(), Interrupted> {
            let owner = self.0.0.lock().unwrap();
            self.1.store(owner.as_ref().is_some_and(|owner| owner.is_calling), Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn what_an_interrupt_runs_has_its_time_like_a_client() {
        let turn = Turn::default();
        let looks = Looks(&turn, AtomicBool::new(false));
        let guard = turn.take(&looks).unwrap();
        guard.progress("map", 1, 2).unwrap();
        assert!(looks.1.load(Ordering::SeqCst));
        assert!(turn.0.lock().unwrap().as_ref().is_some_and(|owner| !owner.is_calling));
        // Inside a client's phase it is that which counts.
        let since = |turn: &Turn| turn.0.lock().unwrap().as_ref().map(|owner| (owner.phase, owner.since));
        guard.enter(Some(&"kvm".into()), "prepare");
        let before = since(&turn);
        guard.check().unwrap();
        assert_eq!(since(&turn), before);
    }

    #[test]
    fn a_client_has_its_time_and_the_space_itself_any() {
        let long_ago = Instant::now().checked_sub(CLIENT_TIMEOUT).unwrap();
        let owner = |client: Option<&str>| TurnOwner {
            client: client.map(Into::into),
            is_calling: client.is_some(),
            since: long_ago,
            ..TurnOwner::begin(thread::current().id())
        };
        assert!(owner(None).check_client_timeout().is_ok());
        assert!(matches!(owner(Some("slow")).check_client_timeout(), Err(Error::Client { .. })));
        let turn = Turn::default();
        let guard = turn.take(&Uninterrupted).unwrap();
        *turn.0.lock().unwrap() = Some(owner(Some("slow")));
        assert!(turn.check_client_timeout().is_err());
        guard.enter(Some(&"next".into()), "prepare");
        assert!(turn.check_client_timeout().is_ok());
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::sys::sync::{AtomicBool, Ordering, prove};

    #[test]
    fn each_writer_has_the_turn_alone_and_none_waits_for_ever() {
        prove(|| {
            let (turn, is_taken) = (Arc::new(Turn::default()), Arc::new(AtomicBool::new(false)));
            let writers: Vec<_> = (0..3)
                .map(|_| {
                    let (turn, is_taken) = (Arc::clone(&turn), Arc::clone(&is_taken));
                    thread::spawn(move || {
                        let guard = turn.take(&Uninterrupted).unwrap();
                        assert!(!is_taken.swap(true, Ordering::SeqCst));
                        guard.enter(None, "prepare");
                        assert!(turn.is_mine().unwrap());
                        assert!(matches!(turn.take(&Uninterrupted), Err(Error::Reentrant { .. })));
                        is_taken.store(false, Ordering::SeqCst);
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
    }
}
