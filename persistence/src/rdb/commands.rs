//! A keyspace as the commands that make it: what a log without RDB preamble has as its base.
//!
//! Like the RDB encoder this runs in a forked child, so it allocates nothing.

use super::encode::SaveOptions;
use super::sink::{Buffers, Out, Sink};
use std::io::{self, Write};
use varve_engine::Keyspace;
use varve_engine::entry::{Entry, Str};
use varve_engine::num::DoubleText;
use varve_engine::value::Value;

/// The line that such a file begins with if one with its checksum is to come. Readers of commands take a line that
/// begins with `#` for an annotation.
pub(crate) const SUMMED: &[u8] = b"#varve summed\r\n";
/// What the line with the checksum, the CRC-64 of all before it, begins with.
pub(crate) const SUM: &[u8] = b"#varve crc64 ";

/// The line with the checksum.
pub(crate) fn sum_line(crc: u64) -> [u8; SUM.len() + 18] {
    let mut line = [0; SUM.len() + 18];
    line[..SUM.len()].copy_from_slice(SUM);
    let written = write!(&mut line[SUM.len()..], "{crc:016x}\r\n");
    debug_assert!(written.is_ok());
    line
}

/// Elements that one command adds at most, so that replaying is never one long stall.
const BATCH: usize = 64;

/// Writes the keyspace as commands through `write`; see [`super::save`], which takes the same. Of the
/// options only that of the checksum applies.
///
/// # Errors
/// Those of `write`.
pub fn save_as_commands(
    ks: &Keyspace,
    options: &SaveOptions,
    buffers: &mut Buffers,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut out = Out::new(buffers, false, options.checksum, write);
    if options.checksum {
        out.put(SUMMED)?;
    }
    let mut done = 0;
    for (i, db) in ks.dbs.iter().enumerate().filter(|(_, db)| !db.is_empty()) {
        out.begin(2)?;
        out.arg(b"SELECT")?;
        out.int_arg(i as i64)?;
        for entry in db.keys().iter() {
            key(entry, &mut out)?;
            done += 1;
            progress(done);
        }
    }
    if let Some(crc) = out.checksum()? {
        out.put(&sum_line(crc))?;
    }
    out.finish()
}

impl Out<'_> {
    /// A command of `parts` parts, its name included.
    fn begin(&mut self, parts: usize) -> io::Result<()> {
        self.count(b'*', parts)
    }

    fn count(&mut self, mark: u8, n: usize) -> io::Result<()> {
        self.byte(mark)?;
        self.put(itoa::Buffer::new().format(n).as_bytes())?;
        self.put(b"\r\n")
    }

    fn arg(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(b'$', bytes.len())?;
        self.put(bytes)?;
        self.put(b"\r\n")
    }

    fn int_arg(&mut self, n: i64) -> io::Result<()> {
        self.arg(itoa::Buffer::new().format(n).as_bytes())
    }
}

fn key(entry: &Entry, out: &mut Out<'_>) -> io::Result<()> {
    match entry.string() {
        Some(text) => {
            out.begin(3)?;
            out.arg(b"SET")?;
            out.arg(entry.key())?;
            match text {
                Str::Int(n) => out.int_arg(n)?,
                Str::Bytes(bytes) => out.arg(bytes)?,
            }
        }
        None => collection(entry, out)?,
    }
    if let Some(at) = entry.expire() {
        out.begin(3)?;
        out.arg(b"PEXPIREAT")?;
        out.arg(entry.key())?;
        out.int_arg(at)?;
    }
    Ok(())
}

/// Commands of one name that add elements to one key.
struct Batches<'o, 'w> {
    out: &'o mut Out<'w>,
    name: &'static [u8],
    key: &'o [u8],
    /// Arguments an element.
    width: usize,
    left: usize,
    in_batch: usize,
    result: io::Result<()>,
}

impl Batches<'_, '_> {
    fn add(&mut self, write: impl FnOnce(&mut Out<'_>) -> io::Result<()>) {
        if self.result.is_ok() {
            self.result = self.try_add(write);
        }
    }

    fn try_add(&mut self, write: impl FnOnce(&mut Out<'_>) -> io::Result<()>) -> io::Result<()> {
        if self.in_batch == 0 {
            self.in_batch = self.left.min(BATCH);
            self.left -= self.in_batch;
            self.out.begin(2 + self.in_batch * self.width)?;
            self.out.arg(self.name)?;
            self.out.arg(self.key)?;
        }
        self.in_batch -= 1;
        write(self.out)
    }
}

fn collection(entry: &Entry, out: &mut Out<'_>) -> io::Result<()> {
    let Some(value) = entry.value() else { return Ok(()) };
    let (name, width, left): (&[u8], _, _) = match value {
        Value::Str(_) => return Ok(()),
        Value::List(list) => (b"RPUSH", 1, list.len()),
        Value::Hash(hash) => (b"HSET", 2, hash.len()),
        Value::Set(set) => (b"SADD", 1, set.len()),
        Value::Zset(zset) => (b"ZADD", 2, zset.len()),
    };
    let key = entry.key();
    let mut batches = Batches { out, name, key, width, left, in_batch: 0, result: Ok(()) };
    let mut digits = itoa::Buffer::new();
    match value {
        Value::Str(_) => {}
        Value::List(list) => {
            list.range(0, list.len()).for_each(|e| batches.add(|out| out.arg(e.text(&mut digits))));
        }
        Value::Set(set) => {
            set.iter().for_each(|e| batches.add(|out| out.arg(e.text(&mut digits))));
        }
        Value::Hash(hash) => hash.for_each(|field, value| {
            batches.add(|out| out.arg(field).and_then(|()| out.arg(value)));
        }),
        Value::Zset(zset) => {
            let mut room = DoubleText::new();
            zset.for_each(|member, score| {
                batches.add(|out| out.arg(room.format(score)).and_then(|()| out.arg(member)));
            });
        }
    }
    batches.result
}
