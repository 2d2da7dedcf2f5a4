//! Snappy, in which AVML and makedumpfile pack memory.

use std::io::{Error, Read};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snap::raw::{Decoder, decompress_len};
use snap::read::FrameDecoder;

use crate::model::invalid::Invalid;

/// How much is unpacked at a time: a chunk of the framing format has no more, nor has a page.
const MOST: usize = 64 << 10;
/// The chunk that a stream begins with.
const STREAM: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// The content of Snappy-packed bytes: of one block, or with `framed=True` of one chunk of the framing format, whose checksum is checked.
///
/// Raises `InvalidArgument` for what is not Snappy, or has more than 64 KiB.
///
/// >>> from dbs_address_space._core import unpack_snappy
/// >>> unpack_snappy(b"\x05\x10hello")
/// b'hello'
#[pyfunction]
#[pyo3(signature = (data, *, framed=false))]
pub fn unpack_snappy<'py>(py: Python<'py>, data: &[u8], framed: bool) -> PyResult<Bound<'py, PyBytes>> {
    let unpacked = if framed { chunk(data) } else { block(data) };
    let unpacked = unpacked.map_err(|error| Invalid::argument(error.to_string()))?;
    Ok(PyBytes::new(py, &unpacked))
}

fn block(data: &[u8]) -> Result<Vec<u8>, Error> {
    if decompress_len(data)? > MOST {
        return Err(Error::other("a Snappy block of more than 64 KiB"));
    }
    Ok(Decoder::new().decompress_vec(data)?)
}

fn chunk(data: &[u8]) -> Result<Vec<u8>, Error> {
    let mut unpacked = Vec::new();
    let most = u64::try_from(MOST).unwrap_or(u64::MAX);
    FrameDecoder::new(STREAM.chain(data)).take(most).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}
