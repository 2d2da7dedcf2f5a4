//! The protection that accesses need, and the protection that pages have.

use std::collections::BTreeMap;
use std::io;

use crate::model::ids::Place;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;
use crate::sys::memory;
use crate::sys::sync::{AtomicI32, Ordering};

/// The protection that an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `PROT_READ`.
    Read,
    /// `PROT_WRITE`.
    Write,
    /// Both: what is replaced is given back.
    ReadWrite,
    /// No protection: the access only asks for something, or lifts a protection that forbids it.
    Nothing,
    /// `PROT_READ`, and `PROT_WRITE` stays where it is: what is shown may be written as far as the region allows it now.
    Show,
    /// No protection, for the address itself is handed out: as much as the region allows may be done there at any time.
    Address,
}

impl Need {
    /// The protection bits that must be there.
    pub const fn bits(self) -> i32 {
        match self {
            Self::Read | Self::Show => PROT_READ,
            Self::Write => PROT_WRITE,
            Self::ReadWrite => PROT_READ | PROT_WRITE,
            Self::Nothing | Self::Address => 0,
        }
    }
}

/// Whole pages of a mapping: where they begin, and how many bytes they have.
pub(super) type Pages = (*mut u8, usize);

/// A part of a storage, and bits of protection.
type Protected = (Range, i32);

/// The protection of the pages of a storage, part by part: all that its windows allow together.
#[derive(Debug)]
pub(super) struct Protection {
    /// The bits that all pages have, so that most questions need no lock.
    common: AtomicI32,
    table: Lock<ProtectionTable>,
    /// Held while the protection is changed, or lifted for a forced write: two that overlap would restore what neither found.
    changing: Lock<()>,
}

#[derive(Debug)]
struct ProtectionTable {
    /// The protection that the pages have: the parts by ascending base, which together are the storage.
    pages: Vec<Protected>,
    /// The protection that is allowed through each place.
    allowed: ByPlace,
    /// The protection that leases may rely on, which no change takes back that does not close them: what is published.
    granted: ByPlace,
}

/// Bits of protection by place, in parts of the storage.
#[derive(Debug, Default)]
struct ByPlace(BTreeMap<Place, Vec<Protected>>);

/// The parts outside of a range.
fn outside(parts: &[Protected], range: Range) -> impl Iterator<Item = Protected> {
    let around = move |(part, flags): &Protected| {
        let below = Range::between(part.base(), part.end().min(range.base()));
        let above = Range::between(part.base().max(range.end()), part.end());
        [(below, *flags), (above, *flags)]
    };
    parts.iter().flat_map(around).filter(|(part, _)| !part.is_empty())
}

/// Parts with another protection for one of them.
fn noted(parts: &[Protected], part: Range, flags: i32) -> Vec<Protected> {
    let mut next: Vec<Protected> = outside(parts, part).chain([(part, flags)]).collect();
    next.sort_unstable_by_key(|(part, _)| part.base());
    next.dedup_by(|(later, flags), (part, before)| {
        let is_one = flags == before && part.end() == later.base();
        if is_one {
            *part = Range::between(part.base(), later.end());
        }
        is_one
    });
    next
}

/// The parts inside of a range.
fn inside(parts: &[Protected], range: Range) -> Vec<Protected> {
    let inside = parts.iter().map(|(part, flags)| (part.intersection(&range), *flags));
    inside.filter(|(part, _)| !part.is_empty()).collect()
}

impl ByPlace {
    /// The protection of a place, in parts of a range.
    fn at(&self, place: Place, range: Range) -> Vec<Protected> {
        self.0.get(&place).map_or(vec![], |parts| inside(parts, range))
    }

    /// Notes something for a place, in parts of a range, and no longer what was noted there.
    fn note(&mut self, place: Place, range: Range, parts: &[Protected]) {
        let whole = self.0.remove(&place).unwrap_or_default();
        let kept = outside(&whole, range).collect::<Vec<_>>();
        let next = parts.iter().fold(kept, |parts, (part, flags)| noted(&parts, *part, *flags));
        if !next.is_empty() {
            self.0.insert(place, next);
        }
    }

    /// All parts inside of a range, whatever their place.
    fn all_in(&self, range: Range) -> Vec<Protected> {
        let touching = self.0.values().flatten().filter(|(part, _)| part.overlaps(&range));
        touching.map(|(part, flags)| (part.intersection(&range), *flags)).collect()
    }
}

impl ProtectionTable {
    /// The protection that all places allow together, in parts of a range; parts that nobody shows are left out.
    fn together(&self, range: Range) -> Vec<Protected> {
        let shown = self.allowed.all_in(range);
        let mut edges: Vec<u64> = shown.iter().flat_map(|(part, _)| [part.base(), part.end()]).collect();
        edges.sort_unstable();
        edges.dedup();
        let parts = edges.windows(2).filter_map(|edges| Some(Range::between(*edges.first()?, *edges.last()?)));
        let all = parts.filter_map(|part| {
            let there = shown.iter().filter(|(other, _)| other.overlaps(&part));
            Some((part, there.map(|(_, flags)| *flags).reduce(|all, flags| all | flags)?))
        });
        all.fold(Vec::new(), |parts, (part, flags)| noted(&parts, part, flags))
    }

    fn note(&mut self, part: Range, flags: i32) -> i32 {
        self.pages = noted(&self.pages, part, flags);
        self.pages.iter().fold(!0, |all, (_, flags)| all & flags)
    }
}

impl Protection {
    pub(super) fn new(whole: Range, flags: i32) -> Self {
        let table =
            ProtectionTable { pages: vec![(whole, flags)], allowed: ByPlace::default(), granted: ByPlace::default() };
        Self { common: AtomicI32::new(flags), table: Lock::new(table), changing: Lock::default() }
    }

    /// Whether all pages of a part have the bits.
    pub(super) fn has(&self, part: Range, bits: i32) -> bool {
        let has = |table: &ProtectionTable| inside(&table.pages, part).iter().all(|(_, flags)| flags & bits == bits);
        self.common.load(Ordering::Acquire) & bits == bits || self.table.lock().is_ok_and(|table| has(&table))
    }

    /// The protection that a place allows, in parts of a range.
    pub(super) fn allowed(&self, place: Place, range: Range) -> Result<Vec<Protected>, Forked> {
        Ok(self.table.lock()?.allowed.at(place, range))
    }

    /// Whether leases through a place may rely on bits all over a range.
    pub(super) fn grants(&self, place: Place, range: Range, bits: i32) -> Result<bool, Forked> {
        Ok(self.table.lock()?.granted.at(place, range).iter().all(|(_, flags)| flags & bits == bits))
    }

    /// Lets leases through a place rely on something, in parts of a range: pages allow it by now, and it is published with what comes next.
    pub(super) fn grant(&self, place: Place, range: Range, parts: &[Protected]) -> Result<(), Forked> {
        self.table.lock()?.granted.note(place, range, parts);
        Ok(())
    }

    /// Allows something at a place, in parts of a range, and no longer what was allowed there; the pages of the range follow.
    ///
    /// # Safety
    /// `pages` gives those of the storage, and no one touches them who relies on a protection that no place allows any more.
    pub(super) unsafe fn allow(
        &self,
        place: Place,
        range: Range,
        parts: &[Protected],
        pages: impl Fn(Range) -> Option<Pages>,
    ) -> io::Result<()> {
        let _changing = self.changing.lock()?;
        let (together, there) = {
            let mut table = self.table.lock()?;
            table.allowed.note(place, range, parts);
            (table.together(range), inside(&table.pages, range))
        };
        for (part, flags) in together {
            let differs = there.iter().any(|(other, before)| other.overlaps(&part) && *before != flags);
            if differs {
                // SAFETY: the caller's promise.
                unsafe { self.set(part, pages(part), flags)? };
            }
        }
        Ok(())
    }

    /// Sets the protection of pages that nobody shows.
    ///
    /// # Safety
    /// The pages are those of the storage, and no one touches them who relies on a protection that is taken away.
    pub(super) unsafe fn forbid(&self, part: Range, pages: Option<Pages>) -> io::Result<()> {
        let _changing = self.changing.lock()?;
        // SAFETY: the caller's promise.
        unsafe { self.set(part, pages, 0) }
    }

    /// Sets the protection of pages; the owner of a buffer has set that of its own.
    unsafe fn set(&self, part: Range, pages: Option<Pages>, flags: i32) -> io::Result<()> {
        if let Some((host, size)) = pages {
            // SAFETY: the caller's promise.
            unsafe { memory::protect(host, size, flags)? };
        }
        // Noted behind the call: what an access reads here, the pages allow.
        let common = self.table.lock()?.note(part, flags);
        self.common.store(common, Ordering::Release);
        Ok(())
    }

    /// Runs `work` while the pages of a part can be read and written, and restores their protection.
    ///
    /// # Safety
    /// `pages` gives those of the storage.
    pub(super) unsafe fn lifted<T>(
        &self,
        part: Range,
        pages: impl Fn(Range) -> Pages,
        work: impl FnOnce() -> T,
    ) -> Result<io::Result<T>, Forked> {
        let _changing = self.changing.lock()?;
        let before = inside(&self.table.lock()?.pages, part);
        let set = |more: i32| {
            before.iter().try_for_each(|(part, flags)| {
                let (host, size) = pages(*part);
                // SAFETY: pages of the storage; a protection is only added, and taken back that everyone else relies on.
                unsafe { memory::protect(host, size, flags | more) }
            })
        };
        let result = set(PROT_READ | PROT_WRITE).map(|()| work());
        // Also where only some could be lifted.
        let restored = set(0);
        Ok(result.and_then(|result| restored.map(|()| result)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: i32 = PROT_READ | PROT_WRITE;

    fn page(number: u64, count: u64) -> Range {
        Range::at(number << 12, count << 12)
    }

    fn allow(protection: &Protection, place: Place, range: Range, flags: Option<i32>) {
        let parts: Vec<_> = flags.map(|flags| (range, flags)).into_iter().collect();
        // SAFETY: there are no pages.
        unsafe { protection.allow(place, range, &parts, |_| None) }.unwrap();
    }

    fn writable(protection: &Protection) -> [bool; 4] {
        [0, 1, 2, 3].map(|number| protection.has(page(number, 1), PROT_WRITE))
    }

    #[test]
    fn each_part_has_its_own_protection() {
        let (protection, place) = (Protection::new(page(0, 4), BOTH), Place::unique());
        allow(&protection, place, page(0, 4), Some(BOTH));
        allow(&protection, place, page(1, 2), Some(PROT_READ));
        assert_eq!(writable(&protection), [true, false, false, true]);
        assert!(protection.has(page(0, 4), PROT_READ) && !protection.has(page(0, 4), PROT_WRITE));
        allow(&protection, place, page(2, 1), Some(BOTH));
        assert_eq!(writable(&protection), [true, false, true, true]);
        allow(&protection, place, page(1, 1), Some(BOTH));
        assert_eq!(protection.table.lock().unwrap().pages.len(), 1);
        assert_eq!(protection.allowed(place, page(0, 2)).unwrap().len(), 1);
    }

    #[test]
    fn pages_have_what_their_windows_allow_together() {
        let (protection, one, other) = (Protection::new(page(0, 4), PROT_READ), Place::unique(), Place::unique());
        allow(&protection, one, page(0, 4), Some(PROT_READ));
        allow(&protection, other, page(1, 2), Some(BOTH));
        assert_eq!(writable(&protection), [false, true, true, false]);
        assert_eq!(protection.allowed(one, page(0, 4)).unwrap(), [(page(0, 4), PROT_READ)]);
        allow(&protection, other, page(2, 1), None);
        assert_eq!(writable(&protection), [false, true, false, false]);
        allow(&protection, one, page(0, 4), None);
        assert!(protection.has(page(1, 1), BOTH));
    }
}
