//! How the memory of a region is to be had from the kernel.

use super::format;
use super::invalid::Invalid;
use super::policy::NumaPolicy;

/// A seal of a memfd, by what it forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seal {
    /// Becoming shorter.
    Shrink,
    /// Becoming longer.
    Grow,
    /// More seals.
    Seal,
    /// New writable mappings, and writes by descriptor.
    FutureWrite,
}

impl Seal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Shrink, Self::Grow, Self::Seal, Self::FutureWrite];

    /// The name that Python uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shrink => "shrink",
            Self::Grow => "grow",
            Self::Seal => "seal",
            Self::FutureWrite => "future-write",
        }
    }

    /// The kernel's number, of `linux/fcntl.h`.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Seal => 0x1,
            Self::Shrink => 0x2,
            Self::Grow => 0x4,
            Self::FutureWrite => 0x10,
        }
    }

    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|seal| seal.name() == text).ok_or_else(|| {
            invalid(format!("unknown seal {text:?}: use \"shrink\", \"grow\", \"seal\" or \"future-write\""))
        })
    }
}

/// What is asked of the kernel for a region; `None` leaves the choice to the source's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackingOptions {
    /// Page size of a huge source.
    pub page_size: Option<u64>,
    /// Alignment of the host address.
    pub alignment: Option<u64>,
    /// Set memory aside when mapping (`false`: `MAP_NORESERVE`).
    pub reserve: Option<bool>,
    /// Transparent huge pages, or none.
    pub transparent_hugepage: Option<bool>,
    /// Kernel samepage merging, or none.
    pub ksm: Option<bool>,
    /// Left out of core dumps.
    pub dontdump: Option<bool>,
    /// Not there in forked children.
    pub dontfork: Option<bool>,
    /// Locked in memory, all pages there.
    pub mlock: Option<bool>,
    /// Inaccessible pages before and behind the mapping.
    pub guard_pages: Option<bool>,
    /// Seals of a memfd; empty for none.
    pub seals: Option<Vec<Seal>>,
    /// NUMA placement.
    pub policy: Option<NumaPolicy>,
}

impl BackingOptions {
    /// Refuses what no region can have, and puts the seals into one order.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        for (what, size) in [("page_size", self.page_size), ("alignment", self.alignment)] {
            if let Some(size) = size.filter(|size| !size.is_power_of_two()) {
                return Err(invalid(format!("{what} {} is not a power of two", format::hex(size))));
            }
        }
        if let Some(seals) = &mut self.seals {
            seals.sort_unstable();
            seals.dedup();
        }
        self.policy.as_ref().map_or(Ok(()), NumaPolicy::check)?;
        Ok(self)
    }

    /// What a region's other arguments do not say.
    #[must_use]
    pub fn without_arguments(&self) -> Self {
        let forbidden = |option: Option<bool>| option.filter(|on| !on);
        Self {
            page_size: None,
            ksm: forbidden(self.ksm),
            transparent_hugepage: forbidden(self.transparent_hugepage),
            ..self.clone()
        }
    }

    /// Whether a mapping made with `other` can be kept: the rest is advice that can be given anew.
    #[must_use]
    pub fn maps_like(&self, other: &Self) -> bool {
        self.page_size == other.page_size
            && self.alignment == other.alignment
            && self.reserve == other.reserve
            && self.dontfork == other.dontfork
            && self.guard_pages == other.guard_pages
            && self.seals == other.seals
    }
}

fn invalid(message: String) -> Invalid {
    Invalid::argument(message)
}
