//! What the kernel knows of a mapping of this process.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Whether a userfaultfd is registered on a mapping that has some of these bytes: then a touch may wait for its handler.
#[must_use]
pub fn has_fault_handler(address: usize, size: usize) -> bool {
    let Ok(smaps) = File::open("/proc/self/smaps") else { return false };
    let end = address.saturating_add(size);
    let mut is_asked = false;
    for line in BufReader::new(smaps).lines().map_while(Result::ok) {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if is_asked && flags.split_whitespace().any(|flag| matches!(flag, "um" | "uw" | "ui")) {
                return true;
            }
        } else if let Some(range) = range_of(&line) {
            if range.start >= end {
                return false;
            }
            is_asked = address < range.end;
        }
    }
    false
}

/// The addresses of a mapping's first line; other lines have a name and a colon.
fn range_of(line: &str) -> Option<std::ops::Range<usize>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_mapping_is_told_from_the_others() {
        assert_eq!(range_of("7f00-7fff rw-p 00000000 00:00 0"), Some(0x7f00..0x7fff));
        assert_eq!(range_of("Size:                  4 kB"), None);
    }

    #[test]
    fn ordinary_memory_has_no_fault_handler() {
        let value = 0u8;
        assert!(!has_fault_handler((&raw const value).addr(), 1));
    }
}
