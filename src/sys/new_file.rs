//! A file that has its name when it is whole.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::errno;
use super::file::{create_new, create_unnamed, directory_of, give_name, place_of};
use super::fork::Process;

/// A file in the making; dropped before it has its name, nothing is left of it.
///
/// It has no name until then, where the file system can (`O_TMPFILE`): not even a kill leaves anything. Elsewhere it has another name, beside
/// the one that it is to have.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    target: PathBuf,
    temporary: Option<PathBuf>,
    /// The process whose file it is: a forked child leaves its parent's alone.
    process: Process,
}

impl NewFile {
    /// Makes an empty file that others may use as far as `mode` says, and the process's mask allows.
    pub fn create(target: &Path, mode: u32) -> Result<Self> {
        target.file_name().ok_or_else(|| errno::refusal(errno::EISDIR, "it names no file"))?;
        let unnamed = create_unnamed(directory_of(target), mode).and_then(|file| place_of(&file).map(|_| (None, file)));
        let (temporary, file) = match unnamed {
            Ok(made) => made,
            // Whatever the reason, a file with a name says best what is wrong with the directory.
            Err(_) => hidden(target, |name| create_new(name, mode)).map(|(name, file)| (Some(name), file))?,
        };
        Ok(Self { file, target: target.to_path_buf(), temporary, process: Process::current() })
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
        if self.temporary.is_none() {
            // A new name can't take the place of another, as renaming does.
            let place = place_of(&self.file)?;
            self.temporary = Some(hidden(&self.target, |name| give_name(&place, name))?.0);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take().filter(|_| self.process.is_current()) {
            // Nobody can be told, and the name says what it is.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Makes something under a name beside a file's that nobody has.
fn hidden<T>(target: &Path, make: impl Fn(&Path) -> Result<T>) -> Result<(PathBuf, T)> {
    loop {
        // Of the standard library, the one source of numbers that nobody can foresee.
        let random = RandomState::new().build_hasher().finish();
        let mut name = OsString::from(".");
        // As much of the name as a file system has room for.
        let stem = target.file_name().unwrap_or_default().to_string_lossy();
        name.push(stem.chars().take(50).collect::<String>());
        name.push(format!(".{random:016x}.tmp"));
        let name = target.with_file_name(name);
        match make(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return Ok((name, made?)),
        }
    }
}
