//! Compressed links between two Varves: bytes to frames, and frames to bytes.
//!
//! After a reply line that ends in ` lz4`, all that the primary sends is frames: the RDB with its
//! header, newlines, the command stream. What the replica sends stays as it is, and so does every
//! count of bytes: offsets are of what was compressed, not of frames.
//!
//! A frame is little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | its length before compression, 1 to [`MAX_PLAIN_BYTES`] |
//! | 4..8 | its length here, at most the one before compression |
//! | 8..12 | CRC-32C of the payload |
//! | 12..16 | CRC-32C of bytes 0..12 |
//! | 16.. | the payload: an LZ4 block, or, if the two lengths are equal, the bytes themselves |
//!
//! Each frame stands alone. The header has a CRC-32C of its own, since a damaged length would
//! otherwise make the reader wait for bytes that do not come.

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use varve_persistence::log::index::crc32c;

use crate::wire::ProtocolError;

/// What one frame holds at most, before compression.
pub const MAX_PLAIN_BYTES: usize = 256 * 1024;
/// What stands before each payload.
pub const HEADER_BYTES: usize = 16;

/// Bytes of a link before and after compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    pub plain: u64,
    /// With the frames' headers.
    pub compressed: u64,
}

/// Makes frames. Holds nothing of what it was given, only room to work in.
#[derive(Default)]
pub struct Encoder {
    table: CompressTable,
}

impl Encoder {
    /// Appends `plain` to `out`, as one frame or several.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        for plain in plain.chunks(MAX_PLAIN_BYTES) {
            let frame = out.len();
            let payload = frame + HEADER_BYTES;
            out.resize(payload + get_maximum_output_size(plain.len()), 0);
            let len = compress_into_with_table(plain, &mut out[payload..], &mut self.table)
                .ok()
                .filter(|&len| len < plain.len());
            match len {
                Some(len) => out.truncate(payload + len),
                None => {
                    out.truncate(payload);
                    out.extend_from_slice(plain);
                }
            }
            let crc = crc32c(&out[payload..]);
            let lens = [plain.len() as u32, (out.len() - payload) as u32, crc];
            for (i, number) in lens.into_iter().enumerate() {
                out[frame + 4 * i..][..4].copy_from_slice(&number.to_le_bytes());
            }
            let crc = crc32c(&out[frame..frame + 12]);
            out[frame + 12..payload].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Reads frames. What they hold waits here until it is consumed.
#[derive(Debug, Default)]
pub struct Decoder {
    plain: Vec<u8>,
    /// The bytes of `plain` that are consumed.
    start: usize,
    volume: Volume,
}

impl Decoder {
    /// Decodes the frame that `frames` begins with. Returns its length; `None` until all of it is
    /// there, and the same bytes must then come again in front of the new ones. After an error
    /// nothing of the connection can be trusted.
    pub fn decode(&mut self, frames: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some((header, rest)) = frames.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let int = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (plain_len, len) = (int(0) as usize, int(4) as usize);
        if int(12) != crc32c(&header[..12]) {
            return Err(ProtocolError("a compressed frame with a damaged header"));
        }
        if plain_len == 0 || plain_len > MAX_PLAIN_BYTES || len == 0 || len > plain_len {
            return Err(ProtocolError("a compressed frame of impossible length"));
        }
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        if int(8) != crc32c(payload) {
            return Err(ProtocolError("a compressed frame with a damaged payload"));
        }
        self.plain.drain(..std::mem::take(&mut self.start));
        let end = self.plain.len();
        if len == plain_len {
            self.plain.extend_from_slice(payload);
        } else {
            self.plain.resize(end + plain_len, 0);
            let made = lz4_flex::block::decompress_into(payload, &mut self.plain[end..]);
            if made.ok() != Some(plain_len) {
                self.plain.truncate(end);
                return Err(ProtocolError("a compressed frame that does not decompress"));
            }
        }
        self.volume.plain += plain_len as u64;
        self.volume.compressed += (HEADER_BYTES + len) as u64;
        Ok(Some(HEADER_BYTES + len))
    }

    /// The bytes that wait to be consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.plain[self.start..]
    }

    /// The first `n` bytes are done with.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.plain.len() {
            self.start = 0;
            self.plain.clear();
            // One large value must not cost its size for ever.
            self.plain.shrink_to(2 * MAX_PLAIN_BYTES);
        }
    }

    /// What was decoded since the beginning.
    pub fn volume(&self) -> Volume {
        self.volume
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(plain: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        Encoder::default().encode(plain, &mut out);
        out
    }

    /// A frame with this header's numbers and CRCs that are right.
    fn frame(plain_len: u32, len: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [plain_len, len, crc32c(payload)].map(u32::to_le_bytes).concat();
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Decodes `frames` in reads of the given sizes (the last one repeats), as a caller with one
    /// buffer does, and consumes at most `consumed` bytes at a time. Also says how many bytes were
    /// left.
    fn decoded(
        frames: &[u8],
        reads: &[usize],
        consumed: usize,
    ) -> Result<(Vec<u8>, usize), ProtocolError> {
        let mut decoder = Decoder::default();
        let (mut start, mut arrived, mut plain) = (0, 0, vec![]);
        let mut reads = reads.iter().chain(std::iter::repeat(reads.last().unwrap()));
        while arrived < frames.len() {
            arrived = (arrived + reads.next().unwrap()).min(frames.len());
            while let Some(taken) = decoder.decode(&frames[start..arrived])? {
                start += taken;
                let n = decoder.bytes().len().min(consumed);
                plain.extend_from_slice(&decoder.bytes()[..n]);
                decoder.consume(n);
            }
        }
        plain.extend_from_slice(decoder.bytes());
        let volume = Volume { plain: plain.len() as u64, compressed: start as u64 };
        assert_eq!(decoder.volume(), volume);
        Ok((plain, frames.len() - start))
    }

    #[test]
    fn what_does_not_compress_is_stored() {
        let plain: Vec<u8> = (0..200).map(|i: u8| i.wrapping_mul(i).wrapping_add(i)).collect();
        let frame = encoded(&plain);
        assert_eq!(&frame[HEADER_BYTES..], plain);
        assert_eq!(encoded(b""), b"");
        assert_eq!(encoded(b"\n").len(), HEADER_BYTES + 1);
    }

    #[test]
    fn more_than_a_frame_is_several() {
        let plain = vec![7; 2 * MAX_PLAIN_BYTES + 1];
        let frames = encoded(&plain);
        assert!(frames.len() < plain.len() / 100);
        assert_eq!(decoded(&frames, &[1000], usize::MAX).unwrap(), (plain, 0));
    }

    #[test]
    fn a_damaged_header_is_refused_before_its_payload_comes() {
        let frame = encoded(&[1; 1000]);
        for bit in 0..8 * HEADER_BYTES {
            let mut header = frame[..HEADER_BYTES].to_vec();
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(Decoder::default().decode(&header).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_allocated() {
        let max = MAX_PLAIN_BYTES as u32;
        for (plain_len, len) in [(0, 0), (0, 1), (1, 0), (max + 1, 9), (u32::MAX, 9), (9, 10)] {
            let mut decoder = Decoder::default();
            let header = &frame(plain_len, len, b"")[..HEADER_BYTES];
            assert!(decoder.decode(header).is_err(), "{plain_len} {len}");
            assert_eq!(decoder.plain.capacity(), 0);
        }
    }

    #[test]
    fn a_payload_that_lies_about_its_length_is_refused() {
        let block = &encoded(&[1; 1000])[HEADER_BYTES..];
        let len = block.len() as u32;
        let mut decoder = Decoder::default();
        assert!(matches!(decoder.decode(&frame(1000, len, block)), Ok(Some(_))));
        for plain_len in [len + 1, 999, 1001, MAX_PLAIN_BYTES as u32] {
            assert!(decoder.decode(&frame(plain_len, len, block)).is_err(), "{plain_len}");
            assert_eq!(decoder.bytes(), [1; 1000], "nothing of it is handed out");
        }
    }

    #[test]
    fn a_large_value_does_not_stay_in_memory() {
        let mut decoder = Decoder::default();
        let frame = encoded(&[1; MAX_PLAIN_BYTES]);
        for _ in 0..16 {
            decoder.decode(&frame).unwrap();
        }
        assert!(decoder.plain.capacity() >= 16 * MAX_PLAIN_BYTES);
        decoder.consume(16 * MAX_PLAIN_BYTES);
        assert!(decoder.plain.capacity() <= 2 * MAX_PLAIN_BYTES);
    }

    fn plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(0u8..3, 0..2000),
            prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            pieces in prop::collection::vec(plain(), 0..6),
            reads in prop::collection::vec(1usize..60, 1..30),
            consumed in 0usize..3000,
        ) {
            let (mut encoder, mut frames) = (Encoder::default(), vec![]);
            for piece in &pieces {
                encoder.encode(piece, &mut frames);
            }
            let expected = Ok((pieces.concat(), 0));
            prop_assert_eq!(decoded(&frames, &reads, consumed), expected.clone());
            prop_assert_eq!(decoded(&frames, &[1], consumed), expected);
        }

        #[test]
        fn a_flipped_bit_is_refused(plain in plain(), bit in any::<prop::sample::Index>()) {
            prop_assume!(!plain.is_empty());
            let mut frame = encoded(&plain);
            let bit = bit.index(8 * frame.len());
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Decoder::default().decode(&frame).is_err());
        }

        #[test]
        fn a_cut_frame_asks_for_more(plain in plain(), cut in any::<prop::sample::Index>()) {
            prop_assume!(!plain.is_empty());
            let frame = encoded(&plain);
            let mut decoder = Decoder::default();
            prop_assert_eq!(decoder.decode(&frame[..cut.index(frame.len())]), Ok(None));
            prop_assert_eq!(decoder.bytes(), b"");
        }

        #[test]
        fn no_bytes_make_it_panic(
            payload in prop::collection::vec(any::<u8>(), 1..100),
            plain_len in 1u32..2000,
        ) {
            let mut decoder = Decoder::default();
            if decoder.decode(&frame(plain_len, payload.len() as u32, &payload)).is_ok() {
                prop_assert_eq!(decoder.bytes().len(), plain_len as usize);
            }
        }
    }
}
