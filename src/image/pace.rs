//! How fast memory is filled in the background, or sent.

use std::time::{Duration, Instant};

use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::wait::SLICE;

/// Bytes a second, counted from a start.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    started: Instant,
    /// As many as can be, where it is `None`.
    rate: Option<u64>,
}

impl Pace {
    /// Begins now.
    pub fn begin(rate: Option<u64>) -> Self {
        Self { started: Instant::now(), rate }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long the next part may wait when so many bytes were moved.
    pub fn pause(&self, moved: u64) -> Duration {
        match self.rate {
            None => Duration::ZERO,
            Some(rate) => match u128::from(moved).saturating_mul(1_000_000).checked_div(rate.into()) {
                Some(due) => {
                    Duration::from_micros(u64::try_from(due).unwrap_or(u64::MAX)).saturating_sub(self.elapsed())
                }
                // None at all.
                None => Duration::MAX,
            },
        }
    }

    /// Waits until so many bytes may have been moved.
    pub fn wait(&self, moved: u64, interrupt: &dyn Interrupt) -> Result<()> {
        loop {
            let left = self.pause(moved);
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
            interrupt.check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_one_of_zero_is_for_ever() {
        assert_eq!(Pace::begin(None).pause(u64::MAX), Duration::ZERO);
        assert_eq!(Pace::begin(Some(0)).pause(0), Duration::MAX);
        assert_eq!(Pace::begin(Some(1)).pause(0), Duration::ZERO);
        assert!(Pace::begin(Some(1)).pause(3600) > Duration::from_secs(3000));
    }
}
