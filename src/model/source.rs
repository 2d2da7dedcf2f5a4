//! Where the bytes of a region come from.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::invalid::{Invalid, Kind};

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
    /// Parses one of the original's nine strings: case-sensitive, untrimmed.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "hugetlbfs" => Ok(Self::FileOnHugeTlbFs),
            "shmem" | "memfd" => Ok(Self::MemFdShared),
            "hugeshmem" | "hugememfd" => Ok(Self::MemFdOnHugeTlbFs),
            "mmap" | "anon" => Ok(Self::MmapAnonymous),
            "hugemmap" | "hugeanon" => Ok(Self::MmapAnonymousHugeTlbFs),
            _ => Err(Invalid::text(
                Kind::MemorySourceType,
                format!(
                    "unknown memory source type {text:?}: use \"shmem\" (\"memfd\"), \"hugeshmem\" (\"hugememfd\"), \
                     \"mmap\" (\"anon\"), \"hugemmap\" (\"hugeanon\") or \"hugetlbfs\""
                ),
            )),
        }
    }

    /// The first of the strings that name it.
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
    /// What keeps it.
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

/// Everything that decides which bytes a region shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// The source type; `None` for a user's file, or for the default of the region's type.
    pub source_type: Option<SourceType>,
    /// Path of a [`SourceType::FileOnHugeTlbFs`]; ignored by the others.
    pub path: PathBuf,
    /// A file that the user gave.
    pub file: Option<UserFile>,
    /// Memory that the user gave.
    pub buffer: Option<UserBuffer>,
    /// Where in the file the region begins.
    pub file_offset: u64,
    /// Page size of a huge source; `None` for the host's default.
    pub page_size: Option<u64>,
}

impl Source {
    /// Whether the bytes are those of a file or buffer that the user gave.
    #[must_use]
    pub const fn is_adopted(&self) -> bool {
        self.file.is_some() || self.buffer.is_some()
    }
}
