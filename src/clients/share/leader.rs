//! The leader's side of all followers of a space: one client, which asks all of them at once.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

pub use super::link::FollowerInfo;
use super::link::{Link, failed};
use super::offer::{Known, Offer, count};
use super::round::Round;
use super::wire::Kind;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::Monitor;
use crate::space::AddressSpace;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::epoll::Epoll;
use crate::sys::event::Event;
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;
use crate::sys::message::Credentials;
use crate::sys::once::Once;

use crate::sys::sync::{AtomicBool, Ordering};

/// The number of the event that ends the thread.
pub(super) const STOP: u64 = 0;
/// The number of the socket that listens.
pub(super) const LISTENER: u64 = 1;
/// The number of all followers together.
pub(super) const FOLLOWERS: u64 = 2;
/// Each of them has a number behind this.
const LAST_RESERVED: u64 = FOLLOWERS;

/// The longest time that a follower can be given for an answer: two of them must end before other writers give the turn up.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for followers while somebody wants the share to leave, and for its thread.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The rights of followers, and the time that each has for an answer.
#[derive(Clone, Copy, Debug)]
pub struct SharePolicy {
    /// Whether they may write, if they want to.
    pub may_write: bool,
    /// Whether memory that can't be shared is left out, instead of refused.
    pub skips_private: bool,
    /// The time for each answer.
    pub timeout: Duration,
}

/// A space as long as somebody else has it.
pub trait SpaceHolder: Send + Sync {
    /// Runs `work` on the space, unless it is gone.
    fn with_space(&self, work: &mut dyn FnMut(&AddressSpace));
}

/// The space that is shared, and its owner's word about who may follow.
pub trait Leader: SpaceHolder {
    /// Whether a process may follow, or why not. Called without the turn.
    fn allows(&self, follower: Credentials) -> Result<(), String>;
}

#[derive(Debug, Default)]
pub(super) struct ShareState {
    pub(super) links: Vec<Arc<Link>>,
    /// Whether answers are awaited, which nobody else may read.
    pub(super) is_talking: bool,
    is_over: bool,
    /// Whether the thread runs, and which it is.
    pub(super) is_serving: bool,
    pub(super) thread: Option<ThreadId>,
    /// Whether anybody can still come.
    pub(super) is_open: bool,
    sequence: u64,
    pub(super) last_number: u64,
    error: Option<Error>,
}

/// The leader's side of all followers of a space.
pub struct Share {
    pub(super) policy: SharePolicy,
    /// Set before anybody can follow.
    pub(super) leader: Once<Box<dyn Leader>>,
    /// The space's own number.
    id: [u8; 16],
    pub(super) state: Monitor<ShareState>,
    /// The round of the change under way, from its preparation to its end.
    round: Lock<Option<Round>>,
    known: Lock<Known>,
    pub(super) epoll: Epoll,
    /// The sockets and processes of the followers; part of the other, but while they are talked to.
    pub(super) followers: Epoll,
    /// Ends the thread.
    stop: Event,
    is_hurried: AtomicBool,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Share").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Share {
    /// Nobody follows yet.
    pub fn new(policy: SharePolicy) -> Result<Self> {
        let begun = || -> io::Result<_> {
            let (epoll, followers, stop) = (Epoll::new()?, Epoll::new()?, Event::new()?);
            epoll.add(&stop, STOP)?;
            epoll.add(&followers, FOLLOWERS)?;
            Ok((epoll, followers, stop))
        };
        let (epoll, followers, stop) = begun().map_err(|error| failed(&error))?;
        let half = || RandomState::new().hash_one(std::process::id()).to_le_bytes();
        let mut id = [0; 16];
        id.as_chunks_mut().0.iter_mut().for_each(|chunk| *chunk = half());
        let state = ShareState { is_open: true, last_number: LAST_RESERVED, ..ShareState::default() };
        Ok(Self {
            policy,
            leader: Once::new(),
            id,
            state: Monitor::new(state),
            round: Lock::default(),
            known: Lock::default(),
            epoll,
            followers,
            stop,
            is_hurried: AtomicBool::new(false),
        })
    }

    /// The followers, in the order in which they came.
    pub fn followers(&self) -> Result<Vec<FollowerInfo>, Forked> {
        let links = self.links()?;
        links.iter().filter(|link| !link.is_cut()).map(|link| link.info()).collect()
    }

    /// Lets the followers of a process go; `false` when there are none.
    pub fn drop_follower(&self, pid: u32) -> Result<bool, Forked> {
        // In a forked child the followers are the parent's.
        if !self.state.is_in_its_process() {
            return Err(Forked);
        }
        let links: Vec<_> = self.links()?.into_iter().filter(|link| link.peer.pid == pid && !link.is_cut()).collect();
        links.iter().for_each(|link| self.let_go(link));
        Ok(!links.is_empty())
    }

    /// The fault of the last follower that was let go for one.
    pub fn error(&self) -> Result<Option<Error>, Forked> {
        Ok(self.state.lock()?.error.clone())
    }

    pub(super) fn links(&self) -> Result<Vec<Arc<Link>>, Forked> {
        Ok(self.state.lock()?.links.clone())
    }

    fn patience(&self) -> Duration {
        let timeout = self.policy.timeout;
        if self.is_hurried.load(Ordering::Relaxed) { timeout.min(LAST_PATIENCE) } else { timeout }
    }

    fn begin_round(&self, offer: Offer, links: &[Arc<Link>]) -> Result<Round, Forked> {
        let mut state = self.state.lock()?;
        state.is_talking = true;
        state.sequence = state.sequence.wrapping_add(1);
        let sequence = state.sequence;
        drop(state);
        // Nobody else wakes for the answers.
        let _ = self.epoll.heed(&self.followers, FOLLOWERS, false);
        Ok(Round::new(sequence, offer, self.patience(), links))
    }

    fn end_round(&self) {
        // Refused only in a forked child, which talks to nobody.
        let Ok(links) = self.state.change(|state| {
            state.is_talking = false;
            state.links.clone()
        }) else {
            return;
        };
        links.iter().filter(|link| link.is_cut()).for_each(|link| self.let_go(link));
        let _ = self.epoll.heed(&self.followers, FOLLOWERS, true);
    }

    fn hear(&self, link: &Link) {
        // What can't be waited for is found out at the next change.
        link.descriptors().for_each(|fd| _ = self.followers.add(fd, link.number));
    }

    fn deafen(&self, link: &Link) {
        link.descriptors().for_each(|fd| _ = self.followers.remove(fd));
    }

    /// Ends the connection to a follower, which keeps what it has.
    pub(super) fn let_go(&self, link: &Arc<Link>) {
        self.deafen(link);
        let _ = link.tell(Kind::Bye, (0, 0), Instant::now());
        link.cut();
        // As in `end_round`.
        let _ = self.state.change(|state| state.links.retain(|other| !Arc::ptr_eq(other, link)));
        self.note_release();
    }

    pub(super) fn with_space(&self, work: &mut dyn FnMut(&AddressSpace)) {
        if let Some(leader) = self.leader.get() {
            leader.with_space(work);
        }
    }

    /// A removal that waits for a follower's lease may have nothing to wait for any more.
    pub(super) fn note_release(&self) {
        self.with_space(&mut |space| space.note_release());
    }

    /// Shows a new follower all that is there, in the turn.
    pub(super) fn admit(&self, link: &Arc<Link>, proposal: &Proposal, interrupt: &dyn Interrupt) -> Result<()> {
        let deadline = u32::try_from(self.policy.timeout.as_millis()).unwrap_or(u32::MAX);
        let offer = Offer::of(proposal, &Known::new(), self.policy.skips_private)?;
        let offer = offer.with_layout(proposal.change.after.layout(), deadline, self.id);
        let mut round = self.begin_round(offer, std::slice::from_ref(link))?;
        let admitted = round.propose(Kind::Welcome, interrupt).and_then(|()| {
            // Before it is told: whoever follows is among the followers.
            link.has_reached(proposal.change.after.generation().0);
            self.state.lock()?.links.push(Arc::clone(link));
            self.hear(link);
            round.commit(interrupt)
        });
        if !admitted.as_ref().is_ok_and(Vec::is_empty) {
            link.cut();
        }
        self.end_round();
        admitted.map(drop)
    }

    pub(super) fn has_served(&self) {
        let _ = self.state.change(|state| state.is_serving = false);
    }

    pub(super) fn is_ended(&self) -> bool {
        // Refused in a forked child, where nothing is followed.
        self.state.lock().map_or(true, |state| state.is_over)
    }

    /// Lets all followers go; they keep what they have.
    fn end(&self) -> Result<(), Forked> {
        let links = self.state.change(|state| {
            state.is_over = true;
            std::mem::take(&mut state.links)
        })?;
        links.iter().for_each(|link| self.let_go(link));
        self.stop.signal();
        Ok(())
    }

    fn silent(&self, links: &[Arc<Link>]) -> Result<(), Forked> {
        for link in links {
            let (pid, seconds) = (link.peer.pid, self.policy.timeout.as_secs_f64());
            let message = format!(
                "follower {pid} did not follow a change within {seconds} s: it was let go, and keeps what it had"
            );
            self.state.lock()?.error = Some(Error::Share { message });
            link.cut();
        }
        Ok(())
    }
}

impl Client for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn needs_memory(&self) -> bool {
        true
    }

    fn writes_unseen(&self) -> bool {
        self.policy.may_write
    }

    fn prepare(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        let offer = Offer::of(proposal, &*self.known.lock()?, self.policy.skips_private)?;
        let links: Vec<_> = self.links()?.into_iter().filter(|link| !link.is_cut()).collect();
        let mut round = self.begin_round(offer, &links)?;
        if let Err(refusal) = round.propose(Kind::Propose, interrupt) {
            // The refusal is the error to tell, whatever comes of the abort.
            let _ = round.abort(interrupt);
            self.end_round();
            return Err(refusal);
        }
        *self.round.lock()? = Some(round);
        Ok(())
    }

    fn commit(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        let Some(mut round) = self.round.lock()?.take() else { return Ok(()) };
        count(&mut *self.known.lock()?, proposal);
        let silent = round.commit(interrupt);
        if let Ok(silent) = &silent {
            self.silent(silent)?;
        }
        self.end_round();
        silent.map(drop)
    }

    fn rollback(&self, _proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        let Some(mut round) = self.round.lock()?.take() else { return Ok(()) };
        let aborted = round.abort(interrupt);
        self.end_round();
        aborted
    }

    fn hurry(&self, is_hurried: bool) {
        self.is_hurried.store(is_hurried, Ordering::Relaxed);
    }

    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        self.end()?;
        let state = self.state.lock()?;
        if state.thread != Some(thread::current().id()) {
            drop(self.state.wait(state, LAST_PATIENCE, |state| state.is_serving)?);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        // Also where only one could come, and has gone.
        self.state.lock().is_ok_and(|state| state.is_over || !state.is_open && state.links.is_empty())
    }
}
