//! A keyspace as an RDB file.
//!
//! Runs in a forked child: nothing here allocates, takes a lock or asks for the time. Small
//! collections are written as the bytes they are in memory, large ones element by element.

use super::crc64::crc64;
use super::format::*;
use super::sink::{Buffers, Out, Sink};
use crate::offset::{HistoryId, Offset};
use std::io;
use varve_engine::Keyspace;
use varve_engine::entry::{Entry, Str};
use varve_engine::listpack;
use varve_engine::quicklist::Container;
use varve_engine::types::{hash::Hash, list::List, set::Set, zset::Zset};
use varve_engine::value::Value;

/// What a file says of itself, and how it is written.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// The format's version, 9 to 12. 10 is what Redis 7.0 reads, 11 Redis 7.2, 12 Redis 7.4.
    pub version: u32,
    /// Compress strings of more than 20 bytes where it saves some.
    pub compress: bool,
    /// End with a checksum, not with a 0 that says there is none.
    pub checksum: bool,
    /// The time that the file is given, Unix ms.
    pub now_ms: i64,
    /// Bytes in use, for information.
    pub used_memory: u64,
    pub history: HistoryId,
    /// Where in the history the dataset stands.
    pub offset: Offset,
    /// The database that the stream after `offset` begins in.
    pub db: u32,
    /// Whether the file is the base of a log.
    pub aof_base: bool,
    /// Access clocks are LFU counters, else idle times.
    pub lfu: bool,
    /// Write them with each key: the policy evicts by them.
    pub evicts: bool,
}

/// Writes the keyspace as an RDB file through `write`. `progress` hears after each key how many
/// are done. Returns the number of bytes. Allocates nothing.
///
/// # Errors
/// Those of `write`.
pub fn save(
    ks: &Keyspace,
    options: &SaveOptions,
    buffers: &mut Buffers,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut out = Out::new(buffers, options.compress, options.checksum, write);
    let version = options.version.clamp(1, VERSION);
    out.put(MAGIC)?;
    out.put(&[1000, 100, 10, 1].map(|unit| b'0' + (version / unit % 10) as u8))?;
    facts(options, &mut out)?;
    let mut done = 0;
    for (i, db) in ks.dbs.iter().enumerate().filter(|(_, db)| !db.is_empty()) {
        out.byte(op::SELECT)?;
        out.length(i as u64)?;
        out.byte(op::RESIZE)?;
        out.length(db.len() as u64)?;
        out.length(db.expires().len() as u64)?;
        for entry in db.keys().iter() {
            key(ks, entry, options, version, &mut out)?;
            done += 1;
            progress(done);
        }
    }
    out.byte(op::EOF)?;
    match version >= CHECKSUM_SINCE {
        true => out.finish_with_checksum(),
        false => out.finish(),
    }
}

/// The file of a dataset without keys, as old as any reader takes it with its checksum.
pub fn empty() -> Vec<u8> {
    let mut file = [&MAGIC[..], b"0009", &[op::EOF]].concat();
    let sum = crc64(&file);
    file.extend_from_slice(&sum.to_le_bytes());
    file
}

/// What the file says of itself before the first key, in Redis's words.
fn facts(options: &SaveOptions, out: &mut Out<'_>) -> io::Result<()> {
    let text = |name: &str, value: &[u8], out: &mut Out<'_>| {
        out.byte(op::AUX)?;
        out.string(name.as_bytes())?;
        out.string(value)
    };
    let int = |name: &str, value: i64, out: &mut Out<'_>| {
        out.byte(op::AUX)?;
        out.string(name.as_bytes())?;
        out.int(value)
    };
    // The Redis whose files are like this one; readers show it and nothing more.
    let redis = match options.version {
        ..=9 => "6.2.14",
        10 => "7.0.15",
        11 => "7.2.4",
        _ => "7.4.0",
    };
    text("redis-ver", redis.as_bytes(), out)?;
    int("redis-bits", usize::BITS.into(), out)?;
    int("ctime", options.now_ms.div_euclid(1000), out)?;
    int("used-mem", options.used_memory as i64, out)?;
    int("repl-stream-db", options.db.into(), out)?;
    text("repl-id", options.history.as_bytes(), out)?;
    int("repl-offset", options.offset.0 as i64, out)?;
    int("aof-base", options.aof_base.into(), out)
}

fn key(
    ks: &Keyspace,
    entry: &Entry,
    options: &SaveOptions,
    version: u32,
    out: &mut Out<'_>,
) -> io::Result<()> {
    if let Some(at) = entry.expire() {
        out.byte(op::EXPIRE_MS)?;
        out.put(&at.to_le_bytes())?;
    }
    if options.evicts && version >= 9 {
        if options.lfu {
            out.put(&[op::FREQ, ks.frequency(entry)])?;
        } else {
            out.byte(op::IDLE)?;
            out.length(ks.idle_seconds(entry))?;
        }
    }
    out.byte(type_of(entry, version))?;
    out.string(entry.key())?;
    value(entry, version, out)
}

/// The type as which [`value`] writes the value in a file of `version`.
pub(super) fn type_of(entry: &Entry, version: u32) -> u8 {
    let listpacks = version >= LISTPACK_SINCE;
    match entry.value() {
        None | Some(Value::Str(_)) => ty::STRING,
        Some(Value::List(_)) if listpacks => ty::LIST_QUICKLIST_2,
        Some(Value::List(_)) => ty::LIST,
        Some(Value::Hash(hash)) if listpacks && hash.as_listpack().is_some() => ty::HASH_LISTPACK,
        Some(Value::Hash(_)) => ty::HASH,
        Some(Value::Set(set)) if set.as_intset().is_some() => ty::SET_INTSET,
        Some(Value::Set(set)) if version >= SET_LISTPACK_SINCE && set.as_listpack().is_some() => {
            ty::SET_LISTPACK
        }
        Some(Value::Set(_)) => ty::SET,
        Some(Value::Zset(zset)) if listpacks && zset.as_listpack().is_some() => ty::ZSET_LISTPACK,
        Some(Value::Zset(_)) => ty::ZSET_2,
    }
}

/// Writes the value, without its type.
pub(super) fn value<S: Sink>(entry: &Entry, version: u32, out: &mut S) -> io::Result<()> {
    match entry.string() {
        Some(Str::Int(n)) => return out.int(n),
        Some(Str::Bytes(text)) => return out.string(text),
        None => {}
    }
    let listpacks = version >= LISTPACK_SINCE;
    match entry.value().expect("what is not a string has a value") {
        Value::Str(text) => out.string(text),
        Value::List(list) if listpacks => quicklist(list, out),
        Value::List(list) => {
            out.length(list.len() as u64)?;
            list.range(0, list.len()).try_for_each(|e| element(e, out))
        }
        Value::Hash(hash) => match hash.as_listpack() {
            Some(listpack) if listpacks => out.blob(listpack.as_bytes()),
            _ => hash_pairs(hash, out),
        },
        Value::Set(set) => match (set.as_intset(), set.as_listpack()) {
            (Some(intset), _) => out.blob(intset.as_bytes()),
            (_, Some(listpack)) if version >= SET_LISTPACK_SINCE => out.blob(listpack.as_bytes()),
            _ => set_members(set, out),
        },
        Value::Zset(zset) => match zset.as_listpack() {
            Some(listpack) if listpacks => out.blob(listpack.as_bytes()),
            _ => zset_members(zset, out),
        },
    }
}

fn element<S: Sink>(element: listpack::Entry<'_>, out: &mut S) -> io::Result<()> {
    match element {
        listpack::Entry::Int(n) => out.int(n),
        listpack::Entry::Str(text) => out.blob(text),
    }
}

fn quicklist<S: Sink>(list: &List, out: &mut S) -> io::Result<()> {
    if let Some(listpack) = list.as_listpack() {
        out.length(1)?;
        out.length(CONTAINER_PACKED)?;
        return out.blob(listpack.as_bytes());
    }
    let Some(quicklist) = list.as_quicklist() else { unreachable!("a list is one or the other") };
    out.length(quicklist.nodes().len() as u64)?;
    quicklist.nodes().try_for_each(|node| match node {
        Container::Packed(listpack) => {
            out.length(CONTAINER_PACKED)?;
            out.blob(listpack.as_bytes())
        }
        Container::Plain(element) => {
            out.length(CONTAINER_PLAIN)?;
            out.blob(element)
        }
    })
}

fn hash_pairs<S: Sink>(hash: &Hash, out: &mut S) -> io::Result<()> {
    out.length(hash.len() as u64)?;
    let mut result = Ok(());
    hash.for_each(|field, value| {
        if result.is_ok() {
            result = out.string(field).and_then(|()| out.string(value));
        }
    });
    result
}

fn set_members<S: Sink>(set: &Set, out: &mut S) -> io::Result<()> {
    out.length(set.len() as u64)?;
    set.iter().try_for_each(|member| match member {
        listpack::Entry::Int(n) => out.int(n),
        // Members of a large set are not looked at for integers before.
        listpack::Entry::Str(text) => out.string(text),
    })
}

/// Highest score first, which is the order that Redis inserts fastest.
fn zset_members<S: Sink>(zset: &Zset, out: &mut S) -> io::Result<()> {
    out.length(zset.len() as u64)?;
    let mut result = Ok(());
    zset.for_each_rev(|member, score| {
        if result.is_ok() {
            result = out.string(member).and_then(|()| out.put(&score.to_le_bytes()));
        }
    });
    result
}
