//! The address of a PCI device.

use std::fmt;

use super::invalid::Invalid;
use super::quote::quoted;

/// Segment, bus, device and function, ordered so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// The PCI segment, which Linux calls a domain.
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// The device on its bus, below 32.
    pub device: u8,
    /// The function of the device, below 8.
    pub function: u8,
}

impl PciAddress {
    /// An address as `lspci` writes it, in hexadecimal; the segment may be left out.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let found = Self::of_parts(text).filter(|address| address.device < 32 && address.function < 8);
        found.ok_or_else(|| {
            let text = quoted(text);
            Invalid::argument(format!(
                "{text} is not the address of a PCI device: write segment, bus, device and function as in '0000:01:1f.7'"
            ))
        })
    }

    fn of_parts(text: &str) -> Option<Self> {
        let (place, function) = text.split_once('.')?;
        let mut parts = place.rsplit(':');
        let (device, bus) = (number(parts.next()?)?, number(parts.next()?)?);
        let segment = parts.next().map_or(Some(0), number)?;
        parts.next().is_none().then_some(Self { segment, bus, device, function: number(function)? })
    }
}

/// A number of hexadecimal digits alone, without a sign.
fn number<Number: TryFrom<u16>>(digits: &str) -> Option<Number> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u16::from_str_radix(digits, 16).ok())?.and_then(|number| number.try_into().ok())
}

impl fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(formatter, "{segment:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_lspci_writes_it() {
        let address = PciAddress { segment: 0xabcd, bus: 0xff, device: 0x1f, function: 7 };
        assert_eq!(PciAddress::parse("ABCD:ff:1f.7"), Ok(address));
        assert_eq!(address.to_string(), "abcd:ff:1f.7");
        assert_eq!(PciAddress::parse("1:2.3").unwrap().to_string(), "0000:01:02.3");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "1",
            "1.0",
            "0:1",
            ":1.0",
            "1:.0",
            "1:0.",
            "1:20.0",
            "1:1f.8",
            "100:0.0",
            "10000:1:0.0",
            "0:0:1:0.0",
            "+1:0.0",
            "1:-0.0",
            "1:0.0.0",
            "g:0.0",
            " 1:0.0",
        ] {
            assert!(PciAddress::parse(text).is_err(), "{text}");
        }
    }
}
