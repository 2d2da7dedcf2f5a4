//! One proposal as its followers are asked about it and told of it: the leader sends to all first and collects then, so that the slowest
//! decides how long it takes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::{Answer, Link};
use super::offer::Offer;
use super::wire::Kind;
use crate::model::error::{Error, LeaseInfo, Result};
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::region::SharedRegion;
use crate::sys::errno;

/// A follower that is asked, and its answer to the question of the moment.
#[derive(Debug)]
struct Member {
    link: Arc<Link>,
    answer: Option<Answer>,
}

impl Member {
    const fn has_agreed(&self) -> bool {
        matches!(self.answer, Some(Answer::Agreed))
    }
}

/// A proposal, and where each follower is with it.
#[derive(Debug)]
pub(super) struct Round {
    sequence: u64,
    offer: Offer,
    /// The time for each answer.
    patience: Duration,
    members: Vec<Member>,
}

impl Round {
    pub(super) fn new(sequence: u64, offer: Offer, patience: Duration, links: &[Arc<Link>]) -> Self {
        let members = links.iter().map(|link| Member { link: Arc::clone(link), answer: None }).collect();
        Self { sequence, offer, patience, members }
    }

    /// Asks all, and waits until all are ready; an error names who is not, and nobody has done anything yet.
    pub(super) fn propose(&mut self, kind: Kind, interrupt: &dyn Interrupt) -> Result<()> {
        let until = self.until();
        for may_write in [true, false] {
            let members = self.members.iter_mut().filter(|member| member.link.is_writable == may_write);
            let members: Vec<&mut Member> = members.collect();
            if members.is_empty() {
                continue;
            }
            let messages = self.offer.messages(kind, self.sequence, may_write)?;
            let descriptors = messages.descriptors();
            for member in members {
                let send = |message| member.link.channel.send(message, &descriptors, until, interrupt);
                if let Err(error) = messages.packed.iter().try_for_each(send) {
                    // Half of a message may have gone: nothing that follows it would be understood.
                    member.link.cut();
                    member.answer = Some(Answer::Gone);
                    interrupted(&error)?;
                }
            }
        }
        self.collect(Kind::Ready, until, interrupt)?;
        self.verdict()
    }

    /// The first reason why not all are ready; who has gone is in nobody's way.
    fn verdict(&mut self) -> Result<()> {
        let Self { offer, members, patience, .. } = self;
        for member in members {
            let pid = member.link.peer.pid;
            match &member.answer {
                Some(Answer::Agreed | Answer::Gone) => {}
                Some(Answer::Vetoed(leases, text)) => return Err(refused(offer, pid, leases, text)),
                None => {
                    let seconds = patience.as_secs_f64();
                    let message = format!(
                        "no answer from follower {pid} within {seconds} s: nothing was changed; Share.drop({pid}) lets it go"
                    );
                    return Err(Error::Client { message, raised: None });
                }
            }
        }
        Ok(())
    }

    /// Tells those that are ready that it is done, and waits until they have done it too. Gives those that did not say so in time.
    pub(super) fn commit(&mut self, interrupt: &dyn Interrupt) -> Result<Vec<Arc<Link>>> {
        let until = self.until();
        self.tell_agreed(Kind::Commit, until);
        self.collect_all(Kind::Done, until, interrupt)?;
        for member in self.members.iter().filter(|member| member.has_agreed()) {
            member.link.has_reached(self.offer.generation);
        }
        let silent = self.members.iter().filter(|member| member.answer.is_none());
        Ok(silent.map(|member| Arc::clone(&member.link)).collect())
    }

    /// Tells all that it is not done, and waits until those that were ready have undone their part.
    pub(super) fn abort(&mut self, interrupt: &dyn Interrupt) -> Result<()> {
        let until = self.until();
        for member in self.members.iter().filter(|member| !member.has_agreed() && !member.link.is_cut()) {
            // Whoever has not answered reads it when it comes to.
            let _ = member.link.tell(Kind::Abort, (self.sequence, self.offer.generation), until);
        }
        self.members.retain(Member::has_agreed);
        self.tell_agreed(Kind::Abort, until);
        self.collect_all(Kind::Undone, until, interrupt)
    }

    fn until(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.patience).unwrap_or(now)
    }

    fn tell_agreed(&mut self, kind: Kind, until: Instant) {
        let of = (self.sequence, self.offer.generation);
        for member in self.members.iter_mut().filter(|member| member.has_agreed()) {
            member.answer = member.link.tell(kind, of, until).is_err().then_some(Answer::Gone);
        }
    }

    /// Collects answers also when the caller wants to stop: what is published or refused can't be stopped, and the wait is bounded.
    fn collect_all(&mut self, wanted: Kind, until: Instant, interrupt: &dyn Interrupt) -> Result<()> {
        match self.collect(wanted, until, interrupt) {
            Err(Error::Interrupted) => self.collect(wanted, until, &Uninterrupted),
            collected => collected,
        }
    }

    /// Waits until all have answered, or the time is up: for one after the other, for the slowest decides how long it takes.
    fn collect(&mut self, wanted: Kind, until: Instant, interrupt: &dyn Interrupt) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| member.answer.is_none()) {
            member.answer = member.link.wait_answer(wanted, self.sequence, until, interrupt)?;
        }
        Ok(())
    }
}

fn interrupted(error: &io::Error) -> Result<()> {
    if errno::of(error) == errno::EINTR { Err(Error::Interrupted) } else { Ok(()) }
}

fn refused(offer: &Offer, pid: u32, leases: &[(u64, LeaseInfo)], text: &str) -> Error {
    let held = leases.first().and_then(|(region, _)| offer.region(*region));
    match held {
        Some(region) => busy(region, pid, leases.iter().map(|(_, lease)| *lease).collect(), text),
        None => {
            let message = format!("follower {pid} refused the change: {text}");
            Error::Client { message, raised: None }
        }
    }
}

fn busy(region: &SharedRegion, pid: u32, leases: Vec<LeaseInfo>, text: &str) -> Error {
    let message = format!("process {pid} follows this space, and there {text}");
    Error::Busy { message, region: Arc::clone(region), leases }
}
