//! The options with which a region's memory is requested from the kernel.

use super::format;
use super::invalid::Invalid;
use super::policy::NumaPolicy;

/// A seal of a memfd, by the change that it forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::enum_variant_names, reason = "F_SEAL_SEAL is a seal")]
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
        Invalid::named("seal", text, Self::ALL.map(|seal| (seal.name(), seal)))
    }
}

/// Requests to the kernel for a region's memory; `None` leaves the choice to the source's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackingOptions {
    /// Page size of a huge source.
    pub page_size: Option<u64>,
    /// Alignment of the host address.
    pub alignment: Option<u64>,
    /// The most bytes that the region may grow to.
    pub max_size: Option<u64>,
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
    /// Whether an access may wait for whoever answers its page faults.
    pub may_block: Option<bool>,
    /// Whether the user vouches that nobody cuts the file, nor moves the buffer.
    pub trusted: Option<bool>,
    /// Seals of a memfd; empty for none.
    pub seals: Option<Vec<Seal>>,
    /// NUMA placement.
    pub policy: Option<NumaPolicy>,
}

impl BackingOptions {
    /// Puts the seals into one order, and refuses values that no option can have.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        if let Some(seals) = &mut self.seals {
            seals.sort_unstable();
            seals.dedup();
        }
        self.check().map(|()| self)
    }

    /// Refuses values that no option can have.
    pub fn check(&self) -> Result<(), Invalid> {
        for (what, size) in [("page_size", self.page_size), ("alignment", self.alignment)] {
            if let Some(size) = size.filter(|size| !size.is_power_of_two()) {
                return Err(Invalid::number(format!("{what} {} is not a power of two", format::hex(size))));
            }
        }
        self.policy.as_ref().map_or(Ok(()), NumaPolicy::check)
    }

    /// Takes over the arguments of a region that say the same as an option, and refuses two that contradict each other.
    ///
    /// `is_hugepage` says nothing where it equals `is_huge`, the source's own nature, `is_mergeable` where it is `false`.
    pub fn with_arguments(
        self,
        page_size: Option<u64>,
        is_hugepage: Option<bool>,
        is_mergeable: Option<bool>,
        is_huge: bool,
    ) -> Result<Self, Invalid> {
        let transparent = ("transparent_hugepage", self.transparent_hugepage);
        Ok(Self {
            page_size: agreed(("page_size", self.page_size), ("page_size", page_size), None)?,
            transparent_hugepage: agreed(transparent, ("is_hugepage", is_hugepage), Some(is_huge))?,
            ksm: agreed(("ksm", self.ksm), ("is_mergeable", is_mergeable), Some(false))?,
            ..self
        })
    }

    /// Whether a mapping made with `other` can be kept: the rest is advice that can be given anew.
    #[must_use]
    pub fn maps_like(&self, other: &Self) -> bool {
        self.page_size == other.page_size
            && self.alignment == other.alignment
            && self.max_size == other.max_size
            && self.reserve == other.reserve
            && self.dontfork == other.dontfork
            && self.guard_pages == other.guard_pages
            && self.may_block == other.may_block
            && self.trusted == other.trusted
            && self.seals == other.seals
    }
}

/// The option, or else the argument unless that is the default.
fn agreed<T: PartialEq>(
    (name, option): (&str, Option<T>),
    (argument_name, argument): (&str, Option<T>),
    default: Option<T>,
) -> Result<Option<T>, Invalid> {
    match (&option, &argument) {
        (Some(given), Some(asked)) if given != asked => {
            Err(Invalid::argument(format!("{argument_name}= contradicts {name} in backing=: give one of them")))
        }
        (None, Some(_)) if argument != default => Ok(argument),
        _ => Ok(option),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: BackingOptions, is_hugepage: Option<bool>, is_mergeable: Option<bool>, is_huge: bool) -> String {
        let agreed = options.with_arguments(None, is_hugepage, is_mergeable, is_huge);
        agreed.map_or_else(
            |refused| refused.message,
            |options| format!("{:?} {:?}", options.transparent_hugepage, options.ksm),
        )
    }

    #[test]
    fn arguments_that_are_defaults_say_nothing() {
        let none = BackingOptions::default;
        assert_eq!(of(none(), None, None, false), "None None");
        assert_eq!(of(none(), Some(false), Some(false), false), "None None");
        assert_eq!(of(none(), Some(true), Some(true), false), "Some(true) Some(true)");
        assert_eq!(of(none(), Some(true), None, true), "None None");
        assert_eq!(of(none(), Some(false), None, true), "Some(false) None");
    }

    #[test]
    fn arguments_that_contradict_an_option_are_refused_by_name() {
        let forbidden =
            BackingOptions { transparent_hugepage: Some(false), ksm: Some(false), ..BackingOptions::default() };
        assert_eq!(of(forbidden.clone(), Some(false), Some(false), false), "Some(false) Some(false)");
        assert!(
            of(forbidden.clone(), Some(true), None, false).starts_with("is_hugepage= contradicts transparent_hugepage")
        );
        assert!(of(forbidden, None, Some(true), false).starts_with("is_mergeable= contradicts ksm"));
        let small = BackingOptions { page_size: Some(4096), ..BackingOptions::default() };
        assert!(small.clone().with_arguments(Some(8192), None, None, true).is_err());
        assert_eq!(small.clone().with_arguments(None, None, None, true).unwrap(), small);
    }

    #[test]
    fn sizes_are_powers_of_two_and_seals_are_sorted() {
        let odd = BackingOptions { alignment: Some(3), ..BackingOptions::default() };
        assert_eq!(odd.checked().unwrap_err().message, "alignment 0x3 is not a power of two");
        let seals = Some(vec![Seal::Seal, Seal::Shrink, Seal::Seal]);
        let checked = BackingOptions { seals, ..BackingOptions::default() }.checked().unwrap();
        assert_eq!(checked.seals, Some(vec![Seal::Shrink, Seal::Seal]));
        for seal in Seal::ALL {
            assert_eq!(Seal::parse(seal.name()).unwrap(), seal);
        }
        assert!(Seal::parse("Grow").unwrap_err().message.contains("use \"shrink\", \"grow\""));
    }
}
