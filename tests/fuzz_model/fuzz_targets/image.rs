//! The header of an image, and its table against a naive map of chunks. The input is a header, and behind it the table.

#![no_main]

use std::collections::BTreeMap;

use fuzz_model::image::chunk::{self, Chunk, Digest, Named};
use fuzz_model::image::header::{AREA, Header, SIZE};
use libfuzzer_sys::fuzz_target;

fn check_header(header: &Header, file_size: u64) {
    let sections = [header.data, header.json, header.blobs, header.table];
    assert_eq!(header.data.base(), AREA);
    assert!(sections.windows(2).all(|pair| pair[0].end() <= pair[1].base() && pair[1].base() % 4096 == 0));
    assert_eq!((header.table.end(), header.file_size()), (file_size, file_size));
    assert_eq!(Header::parse(&header.encode(), file_size).as_ref(), Ok(header));
}

fn named(chunks: &[Chunk]) -> Vec<Named> {
    chunks.iter().map(|chunk| (chunk.number, chunk.digest)).filter(|chunk| chunk.1 != Digest::default()).collect()
}

fn check_chunks(chunks: &[Chunk], room: u64) {
    assert!(chunks.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert!(chunks.iter().all(|chunk| chunk.number < room && chunk.is_zero() == (chunk.pages == 0)));
    for chunk in chunks {
        let pages = chunk::runs(chunk.pages).fold(0, |pages, (at, size)| pages | chunk::pages_of(at, size));
        assert_eq!(pages, chunk.pages);
    }
    // Some of them as the parent's, some as the child's, some as both.
    let some = |bit: u8| chunks.iter().filter(|chunk| chunk.digest[0] & bit == 0).copied().collect::<Vec<_>>();
    let (parent, mut own) = (named(&some(1)), some(2));
    own.iter_mut().for_each(|chunk| chunk.digest[1] ^= 1);
    let mut model: BTreeMap<u64, Digest> = parent.iter().copied().collect();
    model.extend(own.iter().map(|chunk| (chunk.number, chunk.digest)));
    model.retain(|_, digest| *digest != Digest::default());
    assert!(chunk::merged(&parent, &own).unwrap().into_iter().eq(model));
}

fuzz_target!(|input: &[u8]| {
    let (head, table) = input.split_at(input.len().min(SIZE));
    let mut bytes = [0; SIZE];
    bytes[..head.len()].copy_from_slice(head);
    // The file is as long as it says, so that more than that is looked at.
    let file_size = u64::from_le_bytes(chunk::field(&bytes, 16));
    let Ok(header) = Header::parse(&bytes, file_size) else { return };
    check_header(&header, file_size);
    let table = &table[..table.len() / 48 * 48];
    for is_incremental in [false, true] {
        if let Some(chunks) = chunk::parse(table, header.chunks(), is_incremental).unwrap() {
            assert_eq!(chunks.iter().flat_map(Chunk::encode).collect::<Vec<u8>>(), table);
            check_chunks(&chunks, header.chunks());
        }
    }
});
