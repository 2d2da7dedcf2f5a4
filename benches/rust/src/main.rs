//! The map and the live space against the published crate `dbs-address-space` 0.3.0, side by side in one binary.
//!
//! Both sides are measured in turns and compared by their medians; nothing is asserted.
//! `--quick` shows that all works, `--only NAME` measures one group.

mod allocator;
mod harness;
mod hotplug;
mod maps;

use harness::Pace;

/// A group of measurements, by name.
type Group = (&'static str, fn(&Pace) -> Vec<harness::Comparison>);

const GROUPS: [Group; 5] = [
    ("from_regions", maps::from_regions),
    ("look-up", maps::look_up),
    ("insert", maps::insert),
    ("hotplug", hotplug::readers),
    ("allocator", allocator::allocate),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let pace = if arguments.iter().any(|argument| argument == "--quick") { Pace::QUICK } else { Pace::FULL };
    let only = arguments.iter().position(|argument| argument == "--only").and_then(|index| arguments.get(index + 1));
    if let Some(unknown) = only.filter(|name| GROUPS.iter().all(|(group, _)| group != name)) {
        eprintln!("unknown group {unknown:?}: use one of {}", GROUPS.map(|(name, _)| name).join(", "));
        std::process::exit(2);
    }
    let wanted = GROUPS.iter().filter(|(name, _)| only.is_none_or(|only| only == name));
    let comparisons: Vec<_> = wanted.flat_map(|(_, measure)| measure(&pace)).collect();
    println!("{}", harness::table(&comparisons));
}
