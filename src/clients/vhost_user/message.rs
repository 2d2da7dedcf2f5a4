//! The bytes of vhost-user's messages: a header of three words (request, flags, size), then as many bytes of payload.

use std::io;

use crate::model::invalid::Invalid;

pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_OWNER: u32 = 3;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(super) const ADD_MEM_REG: u32 = 37;
pub(super) const REM_MEM_REG: u32 = 38;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the backend has features of the protocol, which are negotiated by themselves.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`: a message without a reply of its own is answered when `NEED_REPLY` asks for it.
pub(super) const REPLY_ACK: u64 = 1 << 3;
/// `VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS`: regions come and go one at a time.
pub(super) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

/// The most descriptors in one message.
pub(super) const MAX_DESCRIPTORS: usize = 8;

/// A flag of a request: answer with 0 once it is done, or with another number.
pub(super) const NEED_REPLY: u32 = 1 << 3;
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 0x3;
const IS_REPLY: u32 = 1 << 2;
/// No reply of the protocol is longer.
const MAX_REPLY: u32 = 0x1000;

/// The words of a header: request, flags, size of the payload.
pub(super) type Header = [[u8; 4]; 3];

/// A region of a memory table: guest physical address, size, address in the front-end, offset in the file.
pub(super) type RegionFields = [u64; 4];

/// A request as it goes over the socket.
pub(super) fn encode(request: u32, flags: u32, payload: &[u8]) -> Result<Vec<u8>, Invalid> {
    let header = [request, VERSION | flags, length(payload.len())?].map(u32::to_le_bytes);
    Ok([header.as_flattened(), payload].concat())
}

/// The bytes that follow the header of the reply to a request; any other header is an error.
pub(super) fn reply_size(request: u32, header: Header) -> io::Result<usize> {
    let [answered, flags, size] = header.map(u32::from_le_bytes);
    let is_reply = answered == request && flags & (VERSION_MASK | IS_REPLY) == VERSION | IS_REPLY;
    if !is_reply || size > MAX_REPLY {
        return Err(io::Error::other(format!("it answered with message {answered}, flags {flags:#x}, {size} bytes")));
    }
    usize::try_from(size).map_err(io::Error::other)
}

/// The number that a reply consists of.
pub(super) fn number(payload: &[u8]) -> io::Result<u64> {
    let number = payload.try_into().map(u64::from_le_bytes);
    number.map_err(|_| io::Error::other(format!("it answered with {} bytes instead of a 64-bit number", payload.len())))
}

/// The payload of `ADD_MEM_REG` and `REM_MEM_REG`: padding, and the region.
pub(super) fn single_region(region: RegionFields) -> Vec<u8> {
    [[0].as_slice(), &region].concat().into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The payload of `SET_MEM_TABLE`: the number of regions, padding, and the regions.
pub(super) fn memory_table(regions: &[RegionFields]) -> Result<Vec<u8>, Invalid> {
    // The padding is the upper half of the number.
    let count = u64::from(length(regions.len())?);
    Ok([[count].as_slice(), regions.as_flattened()].concat().into_iter().flat_map(u64::to_le_bytes).collect())
}

fn length(count: usize) -> Result<u32, Invalid> {
    u32::try_from(count)
        .map_err(|_| Invalid::argument(format!("a vhost-user message has no room for {count:#x} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_header_and_its_payload() {
        let bytes = encode(ADD_MEM_REG, NEED_REPLY, &[0xaa, 0xbb]).unwrap();
        assert_eq!(bytes, [37, 0, 0, 0, 0b1001, 0, 0, 0, 2, 0, 0, 0, 0xaa, 0xbb]);
    }

    #[test]
    fn only_the_answer_to_the_request_is_an_answer() {
        let header = |words: [u32; 3]| words.map(u32::to_le_bytes);
        assert_eq!(reply_size(GET_FEATURES, header([1, 0b101, 8])).unwrap(), 8);
        for wrong in [[2, 0b101, 8], [1, 0b001, 8], [1, 0b110, 8], [1, 0b101, 0x1001]] {
            assert!(reply_size(GET_FEATURES, header(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(number(&7u64.to_le_bytes()).unwrap(), 7);
        assert!(number(&[1, 2, 3]).is_err());
    }

    #[test]
    fn regions_follow_eight_bytes() {
        let region = [0x1000, 0x2000, 0x7f00, 0x10];
        let words = |bytes: &[u8]| -> Vec<u64> {
            bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
        };
        assert_eq!(words(&single_region(region)), [0, 0x1000, 0x2000, 0x7f00, 0x10]);
        assert_eq!(words(&memory_table(&[region, region]).unwrap())[..5], [2, 0x1000, 0x2000, 0x7f00, 0x10]);
        assert_eq!(words(&memory_table(&[]).unwrap()), [0]);
    }
}
