//! An argument that can't be: the errors of values, which know nothing of regions.

/// What is wrong with an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number, range, name, flag or text.
    Argument,
    /// Not a region type.
    RegionType,
    /// Not a memory source, or one that contradicts the other arguments.
    MemorySourceType,
}

/// An argument that was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Which argument.
    pub kind: Kind,
    /// What was asked, why it can't be and what would do.
    pub message: String,
    /// The address asked for.
    pub address: Option<u64>,
    /// The size asked for.
    pub size: Option<u64>,
}

impl Invalid {
    /// An argument that is no address range.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::of(Kind::Argument, message, None, None)
    }

    /// A range, or an argument about one.
    pub fn at(message: impl Into<String>, address: Option<u64>, size: Option<u64>) -> Self {
        Self::of(Kind::Argument, message, address, size)
    }

    /// The text of a type that there is not.
    pub fn text(kind: Kind, message: impl Into<String>) -> Self {
        Self::of(kind, message, None, None)
    }

    fn of(kind: Kind, message: impl Into<String>, address: Option<u64>, size: Option<u64>) -> Self {
        Self { kind, message: message.into(), address, size }
    }
}
