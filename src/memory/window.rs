//! The way from guest addresses to the bytes of a storage, and back.

use crate::model::ids::Place;
use crate::model::range::Range;

/// A stretch of guest addresses that shows a stretch of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    place: Place,
    guest: Range,
    /// The offset in the storage of its first byte. Only this file adds it to anything.
    at: u64,
}

impl Window {
    /// The first window on a storage, which shows all of it.
    pub(super) fn whole(guest: Range) -> Self {
        Self::on(guest, 0)
    }

    /// A window on the bytes from an offset on, through a place of its own.
    pub(super) fn on(guest: Range, at: u64) -> Self {
        Self { place: Place::unique(), guest, at }
    }

    /// The window on the bytes behind its first `skipped` that are seen at these addresses; through the same place, where bytes keep their
    /// addresses.
    pub(super) fn reshaped(&self, skipped: i128, guest: Range, is_moved: bool) -> Option<Self> {
        let at = u64::try_from(i128::from(self.at).checked_add(skipped)?).ok()?;
        Some(Self { place: if is_moved { Place::unique() } else { self.place }, guest, at })
    }

    /// The part of it that lies at some of its addresses.
    pub(super) fn narrowed(&self, range: Range) -> Self {
        Self { place: self.place, guest: self.guest.intersection(&range), at: self.part(range).base() }
    }

    /// The insertion through which the bytes are seen.
    pub const fn place(&self) -> Place {
        self.place
    }

    /// The addresses.
    pub const fn guest(&self) -> Range {
        self.guest
    }

    /// The part of the storage that is shown.
    pub const fn shown(&self) -> Range {
        Range::at(self.at, self.guest.size())
    }

    /// The part of the storage that is shown at those of the addresses that are the window's.
    pub(super) fn part(&self, range: Range) -> Range {
        let seen = self.guest.intersection(&range);
        self.shown().skip(seen.base().abs_diff(self.guest.base())).take(seen.size())
    }

    /// The addresses at which that of a part is seen which the window shows.
    pub fn guest_of(&self, part: Range) -> Range {
        let seen = self.shown().intersection(&part);
        self.guest.skip(seen.base().abs_diff(self.at)).take(seen.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_leads_there_and_back() {
        let window = Window { at: 0x300, ..Window::whole(Range::at(0x1000, 0x100)) };
        assert_eq!(window.shown(), Range::at(0x300, 0x100));
        for (base, size) in [(0x1000, 0x100), (0x1040, 8), (0x10ff, 1), (0x1080, 0)] {
            let part = window.part(Range::at(base, size));
            assert_eq!(part, Range::at(base - 0x1000 + 0x300, size));
            assert_eq!(window.guest_of(part), Range::at(base, size));
        }
        assert_eq!(window.part(Range::at(0xff0, 0x20)), Range::at(0x300, 0x10));
        assert_eq!(window.guest_of(Range::at(0x3f0, 0x20)), Range::at(0x10f0, 0x10));
        assert!(window.part(Range::at(0x1100, 8)).is_empty());
        assert!(window.guest_of(Range::at(0, 0x300)).is_empty());
    }
}
