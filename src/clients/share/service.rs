//! The leader's thread: it admits followers, and hears what they say while nothing is asked of them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::channel::{Channel, Message};
use super::leader::{FOLLOWERS, LISTENER, Leader, STOP, Share, ShareState};
use super::link::{Link, failed};
use super::record::Record;
use super::wire::{Kind, VERSION};
use crate::model::error::{Error, Interrupted, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::{Deadline, SLICE};
use crate::sys::message::Credentials;
use crate::sys::poll::wait_any;
use crate::sys::socket::{self, SocketKind};

/// As long a wait as any: what ends it is a descriptor.
const LONG: Duration = Duration::from_secs(3600);
/// The most connections that have not said yet what they want.
const MOST_PENDING: usize = 64;

/// A connection that has not said yet what it wants.
struct Pending {
    channel: Channel,
    number: u64,
    /// When it is given up.
    until: Option<Instant>,
}

struct Service {
    share: Arc<Share>,
    listener: Option<File>,
    pending: Vec<Pending>,
}

/// Stops the thread's waits when the share is over.
struct Stop<'a>(&'a Share);

impl Interrupt for Stop<'_> {
    fn check(&self) -> Result<(), Interrupted> {
        if self.0.is_ended() { Err(Interrupted) } else { Ok(()) }
    }
}

/// Begins to serve whoever comes over a socket: a connected one, or one that listens.
pub fn begin(share: &Arc<Share>, socket: File, leader: Box<dyn Leader>) -> Result<()> {
    share.leader.get_or_init(|| leader);
    let service = Service::new(Arc::clone(share), socket).map_err(|error| failed(&error))?;
    share.state.lock()?.is_serving = true;
    let spawned = thread::Builder::new().name("dbs-share".into()).spawn(move || service.run());
    spawned.map(drop).map_err(|error| {
        share.has_served();
        failed(&error)
    })
}

impl Service {
    fn new(share: Arc<Share>, socket: File) -> io::Result<Self> {
        let listens = socket::kind(socket.as_fd())? == SocketKind::Listener;
        let mut service = Self { share, listener: None, pending: vec![] };
        if listens {
            // Those who connect inherit it, so that the kernel vouches for what they send before they are accepted.
            socket::ask_for_senders(socket.as_fd(), true)?;
            service.share.epoll.add(&socket, LISTENER)?;
            service.listener = Some(socket);
        } else {
            service.expect(socket, None)?;
        }
        Ok(service)
    }

    fn run(mut self) {
        // As below.
        let _ = self.share.state.change(|state| state.thread = Some(thread::current().id()));
        while !self.share.is_ended() {
            let limit = if self.pending.iter().any(|pending| pending.until.is_some()) { SLICE } else { LONG };
            let Ok(numbers) = self.share.epoll.wait(limit) else { break };
            for number in numbers {
                match number {
                    STOP => {}
                    LISTENER => self.accept(),
                    FOLLOWERS => self.hear_followers(),
                    number => self.hear(number),
                }
            }
            self.give_up();
        }
        let Self { share, .. } = self;
        share.has_served();
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let socket = match socket::accept(listener.as_fd()) {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            // Without descriptors whoever waits stays there to be told of: asked again at once, it would take a whole processor.
            Err(_) => return thread::sleep(SLICE),
        };
        let until = Instant::now().checked_add(self.share.policy.timeout);
        if self.pending.len() < MOST_PENDING {
            // What can't be listened to is closed.
            let _ = self.expect(socket, until);
        }
    }

    fn expect(&mut self, socket: File, until: Option<Instant>) -> io::Result<()> {
        // Followers send none.
        let channel = Channel::new(socket, 0)?;
        let number = self.share.state.lock().map(|mut state| {
            state.last_number = state.last_number.wrapping_add(1);
            state.last_number
        })?;
        self.share.epoll.add(channel.socket(), number)?;
        self.pending.push(Pending { channel, number, until });
        Ok(())
    }

    /// Forgets those that were too slow, and says when nobody can come any more.
    fn give_up(&mut self) {
        let now = Instant::now();
        let epoll = &self.share.epoll;
        self.pending.retain(|pending| {
            let is_in_time = pending.until.is_none_or(|until| now < until);
            if !is_in_time {
                // Closing it would not do: a forked child may have it open.
                let _ = epoll.remove(pending.channel.socket());
            }
            is_in_time
        });
        let is_open = self.listener.is_some() || !self.pending.is_empty();
        // As elsewhere: refused only in a forked child, which has no such thread.
        let _ = self.share.state.change(|state| state.is_open = is_open);
    }

    fn hear(&mut self, number: u64) {
        let Some(index) = self.pending.iter().position(|pending| pending.number == number) else { return };
        match self.pending.get(index).map(|pending| pending.channel.receive()) {
            Some(Ok(Some(message))) => {
                let Pending { channel, number, .. } = self.pending.swap_remove(index);
                let _ = self.share.epoll.remove(channel.socket());
                self.meet(channel, number, &message);
            }
            Some(Ok(None)) | None => {}
            Some(Err(_)) => _ = self.share.epoll.remove(self.pending.swap_remove(index).channel.socket()),
        }
    }

    fn hear_followers(&self) {
        let ready = self.share.followers.wait(Duration::ZERO).unwrap_or_default();
        ready.into_iter().for_each(|number| self.hear_follower(number));
    }

    fn hear_follower(&self, number: u64) {
        let share = &self.share;
        // Who talks to the followers reads what they say.
        let quiet =
            share.state.wait_until(Deadline::after(None), &Stop(share), |state: &mut ShareState| state.is_talking);
        let Ok(Some(state)) = quiet else { return };
        let Some(link) = state.links.iter().find(|link| link.number == number).cloned() else { return };
        let heard = link.listen(has_ended(&link));
        drop(state);
        if link.is_cut() {
            share.let_go(&link);
        } else if heard.is_ok_and(|is_news| is_news) {
            share.note_release();
        }
    }

    /// Admits one who says hello, or says why not.
    fn meet(&self, channel: Channel, number: u64, message: &Message) {
        let until = Instant::now().checked_add(self.share.policy.timeout).unwrap_or_else(Instant::now);
        let refuse = |channel: &Channel, why: String| {
            // Whoever does not listen is not told.
            let _ = channel.say(Kind::Refused, (0, 0), &[Record::Text(why)], until);
        };
        let (sender, may_write) = match self.judge(message) {
            Ok(judged) => judged,
            Err(why) => return refuse(&channel, why),
        };
        // Without a process of ours to watch, the end of the socket must do.
        if channel.know_sender().is_err() || sender.pid != 0 && channel.watch(sender.pid).is_err() {
            return;
        }
        let link = Arc::new(Link::new(channel, number, sender, may_write));
        let mut admitted = Err(Error::Interrupted);
        self.share.with_space(&mut |space| {
            let stop = Stop(&self.share);
            admitted = space.offer("share", &stop, |proposal, interrupt| {
                interrupt.check()?;
                self.share.admit(&link, proposal, interrupt)
            });
        });
        if let Err(error) = admitted {
            refuse(&link.channel, error.to_string());
        }
    }

    /// The sender of a hello, and whether it may write.
    fn judge(&self, message: &Message) -> Result<(Credentials, bool), String> {
        let wish = message.records.iter().find_map(|record| match record {
            Record::Wish(writes, versions) => Some((*writes, *versions)),
            _ => None,
        });
        let (Kind::Hello, Some((writes, [lowest, highest]))) = (message.header.kind, wish) else {
            return Err("a follower begins with HELLO".into());
        };
        if !(lowest..=highest).contains(&VERSION) {
            return Err(format!("version {VERSION} is spoken here, not {lowest} to {highest}"));
        }
        let sender = message.sender.ok_or("the kernel does not say who sent it: send SCM_CREDENTIALS")?;
        self.share.leader.get().map_or(Ok(()), |leader| leader.allows(sender))?;
        Ok((sender, writes && self.share.policy.may_write))
    }
}

/// Whether a follower's process has ended.
fn has_ended(link: &Link) -> bool {
    let ready = link.channel.peer().map(|peer| wait_any(&[peer], Duration::ZERO));
    matches!(ready, Some(Ok(ready)) if ready.contains(&true))
}
