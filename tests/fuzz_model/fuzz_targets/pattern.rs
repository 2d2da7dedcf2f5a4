//! `Pattern` against a comparison of nibbles, place by place.

#![no_main]

use fuzz_model::model::pattern::{Look, Pattern};
use libfuzzer_sys::fuzz_target;

/// The first place at which each nibble is the pattern's, or the pattern's is not there.
fn naive(text: &str, haystack: &[u8]) -> Option<usize> {
    let digits: Vec<Option<u32>> =
        text.chars().filter(|digit| !digit.is_whitespace()).map(|digit| digit.to_digit(16)).collect();
    let nibble = |place: usize| u32::from(haystack[place / 2] >> if place % 2 == 0 { 4 } else { 0 } & 15);
    let fits = |from: usize| {
        digits.iter().enumerate().all(|(place, digit)| digit.is_none_or(|digit| digit == nibble(2 * from + place)))
    };
    (0..=haystack.len().checked_sub(digits.len() / 2)?).find(|from| fits(*from))
}

fn found(pattern: &Pattern, haystack: &[u8], work: usize) -> Option<usize> {
    let mut from = 0;
    loop {
        match pattern.find(haystack, from, work) {
            Look::Found(place) => return Some(place),
            Look::Nowhere => return None,
            Look::Paused(place) => {
                assert!(place > from, "a look of {work} bytes of work comes nowhere");
                from = place;
            }
        }
    }
}

fuzz_target!(|input: (String, Vec<u8>, u8)| {
    let (text, haystack, work) = input;
    let Ok(pattern) = Pattern::parse(&text) else { return };
    let expected = naive(&text, &haystack);
    assert_eq!(found(&pattern, &haystack, usize::MAX), expected);
    assert_eq!(found(&pattern, &haystack, usize::from(work).max(1) * 64), expected);
    assert_eq!(Pattern::parse(&pattern.text().unwrap()).unwrap(), pattern);
    assert!(!pattern.matches_zeroes() || found(&pattern, &vec![0; pattern.size()], usize::MAX) == Some(0));
});
