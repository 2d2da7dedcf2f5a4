//! Asks the kernel for a mapped region's options: placement first, then advice, before any page is touched.

use crate::model::error::{Errno, Error, Result};
use crate::model::policy::{NumaPolicy, PolicyMode};
use crate::model::quote::quoted;
use crate::model::region::{PROT_NONE, SharedRegion};
use crate::sys::errno::{self, EINVAL, EIO, ENOMEM, EPERM};
use crate::sys::host::Host;
use crate::sys::memory::{self, Advice};
use crate::sys::numa;

use super::protection::Pages;
use super::source_error::failed;
use super::topology;

/// Gives a mapping its NUMA policy and advice, where `new` asks for something else than `old` did.
pub(super) fn apply(pages: Pages, is_huge: bool, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
    // First of all: advice and locking bring pages in, and each comes from where the policy says then.
    bind(pages, old, new)?;
    let options = |region: &SharedRegion| {
        let options = &region.options;
        let transparent = options.transparent_hugepage.filter(|_| !is_huge);
        [transparent, options.ksm, options.dontdump, options.dontfork]
    };
    let before = old.map(options).unwrap_or_default();
    let make = [Advice::HugePages, Advice::Mergeable, Advice::DontDump, Advice::DontFork];
    let what =
        ["transparent huge pages", "samepage merging", "keeping it out of core dumps", "keeping it out of children"];
    for (((after, before), make), what) in options(new).into_iter().zip(before).zip(make).zip(what) {
        // Advice that is no longer asked for is taken back; the kernel need not be told to stop what it was never told to do.
        if let Some(on) = after.or_else(|| before.filter(|on| *on).map(|_| false)).filter(|on| Some(*on) != before) {
            advise(pages, make(on), what, new)?;
        }
    }
    // A new mapping is locked once its pages are populated, with progress.
    let Some(old) = old else { return Ok(()) };
    let is_locked = |region: &SharedRegion| region.options.mlock == Some(true);
    match (is_locked(old), is_locked(new)) {
        (false, true) => lock(pages, new),
        (true, false) => memory::unlock(pages.0, pages.1).map_err(|error| failed(new, "munlock failed", &error)),
        _ => Ok(()),
    }
}

fn advise((host, size): Pages, advice: Advice, what: &str, region: &SharedRegion) -> Result<()> {
    match memory::advise(host, size, advice) {
        // A kernel that can't merge or make huge pages has nothing to forbid.
        Err(error) if advice.forbids() && errno::of(&error) == EINVAL => Ok(()),
        result => result.map_err(|error| failed(region, &format!("advising {what} failed"), &error)),
    }
}

/// Locks a mapping in memory (`mlock(2)`), which also brings in what is not there.
pub(super) fn lock((host, size): Pages, region: &SharedRegion) -> Result<()> {
    memory::lock(host, size).map_err(|error| match errno::of(&error) {
        ENOMEM if region.prot_flags == PROT_NONE => {
            let what = "mlock can't bring in pages that may not be accessed; give the region another protection than \"---\" when it is \
                        mapped, and this one with replace_region";
            failed(region, what, &error)
        }
        EPERM | ENOMEM => {
            let what = "mlock failed; raise RLIMIT_MEMLOCK (ulimit -l, resource.setrlimit), or give CAP_IPC_LOCK";
            failed(region, what, &error)
        }
        _ => failed(region, "mlock failed", &error),
    })
}

fn bind((host, size): Pages, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
    let (before, after) = (old.and_then(|old| old.numa_policy()), new.numa_policy());
    if before == after {
        return Ok(());
    }
    let default = NumaPolicy { mode: PolicyMode::Default, nodes: Default::default(), strict: false };
    let policy = after.unwrap_or(default);
    check_nodes(new, &policy)?;
    numa::bind(host, size, policy.mode.number(), &policy.nodes, policy.strict).map_err(|error| {
        let hint = match errno::of(&error) {
            EIO => "pages that are there already are elsewhere and can't be moved",
            EINVAL if policy.mode == PolicyMode::WeightedInterleave => "it needs Linux 6.9",
            EINVAL if policy.mode == PolicyMode::PreferredMany => "it needs Linux 5.15",
            _ => "mbind(2) refused it",
        };
        numa_error(new, &format!("the NUMA policy {policy}: {hint}: {error}"), Errno::from(&error))
    })
}

/// Refuses nodes that the host does not have, or that have no memory, by their names.
fn check_nodes(region: &SharedRegion, policy: &NumaPolicy) -> Result<()> {
    if policy.nodes.is_empty() {
        return match policy.mode {
            PolicyMode::Default | PolicyMode::Preferred => Ok(()),
            mode => {
                let message = format!(
                    "the NUMA policy {} needs nodes: name them, or give host_numa_node_id",
                    quoted(mode.name())
                );
                Err(numa_error(region, &message, Errno::Refused(EINVAL)))
            }
        };
    }
    topology::of(&Host::default()).refusal(&policy.nodes).map_or(Ok(()), |refusal| {
        let message = format!("{refusal} (/sys/devices/system/node/has_memory)");
        Err(numa_error(region, &message, Errno::Refused(EINVAL)))
    })
}

fn numa_error(region: &SharedRegion, what: &str, errno: Errno) -> Error {
    Error::Numa { message: format!("cannot map {region}: {what}"), errno, region: SharedRegion::clone(region) }
}
