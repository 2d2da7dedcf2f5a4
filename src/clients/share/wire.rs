//! The bytes of messages between a leader and its followers, version 1, as `docs/share.md` has them: pure functions.
//!
//! A message is a header and records, little endian. What can't be sent in one is sent in several, all but the last of which say so.

use super::record::{Record, Unread};
use crate::model::int::usize_of;
use crate::sys::socket::MAX_DESCRIPTORS;

/// Bytes of a header.
pub const HEADER: usize = 40;
/// The most bytes of a message.
pub const LONGEST: usize = 64 << 10;
/// The version that is spoken here.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"DBSP";
/// A flag of a message: more of them belong to the same proposal.
const MORE: u32 = 1;

/// The meaning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Follower: wants to follow.
    Hello = 1,
    /// Leader: all that is there, as a proposal.
    Welcome,
    /// Leader: may not follow, and why.
    Refused,
    /// Leader: what is to change.
    Propose,
    /// Follower: can be done.
    Ready,
    /// Follower: can't be done, and why.
    Veto,
    /// Leader: is done.
    Commit,
    /// Follower: has done it too.
    Done,
    /// Leader: is not done.
    Abort,
    /// Follower: has undone its part.
    Undone,
    /// Follower: a region that it vetoed is free.
    Released,
    /// Either: goes.
    Bye,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Propose,
        Self::Ready,
        Self::Veto,
        Self::Commit,
        Self::Done,
        Self::Abort,
        Self::Undone,
        Self::Released,
        Self::Bye,
    ];

    /// Whether it is the first that one side hears of the other.
    const fn introduces(self) -> bool {
        matches!(self, Self::Hello | Self::Welcome)
    }

    fn read(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its meaning.
    pub kind: Kind,
    /// Bytes of the message, the header's among them.
    pub length: usize,
    /// Whether more of them belong to the same proposal.
    pub has_more: bool,
    /// Which proposal it is about.
    pub sequence: u64,
    /// The generation behind that.
    pub generation: u64,
    /// Descriptors beside it.
    pub descriptors: u16,
    records: u32,
}

impl Header {
    /// Reads one; `Err` says what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut unread = Unread(bytes);
        let mut read = || {
            let (magic, version, kind) = (unread.bytes()?, unread.u16()?, unread.u16()?);
            let (length, flags, sequence, generation) = (unread.u32()?, unread.u32()?, unread.u64()?, unread.u64()?);
            let (descriptors, _, records) = (unread.u16()?, unread.u16()?, unread.u32()?);
            Some((magic, version, kind, length, flags, sequence, generation, descriptors, records))
        };
        let (magic, version, kind, length, flags, sequence, generation, descriptors, records) =
            read().ok_or("it is shorter than a header")?;
        if magic != MAGIC {
            return Err("it does not begin with DBSP".into());
        }
        if version != VERSION {
            return Err(format!("it is of version {version}, and {VERSION} is spoken here"));
        }
        let kind = Kind::read(kind).ok_or_else(|| format!("its kind {kind} is unknown"))?;
        let length = usize_of(length.into());
        if !(HEADER..=LONGEST).contains(&length) {
            return Err(format!("its length {length} is not from {HEADER} to {LONGEST}"));
        }
        let has_more = flags & MORE != 0;
        Ok(Self { kind, length, has_more, sequence, generation, descriptors, records })
    }

    fn write(&self, message: &mut [u8]) {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        let flags = if self.has_more { MORE } else { 0 };
        let head = [
            MAGIC.as_slice(),
            &VERSION.to_le_bytes(),
            &(self.kind as u16).to_le_bytes(),
            &length.to_le_bytes(),
            &flags.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.descriptors.to_le_bytes(),
            &[0; 2],
            &self.records.to_le_bytes(),
        ]
        .concat();
        for (to, from) in message.iter_mut().zip(head) {
            *to = from;
        }
    }
}

/// Reads a whole message; `Err` says what is wrong with it. Records of unknown types are passed over.
pub fn read(bytes: &[u8]) -> Result<(Header, Vec<Record>), String> {
    let header = Header::read(bytes)?;
    if header.length != bytes.len() {
        return Err(format!("its length {} is not that of the {} bytes that came", header.length, bytes.len()));
    }
    let mut unread = Unread(bytes.get(HEADER..).unwrap_or_default());
    let mut records = Vec::new();
    for _ in 0..header.records {
        records.extend(Record::read(&mut unread)?);
    }
    if unread.0.is_empty() { Ok((header, records)) } else { Err("bytes follow its last record".into()) }
}

/// A message to be sent, and which of the proposal's descriptors go beside it.
#[derive(Debug, PartialEq, Eq)]
pub struct Packed {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The descriptors, by their numbers in the proposal.
    pub descriptors: std::ops::Range<usize>,
    /// Whether the kernel is to say who sends it.
    pub is_introduced: bool,
}

/// Puts records into as few messages as there are to be; each record of a storage takes the next descriptor.
pub fn pack(kind: Kind, sequence: u64, generation: u64, records: &[Record]) -> Vec<Packed> {
    let mut messages: Vec<(Packed, u32)> = vec![(empty(0), 0)];
    let mut taken = 0usize;
    for record in records {
        let (takes, bytes) = (usize::from(record.takes_descriptor()), record.write());
        let Some((last, _)) = messages.last() else { break };
        let is_full = last.bytes.len().saturating_add(bytes.len()) > LONGEST;
        if is_full || last.descriptors.len().saturating_add(takes) > MAX_DESCRIPTORS {
            messages.push((empty(taken), 0));
        }
        let Some((last, count)) = messages.last_mut() else { break };
        let place = u16::try_from(last.descriptors.len()).unwrap_or(u16::MAX);
        last.bytes.extend(record.placed(bytes, place));
        taken = taken.saturating_add(takes);
        last.descriptors.end = taken;
        *count = count.saturating_add(1);
    }
    let last = messages.len().saturating_sub(1);
    let finish = |(number, (mut message, records)): (usize, (Packed, u32))| {
        let descriptors = u16::try_from(message.descriptors.len()).unwrap_or(u16::MAX);
        let (length, has_more) = (message.bytes.len(), number < last);
        message.is_introduced = kind.introduces();
        Header { kind, length, has_more, sequence, generation, descriptors, records }.write(&mut message.bytes);
        message
    };
    messages.into_iter().enumerate().map(finish).collect()
}

fn empty(taken: usize) -> Packed {
    Packed { bytes: vec![0; HEADER], descriptors: taken..taken, is_introduced: false }
}

#[cfg(test)]
mod tests {
    use super::super::record::{PlaceRecord, StorageRecord};
    use super::*;
    use crate::model::error::LeaseInfo;
    use crate::model::int::u64_of;
    use crate::model::range::Range;
    use crate::model::region::RegionType;

    fn storage(id: u64) -> Record {
        let (is_writable, is_huge) = (true, false);
        Record::Storage(StorageRecord {
            id,
            size: 0x2000,
            offset: 0x1000,
            page_size: 4096,
            is_writable,
            is_huge,
            descriptor: 0,
        })
    }

    fn place(region: u64, name: &str) -> Record {
        Record::Place(PlaceRecord {
            region,
            range: Range::at(region << 12, 0x1000),
            storage: 1,
            at: 0x1000,
            region_type: RegionType::FirmwareMemory,
            prot_flags: 5,
            is_hotplug: true,
            is_elsewhere: false,
            name: (!name.is_empty()).then(|| name.into()),
        })
    }

    fn all() -> Vec<Record> {
        let lease = LeaseInfo { what: "view", address: 0x10, size: 8, is_writable: true, pid: Some(7) };
        vec![
            Record::Layout([1 << 46, 0, 1 << 45], 2000, [9; 16]),
            Record::Range(2, Range::at(0x1000, 0x1000)),
            storage(1),
            place(3, "low"),
            place(4, ""),
            Record::Region(5),
            Record::Lease(3, lease),
            Record::Text("why not: ä".into()),
            Record::Wish(true, [1, 2]),
        ]
    }

    #[test]
    fn what_is_packed_is_read_again() {
        let [message] = &pack(Kind::Propose, 11, 12, &all())[..] else { panic!() };
        let (header, records) = read(&message.bytes).unwrap();
        assert_eq!((header.kind, header.sequence, header.generation, header.has_more), (Kind::Propose, 11, 12, false));
        assert_eq!((header.length, header.descriptors), (message.bytes.len(), 1));
        assert_eq!((records, message.descriptors.clone()), (all(), 0..1));
        let [empty] = &pack(Kind::Bye, 0, 0, &[])[..] else { panic!() };
        assert_eq!(empty.bytes.len(), HEADER);
        assert_eq!(read(&empty.bytes).unwrap().1, []);
    }

    #[test]
    fn a_name_may_be_long_and_a_message_may_not() {
        let name = "n".repeat(5000);
        let [message] = &pack(Kind::Propose, 0, 0, &[place(1, &name)])[..] else { panic!() };
        let (_, records) = read(&message.bytes).unwrap();
        assert_eq!(records, [place(1, &name[..4096])]);
        let records: Vec<Record> = (0..4096).map(|region| place(region, "dimm")).collect();
        let messages = pack(Kind::Welcome, 1, 2, &records);
        assert_eq!(messages.len(), 5);
        let mut again = Vec::new();
        for (number, message) in messages.iter().enumerate() {
            let (header, records) = read(&message.bytes).unwrap();
            assert!(message.bytes.len() <= LONGEST && header.has_more == (number < 4));
            again.extend(records);
        }
        assert_eq!(again, records);
    }

    #[test]
    fn each_message_has_its_own_descriptors() {
        for (count, messages) in [(0, 1), (1, 1), (64, 1), (65, 2), (200, 4)] {
            let packed = pack(Kind::Propose, 0, 0, &(1..=count).map(storage).collect::<Vec<_>>());
            assert_eq!(packed.len(), messages);
            let mut next = 0;
            for message in &packed {
                let (header, records) = read(&message.bytes).unwrap();
                assert_eq!((message.descriptors.start, message.descriptors.len()), (next, header.descriptors.into()));
                next = message.descriptors.end;
                for (place, record) in records.iter().enumerate() {
                    let Record::Storage(storage) = record else { panic!() };
                    assert_eq!(usize::from(storage.descriptor), place);
                }
            }
            assert_eq!(u64_of(next), count);
        }
    }

    #[test]
    fn every_byte_may_be_any_other_and_every_end_too_soon() {
        let [message] = &pack(Kind::Propose, 1, 2, &all())[..] else { panic!() };
        for at in 0..message.bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff, message.bytes[at] ^ 1, message.bytes[at] ^ 0x80] {
                let mut bytes = message.bytes.clone();
                bytes[at] = value;
                // Neither a panic nor more records than it says.
                if let Ok((_, records)) = read(&bytes) {
                    assert!(records.len() <= all().len());
                }
            }
            assert!(read(&message.bytes[..at]).is_err());
        }
        for at in [0, 1, 2, 3, 4, 8] {
            let mut bytes = message.bytes.clone();
            bytes[at] ^= 0xff;
            assert!(read(&bytes).is_err(), "{at}");
        }
    }

    #[test]
    fn records_of_unknown_types_are_passed_over() {
        let [message] = &pack(Kind::Propose, 1, 2, &[Record::Region(1), Record::Region(2)])[..] else { panic!() };
        let mut bytes = message.bytes.clone();
        bytes[HEADER] = 99;
        assert_eq!(read(&bytes).unwrap().1, [Record::Region(2)]);
    }
}
