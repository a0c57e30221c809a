//! The RDB format: a whole dataset as one file, a value as one `DUMP` payload.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `format.rs` | the numbers of the format: types, opcodes, lengths |
//! | `sink.rs` | where encoded bytes go: one large buffer, checksummed as it leaves |
//! | `encode.rs` | a keyspace as an RDB file, for a child that may not allocate |
//! | `commands.rs` | a keyspace as commands: the base of a log without RDB preamble |
//! | `decode.rs` | an RDB file, key by key |
//! | `values.rs` | the values of every type and encoding there ever was, checked as they are read |
//! | `dump.rs` | `DUMP` and `RESTORE` payloads |
//! | `crc64.rs` | the checksum |
//! | `lzf.rs` | the compression of strings |
//! | `legacy.rs` | ziplists and zipmaps, which RDB versions before 10 hold small collections in |
//!
//! Small collections are in memory what they are in the file, so both directions copy them; reading
//! also looks at every byte once, as a file may be damaged and a payload may be an attack.

use std::fmt;

mod commands;
mod crc64;
mod decode;
mod dump;
mod encode;
mod format;
pub mod legacy;
pub mod lzf;
mod sink;
mod values;

pub use commands::save_as_commands;
pub(crate) use commands::{SUM, SUMMED, sum_line};
pub use crc64::{Crc64, crc64, last_checksum, verify_checksum};
pub use decode::{Error, Item, Reader, verify};
pub use dump::{dump, restore};
pub use encode::{SaveOptions, empty, save};
pub use format::VERSION;
pub use sink::Buffers;

/// Bytes that are not what the format says: what was expected where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Corrupt {}
