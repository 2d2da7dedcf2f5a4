//! A wrong argument: the errors of values, which know nothing of regions.

use super::quote::quoted;
use std::fmt::Display;

/// The kind of a wrong argument, for which Python has a class each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name, a text, an option, or arguments that contradict each other.
    Argument,
    /// An address, a size, an alignment or a range.
    Range,
    /// A region type.
    RegionType,
    /// A memory source, or one that contradicts the other arguments.
    MemorySourceType,
}

/// An argument that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The kind of argument.
    pub kind: Kind,
    /// The request, why it can't be met, and what would do.
    pub message: String,
    /// The address asked for.
    pub address: Option<u64>,
    /// The size asked for.
    pub size: Option<u64>,
}

impl Invalid {
    /// An argument that is wrong, and is not a number.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Kind::Argument, message)
    }

    /// An address, a size or another number that can't be.
    pub fn number(message: impl Into<String>) -> Self {
        Self::new(Kind::Range, message)
    }

    /// A range that can't be, or a number of one.
    pub fn at(message: impl Into<String>, address: Option<u64>, size: Option<u64>) -> Self {
        Self::number(message).about(address, size)
    }

    /// A text that names no value of an enumeration: `shown` is that text as the message quotes it.
    pub fn unknown<'a>(kind: Kind, what: &str, shown: impl Display, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<String> = known.into_iter().map(quoted).collect();
        let known = match known.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        Self::new(kind, format!("unknown {what} {shown}: use {known}"))
    }

    /// The value among `known` that a text names, or the refusal that lists the names.
    pub fn named<T: Copy, const N: usize>(what: &str, text: &str, known: [(&'static str, T); N]) -> Result<T, Self> {
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| Self::unknown(Kind::Argument, what, quoted(text), known.map(|(name, _)| name)))
    }

    /// A refusal of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), address: None, size: None }
    }

    /// The same with the address and size in question, where it has none of its own.
    #[must_use]
    pub fn about(mut self, address: Option<u64>, size: Option<u64>) -> Self {
        self.address = self.address.or(address);
        self.size = self.size.or(size);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_listed() {
        let message =
            |known: &[&str]| Invalid::unknown(Kind::Argument, "seal", "\"x\"", known.iter().copied()).to_string();
        assert_eq!(message(&["a"]), "unknown seal \"x\": use \"a\"");
        assert_eq!(message(&["a", "b"]), "unknown seal \"x\": use \"a\" or \"b\"");
        assert_eq!(message(&["a", "b", "c"]), "unknown seal \"x\": use \"a\", \"b\" or \"c\"");
    }

    #[test]
    fn the_first_address_stays() {
        let invalid = Invalid::at("no", Some(1), None).about(Some(2), Some(3));
        assert_eq!((invalid.kind, invalid.address, invalid.size), (Kind::Range, Some(1), Some(3)));
    }
}
