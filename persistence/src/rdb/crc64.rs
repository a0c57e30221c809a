//! The CRC-64 that ends an RDB file and a `DUMP` payload: Jones's polynomial, reflected, starting
//! from 0 and not inverted ("CRC-64/REDIS" in the catalogues). Folded by carry-less multiplication
//! where the processor has it, which needs slices of some KiB to pay: callers collect before they
//! feed it.

use crc_fast::{CrcAlgorithm, Digest};

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
