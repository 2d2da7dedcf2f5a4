//! Operations on a map of large addresses against a list of pages: what overlaps is refused, and no byte moves by itself.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use fuzz_model::model::change::{MapOperation, RegionTarget};
use fuzz_model::model::ids::RegionId;
use fuzz_model::model::layout::Layout;
use fuzz_model::model::range::Range;
use fuzz_model::model::region::{Region, RegionType};
use fuzz_model::model::region_map::{RegionEntry, RegionMap};
use fuzz_model::model::source::Source;
use libfuzzer_sys::fuzz_target;

const PAGE: u64 = 0x1000;
const PAGES: u64 = 256;

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    Insert(u8, u8),
    Remove(u8),
    Split(u8, u8),
    Join(u8, u8),
    Move(u8, u8),
}

/// Which byte of which insertion is at a page.
type Model = BTreeMap<u64, String>;

fn model_of(map: &RegionMap) -> Model {
    let pages = map.regions().iter().flat_map(|region| {
        (0..region.size() / PAGE)
            .map(move |page| (region.base() / PAGE + page, format!("{:?} {}", region.origin, region.at / PAGE + page)))
    });
    let (count, model) =
        (map.regions().iter().map(|region| region.size() / PAGE).sum::<u64>(), pages.collect::<Model>());
    assert_eq!(model.len() as u64, count, "two regions share a page");
    model
}

fn operation(step: &Step, map: &RegionMap, first: u64) -> Option<MapOperation> {
    let at = |page: u8| (first + u64::from(page)) * PAGE;
    let any = |number: u8| {
        map.regions().get(usize::from(number).checked_rem(map.regions().len())?).cloned().map(RegionTarget::Inserted)
    };
    Some(match step {
        Step::Insert(page, count) => {
            let range = Range::new(at(*page), u64::from(*count) * PAGE).ok()?;
            let region = Region::new(RegionType::DefaultMemory, range, Source::default()).ok()?;
            MapOperation::Insert(RegionEntry::new(Arc::new(region)))
        }
        Step::Remove(number) => MapOperation::Remove(any(*number)?),
        Step::Split(number, page) => MapOperation::Split(any(*number)?, at(*page), RegionId::unique()),
        Step::Join(one, other) => MapOperation::Join(any(*one)?, any(*other)?),
        Step::Move(number, page) => MapOperation::Move(any(*number)?, at(*page)),
    })
}

fuzz_target!(|input: (Vec<Step>, bool)| {
    let (steps, high) = input;
    let first = if high { (u64::MAX / PAGE) - 2 * PAGES } else { 0 };
    let mut map = RegionMap::empty(Layout::new(u64::MAX, 0, u64::MAX, vec![]).unwrap());
    for step in steps.iter().take(64) {
        let (before, Some(operation)) = (model_of(&map), operation(step, &map, first)) else { continue };
        let Ok(after) = operation.apply(&map) else { continue };
        let model = model_of(&after);
        match step {
            Step::Split(..) | Step::Join(..) => assert_eq!(model, before),
            Step::Move(..) => {
                assert!(model.values().collect::<std::collections::BTreeSet<_>>() == before.values().collect())
            }
            Step::Insert(..) => assert!(before.iter().all(|(page, byte)| model.get(page) == Some(byte))),
            Step::Remove(..) => assert!(model.iter().all(|(page, byte)| before.get(page) == Some(byte))),
        }
        for page in model.keys() {
            assert!(after.find(page * PAGE).is_some() && after.find(page * PAGE + PAGE - 1).is_some());
        }
        map = after;
    }
});
