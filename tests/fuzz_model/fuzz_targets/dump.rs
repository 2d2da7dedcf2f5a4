//! Readers of dumps against the file: pieces ascend and lie in it, and what is read of them are its bytes. The first byte chooses a format.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fuzz_model::dump::avml::Frames;
use fuzz_model::dump::kdump::PackedPages;
use fuzz_model::dump::piece::{self, Piece};
use fuzz_model::dump::reader::{Content, DumpReader};
use fuzz_model::dump::{elf, lime, pages};
use fuzz_model::model::error::Result;
use fuzz_model::model::interrupt::Uninterrupted;
use fuzz_model::model::range::Range;
use fuzz_model::model::source::ReadBytes;
use libfuzzer_sys::fuzz_target;

/// The most bytes that are read of a piece.
const LOOK: u64 = 9000;

fn file_of(bytes: &[u8]) -> File {
    // SAFETY: the name ends, and the descriptor is nobody else's.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"fuzz".as_ptr(), 0)) };
    file.write_all(bytes).unwrap();
    file
}

fn check_pieces(pieces: &[Piece], size: u64) {
    assert!(pieces.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.base()));
    let is_inside = |piece: &Piece| piece.at.is_none_or(|at| at <= size && piece.range.size() <= size - at);
    assert!(pieces.iter().all(|piece| !piece.range.is_empty() && is_inside(piece)));
}

/// Reads each piece at its ends, and says whether that is what the file has there.
fn check_plain(file: &Arc<File>, pieces: Vec<Piece>) {
    let stored: Vec<Piece> = pieces.iter().filter(|piece| piece.at.is_some()).copied().collect();
    let reader =
        DumpReader::new(Arc::clone(file), Content::Pieces(stored.clone()), piece::covered(stored.iter()).unwrap());
    for piece in stored.iter().take(64) {
        for part in [piece.range.take(LOOK), piece.range.last(LOOK)] {
            let (mut read, mut expected) = (vec![1; part.size() as usize], vec![2; part.size() as usize]);
            reader.read(part.base(), &mut read).unwrap();
            file.read_exact_at(&mut expected, piece.at.unwrap() + (part.base() - piece.range.base())).unwrap();
            assert_eq!(read, expected);
        }
    }
}

fn plain(file: &Arc<File>, size: u64, is_partial: bool, found: Result<Vec<Piece>>) {
    let joined = found.and_then(|found| piece::checked(found, size, is_partial)).and_then(piece::joined);
    if let Ok(pieces) = joined {
        check_pieces(&pieces, size);
        check_plain(file, pieces);
    }
}

/// Whatever is in the file, each page is bytes or an error.
fn packed(file: &Arc<File>, content: Content, pieces: &[Piece]) {
    let covered = piece::covered(pieces.iter()).unwrap();
    let parts: Vec<Range> = covered.iter().take(16).flat_map(|range| [range.take(LOOK), range.last(LOOK)]).collect();
    let reader = DumpReader::new(Arc::clone(file), content, covered);
    for part in parts {
        let mut bytes = vec![0; part.size() as usize];
        let first = reader.read(part.base(), &mut bytes).is_ok();
        let mut again = vec![7; part.size() as usize];
        assert_eq!(reader.read(part.base(), &mut again).is_ok(), first);
        assert!(!first || bytes == again);
    }
}

fn avml(file: &Arc<File>, size: u64, is_partial: bool) {
    let Ok((frames, pieces)) = Frames::find(file, size, is_partial, &Uninterrupted) else { return };
    if let Ok(pieces) = piece::joined(pieces) {
        let there: Vec<Piece> = pieces.into_iter().filter(|piece| piece.at.is_some()).collect();
        packed(file, Content::Frames(frames), &there);
    }
}

/// The first bytes are the bitmap, and the descriptors follow.
fn kdump(file: &Arc<File>, content: &[u8]) {
    let bitmap = &content[..content.len().min(32)];
    let count = 8 * bitmap.len() as u64;
    let pages = PackedPages::new(4096, bitmap.to_vec(), bitmap.len() as u64).unwrap();
    let there = Piece { range: Range::at(0, count * 4096), at: None };
    if count > 0 {
        packed(file, Content::Pages(pages), &[there]);
    }
    let _ = pages::of_kdump(bitmap, bitmap, count, 4096, &Uninterrupted);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, content)) = input.split_first() else { return };
    let (file, size, is_partial) = (Arc::new(file_of(content)), content.len() as u64, choice & 0x80 != 0);
    let number = |at: usize| content.get(at).copied().map_or(0, u64::from);
    match choice & 7 {
        0 => plain(&file, size, is_partial, elf::pieces(content, 56)),
        1 => plain(&file, size, is_partial, elf::pieces(content, usize::from(choice >> 3 & 15))),
        2 => plain(&file, size, is_partial, lime::pieces(&file, size, is_partial, &Uninterrupted)),
        3 => avml(&file, size, is_partial),
        4 => kdump(&file, content),
        5 => plain(
            &file,
            size,
            is_partial,
            pages::of_bitmap(content, 8 * size, 1 << (number(0) & 15), number(1), &Uninterrupted),
        ),
        _ => plain(
            &file,
            size,
            is_partial,
            pages::of_table(content, usize::from(choice >> 3 & 15), 1 << (number(0) & 15), number(1), &Uninterrupted),
        ),
    }
});
