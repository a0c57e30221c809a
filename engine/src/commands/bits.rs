//! Strings as rows of bits and of small integers.
//!
//! Bit 0 is the highest bit of the first byte. A string has no end for who reads bits: what is
//! beyond it is 0.

use super::util::{int, is};
use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::entry::{Entry, Payload};
use crate::keyspace::event;
use crate::num::parse_int;
use crate::value::Value;
use crate::{Args, Error};
use std::ops::Range;

type Done = Result<(), Error>;

const BAD_OFFSET: Error = Error::new("ERR bit offset is not an integer or out of range");
const BAD_BIT: Error = Error::new("ERR bit is not an integer or out of range");

/// A position in bits. With `width`, `#n` is the n-th integer of so many bits.
fn offset(ctx: &Ctx, arg: &[u8], width: Option<u32>) -> Result<u64, Error> {
    let at = match (arg, width) {
        ([b'#', n @ ..], Some(width)) => {
            parse_int(n).ok_or(BAD_OFFSET)?.checked_mul(width as i64).ok_or(BAD_OFFSET)?
        }
        _ => parse_int(arg).ok_or(BAD_OFFSET)?,
    };
    match at >= 0 && at as u64 >> 3 < ctx.ks.max_string() {
        true => Ok(at as u64),
        false => Err(BAD_OFFSET),
    }
}

/// The string at `key` with at least `len` bytes, and whether it had to grow for that.
fn grown<'k>(ctx: &'k mut Ctx, key: &[u8], len: usize) -> Result<(&'k mut Vec<u8>, bool), Error> {
    let text = ctx.ks.edit_string(ctx.db, key)?;
    let grows = text.len() < len;
    if grows {
        text.resize(len, 0);
    }
    Ok((text, grows))
}

fn setbit(ctx: &mut Ctx, args: &mut Args) -> Done {
    let at = offset(ctx, &args[2], None)?;
    let on = match parse_int(&args[3]) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(BAD_BIT),
    };
    let (byte, mask) = ((at >> 3) as usize, 0x80u8 >> (at & 7));
    let (text, grew) = grown(ctx, &args[1], byte + 1)?;
    let was = text[byte] & mask != 0;
    text[byte] = if on { text[byte] | mask } else { text[byte] & !mask };
    if grew || was != on {
        ctx.changed(&args[1], event::STRING, "setbit");
    }
    ctx.reply.int(was as i64);
    Ok(())
}

fn getbit(ctx: &mut Ctx, args: &mut Args) -> Done {
    let at = offset(ctx, &args[2], None)?;
    let mut room = itoa::Buffer::new();
    let text = ctx.ks.read_string(ctx.db, &args[1])?;
    let byte = text.as_ref().and_then(|t| t.bytes(&mut room).get((at >> 3) as usize).copied());
    ctx.reply.int((byte.unwrap_or(0) >> (7 - (at & 7)) & 1) as i64);
    Ok(())
}

// Counting and finding.

/// What `BITCOUNT` and `BITPOS` look at: inclusive ends as given, in bytes or in bits.
#[derive(Clone, Copy)]
struct Part {
    start: i64,
    end: i64,
    in_bits: bool,
}

impl Part {
    const ALL: Part = Part { start: 0, end: -1, in_bits: false };

    /// `BIT` or `BYTE` at `i`, if there is a word.
    fn unit(args: &Args, i: usize) -> Result<bool, Error> {
        match args.get(i) {
            None => Ok(false),
            Some(w) if is(w, "bit") => Ok(true),
            Some(w) if is(w, "byte") => Ok(false),
            Some(_) => Err(Error::SYNTAX),
        }
    }

    /// The bits that are meant, of a string of `len` bytes.
    fn of(self, len: usize) -> Range<usize> {
        let unit = if self.in_bits { 1 } else { 8 };
        let total = len as i64 * 8 / unit;
        let clamp = |n: i64| if n < 0 { (total + n).max(0) } else { n };
        let (start, end) = (clamp(self.start), clamp(self.end).min(total - 1));
        match start <= end {
            true => (start * unit) as usize..((end + 1) * unit) as usize,
            false => 0..0,
        }
    }
}

/// The bytes that `bits` touch, and masks of what counts in the first and in the last.
fn edges(bits: &Range<usize>) -> (Range<usize>, u8, u8) {
    let last = bits.end - 1;
    (bits.start / 8..last / 8 + 1, 0xff >> (bits.start % 8), !(0x7f >> (last % 8)))
}

fn count_ones(text: &[u8], bits: Range<usize>) -> u64 {
    if bits.is_empty() {
        return 0;
    }
    let (bytes, first, last) = edges(&bits);
    let text = &text[bytes];
    let outside = (text[0] & !first).count_ones() + (text[text.len() - 1] & !last).count_ones();
    ones(text) - outside as u64
}

/// The bits of `text` that are 1. Wide registers are used where there are any, at 3 times the speed.
fn ones(text: &[u8]) -> u64 {
    #[inline(always)]
    fn count(text: &[u8]) -> u64 {
        let words = text.chunks_exact(8);
        let rest: u32 = words.remainder().iter().map(|b| b.count_ones()).sum();
        let word = |w: &[u8]| u64::from_ne_bytes(w.try_into().expect("8 bytes"));
        words.map(|w| word(w).count_ones() as u64).sum::<u64>() + rest as u64
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,popcnt")]
        fn wide(text: &[u8]) -> u64 {
            count(text)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor has both.
            return unsafe { wide(text) };
        }
    }
    count(text)
}

/// The first bit of `bits` that is 1 (or 0).
fn find_bit(text: &[u8], bits: Range<usize>, one: bool) -> Option<usize> {
    if bits.is_empty() {
        return None;
    }
    let (bytes, first, last) = edges(&bits);
    let flip = if one { 0 } else { 0xff };
    let (start, end) = (bytes.start, bytes.end - 1);
    let wanted = |i: usize| {
        let mut byte = text[i] ^ flip;
        if i == start {
            byte &= first;
        }
        if i == end {
            byte &= last;
        }
        byte
    };
    let mut i = start;
    let dull = if one { 0 } else { u64::MAX };
    while i <= end {
        let byte = wanted(i);
        if byte != 0 {
            return Some(i * 8 + byte.leading_zeros() as usize);
        }
        i += 1;
        while i + 128 <= end && text[i..i + 128].iter().fold(0, |any, b| any | (b ^ flip)) == 0 {
            i += 128;
        }
        while i + 8 <= end
            && u64::from_ne_bytes(text[i..i + 8].try_into().expect("8 bytes")) == dull
        {
            i += 8;
        }
    }
    None
}

/// Redis looks at the key before it reads a range, so a key that is not there hides a wrong one.
fn bitcount(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut room = itoa::Buffer::new();
    let Some(text) = ctx.ks.read_string(ctx.db, &args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let part = match args.len() {
        2 => Part::ALL,
        4 | 5 => Part { start: int(&args[2])?, end: int(&args[3])?, in_bits: false },
        _ => return Err(Error::SYNTAX),
    };
    // Two negative ends in the wrong order are empty even before they are clamped.
    let n = match args.len() > 2 && part.start < 0 && part.end < 0 && part.start > part.end {
        true => 0,
        false => {
            let (text, in_bits) = (text.bytes(&mut room), Part::unit(args, 4)?);
            count_ones(text, Part { in_bits, ..part }.of(text.len()))
        }
    };
    ctx.reply.int(n as i64);
    Ok(())
}

fn bitpos(ctx: &mut Ctx, args: &mut Args) -> Done {
    let one = match int(&args[2])? {
        0 => false,
        1 => true,
        _ => return Err(Error::new("ERR The bit argument must be 1 or 0.")),
    };
    let mut room = itoa::Buffer::new();
    let Some(text) = ctx.ks.read_string(ctx.db, &args[1])? else {
        ctx.reply.int(if one { -1 } else { 0 });
        return Ok(());
    };
    let text = text.bytes(&mut room);
    if args.len() > 6 {
        return Err(Error::SYNTAX);
    }
    let start = args.get(3).map_or(Ok(0), int)?;
    let in_bits = Part::unit(args, 5)?;
    let end = args.get(4).map_or(Ok(-1), int)?;
    let bits = Part { start, end, in_bits }.of(text.len());
    ctx.reply.int(match find_bit(text, bits.clone(), one) {
        Some(at) => at as i64,
        // Without an end of its own the string goes on with zeros.
        None if !one && args.len() < 5 && !bits.is_empty() => bits.end as i64,
        None => -1,
    });
    Ok(())
}

// Combining strings.

/// Combines a string with another, into itself.
type Combine = fn(&mut [u8], &[u8]);

/// Combines bytes with those of a string that may be shorter: that one goes on with zeros.
#[inline(always)]
fn combine_bytes(to: &mut [u8], with: &[u8], combine: impl Fn(u8, u8) -> u8) {
    let (both, beyond) = to.split_at_mut(with.len());
    both.iter_mut().zip(with).for_each(|(a, &b)| *a = combine(*a, b));
    beyond.iter_mut().for_each(|a| *a = combine(*a, 0));
}

fn bitop(ctx: &mut Ctx, args: &mut Args) -> Done {
    let combine: Option<Combine> = match &args[1] {
        w if is(w, "and") => Some(|to, with| combine_bytes(to, with, |a, b| a & b)),
        w if is(w, "or") => Some(|to, with| combine_bytes(to, with, |a, b| a | b)),
        w if is(w, "xor") => Some(|to, with| combine_bytes(to, with, |a, b| a ^ b)),
        w if is(w, "not") => None,
        _ => return Err(Error::SYNTAX),
    };
    if combine.is_none() && args.len() != 4 {
        return Err(Error::new("ERR BITOP NOT must be called with a single source key."));
    }
    let mut result: Vec<u8> = Vec::new();
    for (i, key) in args.iter().enumerate().skip(3) {
        let mut room = itoa::Buffer::new();
        let text = ctx.ks.read_string(ctx.db, key)?;
        let text = text.as_ref().map_or(&b""[..], |t| t.bytes(&mut room));
        let Some(combine) = combine.filter(|_| i > 3) else {
            result.extend_from_slice(text);
            continue;
        };
        if result.len() < text.len() {
            result.resize(text.len(), 0);
        }
        combine(&mut result, text);
    }
    if combine.is_none() {
        result.iter_mut().for_each(|b| *b = !*b);
    }
    let (len, lazy) = (result.len(), ctx.ks.lazy.server_del);
    if len == 0 {
        ctx.ks.delete(ctx.db, &args[2], lazy);
    } else {
        ctx.ks.set(ctx.db, &args[2], Payload::Value(Value::Str(result.into())), None);
        ctx.ks.again(ctx.db, &args[2]).and_then(Entry::edit_string); // also a short one is `raw`
        ctx.changed(&args[2], event::STRING, "set");
    }
    ctx.reply.int(len as i64);
    Ok(())
}

// Integers of any width.

/// What happens to a sum that does not fit.
#[derive(Clone, Copy, PartialEq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

/// An integer in a row of bits: `u1` to `u63`, `i1` to `i64`.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    width: u32,
    at: u64,
}

impl Field {
    fn kind(arg: &[u8]) -> Result<(bool, u32), Error> {
        const BAD: Error = Error::new(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        );
        let (signed, width) = match arg {
            [b'i', width @ ..] => (true, width),
            [b'u', width @ ..] => (false, width),
            _ => return Err(BAD),
        };
        let most = if signed { 64 } else { 63 };
        match parse_int(width) {
            Some(n) if (1..=most).contains(&n) => Ok((signed, n as u32)),
            _ => Err(BAD),
        }
    }

    fn last_byte(&self) -> usize {
        ((self.at + self.width as u64 - 1) >> 3) as usize
    }

    /// Its value in `text`, beyond whose end are zeros.
    fn get(&self, text: &[u8]) -> i64 {
        // At most 64 bits that begin within a byte: nine bytes.
        let first = (self.at >> 3) as usize;
        let raw = (first..first + 9)
            .fold(0u128, |raw, i| raw << 8 | text.get(i).copied().unwrap_or(0) as u128);
        let value = (raw >> (72 - (self.at & 7) as u32 - self.width)) as u64;
        let unused = 64 - self.width;
        match self.signed {
            true => (value << unused) as i64 >> unused,
            false => (value << unused >> unused) as i64,
        }
    }

    /// Writes the low bits of `value`; `text` is long enough.
    fn set(&self, text: &mut [u8], value: i64) {
        for i in 0..self.width as u64 {
            let at = self.at + i;
            let mask = 0x80u8 >> (at & 7);
            let byte = &mut text[(at >> 3) as usize];
            match value >> (self.width as u64 - 1 - i) & 1 {
                0 => *byte &= !mask,
                _ => *byte |= mask,
            }
        }
    }

    /// What `SET` leaves of `n` in a signed field at saturation: the nearest end of the range.
    /// Numbers so low that the highest value less them is beyond 64 bits become the highest, though:
    /// Redis's own arithmetic wraps there, and data must come out the same.
    fn saturated(&self, n: i64) -> i64 {
        let max = i64::MAX >> (64 - self.width);
        match n < -max - 1 && max.checked_sub(n).is_none() {
            true => max,
            false => n.clamp(-max - 1, max),
        }
    }

    /// What is kept of `value`; `None` if it does not fit and is to fail.
    fn fit(&self, value: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = match self.signed {
            true => (-(1i128 << (self.width - 1)), (1i128 << (self.width - 1)) - 1),
            false => (0, (1i128 << self.width) - 1),
        };
        if (min..=max).contains(&value) {
            return Some(value as i64);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(if value > max { max } else { min } as i64),
            Overflow::Wrap => {
                let low = value & ((1i128 << self.width) - 1);
                Some(if low > max { low - (1i128 << self.width) } else { low } as i64)
            }
        }
    }
}

type Operation = (Field, Action, Overflow);

fn operations(ctx: &Ctx, args: &Args) -> Result<Vec<Operation>, Error> {
    let mut all = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut i = 2;
    while i < args.len() {
        let left = args.len() - i - 1;
        let words = match &args[i] {
            w if is(w, "get") && left >= 2 => 3,
            w if (is(w, "set") || is(w, "incrby")) && left >= 3 => 4,
            w if is(w, "overflow") && left >= 1 => {
                overflow = match &args[i + 1] {
                    w if is(w, "wrap") => Overflow::Wrap,
                    w if is(w, "sat") => Overflow::Saturate,
                    w if is(w, "fail") => Overflow::Fail,
                    _ => return Err(Error::new("ERR Invalid OVERFLOW type specified")),
                };
                i += 2;
                continue;
            }
            _ => return Err(Error::SYNTAX),
        };
        let (signed, width) = Field::kind(&args[i + 1])?;
        let field = Field { signed, width, at: offset(ctx, &args[i + 2], Some(width))? };
        let action = match words {
            3 => Action::Get,
            _ if is(&args[i], "set") => Action::Set(int(&args[i + 3])?),
            _ => Action::Add(int(&args[i + 3])?),
        };
        all.push((field, action, overflow));
        i += words;
    }
    Ok(all)
}

/// Operations none of which writes.
fn read_fields(ctx: &mut Ctx, key: &[u8], operations: &[Operation]) -> Done {
    let mut room = itoa::Buffer::new();
    let text = ctx.ks.read_string(ctx.db, key)?;
    let text = text.as_ref().map_or(&b""[..], |t| t.bytes(&mut room));
    ctx.reply.array(operations.len());
    operations.iter().for_each(|(field, _, _)| ctx.reply.int(field.get(text)));
    Ok(())
}

fn bitfield(ctx: &mut Ctx, args: &mut Args) -> Done {
    let operations = operations(ctx, args)?;
    let writes = operations.iter().filter(|(_, action, _)| !matches!(action, Action::Get));
    let Some(last) = writes.map(|(field, _, _)| field.last_byte()).max() else {
        return read_fields(ctx, &args[1], &operations);
    };
    let db = ctx.db;
    let text = ctx.ks.edit_string(db, &args[1])?;
    let grew = text.len() <= last;
    if grew {
        text.resize(last + 1, 0);
    }
    ctx.reply.array(operations.len());
    let mut changes = 0;
    for (field, action, overflow) in &operations {
        let old = field.get(text);
        let new = match *action {
            Action::Get => {
                ctx.reply.int(old);
                continue;
            }
            // A negative number is too large for an unsigned field, not too small.
            Action::Set(n) if !field.signed => field.fit(n as u64 as i128, *overflow),
            Action::Set(n) if *overflow == Overflow::Saturate => Some(field.saturated(n)),
            Action::Set(n) => field.fit(n as i128, *overflow),
            Action::Add(n) => field.fit(old as i128 + n as i128, *overflow),
        };
        let Some(new) = new else {
            ctx.reply.null();
            continue;
        };
        ctx.reply.int(if matches!(action, Action::Set(_)) { old } else { new });
        field.set(text, new);
        changes += (grew || old != new) as u64;
    }
    // A string that only became longer is another one too, and the log must say so.
    if grew || changes > 0 {
        ctx.ks.dirty += changes.max(1) - 1;
        ctx.changed(&args[1], event::STRING, "setbit");
    }
    Ok(())
}

/// What `BITFIELD` does to its key: if it has nothing but `GET`s it only reads. What it will refuse may
/// as well be a write.
fn bitfield_access(args: &Args) -> u32 {
    let mut i = 2;
    while let Some(word) = args.get(i) {
        i += match word {
            w if is(w, "get") && i + 2 < args.len() => 3,
            w if is(w, "overflow") && i + 1 < args.len() => 2,
            _ => return RW | ACCESS | UPDATE,
        };
    }
    RO | ACCESS
}

fn bitfield_ro(ctx: &mut Ctx, args: &mut Args) -> Done {
    let operations = operations(ctx, args)?;
    if operations.iter().any(|(_, action, _)| !matches!(action, Action::Get)) {
        return Err(Error::new("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    read_fields(ctx, &args[1], &operations)
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::BITMAP, keys)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: setbit, spec: spec("setbit", 4, WRITE | DENYOOM, Keys::ONE).doc("bitmap", "2.2.0", "O(1)", "Sets or clears one bit of a string, which grows if need be.", "key offset value:integer") },
    Command { run: getbit, spec: spec("getbit", 3, READONLY | FAST, Keys::ONE).doc("bitmap", "2.2.0", "O(1)", "Gives one bit of a string.", "key offset") },
    Command { run: bitcount, spec: spec("bitcount", -2, READONLY, Keys::ONE).doc("bitmap", "2.6.0", "O(N) in the bytes looked at", "Counts the bits of a string that are 1.", "key index=[start end index-unit=[BYTE|BIT]@7.0.0]") },
    Command { run: bitpos, spec: spec("bitpos", -3, READONLY, Keys::ONE).doc("bitmap", "2.8.7", "O(N) in the bytes looked at", "Finds the first bit of a string that is 1, or 0.", "key bit index=[start end-index=[end index-unit=[BYTE|BIT]@7.0.0]]") },
    Command { run: bitop, spec: spec("bitop", -4, WRITE | DENYOOM, Keys::Range(2, -1, 1)).key(OW | UPDATE).other_keys(RO | ACCESS).doc("bitmap", "2.6.0", "O(N) in the bytes of all strings", "Combines strings bit by bit and keeps the result under a key.", "operation=(AND|OR|XOR|NOT) destkey key...") },
    Command { run: bitfield, spec: spec("bitfield", -2, WRITE | DENYOOM, Keys::ONE).key_by_words(bitfield_access).doc("bitmap", "3.2.0", "O(1) an operation", "Reads and changes integers of any width in a string.", "key operation=[GET (encoding offset)|write=([OVERFLOW (WRAP|SAT|FAIL)] write-operation=(SET (encoding offset value:integer)|INCRBY (encoding offset increment)))]...") },
    Command { run: bitfield_ro, spec: spec("bitfield_ro", -2, READONLY | FAST, Keys::ONE).doc("bitmap", "6.0.0", "O(1) an operation", "Reads integers of any width in a string.", "key [GET (encoding offset)]...") },
];

#[cfg(test)]
mod tests {
    use crate::commands::tests::Bench;

    #[test]
    fn bits_are_set_counted_and_found() {
        let mut b = Bench::new();
        assert_eq!(b.run("SETBIT k 7 1"), ":0|");
        assert_eq!(b.effects, ["SETBIT k 7 1"]);
        assert_eq!(b.run("SETBIT k 7 1"), ":1|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("SETBIT k 100 1"), ":0|");
        assert_eq!((b.run("STRLEN k"), b.run("GETBIT k 100")), (":13|".into(), ":1|".into()));
        assert_eq!(b.run("GETBIT k 4294967295"), ":0|");
        assert!(b.run("GETBIT k 4294967296").starts_with("-ERR bit offset"));
        assert_eq!((b.run("BITCOUNT k"), b.run("BITCOUNT k 1 -1")), (":2|".into(), ":1|".into()));
        assert_eq!(
            (b.run("BITCOUNT k 7 99 BIT"), b.run("BITPOS k 1 8 -1 BIT")),
            (":1|".into(), ":100|".into())
        );
        b.run_args(&["SET", "f", "foobar"]);
        assert_eq!(
            (b.run("BITCOUNT f"), b.run("BITCOUNT f 5 30 BIT")),
            (":26|".into(), ":17|".into())
        );
        assert_eq!((b.run("BITPOS none 0"), b.run("BITPOS none 1")), (":0|".into(), ":-1|".into()));
    }

    #[test]
    fn a_full_string_goes_on_with_zeros_unless_it_has_an_end() {
        let mut b = Bench::new();
        b.run("BITFIELD k SET i64 0 -1 SET i64 64 -1 SET i64 128 -1");
        assert_eq!(b.run("BITCOUNT k"), ":192|");
        assert_eq!((b.run("BITPOS k 0"), b.run("BITPOS k 0 3")), (":192|".into(), ":192|".into()));
        assert_eq!(b.run("BITPOS k 0 0 -1"), ":-1|");
        b.run("SETBIT k 150 0");
        assert_eq!(
            (b.run("BITPOS k 0"), b.run("BITPOS k 0 151 -1 BIT")),
            (":150|".into(), ":-1|".into())
        );
    }

    #[test]
    fn strings_combine() {
        let mut b = Bench::new();
        b.run("SET a abc");
        b.run("SET b `b");
        for (op, expected) in [("AND", "`b\0"), ("OR", "abc"), ("XOR", "\u{1}\0c")] {
            assert_eq!(b.run(&format!("BITOP {op} d a b")), ":3|");
            assert_eq!(b.run("GET d"), format!("$3|{expected}|"));
        }
        assert_eq!(b.run("BITOP NOT d none"), ":0|");
        assert_eq!(b.run("EXISTS d"), ":0|");
        assert!(b.run("BITOP NOT d a b").starts_with("-ERR BITOP NOT must"));
    }

    #[test]
    fn integers_wrap_saturate_or_fail() {
        let mut b = Bench::new();
        assert_eq!(b.run("BITFIELD k SET u8 #1 200 GET i8 8"), "*2|:0|:-56|");
        assert_eq!(b.run("BITFIELD k INCRBY u8 8 100"), "*1|:44|");
        assert_eq!(b.run("BITFIELD k OVERFLOW SAT INCRBY u8 8 300"), "*1|:255|");
        assert_eq!(b.run("BITFIELD k OVERFLOW FAIL INCRBY u8 8 1 GET u8 8"), "*2|$-1|:255|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("BITFIELD k SET i64 3 -9223372036854775808"), "*1|:574208952489738240|");
        assert_eq!(b.run("BITFIELD_RO k GET i64 3"), "*1|:-9223372036854775808|");
        assert_eq!(b.run("BITFIELD k INCRBY i64 3 -1"), "*1|:9223372036854775807|");
        b.run("BITFIELD s OVERFLOW SAT SET i13 0 -5000 SET i13 #1 -9223372036854775807");
        assert_eq!(b.run("BITFIELD s GET i13 0 GET i13 #1"), "*2|:-4096|:4095|");
        assert!(b.run("BITFIELD k GET u64 0").starts_with("-ERR Invalid bitfield type"));
        assert!(b.run("BITFIELD_RO k SET u8 0 1").starts_with("-ERR BITFIELD_RO only"));
    }
}
