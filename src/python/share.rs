//! `Share`: the followers of a space; and a space that follows another process's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::{Argument, wanted};
use super::attachment::{AttachmentState, PyAttachment};
use super::callback;
use super::calls::{self, python_call};
use super::convert::U32;
use super::file;
use super::import_once::ImportOnce;
use super::interrupt::detached;
use super::keywords;
use super::seconds::Timeout;
use super::space::PySpace;
use super::space_ref::OwnedSpace;
use crate::clients::duplicate;
use crate::clients::share::follower::Follower;
use crate::clients::share::leader::{FollowerInfo, LONGEST_TIMEOUT, Leader, Share, SharePolicy, SpaceHolder};
use crate::clients::share::service;
use crate::model::error::Result;
use crate::model::invalid::Invalid;
use crate::space::AddressSpace;
use crate::space::client::Client;
use crate::sys::message::Credentials;

impl SpaceHolder for Weak<OwnedSpace> {
    fn with_space(&self, work: &mut dyn FnMut(&AddressSpace)) {
        if let Some(space) = self.upgrade() {
            work(&space);
        }
    }
}

/// The space that is shared, and the attachment that has the user's function.
struct PyLeader {
    space: Weak<OwnedSpace>,
    attachment: Weak<AttachmentState>,
}

impl SpaceHolder for PyLeader {
    fn with_space(&self, work: &mut dyn FnMut(&AddressSpace)) {
        self.space.with_space(work);
    }
}

impl Leader for PyLeader {
    fn allows(&self, follower: Credentials) -> Result<(), String> {
        let asked = calls::attach(|py| {
            let function = self.attachment.upgrade()?.object(py)?;
            Some(ask(&function, follower).unwrap_or_else(|error| {
                error.write_unraisable(py, Some(&function));
                false
            }))
        });
        let is_allowed = match asked {
            Some(Some(answer)) => answer,
            Some(None) => follower.uid == Credentials::own().uid,
            None => false,
        };
        let Credentials { pid, uid, .. } = follower;
        if is_allowed { Ok(()) } else { Err(format!("process {pid} of user {uid} is not allowed to follow")) }
    }
}

fn ask(function: &Bound<'_, PyAny>, follower: Credentials) -> PyResult<bool> {
    let _guard = python_call();
    let Credentials { pid, uid, gid } = follower;
    callback::answer(function.call1((pid, uid, gid))?, "allow")?.is_truthy()
}

/// The followers of a space, which show its memory in their own processes: the `Attachment` that `AddressSpace.share()` makes.
///
/// Every change of the space is asked of all followers at once, and is published only when all are ready: when `insert_region` has
/// returned, every follower shows the region, and when `remove_region` has, no follower touches its memory any more. A view, array or pin
/// of a follower on what leaves is `RegionBusy`, with its process in `Lease.pid`. A follower that has ended is in nobody's way; one that is
/// silent for longer than the `timeout` is `ClientError`, until it answers again or is dropped. `detach()` lets all followers go: they
/// keep what they have, and follow no more. A memory that is closed is closed in them too, and comes back when it is mapped again.
#[pyclass(frozen, extends = PyAttachment, name = "Share", module = "dbs_address_space")]
pub struct PyShare {
    share: Weak<Share>,
}

#[pymethods]
impl PyShare {
    /// The followers, in the order in which they came: a tuple of `Follower`.
    #[getter]
    fn followers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        // The thread that hears the followers has the same lock.
        let told = calls::detach(py, || self.share.upgrade().map(|share| share.followers()));
        let followers = told.transpose()?.unwrap_or_default();
        let followers: Vec<_> = followers.iter().map(|follower| to_python(py, follower)).collect::<PyResult<_>>()?;
        PyTuple::new(py, followers)
    }

    /// Lets the followers of a process go: they keep what they have, and follow no more. Raises `InvalidArgument` when there is none.
    fn drop(&self, py: Python<'_>, pid: U32) -> PyResult<()> {
        let share = self.share.upgrade();
        // A follower is told, for which it may have to make room.
        let dropped = calls::detach(py, || share.map_or(Ok(false), |share| share.drop_follower(pid.0)))?;
        if dropped {
            return Ok(());
        }
        Err(Invalid::argument(format!("no follower has the process {}: Share.followers lists them", pid.0)).into())
    }

    /// The exception that ended the attachment, as in `Attachment`; or the `ShareError` of the last follower that was let go because it
    /// did not follow a change that was published.
    #[getter]
    fn error(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        if let Some(error) = slf.as_super().get().error_of(py)? {
            return Ok(Some(error));
        }
        let share = &slf.get().share;
        let error = calls::detach(py, || share.upgrade().map(|share| share.error())).transpose()?.flatten();
        Ok(error.map(|error| PyErr::from(error).into_value(py).into_any()))
    }
}

#[pymethods]
impl PySpace {
    /// Lets other processes follow this space over a Unix socket, and returns its `Share`.
    ///
    /// `sock` is one end of a connection, as of `socket.socketpair()`, or a socket that listens, for any number of followers: an int or
    /// anything with `fileno()`, of type `SOCK_STREAM` or `SOCK_SEQPACKET`; it stays the caller's, and a duplicate is kept until
    /// `detach()`. The other side calls `AddressSpace.attach`, or speaks what `docs/share.md` says; it is admitted by a thread, so that
    /// nothing is waited for here.
    ///
    /// With `writable=False` followers get descriptors that only read, which keeps out mistakes, not another process of the same user. Memory
    /// that no other process can map, as anonymous and private memory, is refused here and on insertion with `private="refuse"`; with
    /// "skip" followers have the region without memory. Each follower has `timeout` seconds for an answer, at most 5. It must be of the
    /// same user, unless `allow(pid, uid, gid)` says whether it may follow; the kernel vouches for the numbers. `allow` is called in that thread.
    ///
    /// Raises `NotMapped`, `Unsupported` naming memory that can't be shared, `BackingError` for a socket of another kind.
    ///
    /// >>> import socket
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> ours, theirs = socket.socketpair()
    /// >>> with ours, theirs, space.share(ours) as share, AddressSpace.attach(theirs) as follower:
    /// ...     follower.memory.write_u32(0x1000, 7)
    /// ...     space.memory.read_u32(0x1000), len(share.followers)
    /// (7, 1)
    #[pyo3(signature = (sock, *, writable=true, private="refuse", timeout=Timeout(Duration::from_secs(2)), allow=None, **others),
        text_signature = "($self, sock, *, writable=True, private='refuse', timeout=2.0, allow=None)")]
    fn share<'py>(
        &self,
        sock: &Bound<'py, PyAny>,
        writable: bool,
        private: &str,
        timeout: Timeout,
        allow: Option<&Bound<'py, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyShare>> {
        keywords::refuse_of::<Self>("share", others)?;
        let py = sock.py();
        let skips_private = Invalid::named("private", private, [("refuse", false), ("skip", true)])?;
        if timeout.0.is_zero() || timeout.0 > LONGEST_TIMEOUT {
            return Err(
                Invalid::argument("timeout is more than 0 and at most 5 seconds, for changes wait for it").into()
            );
        }
        if let Some(allow) = allow {
            let checked = if allow.is_callable() {
                callback::check(allow, "allow")
            } else {
                Err(wanted("a function that takes pid, uid and gid", allow))
            };
            checked.argument("allow")?;
        }
        self.inner().check_process()?;
        let socket = duplicate(file::descriptor(sock, "sock")?)?;
        let policy = SharePolicy { may_write: writable, skips_private, timeout: timeout.0 };
        let share = Arc::new(Share::new(policy)?);
        let mut attachment = Weak::new();
        let handle = self.attach(
            py,
            allow,
            |state| {
                attachment.clone_from(state);
                Arc::clone(&share) as Arc<dyn Client>
            },
            |attachment| attachment.add_subclass(PyShare { share: Arc::downgrade(&share) }),
        )?;
        let leader = PyLeader { space: self.inner().downgrade(), attachment };
        if let Err(error) = service::begin(&share, socket, Box::new(leader)) {
            handle.as_super().get().detach(py)?;
            return Err(error.into());
        }
        Ok(handle)
    }

    /// A space that follows another process's: its regions and its memory, now and after each change.
    ///
    /// `sock` is the connected other end of a socket that was given to `AddressSpace.share`; it stays the caller's, and a duplicate is kept
    /// as long as the leader is followed. Reads, writes, views, trackers, and clients such as KVM, work as on any space, and may veto the
    /// leader's changes; changes of its own raise `Unsupported`. A thread follows the leader, without the interpreter's lock unless a
    /// client in Python is attached here. When the leader ends, detaches or drops it, the memory stays as it is and `leader` is `None`.
    /// `close()` ends it, as does the end of the object.
    ///
    /// Raises `ShareError` when the leader refuses, is gone or does not answer in `timeout` seconds (`None`: waits for ever),
    /// `BackingError` for memory that can't be mapped here.
    ///
    /// >>> import socket
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, AddressSpaceRegion
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> ours, theirs = socket.socketpair()
    /// >>> with ours, theirs, space.share(ours), AddressSpace.attach(theirs) as follower:
    /// ...     _ = space.insert_region(AddressSpaceRegion("ram", 1 << 30, "2MiB", name="dimm0"))
    /// ...     follower["dimm0"].size, follower.generation == space.generation
    /// (2097152, True)
    #[staticmethod]
    #[pyo3(name = "attach", signature = (sock, *, timeout=Some(Timeout(Duration::from_secs(5))), **others),
        text_signature = "(sock, *, timeout=5.0)")]
    fn attach_to_leader(
        sock: &Bound<'_, PyAny>,
        timeout: Option<Timeout>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("attach", others)?;
        let py = sock.py();
        let (socket, timeout) = (duplicate(file::descriptor(sock, "sock")?)?, timeout.map(|timeout| timeout.0));
        let (space, follower) = detached(py, None, |interrupt| Follower::attach(socket, timeout, interrupt))?;
        let space = Self::of(py, space)?;
        follower.listen(Box::new(space.inner().downgrade()))?;
        Ok(space)
    }

    /// Whether its changes are another process's.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().is_follower
    /// False
    #[getter]
    fn is_follower(&self) -> bool {
        self.inner().following().is_some()
    }

    /// The process whose space it follows; `None` of one that follows none, or no more.
    #[getter]
    fn leader(&self) -> Option<u32> {
        self.inner().leader()
    }
}

fn to_python<'py>(py: Python<'py>, follower: &FollowerInfo) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    static CLASS: ImportOnce = ImportOnce::new();
    let class = CLASS.import(py, "dbs_address_space.reports", "Follower")?;
    let leases = super::error::lease_tuple(py, &follower.leases)?;
    class.call1((follower.pid, follower.uid, follower.generation, follower.is_writable, leases))
}
