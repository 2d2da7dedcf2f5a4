//! `DirtyPages` against a set of page numbers.

#![no_main]

use std::collections::BTreeSet;

use fuzz_model::model::dirty::DirtyPages;
use fuzz_model::model::range::Range;
use libfuzzer_sys::fuzz_target;

#[derive(arbitrary::Arbitrary, Debug)]
struct Written {
    base: u16,
    words: Vec<u8>,
    ranges: Vec<(u16, u8)>,
}

/// Pages at the very top of the addresses, or at 0: `high` says which.
fn origin(high: bool, shift: u32) -> u64 {
    if high { (u64::MAX >> shift) - 0xff_ffff } else { 0 }
}

fn made(written: &Written, shift: u32, first: u64) -> (DirtyPages, BTreeSet<u64>) {
    let (base, mut model) = (first + u64::from(written.base), BTreeSet::new());
    let words: Vec<u64> =
        written.words.iter().take(64).map(|byte| u64::from(*byte).wrapping_mul(0x0101_0101_8080_0101)).collect();
    for (word, bits) in words.iter().enumerate() {
        model.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| base + 64 * word as u64 + bit));
    }
    let mut pages = DirtyPages::new(1 << shift, vec![]).unwrap();
    pages.push_bitmap(base << shift, &words).unwrap();
    let mut ranges = vec![];
    for (from, count) in written.ranges.iter().take(64) {
        let from = first + u64::from(*from);
        model.extend(from..from + u64::from(*count));
        ranges.push(Range::between(from << shift, (from + u64::from(*count)) << shift));
    }
    // A set that has words takes more behind them only: ranges make a set of their own.
    let others = DirtyPages::new(1 << shift, vec![]).unwrap().with_ranges(ranges).unwrap();
    (pages.union(&others).unwrap(), model)
}

fn check(pages: &DirtyPages, model: &BTreeSet<u64>, shift: u32) {
    assert_eq!(pages.count(), model.len() as u64);
    let found = pages.ranges().unwrap().into_iter().flat_map(|range| range.base() >> shift..range.end() >> shift);
    assert!(found.eq(model.iter().copied()));
}

fuzz_target!(|input: (Written, Written, bool, u8)| {
    let (one, other, high, shift) = input;
    let shift = u32::from(shift % 31);
    let first = origin(high, shift);
    let ((left, a), (right, b)) = (made(&one, shift, first), made(&other, shift, first));
    check(&left, &a, shift);
    check(&left.union(&right).unwrap(), &(&a | &b), shift);
    check(&left.intersection(&right).unwrap(), &(&a & &b), shift);
    check(&left.difference(&right).unwrap(), &(&a - &b), shift);
    for page in a.iter().chain(&b).take(64) {
        assert_eq!(left.contains(page << shift), a.contains(page));
    }
});
