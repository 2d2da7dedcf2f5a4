//! The judgement whether the files of a plan's zones are there: long enough, with room on their file system, and of the right pages.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::model::format::{hex, size as size_text};
use crate::model::plan::SpacePlan;
use crate::model::region::{MAP_PRIVATE, SharedRegion};
use crate::model::source::SourceType;
use crate::sys::file;
use crate::sys::host::Host;

/// Bytes of a block, as `stat(2)` counts them.
const BLOCK: u64 = 512;

/// The needs of all regions of one file.
#[derive(Default)]
struct FileNeeds {
    /// The end of the last region in it.
    end: u64,
    /// The bytes of those whose writes go to the file.
    shared: u64,
    /// For a file of huge pages: their size, where it is asked for.
    huge: Option<Option<u64>>,
}

impl FileNeeds {
    fn add(&mut self, region: &SharedRegion) {
        let end = region.source.file_offset.saturating_add(region.size());
        self.end = self.end.max(end);
        if region.perm_flags & MAP_PRIVATE == 0 {
            self.shared = self.shared.saturating_add(region.size());
        }
        if region.effective_source() == Some(SourceType::FileOnHugeTlbFs) {
            self.huge = Some(region.options.page_size);
        }
    }
}

/// Everything that is wrong with the files that a plan names on this host.
#[must_use]
pub fn problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    if !host.is_this() {
        return Vec::new();
    }
    let mut files = BTreeMap::<&Path, FileNeeds>::new();
    for region in plan.regions.iter().filter(|region| !region.source.path.as_os_str().is_empty()) {
        files.entry(&region.source.path).or_default().add(region);
    }
    files.into_iter().filter_map(|(path, needs)| problem(path, &needs)).collect()
}

fn problem(path: &Path, needs: &FileNeeds) -> Option<String> {
    let shown = path.display();
    let found = match needs.huge {
        Some(page_size) => huge_problem(path, page_size),
        None => ordinary_problem(path, needs),
    };
    found.unwrap_or_else(|error| Some(format!("{shown}: {error}")))
}

fn ordinary_problem(path: &Path, needs: &FileNeeds) -> std::io::Result<Option<String>> {
    let (shown, end) = (path.display(), needs.end);
    let status = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Some(format!("{shown} is not there: make it (truncate -s {end} {shown})")));
        }
        status => status?,
    };
    if status.is_file() && status.len() < end {
        let (length, needed) = (hex(status.len()), hex(end));
        return Ok(Some(format!(
            "{shown} has {length} bytes, the plan needs {needed}: extend it (truncate -s {end} {shown})"
        )));
    }
    let there = if status.is_file() { status.blocks().saturating_mul(BLOCK) } else { 0 };
    let (wanted, left) = (needs.shared.saturating_sub(there), file::room_of(path)?);
    if (status.is_file() || status.is_dir()) && wanted > left {
        let (wanted, left) = (size_text(wanted), size_text(left));
        return Ok(Some(format!("{shown} may take {wanted} more, but its file system has only {left} left")));
    }
    Ok(None)
}

/// A file of huge pages may be made when it is opened; its directory must be there.
fn huge_problem(path: &Path, page_size: Option<u64>) -> std::io::Result<Option<String>> {
    let directory = file::directory_of(path);
    let there = file::hugetlbfs_page_size(&file::open_directory(directory)?)?;
    let shown = directory.display();
    Ok(match (there, page_size) {
        (None, _) => Some(format!("{shown} is not on a hugetlbfs mount (mount -t hugetlbfs none DIRECTORY makes one)")),
        (Some(there), Some(asked)) if there != asked => {
            Some(format!("{shown} has pages of {}, not {}", size_text(there), size_text(asked)))
        }
        _ => None,
    })
}
