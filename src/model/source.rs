//! The source of a region's bytes.

use super::quote::quoted;
use std::any::Any;
use std::fmt::{Debug, Display};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::ids::Origin;
use super::invalid::{Invalid, Kind};
use super::range::Range;

/// The original's memory sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// A file on a hugetlbfs mount.
    FileOnHugeTlbFs,
    /// A memfd of small pages.
    MemFdShared,
    /// A memfd of huge pages.
    MemFdOnHugeTlbFs,
    /// Anonymous memory of small pages.
    MmapAnonymous,
    /// Anonymous memory of huge pages.
    MmapAnonymousHugeTlbFs,
}

impl SourceType {
    /// The original's nine strings, each source's own name before its second.
    const NAMES: [(&str, Self); 9] = [
        ("hugetlbfs", Self::FileOnHugeTlbFs),
        ("shmem", Self::MemFdShared),
        ("memfd", Self::MemFdShared),
        ("hugeshmem", Self::MemFdOnHugeTlbFs),
        ("hugememfd", Self::MemFdOnHugeTlbFs),
        ("mmap", Self::MmapAnonymous),
        ("anon", Self::MmapAnonymous),
        ("hugemmap", Self::MmapAnonymousHugeTlbFs),
        ("hugeanon", Self::MmapAnonymousHugeTlbFs),
    ];

    /// Parses one of the nine strings: case-sensitive, untrimmed.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let found = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, source)| source).ok_or_else(|| Self::unknown(quoted(text)))
    }

    /// The refusal of anything else, `shown` as a message quotes it.
    #[must_use]
    pub fn unknown(shown: impl Display) -> Invalid {
        Invalid::unknown(Kind::MemorySourceType, "memory source type", shown, Self::NAMES.map(|(name, _)| name))
    }

    /// The name that Python's enum has for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileOnHugeTlbFs => "hugetlbfs",
            Self::MemFdShared => "shmem",
            Self::MemFdOnHugeTlbFs => "hugeshmem",
            Self::MmapAnonymous => "mmap",
            Self::MmapAnonymousHugeTlbFs => "hugemmap",
        }
    }

    /// Whether it takes pages from the kernel's huge page pool.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        matches!(self, Self::FileOnHugeTlbFs | Self::MemFdOnHugeTlbFs | Self::MmapAnonymousHugeTlbFs)
    }

    /// Whether it has no file.
    #[must_use]
    pub const fn is_anonymous(self) -> bool {
        matches!(self, Self::MmapAnonymous | Self::MmapAnonymousHugeTlbFs)
    }
}

/// A file that the user gave; two are equal when they are the same inode.
#[derive(Clone, Debug)]
pub struct UserFile {
    /// Our own duplicate of the descriptor.
    pub file: Arc<File>,
    /// Device and inode.
    pub identity: (u64, u64),
    /// The path at which it was opened, where that was done here: absolute.
    pub path: Option<Arc<Path>>,
}

impl PartialEq for UserFile {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for UserFile {}

impl std::hash::Hash for UserFile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

/// Keeps memory that someone else made where it is, until it is dropped.
pub trait KeepAlive: std::fmt::Debug + Send + Sync {}

/// Memory that someone else made; two are equal when they are the same bytes.
#[derive(Clone, Debug)]
pub struct UserBuffer {
    /// The host address of the first byte.
    pub host: usize,
    /// The number of bytes.
    pub size: u64,
    /// Whether its exporter leaves the bytes where they are for as long as the buffer is held.
    pub is_steady: bool,
    /// Whether the bytes may be written.
    pub is_writable: bool,
    /// Its keeper.
    pub keep: Arc<dyn KeepAlive>,
}

impl PartialEq for UserBuffer {
    fn eq(&self, other: &Self) -> bool {
        (self.host, self.size) == (other.host, other.size)
    }
}

impl Eq for UserBuffer {}

impl std::hash::Hash for UserBuffer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.host, self.size).hash(state);
    }
}

/// Bytes that lie nowhere in one piece as they are, and are read each time that they are asked for: packed ones, and those of many pieces.
pub trait ReadBytes: Debug + Send + Sync {
    /// Reads as many bytes at a place as there is room for.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// The first bytes of a range of places that are there, up to the next that are not; none at its end if there are none.
    fn first_run(&self, range: Range) -> Range;
}

/// Bytes that are read when they are asked for, from a place on; two are equal when they are the same bytes.
#[derive(Clone, Debug)]
pub struct UserReader {
    /// The reader, which all regions of a dump share.
    pub reader: Arc<dyn ReadBytes>,
    /// The place of the first byte.
    pub at: u64,
}

impl UserReader {
    fn identity(&self) -> (*const (), u64) {
        (Arc::as_ptr(&self.reader).cast(), self.at)
    }
}

impl PartialEq for UserReader {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for UserReader {}

impl std::hash::Hash for UserReader {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// Bytes of a memory that stay for as long as this is held, whether a region shows them or not.
pub trait KeptBytes: Any + Debug + Send + Sync {}

/// Part of a memory, which is kept elsewhere.
#[derive(Clone, Debug)]
pub struct Part {
    /// Identifies it, also when it is kept no longer.
    pub origin: Origin,
    /// Weak, for maps keep no memory alive.
    pub bytes: Weak<dyn KeptBytes>,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin
    }
}

impl Eq for Part {}

impl std::hash::Hash for Part {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.origin.hash(state);
    }
}

/// All that decides which bytes a region shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// The source type; `None` for a user's file, or for the default of the region's type.
    pub source_type: Option<SourceType>,
    /// Path of a [`SourceType::FileOnHugeTlbFs`], or without a source type of an ordinary file; else empty.
    pub path: PathBuf,
    /// A file that the user gave.
    pub file: Option<UserFile>,
    /// Memory that the user gave.
    pub buffer: Option<UserBuffer>,
    /// Bytes of a dump, which are read when they are asked for.
    pub reader: Option<UserReader>,
    /// The offset of the region in the file.
    pub file_offset: u64,
    /// The process that alone has the bytes: here the region has no memory.
    pub elsewhere: Option<u32>,
}

impl Source {
    /// Whether the bytes are those of an ordinary file, which is opened by its path when the region is mapped.
    #[must_use]
    pub fn is_named(&self) -> bool {
        let has_other = self.source_type.is_some() || self.file.is_some() || self.is_held();
        !has_other && !self.path.as_os_str().is_empty()
    }

    /// Whether the bytes are those of a buffer or dump, which has no name by which the region could be made again.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.buffer.is_some() || self.reader.is_some()
    }

    /// Whether the bytes are those of a file, buffer or dump that the user gave.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.file.is_some() || self.is_held() || self.is_named()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nine_strings_name_five_sources() {
        let mut sources: Vec<SourceType> = Vec::new();
        for (name, source) in SourceType::NAMES {
            assert_eq!(SourceType::parse(name).unwrap(), source);
            assert_eq!(SourceType::parse(source.as_str()).unwrap(), source);
            assert_eq!(source.is_huge(), name.contains("huge"), "{name}");
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        assert_eq!(sources.len(), 5);
        sources.retain(|source| source.is_anonymous());
        assert_eq!(sources, [SourceType::MmapAnonymous, SourceType::MmapAnonymousHugeTlbFs]);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for text in ["", "SHMEM", " shmem", "MEMFD_SHARED", "ram"] {
            let refused = SourceType::parse(text).unwrap_err();
            assert_eq!(refused.kind, Kind::MemorySourceType);
            assert!(refused.message.starts_with(&format!("unknown memory source type {text:?}: use \"hugetlbfs\"")));
        }
    }
}
