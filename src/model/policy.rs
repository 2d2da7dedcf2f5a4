//! NUMA policies: the nodes of the host that memory should come from.

use super::quote::quoted;
use std::collections::BTreeSet;

use super::invalid::Invalid;

/// The kernel's memory policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyMode {
    /// The policy of the thread that touches a page first.
    Default,
    /// These nodes and no others.
    Bind,
    /// This node first, others when it is full.
    Preferred,
    /// These nodes first, others when they are full.
    PreferredMany,
    /// Page by page around the nodes.
    Interleave,
    /// Page by page around the nodes, by the host's weights.
    WeightedInterleave,
}

impl PolicyMode {
    const ALL: [Self; 6] =
        [Self::Default, Self::Bind, Self::Preferred, Self::PreferredMany, Self::Interleave, Self::WeightedInterleave];

    /// The name that Python uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Bind => "bind",
            Self::Preferred => "preferred",
            Self::PreferredMany => "preferred-many",
            Self::Interleave => "interleave",
            Self::WeightedInterleave => "weighted-interleave",
        }
    }

    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Invalid::named("NUMA policy", text, Self::ALL.map(|mode| (mode.name(), mode)))
    }

    /// The kernel's number, of `linux/mempolicy.h`.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Default => 0,
            Self::Preferred => 1,
            Self::Bind => 2,
            Self::Interleave => 3,
            Self::PreferredMany => 5,
            Self::WeightedInterleave => 6,
        }
    }

    /// The mode of a number that the kernel gave.
    #[must_use]
    pub fn of_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.number() == number)
    }
}

/// A policy with its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NumaPolicy {
    /// The policy.
    pub mode: PolicyMode,
    /// The nodes; none stands for the region's own node.
    pub nodes: BTreeSet<u32>,
    /// Fail when a page that is there already can't be moved to the nodes (`MPOL_MF_STRICT`).
    pub strict: bool,
}

impl NumaPolicy {
    /// Refuses nodes that the mode can't have.
    pub fn check(&self) -> Result<(), Invalid> {
        let (name, count) = (self.mode.name(), self.nodes.len());
        match self.mode {
            PolicyMode::Default if count > 0 => Err(Invalid::argument("the NUMA policy \"default\" takes no nodes")),
            PolicyMode::Preferred if count > 1 => Err(Invalid::argument(format!(
                "the NUMA policy {name} takes one node, not {}: use \"preferred-many\"",
                node_list(&self.nodes),
                name = quoted(name)
            ))),
            _ => Ok(()),
        }
    }

    /// The policy that prefers a region's node, as the original does it.
    #[must_use]
    pub fn preferring(node: u32) -> Self {
        Self { mode: PolicyMode::Preferred, nodes: BTreeSet::from([node]), strict: false }
    }

    /// Whether a page may lie on a node; `true` where the policy is only a wish.
    #[must_use]
    pub fn allows(&self, node: u32) -> bool {
        self.mode == PolicyMode::Default || self.nodes.contains(&node)
    }
}

impl std::fmt::Display for NumaPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.mode.name())?;
        if self.nodes.is_empty() { Ok(()) } else { write!(formatter, ":{}", node_list(&self.nodes)) }
    }
}

/// `0-2,5`: nodes as the kernel writes them.
#[must_use]
pub fn node_list(nodes: &BTreeSet<u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for node in nodes {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*node) => *last = *node,
            _ => spans.push((*node, *node)),
        }
    }
    let texts = spans
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    texts.collect::<Vec<_>>().join(",")
}

/// Parses a list such as `0-2,5`; the kernel's empty lists are fine. `None` for anything else.
#[must_use]
pub fn parse_node_list(text: &str) -> Option<BTreeSet<u32>> {
    /// No kernel has more nodes, and a typing error must not fill the memory.
    const MOST: u32 = 1 << 16;
    let mut nodes = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        if last >= MOST || first > last {
            return None;
        }
        nodes.extend(first..=last);
    }
    Some(nodes)
}

/// The nodes of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The nodes that there are.
    pub online: BTreeSet<u32>,
    /// The nodes that have memory.
    pub with_memory: BTreeSet<u32>,
}

impl Topology {
    /// The reason why memory can't be had from these nodes; `None` when all of them have some.
    #[must_use]
    pub fn refusal(&self, nodes: &BTreeSet<u32>) -> Option<String> {
        let absent: BTreeSet<u32> = nodes.difference(&self.online).copied().collect();
        if !absent.is_empty() {
            return Some(format!(
                "the host has no NUMA node {}; it has {}",
                node_list(&absent),
                node_list(&self.online)
            ));
        }
        let bare: BTreeSet<u32> = nodes.difference(&self.with_memory).copied().collect();
        let (bare_list, with_memory) = (node_list(&bare), node_list(&self.with_memory));
        (!bare.is_empty()).then(|| format!("the host's NUMA node {bare_list} has no memory; {with_memory} has"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_lists_read_back() {
        for text in ["", "0", "0-3", "0,2-3,63-64,1023"] {
            assert_eq!(node_list(&parse_node_list(text).unwrap()), text);
        }
        for text in ["x", "3-1", "-1", "0-", "99999999"] {
            assert!(parse_node_list(text).is_none(), "{text}");
        }
    }

    #[test]
    fn absent_and_bare_nodes_are_named() {
        let nodes = |text| parse_node_list(text).unwrap();
        let host = Topology { online: nodes("0-2,64"), with_memory: nodes("0,2,64") };
        assert_eq!(host.refusal(&nodes("0,64")), None);
        assert_eq!(host.refusal(&nodes("0,3,63")).unwrap(), "the host has no NUMA node 3,63; it has 0-2,64");
        assert_eq!(host.refusal(&nodes("1-2")).unwrap(), "the host's NUMA node 1 has no memory; 0,2,64 has");
    }

    #[test]
    fn modes_read_back_by_name_and_number() {
        for mode in PolicyMode::ALL {
            assert_eq!(PolicyMode::parse(mode.name()).unwrap(), mode);
            assert_eq!(PolicyMode::of_number(mode.number()), Some(mode));
        }
        assert!(PolicyMode::parse("binds").unwrap_err().to_string().contains("\"bind\""));
        assert_eq!(PolicyMode::of_number(4), None);
    }

    #[test]
    fn a_mode_takes_the_nodes_that_the_kernel_takes() {
        let policy = |mode, nodes| NumaPolicy { mode, nodes: parse_node_list(nodes).unwrap(), strict: false };
        for (mode, nodes, is_fine) in [
            (PolicyMode::Default, "", true),
            (PolicyMode::Default, "0", false),
            (PolicyMode::Preferred, "0", true),
            (PolicyMode::Preferred, "0-1", false),
            (PolicyMode::Bind, "0-1", true),
            (PolicyMode::PreferredMany, "0-1", true),
        ] {
            assert_eq!(policy(mode, nodes).check().is_ok(), is_fine, "{mode:?} {nodes}");
        }
        assert!(policy(PolicyMode::Default, "").allows(5) && !policy(PolicyMode::Bind, "0-1").allows(5));
        assert_eq!(policy(PolicyMode::Interleave, "0-2,5").to_string(), "interleave:0-2,5");
    }
}
