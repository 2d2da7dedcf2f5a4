//! Room for as many values as a caller chose. The allocator's refusal is an error here, while most methods of `Vec` end the process.

use std::collections::TryReserveError;

use super::error::{Error, Result};
use super::format::size;
use super::int::u64_of;

/// As many zeroes.
pub fn zeroed<T: Clone + Default>(count: usize) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.fit(count)?;
    Ok(all)
}

/// None yet, with room for as many.
pub fn unwritten<T>(count: usize) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|refused| no_room::<T>(count, &refused))?;
    Ok(all)
}

/// All that an iterator gives.
pub fn collected<T>(values: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.add_all(values)?;
    Ok(all)
}

/// `push`, `extend` and `resize`, which may be refused.
pub trait Room<T> {
    /// Adds a value.
    fn add(&mut self, value: T) -> Result<()>;

    /// Adds all that an iterator gives.
    fn add_all(&mut self, values: impl IntoIterator<Item = T>) -> Result<()>;

    /// Cuts it, or adds zeroes.
    fn fit(&mut self, length: usize) -> Result<()>
    where
        T: Clone + Default;
}

impl<T> Room<T> for Vec<T> {
    fn add(&mut self, value: T) -> Result<()> {
        if self.len() == self.capacity() {
            self.try_reserve(1).map_err(|refused| no_room::<T>(self.len(), &refused))?;
        }
        self.push(value);
        Ok(())
    }

    fn add_all(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        let values = values.into_iter();
        let likely = values.size_hint().0;
        self.try_reserve(likely).map_err(|refused| no_room::<T>(likely, &refused))?;
        for value in values {
            self.add(value)?;
        }
        Ok(())
    }

    fn fit(&mut self, length: usize) -> Result<()>
    where
        T: Clone + Default,
    {
        let more = length.saturating_sub(self.len());
        self.try_reserve_exact(more).map_err(|refused| no_room::<T>(more, &refused))?;
        self.resize(length, T::default());
        Ok(())
    }
}

/// The values that a callback is given one by one, until there is no room for more.
#[derive(Debug)]
pub struct Gathered<T>(Result<Vec<T>>);

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

impl<T> Gathered<T> {
    /// Adds a value; once that is refused, nothing is added any more.
    pub fn add(&mut self, value: T) {
        if let Ok(all) = &mut self.0 {
            let added = all.add(value);
            if let Err(refused) = added {
                self.0 = Err(refused);
            }
        }
    }

    /// All of them, or the refusal.
    pub fn finish(self) -> Result<Vec<T>> {
        self.0
    }
}

/// The error of a refusal of room for so many values.
fn no_room<T>(count: usize, refused: &TryReserveError) -> Error {
    let bytes = u64_of(count.saturating_mul(size_of::<T>()));
    Error::NoRoom { message: format!("no memory for about {} more: {refused}", size(bytes)) }
}

/// Room for more text.
pub fn reserve(text: &mut String, bytes: usize) -> Result<()> {
    text.try_reserve(bytes).map_err(|refused| no_room::<u8>(text.len(), &refused))
}

/// A copy of a text.
pub fn text(given: &str) -> Result<String> {
    let mut text = String::new();
    text.try_reserve_exact(given.len()).map_err(|refused| no_room::<u8>(given.len(), &refused))?;
    text.push_str(given);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_can_not_be_is_an_error() {
        assert!(matches!(zeroed::<u64>(usize::MAX), Err(Error::NoRoom { .. })));
        assert!(matches!(zeroed::<u8>(1 << 62), Err(Error::NoRoom { .. })));
        assert!(matches!(collected(0..u64::MAX), Err(Error::NoRoom { .. })));
        assert!(matches!(reserve(&mut String::from("a"), usize::MAX), Err(Error::NoRoom { .. })));
    }

    #[test]
    fn what_there_is_room_for_is_there() {
        let mut all = collected(0..3u8).unwrap();
        all.add(3).unwrap();
        all.add_all((4..6).filter(|_| true)).unwrap();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        all.fit(2).unwrap();
        all.fit(4).unwrap();
        assert_eq!(all, [0, 1, 0, 0]);
        assert_eq!(zeroed::<u8>(3).unwrap(), [0; 3]);
    }
}
