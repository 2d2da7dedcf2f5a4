//! The records that messages between a leader and its followers consist of. Each begins with its type, its length and a number.

use crate::model::error::LeaseInfo;
use crate::model::range::Range;
use crate::model::region::RegionType;

const STORAGE: u16 = 1;
const PLACE: u16 = 2;
const REGION: u16 = 3;
const LEASE: u16 = 4;
const LAYOUT: u16 = 5;
const RANGE: u16 = 6;
const TEXT: u16 = 7;
const WISH: u16 = 8;

/// Bytes of a type, a length and a number.
const HEAD: usize = 8;
/// Where a storage has the place of its descriptor.
const STORAGE_DESCRIPTOR: usize = 40;
/// The longest text or name in a record.
const LONGEST_TEXT: usize = 4096;

/// Bytes that regions show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageRecord {
    /// Which it is, for as long as both sides follow; never 0.
    pub id: u64,
    /// Bytes.
    pub size: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes a page.
    pub page_size: u64,
    /// Whether the descriptor can be written through.
    pub is_writable: bool,
    /// Whether its pages are huge.
    pub is_huge: bool,
    /// Which of the descriptors beside the message is its file's.
    pub descriptor: u16,
}

/// A region, and the bytes that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRecord {
    /// Which region it is, for as long as both sides follow.
    pub region: u64,
    /// Its addresses.
    pub range: Range,
    /// The storage; 0 for a region without bytes.
    pub storage: u64,
    /// The offset in the storage.
    pub at: u64,
    /// Its meaning to the guest.
    pub region_type: RegionType,
    /// `mmap` protection.
    pub prot_flags: i32,
    /// Plugged into a running machine.
    pub is_hotplug: bool,
    /// Whether it has bytes that the leader alone can see.
    pub is_elsewhere: bool,
    /// Its name, or none.
    pub name: Option<Box<str>>,
}

/// Something that a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Bytes that come.
    Storage(StorageRecord),
    /// A region that comes, or that is described anew.
    Place(PlaceRecord),
    /// A region that goes, or that is free.
    Region(u64),
    /// A lease on a region that vetoes a change.
    Lease(u64, LeaseInfo),
    /// The layout of the space, the milliseconds for each answer, and the space's own number.
    Layout([u64; 3], u32, [u8; 16]),
    /// Part of the layout: a window for devices (0), or a reserved range (1 and the place of its kind).
    Range(u32, Range),
    /// A sentence for people.
    Text(String),
    /// Whether a follower wants to write, and the lowest and the highest version that it speaks.
    Wish(bool, [u16; 2]),
}

impl Record {
    pub(super) const fn takes_descriptor(&self) -> bool {
        matches!(self, Self::Storage(_))
    }

    /// The bytes of the record, to which `placed` adds what is known only in its message.
    pub(super) fn write(&self) -> Vec<u8> {
        match self {
            Self::Storage(storage) => {
                let flags = u32::from(storage.is_writable) | u32::from(storage.is_huge) << 1;
                let fields = [storage.id, storage.size, storage.offset, storage.page_size, storage.descriptor.into()];
                record(STORAGE, flags, &words(&fields))
            }
            Self::Place(place) => write_place(place),
            Self::Region(region) => record(REGION, 0, &words(&[*region])),
            Self::Lease(region, lease) => {
                let what = u64::from(what_number(lease.what)) | u64::from(lease.is_writable) << 8;
                record(LEASE, lease.pid.unwrap_or(0), &words(&[*region, lease.address, lease.size, what]))
            }
            Self::Layout(ends, deadline, id) => record(LAYOUT, *deadline, &[words(ends).as_slice(), id].concat()),
            Self::Range(kind, range) => record(RANGE, *kind, &words(&[range.base(), range.size()])),
            Self::Text(text) => {
                let text = cut(text);
                record(TEXT, u32::try_from(text.len()).unwrap_or(0), text.as_bytes())
            }
            Self::Wish(writes, [lowest, highest]) => {
                let versions = u64::from(*lowest) | u64::from(*highest) << 16;
                record(WISH, u32::from(*writes), &words(&[versions]))
            }
        }
    }

    /// Its bytes in a message, where `place` is that of its descriptor.
    pub(super) fn placed(&self, mut bytes: Vec<u8>, place: u16) -> Vec<u8> {
        if self.takes_descriptor()
            && let Some(field) = bytes.get_mut(STORAGE_DESCRIPTOR..STORAGE_DESCRIPTOR + 2)
        {
            field.copy_from_slice(&place.to_le_bytes());
        }
        bytes
    }

    /// Reads one; `None` of a type that is not known here, `Err` says what is wrong.
    pub(super) fn read(unread: &mut Unread<'_>) -> Result<Option<Self>, String> {
        let head = Option::zip(unread.u16(), unread.u16()).zip(unread.u32());
        let ((kind, length), number) = head.ok_or("it ends in a record")?;
        let body = usize::from(length).checked_sub(HEAD).and_then(|size| unread.take(size));
        let mut body = body.ok_or_else(|| format!("a record of type {kind} has a length of {length}"))?;
        if !(STORAGE..=WISH).contains(&kind) {
            return Ok(None);
        }
        let read = Self::read_body(kind, number, &mut body);
        read.map(Some).ok_or_else(|| format!("a record of type {kind} is not one"))
    }

    fn read_body(kind: u16, number: u32, body: &mut Unread<'_>) -> Option<Self> {
        Some(match kind {
            STORAGE => Self::Storage(StorageRecord {
                id: body.u64().filter(|id| *id != 0)?,
                size: body.u64().filter(|size| *size != 0)?,
                offset: body.u64()?,
                page_size: body.u64().filter(|size| size.is_power_of_two())?,
                is_writable: number & 1 != 0,
                is_huge: number & 2 != 0,
                descriptor: body.u16()?,
            }),
            PLACE => Self::Place(read_place(number, body)?),
            REGION => Self::Region(body.u64()?),
            LEASE => {
                let (region, address, size) = (body.u64()?, body.u64()?, body.u64()?);
                let (what, is_writable) = (WHAT.get(usize::from(body.u8()?)).unwrap_or(&WHAT[0]), body.u8()? != 0);
                Self::Lease(region, LeaseInfo { what, address, size, is_writable, pid: Some(number) })
            }
            LAYOUT => Self::Layout([body.u64()?, body.u64()?, body.u64()?], number, body.bytes()?),
            RANGE => Self::Range(number, body.range()?),
            TEXT => Self::Text(body.text(usize::try_from(number).ok()?)?.into()),
            WISH => Self::Wish(number & 1 != 0, [body.u16()?, body.u16()?]),
            _ => return None,
        })
    }
}

/// The kinds of leases, in a byte; 0 for the verbs.
const WHAT: [&str; 3] = ["access", "view", "pin"];

fn what_number(what: &str) -> u8 {
    match what {
        "view" => 1,
        "pin" => 2,
        _ => 0,
    }
}

fn write_place(place: &PlaceRecord) -> Vec<u8> {
    let name = cut(place.name.as_deref().unwrap_or_default());
    let region_type = RegionType::ALL.iter().position(|other| *other == place.region_type).unwrap_or_default();
    let flags = u8::from(place.is_hotplug) | u8::from(place.is_elsewhere) << 1;
    let length = u16::try_from(name.len()).unwrap_or(0).to_le_bytes();
    let kind = [u8::try_from(region_type).unwrap_or(0), flags, length[0], length[1], 0, 0, 0, 0];
    let fields = words(&[place.region, place.range.base(), place.range.size(), place.storage, place.at]);
    record(PLACE, place.prot_flags.cast_unsigned(), &[fields.as_slice(), &kind, name.as_bytes()].concat())
}

fn read_place(number: u32, body: &mut Unread<'_>) -> Option<PlaceRecord> {
    let (region, range) = (body.u64()?, body.range()?);
    let (storage, at) = (body.u64()?, body.u64()?);
    let region_type = *RegionType::ALL.get(usize::from(body.u8()?))?;
    let (flags, length, _) = (body.u8()?, body.u16()?, body.u32()?);
    let name = body.text(length.into())?;
    Some(PlaceRecord {
        region,
        range,
        storage,
        at,
        region_type,
        prot_flags: number.cast_signed(),
        is_hotplug: flags & 1 != 0,
        is_elsewhere: flags & 2 != 0,
        name: (!name.is_empty()).then(|| name.into()),
    })
}

/// A text of the other side for people: no more than ours would be, and nothing that a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for one in cut(text).chars() {
        if one.is_control() { shown.extend(one.escape_default()) } else { shown.push(one) }
    }
    if shown.is_empty() { "it gives no reason".into() } else { shown }
}

/// A text, as much of it as a record has room for.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST_TEXT)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn words(fields: &[u64]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.to_le_bytes()).collect()
}

/// A record, padded to words.
fn record(kind: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let length = HEAD.saturating_add(body.len()).next_multiple_of(8);
    let head = [kind.to_le_bytes(), u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()].concat();
    let mut bytes = [head.as_slice(), &number.to_le_bytes(), body].concat();
    bytes.resize(length, 0);
    bytes
}

/// Bytes that are still to be read.
pub(super) struct Unread<'a>(pub(super) &'a [u8]);

impl<'a> Unread<'a> {
    fn take(&mut self, size: usize) -> Option<Self> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(Self(taken))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// Addresses; `None` where they are none, or end past all.
    fn range(&mut self) -> Option<Range> {
        let (base, size) = (self.u64()?, self.u64()?);
        Range::new(base, size).ok().filter(|range| !range.is_empty())
    }

    fn text(&mut self, size: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(size)?.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_other_side_moves_no_cursor_and_is_no_longer_than_ours() {
        assert_eq!(shown("why not: ä"), "why not: ä");
        assert_eq!(shown("\u{1b}[2J\n"), "\\u{1b}[2J\\n");
        assert_eq!(shown(""), "it gives no reason");
        assert_eq!(shown(&"x".repeat(60_000)).len(), LONGEST_TEXT);
    }
}
