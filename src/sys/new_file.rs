//! A file that has its name when it is whole.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::errno;
use super::file::create_new;
use super::fork::Process;

/// A file in the making, under another name beside that which it is to have; dropped before it has that, nothing is left of it.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    target: PathBuf,
    temporary: PathBuf,
    /// The process whose file it is: a forked child leaves its parent's alone.
    process: Process,
    is_published: bool,
}

impl NewFile {
    /// Makes an empty file that others may use as far as `mode` says, and the process's mask allows.
    pub fn create(target: &Path, mode: u32) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| errno::refusal(errno::EISDIR, "it names no file"))?;
        loop {
            // Of the standard library, the one source of numbers that nobody can foresee.
            let random = RandomState::new().build_hasher().finish();
            let mut hidden = OsString::from(".");
            // As much of the name as a file system has room for.
            hidden.push(name.to_string_lossy().chars().take(50).collect::<String>());
            hidden.push(format!(".{random:016x}.tmp"));
            let temporary = target.with_file_name(hidden);
            let file = match create_new(&temporary, mode) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            let (target, process) = (target.to_path_buf(), Process::current());
            return Ok(Self { file, target, temporary, process, is_published: false });
        }
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The name that it is to have.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives it its name, in the place of what had it.
    pub fn publish(mut self) -> Result<()> {
        std::fs::rename(&self.temporary, &self.target)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_published && self.process.is_current() {
            // Nobody can be told, and the name says what it is.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
