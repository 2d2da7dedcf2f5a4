//! Checking every byte of an image.

use super::chain::Image;
use super::header;
use super::part::Part;
use crate::model::error::{ImageFault, Result};
use crate::model::int::u64_of;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::room::Gathered;
use crate::sys::file;

impl Image {
    /// Reads all of memory and compares it with the digests, in several threads, and looks for bytes that belong to nothing.
    pub fn verify(&self, threads: Option<usize>, interrupt: &dyn Interrupt) -> Result<()> {
        self.each(self.chunks(), ("verify", threads), interrupt, |_, _| Ok(()))?;
        self.parts().try_for_each(|part| check_strays(part, interrupt))
    }
}

/// Refuses bytes that a private mapping of the file would show, and no digest knows.
fn check_strays(part: &Part, interrupt: &dyn Interrupt) -> Result<()> {
    let mut runs = Gathered::default();
    let from = u64_of(header::SIZE);
    file::data_runs(part.file(), from, part.header().data.end(), &mut |start, end| {
        runs.add(Range::between(start, end))
    });
    for run in runs.finish()? {
        let mut left = run;
        while !left.is_empty() {
            if !part.is_clean(left.take(STEP))? {
                let message = format!("it has bytes in {run} that belong to no chunk");
                return Err(part.fault(ImageFault::Corrupt, message, None));
            }
            left = left.skip(STEP);
            interrupt.check()?;
        }
    }
    Ok(())
}
