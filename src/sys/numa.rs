//! NUMA: where memory should come from, and where it is.

use std::collections::BTreeSet;
use std::io::Result;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::errno::check;

const MPOL_MF_STRICT: i64 = 1;
const MPOL_MF_MOVE: i64 = 2;
const MPOL_F_ADDR: i64 = 2;
const BITS: u32 = 64;
/// Words for as many nodes as any kernel is built for.
const MOST_WORDS: usize = 1024 / 64;

/// The nodes as the kernel's bit mask.
fn mask_of(nodes: &BTreeSet<u32>) -> Vec<u64> {
    let word =
        |index| nodes.iter().filter(|node| **node / BITS == index).fold(0, |word, node| word | 1 << (node % BITS));
    (0..=nodes.last().map_or(0, |last| last / BITS)).map(word).collect()
}

/// The nodes in a bit mask of the kernel's.
fn nodes_in(mask: &[u64]) -> BTreeSet<u32> {
    let bits = mask.iter().flat_map(|word| (0..BITS).map(move |bit| word & (1 << bit) != 0));
    (0..).zip(bits).filter_map(|(node, is_set)| is_set.then_some(node)).collect()
}

/// The number of bits to tell the kernel, which reads one less: all bits of the words, and one.
const fn bits_of(mask: &[u64]) -> usize {
    size_of_val(mask) << 3 | 1
}

/// Gives a mapping its policy (`mbind(2)`), and moves what is there already.
pub fn bind(host: *mut u8, size: usize, mode: i32, nodes: &BTreeSet<u32>, strict: bool) -> Result<()> {
    let mask = mask_of(nodes);
    let (mask_at, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (mask.as_ptr(), bits_of(&mask)) };
    let flags = if strict { MPOL_MF_MOVE | MPOL_MF_STRICT } else { MPOL_MF_MOVE };
    let mode = i64::from(mode);
    // SAFETY: the mask has as many bits as it is said to have; a bad range or node is an error.
    check(unsafe { libc::syscall(libc::SYS_mbind, host.addr(), size, mode, mask_at, bits, flags) }).map(drop)
}

/// The mode, with its flags, and the nodes of the policy that the kernel has for an address.
pub fn policy_at(host: *mut u8) -> Result<(i32, BTreeSet<u32>)> {
    let (mut mode, mut mask) = (0i32, [0u64; MOST_WORDS]);
    let (mode_at, mask_at, bits) = (&raw mut mode, mask.as_mut_ptr(), bits_of(&mask));
    // SAFETY: the kernel fills an int and as many bits as the mask has.
    check(unsafe { libc::syscall(libc::SYS_get_mempolicy, mode_at, mask_at, bits, host.addr(), MPOL_F_ADDR) })?;
    Ok((mode, nodes_in(&mask)))
}

/// For each page, the node that it is on, or `None` for one that is not there (`move_pages(2)` without moving).
pub fn nodes_of(pages: &[*mut u8]) -> Result<Vec<Option<u32>>> {
    let mut status = vec![-1i32; pages.len()];
    let (at, nowhere) = (status.as_mut_ptr(), std::ptr::null::<i32>());
    // SAFETY: both arrays have as many entries as is said; without targets no page is moved, and none is touched.
    check(unsafe { libc::syscall(libc::SYS_move_pages, 0, pages.len(), pages.as_ptr(), nowhere, at, 0) })?;
    // A negative status is an errno: ENOENT where there is no page.
    Ok(status.into_iter().map(|node| u32::try_from(node).ok()).collect())
}

/// Lets the running thread run on some CPUs only, of those that it may use; `false` when it may use none of them.
pub fn pin_thread(cpus: &BTreeSet<u32>) -> Result<bool> {
    let (allowed, mut wanted) = (sched_getaffinity(None)?, CpuSet::new());
    // A CPU set has no bits for higher numbers.
    let known = cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).filter(|cpu| *cpu < CpuSet::MAX_CPU);
    known.filter(|cpu| allowed.is_set(*cpu)).for_each(|cpu| wanted.set(cpu));
    let any = wanted.count() > 0;
    if any {
        sched_setaffinity(None, &wanted)?;
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
            assert_eq!(nodes_in(&mask), BTreeSet::from([node]));
        }
    }
}
