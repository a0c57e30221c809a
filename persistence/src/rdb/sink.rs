//! Where encoded bytes go.
//!
//! A file is encoded in a forked child, where nothing may be allocated: another thread may have held
//! the allocator's lock when the process was copied. So all that encoding needs is made before, in
//! [`Buffers`], and what does not fit there is written past it.

use super::crc64::Crc64;
use super::format::*;
use super::lzf;
use std::io;

/// Of a size that stays in the second-level cache between being filled and being checksummed.
const BUFFER: usize = 256 << 10;
/// The longest compressed string. Untouched pages of it cost nothing.
const COMPRESSED: usize = 8 << 20;
/// Shorter strings than this are not worth compressing.
const COMPRESS_FROM: usize = 21;
/// A string shorter than this is tried or not by what became of the others: on values that do not
/// compress, trying took two fifths of a save.
const SHORT: usize = 512;
/// After so many short strings in a row that did not compress ...
const FAILURES: u32 = 64;
/// ... only one in so many is tried, until one does.
const ONE_IN: u32 = 16;

/// What the encoder needs, made before the fork.
pub struct Buffers {
    out: Box<[u8]>,
    compressed: Box<[u8]>,
    table: Box<lzf::Table>,
}

impl Buffers {
    pub fn new() -> Buffers {
        // Chooses the checksum's implementation for this processor, which is remembered behind a
        // lock that a child must not wait for.
        super::crc64(b"123456789");
        Buffers {
            out: vec![0; BUFFER].into(),
            compressed: vec![0; COMPRESSED].into(),
            table: Box::default(),
        }
    }
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers::new()
    }
}

/// Takes the bytes of an encoding.
pub trait Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes `text` as a compressed string, if this sink compresses and it is worth it. Whether it did.
    fn put_compressed(&mut self, text: &[u8]) -> io::Result<bool>;

    fn byte(&mut self, byte: u8) -> io::Result<()> {
        self.put(&[byte])
    }

    fn length(&mut self, len: u64) -> io::Result<()> {
        let (bytes, n) = length(len);
        self.put(&bytes[..n])
    }

    /// A string, as an integer where it is one.
    #[inline]
    fn string(&mut self, text: &[u8]) -> io::Result<()> {
        // The longest text of a 32-bit integer.
        if text.len() <= 11
            && let Some(n) = varve_engine::num::parse_int(text)
            && let Some((bytes, len)) = integer(n)
        {
            return self.put(&bytes[..len]);
        }
        self.blob(text)
    }

    /// An integer, as a string.
    fn int(&mut self, n: i64) -> io::Result<()> {
        match integer(n) {
            Some((bytes, len)) => self.put(&bytes[..len]),
            None => self.blob(itoa::Buffer::new().format(n).as_bytes()),
        }
    }

    /// A string that is no integer.
    fn blob(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= COMPRESS_FROM && self.put_compressed(bytes)? {
            return Ok(());
        }
        self.length(bytes.len() as u64)?;
        self.put(bytes)
    }
}

/// A length as its bytes.
fn length(len: u64) -> ([u8; 9], usize) {
    let mut bytes = [0; 9];
    let n = match len {
        0..0x40 => {
            bytes[0] = len as u8;
            1
        }
        0x40..0x4000 => {
            bytes[..2].copy_from_slice(&(len as u16 | (LEN_14 as u16) << 8).to_be_bytes());
            2
        }
        0x4000..=0xffff_ffff => {
            bytes[0] = LEN_32;
            bytes[1..5].copy_from_slice(&(len as u32).to_be_bytes());
            5
        }
        _ => {
            bytes[0] = LEN_64;
            bytes[1..].copy_from_slice(&len.to_be_bytes());
            9
        }
    };
    (bytes, n)
}

/// The encoding of an integer, if it has one.
fn integer(n: i64) -> Option<([u8; 5], usize)> {
    let [a, b, c, d] = i32::try_from(n).ok()?.to_le_bytes();
    Some(match n {
        -0x80..=0x7f => ([ENCODED | ENC_INT8, a, 0, 0, 0], 2),
        -0x8000..=0x7fff => ([ENCODED | ENC_INT16, a, b, 0, 0], 3),
        _ => ([ENCODED | ENC_INT32, a, b, c, d], 5),
    })
}

/// Without compression: for `DUMP`.
impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn put_compressed(&mut self, _: &[u8]) -> io::Result<bool> {
        Ok(false)
    }
}

/// The sink of a file.
pub struct Out<'a> {
    buffers: &'a mut Buffers,
    filled: usize,
    written: u64,
    compress: bool,
    /// Short strings since the last one that compressed.
    failures: u32,
    crc: Option<Crc64>,
    write: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
}

impl<'a> Out<'a> {
    pub fn new(
        buffers: &'a mut Buffers,
        compress: bool,
        checksum: bool,
        write: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Out<'a> {
        let crc = checksum.then(Crc64::new);
        Out { buffers, filled: 0, written: 0, compress, failures: 0, crc, write }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let bytes = &self.buffers.out[..self.filled];
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
        (self.write)(bytes)?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// What does not fit: fills the buffer, and writes whole buffers of the rest from where they are.
    #[cold]
    fn put_slow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let (first, rest) = bytes.split_at(self.buffers.out.len() - self.filled);
        self.buffers.out[self.filled..].copy_from_slice(first);
        self.filled += first.len();
        self.flush()?;
        bytes = rest;
        while bytes.len() >= self.buffers.out.len() {
            let (whole, rest) = bytes.split_at(self.buffers.out.len());
            if let Some(crc) = &mut self.crc {
                crc.update(whole);
            }
            (self.write)(whole)?;
            self.written += whole.len() as u64;
            bytes = rest;
        }
        self.put(bytes)
    }

    /// Writes what is left. The number of bytes in all.
    pub fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        Ok(self.written)
    }

    /// That of all so far, if there is to be one.
    pub fn checksum(&mut self) -> io::Result<Option<u64>> {
        self.flush()?;
        Ok(self.crc.as_ref().map(Crc64::value))
    }

    /// Writes what is left and then the checksum, 0 if there is none. The number of bytes in all.
    pub fn finish_with_checksum(mut self) -> io::Result<u64> {
        let crc = self.checksum()?.unwrap_or(0);
        self.put(&crc.to_le_bytes())?;
        self.finish()
    }
}

impl Sink for Out<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.filled + bytes.len();
        match self.buffers.out.get_mut(self.filled..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.filled = end;
                Ok(())
            }
            None => self.put_slow(bytes),
        }
    }

    fn put_compressed(&mut self, text: &[u8]) -> io::Result<bool> {
        if !self.compress {
            return Ok(false);
        }
        if text.len() < SHORT {
            self.failures = self.failures.wrapping_add(1);
            if self.failures > FAILURES && !self.failures.is_multiple_of(ONE_IN) {
                return Ok(false);
            }
        }
        let Buffers { compressed, table, .. } = &mut *self.buffers;
        let Some(len) = lzf::compress(text, compressed, table) else { return Ok(false) };
        self.failures = 0;
        self.byte(ENCODED | ENC_LZF)?;
        self.length(len as u64)?;
        self.length(text.len() as u64)?;
        // Lent out, as `put` borrows all of the buffers; an empty box is no allocation.
        let compressed = std::mem::take(&mut self.buffers.compressed);
        let put = self.put(&compressed[..len]);
        self.buffers.compressed = compressed;
        put.map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes strings through a file's sink; how many bytes that made.
    fn size<'a>(strings: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut buffers = Buffers::new();
        let mut write = |_: &[u8]| Ok(());
        let mut out = Out::new(&mut buffers, true, true, &mut write);
        strings.for_each(|string| out.string(string).unwrap());
        out.finish().unwrap()
    }

    #[test]
    fn what_compresses_is_found_after_much_that_does_not() {
        let random: Vec<Vec<u8>> = (0..1000u64)
            .map(|i| {
                (0..8)
                    .flat_map(|j| {
                        varve_engine::hasher::hash(&(i * 8 + j).to_le_bytes()).to_le_bytes()
                    })
                    .collect()
            })
            .collect();
        let same = [b'a'; 64];
        let plain = size(random.iter().map(Vec::as_slice));
        assert_eq!(plain, 1000 * 66);
        let both = size(random.iter().map(Vec::as_slice).chain([&same[..]; 1000]));
        // All but the few before the first one that is tried again.
        assert!(both - plain < 1000 * 20, "{} bytes for what compresses", both - plain);
        let large = [b'b'; SHORT];
        let last = size(random.iter().map(Vec::as_slice).chain([&large[..]]));
        assert!(last - plain < 40, "a long string is always tried");
    }
}
