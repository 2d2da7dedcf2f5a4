//! NUMA: which nodes the host has, where memory should come from, and where it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Error, Result};
use std::path::Path;

const MPOL_MF_STRICT: i64 = 1;
const MPOL_MF_MOVE: i64 = 2;
const MPOL_F_ADDR: i64 = 2;
const BITS: usize = 64;
/// As many nodes as any kernel is built for.
const MOST_NODES: usize = 1024;

/// A list of nodes, such as `online` or `has_memory`, as a sysfs writes it.
#[must_use]
pub fn node_list(sysfs: &Path, name: &str) -> Option<String> {
    fs::read_to_string(sysfs.join("devices/system/node").join(name)).ok()
}

/// The CPUs of a node, as the host's sysfs writes them.
#[must_use]
pub fn cpu_list(node: u32) -> Option<String> {
    fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()
}

/// The nodes as the kernel's bit mask.
fn mask_of(nodes: &BTreeSet<u32>) -> Vec<u64> {
    let words = nodes.last().map_or(0, |last| usize::try_from(*last).unwrap_or_default() / BITS).saturating_add(1);
    let mut mask = vec![0u64; words];
    for node in nodes {
        let node = usize::try_from(*node).unwrap_or_default();
        if let Some(word) = mask.get_mut(node / BITS) {
            *word |= 1 << (node % BITS);
        }
    }
    mask
}

/// Gives a mapping its policy (`mbind(2)`), and moves what is there already.
pub fn bind(host: *mut u8, size: usize, mode: i32, nodes: &BTreeSet<u32>, strict: bool) -> Result<()> {
    let mask = mask_of(nodes);
    // The kernel reads one bit less than it is told.
    let bits = mask.len().saturating_mul(BITS).saturating_add(1);
    let (mask_at, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (mask.as_ptr(), bits) };
    let flags = if strict { MPOL_MF_MOVE | MPOL_MF_STRICT } else { MPOL_MF_MOVE };
    let mode = i64::from(mode);
    // SAFETY: the mask has as many bits as it is said to have; a bad range or node is an error.
    let result = unsafe { libc::syscall(libc::SYS_mbind, host.addr(), size, mode, mask_at, bits, flags) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// The mode, with its flags, and the nodes of the policy that the kernel has for an address.
pub fn policy_at(host: *mut u8) -> Result<(i32, BTreeSet<u32>)> {
    let mut mode = 0i32;
    let mut mask = [0u64; MOST_NODES / BITS];
    // SAFETY: the kernel fills an int and as many bits as the mask has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            MOST_NODES.saturating_add(1),
            host.addr(),
            MPOL_F_ADDR,
        )
    };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    let nodes = (0..1024u32).filter(|node| {
        let index = usize::try_from(*node).unwrap_or_default();
        mask.get(index / BITS).is_some_and(|word| word & (1 << (index % BITS)) != 0)
    });
    Ok((mode, nodes.collect()))
}

/// For each page, the node that it is on, or `None` for one that is not there (`move_pages(2)` without moving).
pub fn nodes_of(pages: &[*mut u8]) -> Result<Vec<Option<u32>>> {
    let mut status = vec![-1i32; pages.len()];
    // SAFETY: both arrays have as many entries as is said; no page is moved and none is touched.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(status.into_iter().map(|node| u32::try_from(node).ok()).collect())
}

/// Lets the running thread run on some CPUs only, of those that it may use.
pub fn pin_thread(cpus: &BTreeSet<u32>) -> Result<bool> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of bits, for which all zeroes is the empty one.
    let (mut allowed, mut wanted) =
        unsafe { (std::mem::zeroed::<libc::cpu_set_t>(), std::mem::zeroed::<libc::cpu_set_t>()) };
    // SAFETY: the kernel fills a set of the size given.
    super::file::check(unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) })?;
    let highest = usize::try_from(libc::CPU_SETSIZE).unwrap_or_default();
    let mut any = false;
    for cpu in cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).filter(|cpu| *cpu < highest) {
        // SAFETY: the number lies in the set.
        if unsafe { libc::CPU_ISSET(cpu, &allowed) } {
            // SAFETY: as above.
            unsafe { libc::CPU_SET(cpu, &mut wanted) };
            any = true;
        }
    }
    if any {
        // SAFETY: the set has the size given.
        super::file::check(unsafe { libc::sched_setaffinity(0, size, &raw const wanted) })?;
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_as_wide_as_their_nodes() {
        for (node, words) in [(0, 1), (63, 1), (64, 2), (1023, 16)] {
            let mask = mask_of(&BTreeSet::from([node]));
            assert_eq!(mask.len(), words);
            assert_eq!(mask.last().copied(), Some(1 << (node % 64)));
        }
    }
}
