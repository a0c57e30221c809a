//! The CRC-64 that ends an RDB file and a `DUMP` payload: Jones's polynomial, reflected, starting
//! from 0 and not inverted ("CRC-64/REDIS" in the catalogues). Folded by carry-less multiplication
//! where the processor has it, which needs slices of some KiB to pay: callers collect before they
//! feed it.

use super::format::{CHECKSUM, op};
use crc_fast::{CrcAlgorithm, Digest};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a file that are looked at at a time.
const PIECE: usize = 1 << 20;

/// A checksum in the making. Allocates nothing.
pub struct Crc64(Digest);

impl Crc64 {
    pub fn new() -> Crc64 {
        Crc64(Digest::new(CrcAlgorithm::Crc64Redis))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64::new()
    }
}

/// The checksum that an RDB file ends with; `None` if it has none, or is no whole RDB file.
pub fn last_checksum(file: &File) -> io::Result<Option<u64>> {
    let mut end = [0; 1 + CHECKSUM];
    let Some(at) = file.metadata()?.len().checked_sub(end.len() as u64) else { return Ok(None) };
    file.read_exact_at(&mut end, at)?;
    let [marker, sum @ ..] = end;
    let sum = u64::from_le_bytes(sum);
    Ok((marker == op::EOF && sum != 0).then_some(sum))
}

/// Whether the bytes of an RDB file are those that its checksum is of. One without a checksum is
/// refused.
pub fn verify_checksum(file: &File) -> io::Result<()> {
    let said = last_checksum(file)?.ok_or(io::Error::other("the file ends without a checksum"))?;
    let mut room = vec![0; PIECE];
    let mut crc = Crc64::new();
    let (mut at, end) = (0, file.metadata()?.len() - CHECKSUM as u64);
    while at < end {
        let piece = &mut room[..PIECE.min((end - at) as usize)];
        file.read_exact_at(piece, at)?;
        crc.update(piece);
        at += piece.len() as u64;
    }
    match crc.value() {
        is if is == said => Ok(()),
        is => Err(io::Error::other(format!(
            "the checksum is {is:016x}, and the file says {said:016x}"
        ))),
    }
}

/// The checksum of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_s_check_value() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(b""), 0);
    }

    #[test]
    fn any_cut_gives_the_same() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
        let whole = crc64(&bytes);
        for cut in [0, 1, 15, 16, 127, 128, 129, 1000, 4999, 5000] {
            let mut crc = Crc64::new();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            assert_eq!(crc.value(), whole, "cut at {cut}");
        }
    }
}
