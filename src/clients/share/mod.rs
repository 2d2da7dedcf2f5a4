//! Followers: other processes that show the memory of a space and follow its changes, each of which they may veto.
//!
//! The [`leader`]'s side is one client, however many follow: it asks all of them at once, in a [`round`]. What goes over the sockets is
//! in [`wire`] and [`record`]. A thread, the [`service`], admits followers and hears what they say unasked; it never takes the
//! interpreter's lock unless the user has a say in who may follow. The other side is the [`follower`], and what it has, a [`table`].

mod channel;
pub mod follower;
pub mod leader;
mod link;
mod offer;
mod record;
mod round;
pub mod service;
mod table;
mod wire;
mod word;
