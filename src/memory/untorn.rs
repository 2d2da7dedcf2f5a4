//! Copies to and from directly touched guest memory: small ones in as few loads and stores as their alignment allows, so that nobody sees
//! half of a naturally aligned integer. The guest, and others who write its memory, rely on that, as `vm-memory` promises it.

use vm_memory::ByteValued;

/// Copies of more bytes tear: no integer has as many.
const MOST: usize = 8;

/// Copies out of guest memory.
///
/// # Safety
/// `guest` is valid for reading `size` bytes, and `to` for writing them.
#[inline]
pub(super) unsafe fn copy_out(guest: *const u8, to: *mut u8, size: usize) {
    if size > MOST {
        // SAFETY: the caller's promise.
        return unsafe { std::ptr::copy(guest, to, size) };
    }
    for (at, width) in pieces(guest.addr(), size) {
        let (guest, to) = (guest.wrapping_add(at), to.wrapping_add(at));
        // SAFETY: pieces lie in the range, and the guest's side of each is aligned.
        unsafe {
            match width {
                8 => to.cast::<u64>().write_unaligned(guest.cast::<u64>().read_volatile()),
                4 => to.cast::<u32>().write_unaligned(guest.cast::<u32>().read_volatile()),
                2 => to.cast::<u16>().write_unaligned(guest.cast::<u16>().read_volatile()),
                _ => to.write(guest.read_volatile()),
            }
        }
    }
}

/// Copies into guest memory.
///
/// # Safety
/// `from` is valid for reading `size` bytes, and `guest` for writing them.
#[inline]
pub(super) unsafe fn copy_in(from: *const u8, guest: *mut u8, size: usize) {
    if size > MOST {
        // SAFETY: the caller's promise.
        return unsafe { std::ptr::copy(from, guest, size) };
    }
    for (at, width) in pieces(guest.addr(), size) {
        let (guest, from) = (guest.wrapping_add(at), from.wrapping_add(at));
        // SAFETY: pieces lie in the range, and the guest's side of each is aligned.
        unsafe {
            match width {
                8 => guest.cast::<u64>().write_volatile(from.cast::<u64>().read_unaligned()),
                4 => guest.cast::<u32>().write_volatile(from.cast::<u32>().read_unaligned()),
                2 => guest.cast::<u16>().write_volatile(from.cast::<u16>().read_unaligned()),
                _ => guest.write_volatile(from.read()),
            }
        }
    }
}

/// Copies from guest memory to guest memory; the two may overlap.
///
/// # Safety
/// `from` is valid for reading `size` bytes, and `to` for writing them.
pub(super) unsafe fn copy_within(from: *const u8, to: *mut u8, size: usize) {
    if size > MOST {
        // SAFETY: the caller's promise.
        return unsafe { std::ptr::copy(from, to, size) };
    }
    let mut bytes = [0; MOST];
    // SAFETY: the caller's promise, and at most as many bytes as the array has.
    unsafe {
        copy_out(from, bytes.as_mut_ptr(), size);
        copy_in(bytes.as_ptr(), to, size);
    }
}

/// The naturally aligned pieces of a small range, each as large as can be: where it begins, and its bytes.
#[inline]
fn pieces(address: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        let left = size.checked_sub(at).filter(|left| *left > 0)?;
        let aligned = address.wrapping_add(at).trailing_zeros();
        let piece = (at, 1usize.checked_shl(aligned.min(left.ilog2())).unwrap_or(1));
        at = at.saturating_add(piece.1);
        Some(piece)
    })
}

/// Reads an integer of directly copied memory, without tearing when it is naturally aligned.
///
/// # Safety
/// `host` is valid for reading a `T`.
#[inline]
pub(super) unsafe fn read_int<T: ByteValued>(host: *const T) -> T {
    // SAFETY: the caller's promise; every bit pattern is a `T`.
    if host.is_aligned() { unsafe { host.read_volatile() } } else { unsafe { host.read_unaligned() } }
}

/// Writes an integer to directly copied memory, without tearing when it is naturally aligned.
///
/// # Safety
/// `host` is valid for writing a `T`.
#[inline]
pub(super) unsafe fn write_int<T: ByteValued>(host: *mut T, value: T) {
    // SAFETY: the caller's promise.
    if host.is_aligned() { unsafe { host.write_volatile(value) } } else { unsafe { host.write_unaligned(value) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_integer_is_one_piece() {
        for width in [1, 2, 4, 8] {
            for address in (0..32).step_by(width) {
                assert_eq!(pieces(address, width).collect::<Vec<_>>(), [(0, width)], "{width} at {address}");
            }
        }
    }

    #[test]
    fn pieces_are_aligned_and_make_up_the_range() {
        for (address, size) in (0..8).flat_map(|address| (0..=MOST).map(move |size| (address, size))) {
            let mut end = 0;
            for (at, width) in pieces(address, size) {
                assert_eq!((at, (address + at) % width), (end, 0), "{size} at {address}");
                end = at + width;
            }
            assert_eq!(end, size);
        }
    }

    #[test]
    fn every_small_copy_is_right() {
        let source: Vec<u8> = (1..=32).collect();
        for (from, to, size) in
            (0..8).flat_map(|from| (0..8).flat_map(move |to| (0..=9).map(move |size| (from, to, size))))
        {
            let mut expected = source.clone();
            expected.copy_within(from..from + size, to);
            let mut bytes = source.clone();
            // SAFETY: both places lie in the vector.
            unsafe { copy_within(bytes.as_ptr().add(from), bytes.as_mut_ptr().add(to), size) };
            assert_eq!(bytes, expected, "{size} bytes from {from} to {to}");
        }
    }
}
