//! A follower: a space whose changes are the leader's, made by a thread that listens to it and never takes the interpreter's lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::channel::{Channel, Message};
use super::leader::SpaceHolder;
use super::record::Record;
use super::table::{NextTable, Proposed, Table};
use super::wire::{Kind, VERSION};
use super::word::{Nobody, Outcome, Word};
use crate::memory::lease::WeakRegion;
use crate::model::error::{Errno, Error, Interrupted, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::{Deadline, SLICE};
use crate::space::AddressSpace;
use crate::space::follow::FollowedChange;
use crate::space::following::Following;
use crate::space::subscription::Subscription;
use crate::sys::event::Event;
use crate::sys::socket::MAX_DESCRIPTORS;

/// As long a wait as any: what ends it is a descriptor.
const LONG: Duration = Duration::from_secs(3600);

/// One who listens to a leader.
#[derive(Debug)]
pub struct Follower {
    channel: Arc<Channel>,
    table: Table,
    following: Arc<Following>,
    /// The regions of which the leader was told that they are in use, by its numbers.
    vetoed: Vec<(u64, WeakRegion)>,
    /// Signalled when a lease on one of them ends.
    alarm: Arc<Event>,
}

/// Stops the waits of one who follows no more.
struct Stop<'a>(&'a Following);

impl Interrupt for Stop<'_> {
    fn check(&self) -> Result<(), Interrupted> {
        if self.0.is_over() { Err(Interrupted) } else { Ok(()) }
    }
}

impl Follower {
    /// Follows the leader at the other end of a socket: its space as it is now, and what will keep it so.
    pub fn attach(socket: File, timeout: Option<Duration>, interrupt: &dyn Interrupt) -> Result<(AddressSpace, Self)> {
        let channel = Arc::new(Channel::new(socket, MAX_DESCRIPTORS).map_err(|error| failed(&error))?);
        let deadline = Deadline::after(timeout);
        let hello = [Record::Wish(true, [VERSION; 2])];
        channel.say_soon(Kind::Hello, (0, 0), &hello).map_err(|error| lost(&error))?;
        let (proposed, leader) = welcome(&channel, deadline, interrupt)?;
        let of = (proposed.sequence, proposed.generation);
        let begun = proposed.empty_map().and_then(|map| {
            let table = Table::new(leader, map);
            let next = table.follow(proposed)?;
            Ok((next.map_all()?, next, table))
        });
        let (regions, next, mut table) = begun.inspect_err(|error| {
            // The error is the caller's to see, whether the leader hears of it or not.
            let _ = channel.say_soon(Kind::Veto, of, &[Record::Text(error.to_string())]);
        })?;
        let following = Following::new(leader).map_err(|error| failed(&error))?;
        let space = AddressSpace::follower(next.map.clone(), regions, following)?;
        decided(&channel, of, deadline, interrupt)?;
        channel.say_soon(Kind::Done, of, &[]).map_err(|error| lost(&error))?;
        let Some(following) = space.following().cloned() else { return Err(closed()) };
        let alarm = Arc::new(Event::new().map_err(|error| failed(&error))?);
        table.publish(next);
        Ok((space, Self { channel, table, following, vetoed: vec![], alarm }))
    }

    /// Begins to listen.
    pub fn listen(self, space: Box<dyn SpaceHolder>) -> Result<()> {
        let listener = move || {
            let mut follower = self;
            // Whatever ended it, it is over.
            let _ = follower.run(&*space);
            let _ = follower.channel.say_soon(Kind::Bye, (0, 0), &[]);
            space.with_space(&mut |space| space.follow_no_more());
        };
        let spawned = thread::Builder::new().name("dbs-follower".into()).spawn(listener);
        spawned.map(drop).map_err(|error| failed(&error))
    }

    fn run(&mut self, space: &dyn SpaceHolder) -> io::Result<()> {
        let mut proposed = Proposed::default();
        while !self.following.is_over() {
            // An alarm that nobody waits for may have gone off.
            let alarm = Some(self.alarm.as_fd()).filter(|_| !self.vetoed.is_empty());
            let others: Vec<BorrowedFd<'_>> = [self.following.end()].into_iter().chain(alarm).collect();
            if let Some(message) = self.channel.wait(&others, LONG)? {
                match message.header.kind {
                    Kind::Propose => {
                        let has_more = message.header.has_more;
                        proposed.add(message).map_err(io::Error::other)?;
                        if !has_more {
                            self.follow(space, std::mem::take(&mut proposed))?;
                        }
                    }
                    // Of a proposal that was vetoed here.
                    Kind::Abort => {}
                    _ => return Ok(()),
                }
            }
            self.tell_releases()?;
        }
        Ok(())
    }

    /// Takes a change over, or says why not.
    fn follow(&mut self, holder: &dyn SpaceHolder, proposed: Proposed) -> io::Result<()> {
        let of = (proposed.sequence, proposed.generation);
        let word = Arc::new(Word::new(Arc::clone(&self.channel), of));
        let (mut proposed, mut done) = (Some(proposed), Err(closed()));
        holder.with_space(&mut |space| {
            if let Some(proposed) = proposed.take() {
                done = self.follow_in(space, proposed, &word);
            }
        });
        match (done, word.outcome()) {
            (Ok(next), _) => {
                // What left is unmapped here, before the leader is told.
                self.table.publish(next);
                self.channel.say_soon(Kind::Done, of, &[])
            }
            (Err(_), Outcome::Aborted) => self.channel.say_soon(Kind::Undone, of, &[]),
            (Err(error), Outcome::Unasked) => self.veto(holder, of, &error),
            (Err(_), _) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn follow_in(&self, space: &AddressSpace, proposed: Proposed, word: &Arc<Word>) -> Result<NextTable> {
        let next = self.table.follow(proposed)?;
        let word = Arc::new(Subscription::new(Arc::<Word>::clone(word), Box::new(Nobody)));
        // Of a memory that is closed, every region goes, and the map stays.
        if next.map.generation() == space.map().generation() && next.map.regions().is_empty() {
            space.follow_closing(word, &Stop(&self.following))?;
            return Ok(next);
        }
        let followed = FollowedChange { after: next.map.clone(), map: &mut |entry| next.map_region(entry), word };
        space.follow(followed, &Stop(&self.following))?;
        Ok(next)
    }

    fn veto(&mut self, holder: &dyn SpaceHolder, of: (u64, u64), error: &Error) -> io::Result<()> {
        let mut records = Vec::new();
        if let Error::Busy { region, leases, .. } = error
            && let Some(number) = self.table.number_of(region)
        {
            records.extend(leases.iter().map(|lease| Record::Lease(number, *lease)));
            holder.with_space(&mut |space| {
                let snapshot = space.load();
                let mapped = snapshot.memory().and_then(|memory| memory.find(region.base()));
                self.vetoed.extend(mapped.map(|mapped| (number, WeakRegion::from(mapped))));
            });
        }
        records.push(Record::Text(error.to_string()));
        self.channel.say_soon(Kind::Veto, of, &records)
    }

    /// Tells the leader of regions that are free again.
    fn tell_releases(&mut self) -> io::Result<()> {
        if self.vetoed.is_empty() {
            return Ok(());
        }
        // Before the look: a lease that ends behind it signals anew.
        self.alarm.clear();
        let mut freed = Vec::new();
        self.vetoed.retain(|(number, region)| {
            let is_free = region.leases().is_free_or_alarms(&self.alarm).unwrap_or(true);
            if is_free {
                freed.push(*number);
            }
            !is_free
        });
        freed.iter().try_for_each(|number| self.channel.say_soon(Kind::Released, (0, 0), &[Record::Region(*number)]))
    }
}

/// The leader's space as a proposal, and the leader's process.
fn welcome(channel: &Channel, deadline: Deadline, interrupt: &dyn Interrupt) -> Result<(Proposed, u32)> {
    let mut proposed = Proposed::default();
    loop {
        let message = next_message(channel, deadline, interrupt)?;
        let sender = message.sender.map_or(0, |sender| sender.pid);
        match message.header.kind {
            Kind::Welcome => {
                let has_more = message.header.has_more;
                proposed.add(message)?;
                if !has_more {
                    channel.know_sender().map_err(|error| lost(&error))?;
                    // One that this process can't see is watched by its socket alone.
                    if sender != 0 {
                        channel.watch(sender).map_err(|error| lost(&error))?;
                    }
                    return Ok((proposed, sender));
                }
            }
            Kind::Refused => {
                let message = format!("the leader lets this process not follow: {}", message.text());
                return Err(Error::Share { message });
            }
            _ => return Err(Error::Share { message: "the other side does not lead: it did not say WELCOME".into() }),
        }
    }
}

/// Says that all is ready, and waits until the leader has decided.
fn decided(channel: &Channel, of: (u64, u64), deadline: Deadline, interrupt: &dyn Interrupt) -> Result<()> {
    channel.say_soon(Kind::Ready, of, &[]).map_err(|error| lost(&error))?;
    let message = next_message(channel, deadline, interrupt)?;
    match (message.header.kind, message.header.sequence) {
        (Kind::Commit, sequence) if sequence == of.0 => Ok(()),
        (Kind::Abort, sequence) if sequence == of.0 => {
            Err(Error::Share { message: "the leader did not let this process follow".into() })
        }
        _ => Err(Error::Share { message: "the leader is gone".into() }),
    }
}

fn next_message(channel: &Channel, deadline: Deadline, interrupt: &dyn Interrupt) -> Result<Message> {
    loop {
        let Some(slice) = deadline.slice() else {
            return Err(Error::Share { message: "the leader did not answer in time".into() });
        };
        let message = channel.wait(&[], slice.min(SLICE)).map_err(|error| lost(&error))?;
        // Also when one has come: there may be no end of them.
        interrupt.check()?;
        if let Some(message) = message {
            return Ok(message);
        }
    }
}

fn failed(error: &io::Error) -> Error {
    let message = format!("the socket to the leader can't be used: {error}");
    Error::Backing { message, errno: Errno::from(error), region: None }
}

fn lost(error: &io::Error) -> Error {
    Error::Share { message: format!("the connection to the leader is lost: {error}") }
}

fn closed() -> Error {
    Error::Share { message: "the follower is closed".into() }
}
