//! Making one image of a chain.

use std::path::Path;

use super::chain::Image;
use super::chunk::{self, Digest};
use super::writer::{Description, Writer};
use crate::model::error::{ImageFault, Result};
use crate::model::interrupt::Interrupt;

/// Writes the memory of a chain as one full image, whose content is the same.
pub fn merge(
    image: &Image,
    path: &Path,
    description: &Description,
    (is_synced, threads): (bool, Option<usize>),
    interrupt: &dyn Interrupt,
) -> Result<Digest> {
    let parts = image.parts().map(|part| crate::sys::file::identity(part.file()));
    let in_use: Vec<(u64, u64)> = parts.filter_map(std::io::Result::ok).collect();
    let mut writer = Writer::create(path, None, &in_use)?;
    let stored = image.each(image.chunks(), ("merge", threads), interrupt, |(number, _), bytes| {
        // Without a parent there is nothing to compare with.
        writer.store(*number, bytes, chunk::used_pages(bytes), &mut Vec::new())
    })?;
    writer.note(stored)?;
    // Each chunk was checked on its way, and none is missing: this is the end-to-end check of the chain.
    if writer.content()? != image.newest().header().content {
        return Err(image.newest().fault(ImageFault::Corrupt, "its parts do not make the content that it names", None));
    }
    writer.finish(description, is_synced)
}
