//! Pages of a storage that may differ from what they were.

use super::capture::data_of;
use super::region::MappedRegion;
use super::shadow::Expected;
use crate::model::error::Result;
use crate::model::range::{Range, joined};
use crate::model::room::{self, Gathered, Room};

/// Pages of a storage that may differ from what they were.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Stored to since they were protected, and still unprotected.
    pub(super) hot: Vec<Range>,
    /// All others. They are found this time only.
    pub(super) others: Vec<Range>,
    /// Whether all pages that differ are among them, whoever looks for them again.
    pub(super) is_all: bool,
}

impl Suspects {
    /// All pages that have data, now or as they are expected.
    pub fn everything(region: &MappedRegion, expected: Expected<'_>) -> Result<Self> {
        let (shown, mut runs) = (region.storage().whole(), Gathered::default());
        data_of(region)?.into_iter().for_each(|run| runs.add(run));
        expected.stored(&mut |run| runs.add(run.intersection(&shown)));
        let mut others = runs.finish()?;
        others.sort_unstable();
        Ok(Self { hot: Vec::new(), others: joined(others), is_all: true })
    }

    /// The bytes of the pages.
    pub fn size(&self) -> u64 {
        self.hot.iter().chain(&self.others).map(Range::size).sum()
    }

    /// The same, and others.
    pub fn add(&mut self, runs: Vec<Range>) -> Result<()> {
        self.others.add_all(runs)
    }

    pub(super) fn all(&self) -> Result<Vec<Range>> {
        let mut all = room::collected(self.hot.iter().chain(&self.others).copied())?;
        all.sort_unstable();
        Ok(joined(all))
    }
}
