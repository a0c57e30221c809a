//! `DUMP` and `RESTORE`: one value as a payload that any Redis of the same or a newer version takes.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | type |
//! | … | the value, as in a file |
//! | 2 | version, LE |
//! | 8 | CRC-64 of all before, LE |

use super::crc64::crc64;
use super::encode;
use super::format::*;
use super::values::{Cursor, Values};
use varve_engine::Error;
use varve_engine::entry::Entry;
use varve_engine::keyspace::Limits;

const FOOTER: usize = 2 + CHECKSUM;

/// The payload of a value, as `version` of the format writes it, uncompressed.
pub fn dump(entry: &Entry, version: u32) -> Vec<u8> {
    // A string is written in one piece.
    let room = entry.string().map_or(0, |text| text.len());
    let mut payload = Vec::with_capacity(room + 32);
    payload.push(encode::type_of(entry, version));
    encode::value(entry, version, &mut payload).expect("memory takes all bytes");
    payload.extend((version as u16).to_le_bytes());
    payload.extend(crc64(&payload).to_le_bytes());
    payload
}

/// The entry of `key` with the payload's value. `expire_ms` is its time to live, if any.
///
/// # Errors
/// Redis's words for a payload that is damaged or too new, and for a value that is not what it
/// should be.
pub fn restore(
    payload: &[u8],
    key: &[u8],
    limits: &Limits,
    expire_ms: Option<i64>,
) -> Result<Entry, Error> {
    const DAMAGED: Error = Error::new("ERR DUMP payload version or checksum are wrong");
    const BAD_FORMAT: Error = Error::new("ERR Bad data format");
    let (signed, checksum) = payload.split_last_chunk::<CHECKSUM>().ok_or(DAMAGED)?;
    let (value, version) = signed.split_last_chunk::<2>().ok_or(DAMAGED)?;
    let known = u16::from_le_bytes(*version) as u32 <= VERSION;
    let intact = limits.skip_checksum || crc64(signed) == u64::from_le_bytes(*checksum);
    if !known || !intact {
        return Err(DAMAGED);
    }
    debug_assert_eq!(value.len() + FOOTER, payload.len());
    let mut from = Cursor::new(value, 0);
    let ty = from.byte().map_err(|_| BAD_FORMAT)?;
    let mut values = Values::default();
    values.limits = limits.clone();
    match values.read(ty, &mut from) {
        Ok(Some(payload)) => Ok(Entry::new(key, payload, expire_ms)),
        Ok(None) | Err(_) => Err(BAD_FORMAT),
    }
}
