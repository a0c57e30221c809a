//! The numbers of the format.
//!
//! ```text
//! file    "REDIS" · version, 4 digits · records · 0xFF · CRC-64 of all before it, u64 LE (from 5 on)
//! record  an opcode and what belongs to it, or  type · key (string) · value
//! ```
//!
//! A length, high bits first:
//!
//! | first byte | then | length |
//! | --- | --- | --- |
//! | `00llllll` | | 0..=63 |
//! | `01llllll` | 1 byte | 14 bits |
//! | `0x80` | u32 BE | |
//! | `0x81` | u64 BE | |
//! | `11eeeeee` | | no length but a string of encoding `e` |
//!
//! A string is a length and its bytes, or one of the encodings: an integer of 1, 2 or 4 bytes LE (0,
//! 1, 2), or (3) LZF: the compressed length, the length, the compressed bytes.

/// The newest version that is read and written.
pub const VERSION: u32 = 12;
/// The first that ends with a checksum.
pub const CHECKSUM_SINCE: u32 = 5;
/// The first with listpacks.
pub const LISTPACK_SINCE: u32 = 10;
/// The first with listpacks for sets.
pub const SET_LISTPACK_SINCE: u32 = 11;

pub const MAGIC: &[u8; 5] = b"REDIS";
/// The magic and the digits of the version.
pub const HEADER: usize = 9;
/// The bytes of the checksum.
pub const CHECKSUM: usize = 8;

pub const LEN_14: u8 = 0x40;
pub const LEN_32: u8 = 0x80;
pub const LEN_64: u8 = 0x81;
pub const ENCODED: u8 = 0xC0;
pub const ENC_INT8: u8 = 0;
pub const ENC_INT16: u8 = 1;
pub const ENC_INT32: u8 = 2;
pub const ENC_LZF: u8 = 3;

/// Opcodes: what a record is if not a key.
pub mod op {
    /// Slot, keys in it, keys in it with a time to live: three lengths (version 12).
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    /// Libraries as release candidates of Redis 7.0 wrote them.
    pub const FUNCTION_PRE_GA: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    /// Seconds since the next key was used, a length.
    pub const IDLE: u8 = 248;
    /// The next key's access counter, a byte.
    pub const FREQ: u8 = 249;
    pub const AUX: u8 = 250;
    /// Keys and keys with a time to live, two lengths.
    pub const RESIZE: u8 = 251;
    /// When the next key expires, `i64` LE, ms.
    pub const EXPIRE_MS: u8 = 252;
    /// The same in seconds, `i32` LE.
    pub const EXPIRE_S: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const EOF: u8 = 255;
}

/// Types and encodings of values.
pub mod ty {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    /// Scores as text.
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    /// Scores as `f64` LE.
    pub const ZSET_2: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    /// A list of ziplists.
    pub const LIST_QUICKLIST: u8 = 14;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    /// A list of containers, each a listpack or a single element.
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const SET_LISTPACK: u8 = 20;

    /// Whether this server reads the type.
    pub fn known(ty: u8) -> bool {
        matches!(ty, 0..=5 | 9..=14 | 16..=18 | 20)
    }

    /// What a type is that this server cannot hold.
    pub fn unsupported(ty: u8) -> Option<&'static str> {
        match ty {
            6 | 7 => Some("module value"),
            15 | 19 | 21 => Some("stream"),
            22..=25 => Some("hash with fields that expire"),
            _ => None,
        }
    }
}

/// The containers of `LIST_QUICKLIST_2`.
pub const CONTAINER_PLAIN: u64 = 1;
pub const CONTAINER_PACKED: u64 = 2;
