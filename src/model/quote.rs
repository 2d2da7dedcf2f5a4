//! Texts and lists as messages show them.

/// The most characters of a text that a message shows.
const MOST: usize = 200;

/// A text in double quotes, without control characters, and without the rest of a long one. The one place where a value is written as Rust does.
#[must_use]
pub fn quoted(text: &str) -> String {
    let end = text.char_indices().nth(MOST).map(|(end, _)| end);
    let (text, rest) = end.and_then(|end| Some((text.get(..end)?, "..."))).unwrap_or((text, ""));
    format!("{text:?}{rest}")
}

/// Numbers in brackets: `[1, 2]`.
#[must_use]
pub fn listed(numbers: &[u64]) -> String {
    format!("[{}]", numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_moves_the_cursor() {
        assert_eq!(quoted("a\"\n\u{1b}"), r#""a\"\n\u{1b}""#);
        assert_eq!(quoted(&"\u{e9}".repeat(300)), format!("\"{}\"...", "\u{e9}".repeat(200)));
        assert_eq!(listed(&[1, 2]), "[1, 2]");
        assert_eq!(listed(&[]), "[]");
    }
}
