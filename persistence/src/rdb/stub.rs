//! Names that the codec will fill.

use crate::offset::{HistoryId, Offset};
use std::io;
use varve_engine::{Keyspace, entry::Entry, keyspace::Limits};
pub struct SaveOptions {
    pub version: u32,
    pub compress: bool,
    pub checksum: bool,
    pub now_ms: i64,
    pub used_memory: u64,
    pub history: HistoryId,
    pub offset: Offset,
    pub db: u32,
    pub aof_base: bool,
    pub lfu: bool,
    pub evicts: bool,
}
pub struct Buffers;
impl Buffers {
    pub fn new() -> Buffers {
        Buffers
    }
}
type W<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;
pub fn save(
    _: &Keyspace,
    _: &SaveOptions,
    _: &mut Buffers,
    _: W,
    _: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    Ok(0)
}
pub fn save_as_commands(
    _: &Keyspace,
    _: &SaveOptions,
    _: &mut Buffers,
    _: W,
    _: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    Ok(0)
}
pub type Error = super::Corrupt;
pub struct Reader<'a>(&'a [u8]);
impl<'a> Reader<'a> {
    pub fn new(b: &'a [u8]) -> Result<Reader<'a>, Error> {
        Ok(Reader(b))
    }
    pub fn set_limits(&mut self, _: Limits) {}
    pub fn position(&self) -> usize {
        0
    }
    pub fn next(&mut self) -> Result<Option<Item<'a>>, Error> {
        Ok(None)
    }
}
pub enum Item<'a> {
    Aux { key: std::borrow::Cow<'a, [u8]>, value: std::borrow::Cow<'a, [u8]> },
    Resize { db: usize, keys: usize, expires: usize },
    Key { db: usize, entry: Entry, idle_s: Option<u64>, freq: Option<u8> },
}
