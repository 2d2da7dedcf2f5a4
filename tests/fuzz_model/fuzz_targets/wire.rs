//! Messages of followers and records of streams: what is read is written again, as the same.

#![no_main]

use fuzz_model::clients::share::wire::{self, HEADER, LONGEST};
use fuzz_model::image::header::AREA;
use fuzz_model::stream::record::{Answer, Block, Head, Record, SIZE};
use libfuzzer_sys::fuzz_target;

/// The number of records in the bytes behind a header, by the lengths that they have.
fn count(mut bytes: &[u8]) -> u32 {
    let mut count = 0;
    while let Some(rest) =
        bytes.get(2..4).and_then(|size| bytes.get(usize::from(u16::from_le_bytes([size[0], size[1]]))..))
    {
        if rest.len() == bytes.len() {
            break;
        }
        (bytes, count) = (rest, count + 1);
    }
    count
}

/// The message with the length and the number of records that it has, so that more than that is looked at.
fn check_message(bytes: &[u8]) {
    let mut bytes = bytes[..bytes.len().min(LONGEST)].to_vec();
    if bytes.len() >= HEADER {
        let (length, records) = (u32::try_from(bytes.len()).unwrap(), count(&bytes[HEADER..]));
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[36..40].copy_from_slice(&records.to_le_bytes());
    }
    let Ok((header, records)) = wire::read(&bytes) else { return };
    assert_eq!(header.length, bytes.len());
    let packed = wire::pack(header.kind, header.sequence, header.generation, &records);
    let mut again = Vec::new();
    for message in &packed {
        let (header, records) = wire::read(&message.bytes).unwrap();
        assert!(message.bytes.len() <= LONGEST && usize::from(header.descriptors) == message.descriptors.len());
        again.extend(records);
    }
    assert_eq!(again.len(), records.len());
    // The place of a descriptor is given anew; once it is, all stays as it is.
    let once_more = wire::pack(header.kind, header.sequence, header.generation, &again);
    assert_eq!(once_more, packed);
}

fn check_stream(bytes: &Block, chunks: u64) {
    if let Ok(head) = Head::parse(bytes) {
        assert_eq!((head.encode(), head.data_size % AREA), (*bytes, 0));
    }
    if let Ok(record) = Record::parse(bytes, chunks) {
        assert_eq!(record.encode(), *bytes);
        assert!(record.pages & record.zeroed == 0 && record.size <= 256 << 20);
    }
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(answer.encode(), *bytes);
    }
}

fuzz_target!(|input: &[u8]| {
    check_message(input);
    for block in input.as_chunks::<SIZE>().0 {
        check_stream(block, 1 << 20);
    }
});
