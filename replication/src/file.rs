//! Which file a snapshot is, so that a full sync can go on where its link broke.

use crate::wire;
use std::fmt;
use varve_persistence::offset::Offset;

/// A snapshot file. An RDB says of itself which data it holds, and ends with a CRC-64 of all that: two
/// files of one length and one CRC-64, at one offset, are taken to be the same.
///
/// On the wire 48 hexadecimal digits, sixteen for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Bytes.
    pub size: u64,
    /// The checksum that the file ends with. One that ends with 0 has none, and no identity.
    pub crc: u64,
    /// The state that it holds.
    pub offset: Offset,
}

impl FileId {
    pub fn parse(text: &[u8]) -> Option<FileId> {
        if text.len() != 48 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let number = |at: usize| {
            let digits = std::str::from_utf8(&text[at..at + 16]).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let file = FileId { size: number(0)?, crc: number(16)?, offset: Offset(number(32)?) };
        (file.crc != 0).then_some(file)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}{:016x}", self.size, self.crc, self.offset.0)
    }
}

/// The beginning of a file: more than nothing, and less than all of it.
///
/// On the wire the file, a colon and the bytes as a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub file: FileId,
    /// How many bytes of it.
    pub bytes: u64,
}

impl Part {
    /// The first `bytes` of `file`, if that is a part.
    pub fn new(file: FileId, bytes: u64) -> Option<Part> {
        (0 < bytes && bytes < file.size).then_some(Part { file, bytes })
    }

    pub fn parse(text: &[u8]) -> Option<Part> {
        let colon = text.iter().position(|&b| b == b':')?;
        let bytes = wire::count(&text[colon + 1..])?;
        Part::new(FileId::parse(&text[..colon])?, bytes)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let file = FileId { size: 1 << 40, crc: u64::MAX - 1, offset: Offset(77) };
        let part = Part::new(file, 5).unwrap();
        assert_eq!(FileId::parse(file.to_string().as_bytes()), Some(file));
        assert_eq!(Part::parse(part.to_string().as_bytes()), Some(part));
        assert_eq!(file.to_string().len(), 48);
    }

    #[test]
    fn absurd_claims_are_no_parts() {
        let file = FileId { size: 100, crc: 9, offset: Offset(7) };
        for bytes in ["0", "100", "101", "-1", "99999999999999999999", "", "x", "5:5", " 5"] {
            assert_eq!(Part::parse(format!("{file}:{bytes}").as_bytes()), None, "{bytes}");
        }
        let text = file.to_string();
        for bad in [&text[1..], &format!("{text}0"), &text.replace('0', "+"), "", ":"] {
            assert_eq!(FileId::parse(bad.as_bytes()), None, "{bad}");
            assert_eq!(Part::parse(format!("{bad}:5").as_bytes()), None, "{bad}");
        }
        let unchecked = FileId { crc: 0, ..file };
        assert_eq!(FileId::parse(unchecked.to_string().as_bytes()), None);
    }
}
