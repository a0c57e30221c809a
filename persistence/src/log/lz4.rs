//! A sealed segment, compressed: `<segment>.lz4`.
//!
//! Standard LZ4 frames one after the other, one for each 256 KiB of the segment, and after them a
//! skippable frame with a table. So `lz4 -d` gives back the segment's own bytes, which are a valid
//! AOF, and a reader enters at any offset with one look into the table and decompresses at most one
//! frame too much. The table has a CRC-32C of each frame, since LZ4's own checksums leave some bytes
//! of a frame uncovered: a damaged file gives an error that names the place, never other bytes.
//! `docs/design.md` has the byte tables.

use super::disk::{Disk, DiskFile, read_exact_at, write_all_at};
use super::index::crc32c;
use crate::offset::Offset;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// How much of the segment one frame holds; the last one may hold less.
pub const FRAME_BYTES: u64 = 256 * 1024;
/// About what [`compress`] allocates while it works: a frame's bytes and what becomes of them, here and in the encoder.
pub const WORKING_BYTES: usize = FRAME_BYTES as usize * 17 / 4;
/// The first of LZ4's magic numbers for frames that decoders skip.
const SKIPPABLE: u32 = 0x184d_2a50;
const HEADER_BYTES: usize = 8;
const RECORD_BYTES: usize = 8;
const FOOTER_BYTES: usize = 36;
const FIXED_BYTES: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"VARVELZ4";
const SUFFIX: &str = ".lz4";

/// The compressed file's name.
pub fn name_of(segment: &OsStr) -> OsString {
    let mut name = segment.to_owned();
    name.push(SUFFIX);
    name
}

/// Whether a file of this name is compressed.
pub fn is_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(SUFFIX.as_bytes())
}

/// Compresses a segment of `len` bytes that begins at `start` into an empty file, and syncs that.
/// Returns its size, or `None` if `go_on` said no between two frames.
pub fn compress(
    segment: &dyn DiskFile,
    start: Offset,
    len: u64,
    target: &dyn DiskFile,
    go_on: &dyn Fn() -> bool,
) -> io::Result<Option<u64>> {
    let mut position = 0;
    let mut records = Vec::new();
    let mut raw = vec![0; FRAME_BYTES.min(len) as usize];
    let mut frame = Vec::new();
    let mut done = 0;
    while done < len {
        if !go_on() {
            return Ok(None);
        }
        let raw = &mut raw[..FRAME_BYTES.min(len - done) as usize];
        read_exact_at(segment, raw, done)?;
        frame.clear();
        let info = FrameInfo::new()
            .block_size(BlockSize::Max256KB)
            .block_mode(BlockMode::Independent)
            .content_size(Some(raw.len() as u64))
            .content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, &mut frame);
        encoder.write_all(raw)?;
        encoder.finish().map_err(io::Error::other)?;
        write_all_at(target, &frame, position)?;
        records.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        records.extend_from_slice(&crc32c(&frame).to_le_bytes());
        position += frame.len() as u64;
        done += raw.len() as u64;
    }
    let table = table(start, len, &records);
    write_all_at(target, &table, position)?;
    target.sync()?;
    Ok(Some(position + table.len() as u64))
}

/// The skippable frame that ends the file.
fn table(start: Offset, len: u64, records: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(HEADER_BYTES + records.len() + FOOTER_BYTES);
    table.extend_from_slice(&SKIPPABLE.to_le_bytes());
    table.extend_from_slice(&((records.len() + FOOTER_BYTES) as u32).to_le_bytes());
    table.extend_from_slice(records);
    table.extend_from_slice(&start.0.to_le_bytes());
    table.extend_from_slice(&len.to_le_bytes());
    table.extend_from_slice(&(FRAME_BYTES as u32).to_le_bytes());
    table.extend_from_slice(&VERSION.to_le_bytes());
    let own = crc32c(&table);
    table.extend_from_slice(&own.to_le_bytes());
    table.extend_from_slice(MAGIC);
    table
}

struct Frame {
    position: u64,
    len: u32,
    crc: u32,
}

/// A compressed segment, open for reading.
pub struct Compressed {
    file: Arc<dyn DiskFile>,
    start: Offset,
    len: u64,
    frames: Vec<Frame>,
    /// The frame that was decompressed last.
    last: Option<(usize, Vec<u8>)>,
}

impl Compressed {
    /// Opens a file and checks its table; the frames are checked when they are read. Errors say at
    /// which byte the file is damaged, and leave its name to the caller.
    pub fn open(disk: &dyn Disk, path: &Path) -> io::Result<Compressed> {
        let file = disk.open(path)?;
        let bytes = file.size()?;
        let table_at = |records: u64| bytes.checked_sub(records + FIXED_BYTES);
        if table_at(0).is_none() {
            return Err(damaged(bytes, "the file ends here, expected a table"));
        }
        let mut footer = [0; FOOTER_BYTES];
        read_exact_at(&*file, &mut footer, bytes - FOOTER_BYTES as u64)?;
        let long = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("8 bytes"));
        let int = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().expect("4 bytes"));
        let (start, len) = (Offset(long(0)), long(8));
        let footer_at = bytes - FOOTER_BYTES as u64;
        if &footer[28..] != MAGIC || int(16) != FRAME_BYTES as u32 || int(20) != VERSION {
            return Err(damaged(footer_at, "it does not end with a table that is known here"));
        }
        let count = len.div_ceil(FRAME_BYTES);
        let table_at = count.checked_mul(RECORD_BYTES as u64).and_then(table_at);
        let Some(table_at) = table_at else {
            return Err(damaged(footer_at, "its table is larger than the file"));
        };
        let mut records = vec![0; (count as usize) * RECORD_BYTES];
        read_exact_at(&*file, &mut records, table_at + HEADER_BYTES as u64)?;
        let mut header = [0; HEADER_BYTES];
        read_exact_at(&*file, &mut header, table_at)?;
        let wanted = table(start, len, &records);
        if header != wanted[..HEADER_BYTES] || footer != wanted[wanted.len() - FOOTER_BYTES..] {
            return Err(damaged(table_at, "the table's CRC-32C is not that of its bytes"));
        }
        let mut position = 0;
        let mut frames = Vec::with_capacity(count as usize);
        for record in records.chunks_exact(RECORD_BYTES) {
            let int =
                |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("4 bytes"));
            frames.push(Frame { position, len: int(0), crc: int(4) });
            position += u64::from(int(0));
        }
        if position != table_at || start.0.checked_add(len).is_none() {
            return Err(damaged(table_at, "the frames do not end where the table begins"));
        }
        Ok(Compressed { file, start, len, frames, last: None })
    }

    /// Where the segment begins.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// Where the segment ends.
    pub fn end(&self) -> Offset {
        self.start + self.len
    }

    /// Reads the segment's bytes at `position`, counted as in the segment; 0 at its end.
    pub fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        if position >= self.len {
            return Ok(0);
        }
        let number = (position / FRAME_BYTES) as usize;
        let raw = match &self.last {
            Some((last, raw)) if *last == number => raw,
            _ => {
                let raw = self.decompress(number)?;
                &self.last.insert((number, raw)).1
            }
        };
        let rest = &raw[(position % FRAME_BYTES) as usize..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn decompress(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let mut raw = self.last.take().map_or_else(Vec::new, |(_, raw)| raw);
        let Frame { position, len, crc } = self.frames[number];
        let damaged = |what: &str| damaged(position, what);
        let mut frame = vec![0; len as usize];
        read_exact_at(&*self.file, &mut frame, position)?;
        if crc32c(&frame) != crc {
            return Err(damaged("the frame's CRC-32C is not that of its bytes"));
        }
        let expected = FRAME_BYTES.min(self.len - number as u64 * FRAME_BYTES);
        raw.clear();
        let mut decoder = FrameDecoder::new(&frame[..]).take(expected + 1);
        decoder.read_to_end(&mut raw).map_err(|error| damaged(&error.to_string()))?;
        if raw.len() as u64 != expected {
            return Err(damaged("the frame is not as long as the table says"));
        }
        Ok(raw)
    }
}

fn damaged(position: u64, what: &str) -> io::Error {
    let what = format!("it is damaged at byte {position}: {what}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// Bytes that compress, but not to nothing.
    fn sample(len: usize, seed: u32) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let (byte, run) = (next() as u8, next() % 20);
            bytes.extend(std::iter::repeat_n(byte, run as usize));
        }
        bytes.truncate(len);
        bytes
    }

    fn compressed(raw: &[u8], start: Offset) -> (Arc<FakeDisk>, PathBuf, Vec<u8>) {
        let disk = FakeDisk::new(1);
        disk.put(Path::new("d/raw"), raw);
        let path = PathBuf::from("d/raw.lz4");
        let (from, to) = (disk.open(Path::new("d/raw")).unwrap(), disk.create(&path).unwrap());
        let size = compress(&*from, start, raw.len() as u64, &*to, &|| true).unwrap();
        let bytes = disk.contents(&path).unwrap();
        assert_eq!(size, Some(bytes.len() as u64));
        (disk, path, bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_stretch_reads_back(
            len in 1..1_100_000usize,
            seed in any::<u32>(),
            places in prop::collection::vec((any::<prop::sample::Index>(), 1..600_000usize), 5),
        ) {
            let raw = sample(len, seed);
            let (disk, path, bytes) = compressed(&raw, Offset(77));
            let mut file = Compressed::open(&*disk, &path).unwrap();
            prop_assert_eq!((file.start(), file.end()), (Offset(77), Offset(77 + len as u64)));
            for (at, want) in places {
                let mut at = at.index(len + 1);
                let mut buf = vec![0; want];
                for _ in 0..4 {
                    let n = file.read_at(&mut buf, at as u64).unwrap();
                    prop_assert_eq!(n == 0, at == len);
                    prop_assert!(buf[..n] == raw[at..at + n]);
                    at += n;
                }
            }
            // Any LZ4 decoder gets the segment out of it: the frames end at one to be skipped.
            let mut out = Vec::new();
            let mut rest = &bytes[..];
            let end = loop {
                if let Err(error) = FrameDecoder::new(&mut rest).read_to_end(&mut out) {
                    break error.to_string();
                }
            };
            prop_assert!(out == raw, "{} of {} bytes, then {end}", out.len(), raw.len());
        }
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let raw = sample(FRAME_BYTES as usize + 3000, 5);
        let (disk, path, bytes) = compressed(&raw, Offset(1 << 40));
        // The first frame's inside is much of the same; its ends, all of the second and the table
        // are tried byte by byte.
        let second = Compressed::open(&*disk, &path).unwrap().frames[1].position as usize;
        let all = (0..600).chain((600..second - 50).step_by(997)).chain(second - 50..bytes.len());
        for at in all {
            for flip in [1u8, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let disk = FakeDisk::new(1);
                disk.put(&path, &changed);
                let result = Compressed::open(&*disk, &path).and_then(|mut file| {
                    let mut buf = vec![0; raw.len()];
                    let (mut n, mut got) = (0, usize::MAX);
                    while got > 0 {
                        got = file.read_at(&mut buf[n..], n as u64)?;
                        assert!(buf[n..n + got] == raw[n..n + got], "byte {at} gave other bytes");
                        n += got;
                    }
                    Ok(())
                });
                let error = result.expect_err("the damage was not noticed");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
            }
        }
    }

    #[test]
    fn a_file_of_any_other_length_is_noticed() {
        let raw = sample(5000, 9);
        let (_, path, bytes) = compressed(&raw, Offset(3));
        for len in 0..=bytes.len() + 50 {
            let disk = FakeDisk::new(1);
            let mut other = bytes.clone();
            other.resize(len, 0);
            disk.put(&path, &other);
            assert_eq!(Compressed::open(&*disk, &path).is_ok(), len == bytes.len(), "{len} bytes");
        }
    }

    #[test]
    fn compressing_can_be_stopped_between_frames() {
        let disk = FakeDisk::new(1);
        disk.put(Path::new("raw"), &sample(600_000, 2));
        let (from, to) =
            (disk.open(Path::new("raw")).unwrap(), disk.create(Path::new("to")).unwrap());
        let frames = std::cell::Cell::new(0);
        let go_on = || {
            frames.set(frames.get() + 1);
            frames.get() < 2
        };
        assert_eq!(compress(&*from, Offset(0), 600_000, &*to, &go_on).unwrap(), None);
    }
}
