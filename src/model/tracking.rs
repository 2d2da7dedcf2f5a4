//! The ways to see writes to memory, and what each of them cannot see.

use super::error::Result;
use super::invalid::Invalid;
use super::quote::quoted;

/// A way to see writes, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackingMode {
    /// The kernel where it can watch the memory; else this package's own writes and the logs of KVM.
    Auto,
    /// The kernel, by this process's page tables.
    Pagemap,
    /// This package's own writes.
    Api,
    /// This package's own writes, and the logs of KVM.
    Kvm,
    /// The kernel where it can watch the memory; else nobody, and all bytes are compared with what they were.
    Restore,
    /// Nobody: all bytes are compared with what they were.
    Compare,
}

/// An observer of the writes to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observer {
    /// The kernel, by this process's page tables: every store of this process, its guests' included.
    Pagemap,
    /// This package: its own verbs. A writable view counts as written whole, each time.
    Api,
    /// This package, and KVM: its guest, whose pages that were only read may be named too.
    Kvm,
    /// Nobody, for whoever has the bytes as they were finds every difference.
    Compare,
}

impl Observer {
    /// The names of the sources that it stands for; `is_logged` when a KVM machine logs the memory.
    #[must_use]
    pub const fn sources(self, is_logged: bool) -> &'static [&'static str] {
        match self {
            Self::Pagemap => &["pagemap"],
            Self::Kvm if is_logged => &["api", "kvm"],
            Self::Api | Self::Kvm => &["api"],
            Self::Compare => &["compare"],
        }
    }
}

/// Writers whom no source sees but the comparison of all bytes.
const UNSEEN: [&str; 4] = ["file descriptors", "forked children", "other mappings", "vhost-user back-ends"];
/// Those whom this package sees only where they use its verbs.
const OUTSIDE: [&str; 2] = ["raw pointers", "Unicorn engines"];
const GUESTS: &str = "KVM guests";

/// The writers whom sources of these names can't see, sorted.
#[must_use]
pub fn blind_to(sources: &[impl AsRef<str>]) -> Vec<&'static str> {
    let has = |name: &str| sources.iter().any(|source| source.as_ref() == name);
    let sees_all = sources.iter().all(|source| source.as_ref() == "compare");
    let mut blind: Vec<_> = if sees_all { Vec::new() } else { UNSEEN.to_vec() };
    if has("api") || has("kvm") {
        blind.extend(OUTSIDE);
    }
    if has("api") && !has("kvm") {
        blind.push(GUESTS);
    }
    blind.sort_unstable();
    blind
}

impl TrackingMode {
    /// The mode of a name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "pagemap" => Ok(Self::Pagemap),
            "api" => Ok(Self::Api),
            "kvm" => Ok(Self::Kvm),
            _ => {
                let name = quoted(name);
                Err(Invalid::argument(format!("mode {name}: give \"auto\", \"pagemap\", \"kvm\" or \"api\"")).into())
            }
        }
    }

    /// The mode of a checkpoint that has a name; `None` for `"auto"`.
    pub fn parse_of_checkpoint(name: &str) -> Result<Option<Self>> {
        match name {
            "auto" => Ok(None),
            "pagemap" => Ok(Some(Self::Pagemap)),
            "kvm" => Ok(Some(Self::Kvm)),
            "compare" => Ok(Some(Self::Compare)),
            _ => {
                let name = quoted(name);
                let how = "give \"auto\", \"pagemap\", \"kvm\" or \"compare\"";
                Err(Invalid::argument(format!("mode {name}: {how}")).into())
            }
        }
    }
}
