//! Numbers as people read them: grouped hex, binary sizes, `rwx`.

use super::invalid::Invalid;
use super::quote::quoted;

/// `0xc000_0000`: hexadecimal, grouped by four digits from the right.
#[must_use]
pub fn hex(value: u64) -> String {
    let mut text = String::from("0x");
    let highest = value.checked_ilog2().unwrap_or_default() / 4;
    for place in (0..=highest).rev() {
        // A table of many regions is mostly addresses: no text on the way.
        let digit = value.checked_shr(place.saturating_mul(4)).unwrap_or_default() & 0xf;
        text.extend(u32::try_from(digit).ok().and_then(|digit| char::from_digit(digit, 16)));
        if place > 0 && place % 4 == 0 {
            text.push('_');
        }
    }
    text
}

const UNITS: [(&str, u32); 7] =
    [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// `3 GiB`, `2047 MiB`: exact in the largest binary unit or the next smaller one, in four digits at most; else one decimal,
/// cut off and never rounded up: `31.9 TiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let first = UNITS.iter().position(|(_, shift)| bytes >> shift != 0 || *shift == 0).unwrap_or_default();
    let units = UNITS.get(first..).unwrap_or_default();
    let exact = units.iter().take(2).find(|(_, shift)| {
        let whole = bytes >> shift;
        whole << shift == bytes && whole < 10_000
    });
    match (exact, units.first()) {
        (Some((unit, shift)), _) => format!("{} {unit}", bytes >> shift),
        (None, Some((unit, shift))) => {
            // The rest has at most 60 bits, ten times as much has at most 64.
            let rest = bytes & !(u64::MAX << shift);
            let tenths = rest.checked_mul(10).map_or(9, |tenfold| tenfold >> shift);
            format!("{}.{tenths} {unit}", bytes >> shift)
        }
        (None, None) => format!("{bytes} B"),
    }
}

/// Parses `"2GiB"`, `"2G"`, `"512 mib"` or a plain number of bytes; the units are binary, in any case.
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(split);
    let unit = unit.trim_start();
    let is_it = |name: &str| unit.eq_ignore_ascii_case(name) || unit.eq_ignore_ascii_case(&name[..1]);
    let shift = match unit {
        "" | "B" | "b" => Some(0),
        _ => UNITS.iter().find(|(name, _)| is_it(name)).map(|(_, shift)| *shift),
    };
    let value = digits.parse::<u64>().ok().zip(shift).and_then(|(value, shift)| value.checked_mul(1 << shift));
    value.ok_or_else(|| {
        Invalid::number(format!(
            "{text} is not a size: write \"4096\", \"512 MiB\", \"2GiB\" or \"2G\" (binary units, below 16 EiB)",
            text = quoted(text)
        ))
    })
}

/// `rw-`: a protection as in `/proc/PID/maps`.
#[must_use]
pub fn protection(prot_flags: i32) -> String {
    [(1, 'r'), (2, 'w'), (4, 'x')]
        .iter()
        .map(|(bit, letter)| if prot_flags & bit == 0 { '-' } else { *letter })
        .collect()
}

/// Parses a protection: letters of `rwx` in this order, with or without `-` for those that are missing.
pub fn parse_protection(text: &str) -> Result<i32, Invalid> {
    let is_it = |prot_flags: &i32| {
        let full = protection(*prot_flags);
        text == full || !text.is_empty() && text == full.replace('-', "")
    };
    (0..8).find(is_it).ok_or_else(|| {
        Invalid::argument(format!(
            "unknown protection {text}: use letters of 'rwx' in this order, with '-' for what is missing",
            text = quoted(text)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_grouped_from_the_right() {
        assert_eq!(hex(0), "0x0");
        assert_eq!(hex(0xc000_0000), "0xc000_0000");
        assert_eq!(hex(0x1_0000), "0x1_0000");
    }

    #[test]
    fn sizes_read_back_as_they_print() {
        for (text, bytes) in
            [("3 GiB", 3 << 30), ("4 KiB", 4096), ("512 B", 512), ("1 EiB", 1 << 60), ("1025 MiB", 1025 << 20)]
        {
            assert_eq!(size(bytes), text);
            assert_eq!(parse_size(text).unwrap(), bytes);
        }
        assert_eq!(size(4097), "4097 B");
        assert_eq!(size(0), "0 B");
        for text in ["2G", "2g", "2gib", "2 GIB", " 2GiB "] {
            assert_eq!(parse_size(text).unwrap(), 2 << 30, "{text}");
        }
        assert_eq!(parse_size("512b").unwrap(), 512);
    }

    #[test]
    fn decimal_units_and_nonsense_are_refused() {
        for text in ["2GB", "2gb", "", "GiB", "-1", "1.5GiB", "2Gi", "16EiB", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn protections_read_back_as_they_print() {
        for prot_flags in 0..8 {
            let text = protection(prot_flags);
            assert_eq!(parse_protection(&text).unwrap(), prot_flags);
            assert!(prot_flags == 0 || parse_protection(&text.replace('-', "")).unwrap() == prot_flags);
        }
        for text in ["", "xr", "rr", "RW-", "rw- ", "--", "0"] {
            assert!(parse_protection(text).is_err(), "{text}");
        }
    }

    #[test]
    fn large_sizes_have_a_decimal_that_is_cut_off() {
        for (bytes, text) in [
            ((32 << 40) - 1, "31.9 TiB"),
            ((16 << 30) + 1, "16.0 GiB"),
            ((15 << 30) + 1024, "15.0 GiB"),
            ((16 << 20) - 4096, "15.9 MiB"),
            ((10 << 20) - 4096, "9.9 MiB"),
            ((4 << 20) + 4096, "4100 KiB"),
            (u64::MAX, "15.9 EiB"),
            (1535, "1535 B"),
            (10_001, "9.7 KiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
