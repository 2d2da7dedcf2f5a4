//! An immutable list in shared pieces: the next list, which differs in few items, copies the pieces that differ and shares the others.
//!
//! A map of thousands of regions is followed by one with a region more: to copy all of it would touch the count of references of each.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use super::int::index_sum;

/// The fewest items of a piece but the last: shorter ones are joined with the next, or lists would end up as pieces of one.
const FEWEST: usize = 32;
/// The most items of a piece: about the root of a large map, so that there are as many pieces as items in each.
const MOST: usize = 64;

/// An immutable list.
#[derive(Clone, Debug)]
pub struct Pieces<T> {
    pieces: Box<[Arc<[T]>]>,
    /// The index behind the last item of each piece.
    ends: Box<[usize]>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Box::default(), ends: Box::default() }
    }
}

impl<T: Clone> FromIterator<T> for Pieces<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut next = NextPieces::default();
        items.into_iter().for_each(|item| next.push(item));
        next.finish()
    }
}

impl<T> Pieces<T> {
    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    /// The item at an index.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.all().get(index)
    }

    /// The number of items before the first for which `is_before` no longer holds, when it holds for none behind that one.
    #[must_use]
    pub fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let pieces = self.pieces.partition_point(|piece| piece.last().is_some_and(&is_before));
        let start = pieces.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        let inside = self.pieces.get(pieces).map_or(0, |piece| piece.partition_point(is_before));
        index_sum(start, inside)
    }

    /// All items.
    #[inline]
    #[must_use]
    pub fn all(&self) -> Sublist<'_, T> {
        Sublist { pieces: &self.pieces, ends: &self.ends, from: 0, to: self.len() }
    }
}

impl<T: Clone> Pieces<T> {
    /// The list with `count` items from `index` on taken out and `new` in their place.
    #[must_use]
    pub fn spliced(&self, index: usize, count: usize, new: &[T]) -> Self {
        let (old, behind) = (self.all(), index_sum(index, count));
        let mut next = NextPieces::default();
        next.keep(old.sublist(0..index));
        new.iter().for_each(|item| next.push(item.clone()));
        next.keep(old.sublist(behind..old.len()));
        next.finish()
    }
}

/// Neighbouring items of a list.
#[derive(Debug)]
pub struct Sublist<'a, T> {
    pieces: &'a [Arc<[T]>],
    ends: &'a [usize],
    from: usize,
    to: usize,
}

impl<T> Default for Sublist<'_, T> {
    fn default() -> Self {
        Self { pieces: &[], ends: &[], from: 0, to: 0 }
    }
}

impl<T> Clone for Sublist<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sublist<'_, T> {}

impl<'a, T> Sublist<'a, T> {
    /// The number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.to.saturating_sub(self.from)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a T> {
        let index = index_sum(self.from, index);
        let (items, start) = self.piece(index);
        if index < self.to { items.get(index.wrapping_sub(start)) } else { None }
    }

    /// The first item.
    #[must_use]
    pub fn first(&self) -> Option<&'a T> {
        self.get(0)
    }

    /// The last item.
    #[must_use]
    pub fn last(&self) -> Option<&'a T> {
        self.get(self.len().checked_sub(1)?)
    }

    /// A sublist of it; as much of the range as there is.
    #[must_use]
    pub fn sublist(&self, range: Range<usize>) -> Self {
        let [from, to] = [range.start, range.end].map(|index| index_sum(self.from, index.min(self.len())));
        Self { from, to, ..*self }
    }

    /// The items in order.
    #[must_use]
    pub fn iter(&self) -> Items<'a, T> {
        Items { middle: *self, front: [].iter(), back: [].iter() }
    }

    /// The number of the piece that has the item at an index of the list.
    #[inline]
    fn number_of(&self, index: usize) -> usize {
        // No piece before this one reaches so far; in a list that was made at once, it is the one.
        let least = index / MOST;
        let rest = self.ends.get(least..).unwrap_or_default();
        match rest.first() {
            Some(end) if index < *end => least,
            _ => index_sum(least, rest.partition_point(|end| *end <= index)),
        }
    }

    /// The piece that has the item at an index of the list, and the index of its first item.
    #[inline]
    fn piece(&self, index: usize) -> (&'a [T], usize) {
        let number = self.number_of(index);
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        (self.pieces.get(number).map(|items| &**items).unwrap_or_default(), start)
    }

    /// Takes as many items off its front as lie in one piece.
    fn take_front(&mut self) -> &'a [T] {
        let taken = self.shared_with(self.piece(self.from));
        self.from = index_sum(self.from, taken.len());
        taken
    }

    /// The same at its back.
    fn take_back(&mut self) -> &'a [T] {
        let taken = self.shared_with(self.piece(self.to.saturating_sub(1)));
        self.to = self.to.saturating_sub(taken.len());
        taken
    }

    /// The items that it has of a piece.
    fn shared_with(&self, (items, start): (&'a [T], usize)) -> &'a [T] {
        let [from, to] = [self.from, self.to].map(|index| index.saturating_sub(start).min(items.len()));
        items.get(from..to).unwrap_or_default()
    }
}

impl<T: Clone> Sublist<'_, T> {
    /// Copies of the items.
    #[must_use]
    pub fn to_vec(self) -> Vec<T> {
        self.iter().cloned().collect()
    }
}

impl<'a, T> IntoIterator for Sublist<'a, T> {
    type Item = &'a T;
    type IntoIter = Items<'a, T>;

    fn into_iter(self) -> Items<'a, T> {
        self.iter()
    }
}

/// Goes through items from either end.
#[derive(Clone, Debug)]
pub struct Items<'a, T> {
    front: slice::Iter<'a, T>,
    middle: Sublist<'a, T>,
    back: slice::Iter<'a, T>,
}

impl<'a, T> Iterator for Items<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        if self.front.len() == 0 {
            self.front = self.middle.take_front().iter();
        }
        self.front.next().or_else(|| self.back.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = [self.front.len(), self.middle.len(), self.back.len()].into_iter().fold(0, index_sum);
        (left, Some(left))
    }
}

impl<T> DoubleEndedIterator for Items<'_, T> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.back.len() == 0 {
            self.back = self.middle.take_back().iter();
        }
        self.back.next_back().or_else(|| self.front.next_back())
    }
}

impl<T> ExactSizeIterator for Items<'_, T> {}

/// The list behind another one, made of what is kept of it and what is new, in order.
#[derive(Debug)]
pub struct NextPieces<T> {
    pieces: Vec<Arc<[T]>>,
    /// The last items, which are not in a piece yet.
    open: Vec<T>,
}

impl<T> Default for NextPieces<T> {
    fn default() -> Self {
        Self { pieces: vec![], open: vec![] }
    }
}

impl<T: Clone> NextPieces<T> {
    /// Adds an item.
    pub fn push(&mut self, item: T) {
        self.open.push(item);
        if self.open.len() >= index_sum(MOST, MOST) {
            self.close(MOST);
        }
    }

    /// Adds items of another list; whole pieces are shared.
    pub fn keep(&mut self, mut items: Sublist<'_, T>) {
        while !items.is_empty() {
            let piece = items.pieces.get(items.number_of(items.from));
            let taken = items.take_front();
            match piece.filter(|piece| piece.len() == taken.len() && taken.len() >= FEWEST) {
                Some(piece) if self.settle() => self.pieces.push(Arc::clone(piece)),
                _ => taken.iter().cloned().for_each(|item| self.push(item)),
            }
        }
    }

    /// Puts the open items into pieces, unless they are too few for one; `true` when none is open any more.
    fn settle(&mut self) -> bool {
        if self.open.len() > MOST {
            self.close(self.open.len().div_euclid(2));
        }
        if self.open.len() >= FEWEST {
            self.close(self.open.len());
        }
        self.open.is_empty()
    }

    fn close(&mut self, count: usize) {
        self.pieces.push(self.open.drain(..count).collect());
    }

    /// The list.
    #[must_use]
    pub fn finish(mut self) -> Pieces<T> {
        if !self.settle() {
            self.close(self.open.len());
        }
        let ends = self.pieces.iter().scan(0, |end, piece| {
            *end = index_sum(*end, piece.len());
            Some(*end)
        });
        Pieces { ends: ends.collect(), pieces: self.pieces.into() }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests, whose numbers are small")]
mod tests {
    use super::*;

    impl<T> std::ops::Index<usize> for Sublist<'_, T> {
        type Output = T;

        fn index(&self, index: usize) -> &T {
            self.get(index).unwrap()
        }
    }

    fn spliced(list: &Pieces<usize>, at: usize, gone: usize, new: usize) -> Pieces<usize> {
        list.spliced(at, gone, &(1_000_000..1_000_000 + new).collect::<Vec<_>>())
    }

    /// As a list of a plain vector, from both ends, in all parts, and in pieces that are neither short nor long.
    fn check(list: &Pieces<usize>, expected: &[usize]) {
        let all = list.all();
        assert_eq!((all.len(), all.is_empty()), (expected.len(), expected.is_empty()));
        assert_eq!((all.to_vec(), all.first(), all.last()), (expected.to_vec(), expected.first(), expected.last()));
        assert!(all.iter().rev().eq(expected.iter().rev()));
        assert!((0..=expected.len()).all(|index| list.get(index) == expected.get(index)));
        for (from, to) in
            (0..=expected.len()).step_by(7).flat_map(|from| [(from, from), (from, expected.len() - from / 2)])
        {
            let sublist = all.sublist(from..to);
            let wanted = expected.get(from..to).unwrap_or_default();
            assert_eq!(sublist.to_vec(), wanted);
            assert_eq!(sublist.iter().len(), wanted.len());
            assert!(sublist.sublist(3..wanted.len().max(3)).iter().eq(wanted.iter().skip(3)));
        }
        let lengths = list.pieces.iter().map(|piece| piece.len());
        assert!(lengths.clone().all(|length| length <= MOST));
        assert!(lengths.rev().skip(1).all(|length| length >= FEWEST));
    }

    #[test]
    fn it_has_the_items_of_a_vector_after_any_change() {
        let (mut list, mut expected) = (Pieces::default(), Vec::new());
        let mut random = 1_u64;
        let mut below = |limit: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % (limit + 1)
        };
        for size in [300, 5, 700, 0, 150] {
            for _ in 0..150 {
                let at = below(expected.len());
                let gone = below(if expected.len() > size { 40 } else { 3 }).min(expected.len() - at);
                let new = below(if expected.len() < size { 40 } else { 3 });
                list = spliced(&list, at, gone, new);
                expected.splice(at..at + gone, (0..new).map(|item| 1_000_000 + item));
                check(&list, &expected);
            }
        }
    }

    #[test]
    fn sorted_items_are_found() {
        for size in [0, 1, 31, 64, 65, 500] {
            let list: Pieces<usize> = (0..size).map(|item| item * 2).collect();
            assert!(
                (0..size * 2 + 2)
                    .all(|wanted| list.partition_point(|item| *item < wanted) == wanted.div_ceil(2).min(size))
            );
        }
    }

    #[test]
    fn both_ends_meet_in_any_order() {
        let list: Pieces<usize> = (0..200).collect();
        for first in [0, 1, 63, 64, 65, 127, 199, 200] {
            let mut items = list.all().iter();
            let mut seen: Vec<usize> = items.by_ref().take(first).copied().collect();
            assert_eq!(items.len(), 200 - first);
            let behind: Vec<usize> = items.rev().copied().collect();
            seen.extend(behind.iter().rev());
            assert!(seen.into_iter().eq(0..200));
        }
    }

    #[test]
    fn a_change_copies_few_items() {
        let list: Pieces<usize> = (0..4096).collect();
        for (at, gone, new) in
            [(0, 0, 1), (2000, 0, 1), (2000, 1, 0), (4096, 0, 1), (4095, 1, 0), (64, 64, 0), (100, 1, 1)]
        {
            let next = spliced(&list, at, gone, new);
            let is_shared = |piece: &&Arc<[usize]>| list.pieces.iter().any(|old| Arc::ptr_eq(old, piece));
            assert!(next.pieces.iter().filter(|piece| !is_shared(piece)).count() <= 2, "{at} {gone} {new}");
        }
    }

    #[test]
    fn many_appended_one_by_one_are_no_pieces_of_one() {
        let list = (0..500).fold(Pieces::default(), |list, _| spliced(&list, list.len(), 0, 1));
        assert!(list.pieces.len() <= 500 / FEWEST + 1);
    }
}
