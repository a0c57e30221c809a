//! Reading a segment back: command after command, strictly.
//!
//! What the log wrote is canonical RESP (arrays of bulk strings), beside it stand `#TS:` lines in
//! files that Redis wrote. Anything else is damage and ends the reading with its place. Only these
//! are taken for a log that a crash cut short: a command that the end of the file interrupts, zeros up to that end, and,
//! behind what was synced before the power was cut, whatever is no command, or may have a hole in it.

use super::index::{Record, crc32c};
use crate::offset::Offset;
use crate::rdb;
use std::fmt;
use std::path::Path;

/// A command of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its name and arguments.
    pub args: &'a [&'a [u8]],
    /// The database that it acts on.
    pub db: u32,
    /// The offset after it.
    pub end: Offset,
    /// The file that it stands in ...
    pub file: &'a Path,
    /// ... and the byte of the file where it begins.
    pub position: u64,
}

/// Says which command it is and where it stands, for an operator: a long one shortened.
impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at byte {}:{}", self.file, self.position, Words(self.args))
    }
}

/// A command's words, each behind a space: a long one shortened.
pub struct Words<'a>(pub &'a [&'a [u8]]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ARGS: usize = 8;
        const BYTES: usize = 64;
        for arg in self.0.iter().take(ARGS) {
            let shown = &arg[..arg.len().min(BYTES)];
            let more = if arg.len() > BYTES { "..." } else { "" };
            let plain = shown.iter().all(u8::is_ascii_graphic) && !shown.is_empty();
            let quote = if plain { "" } else { "\"" };
            write!(f, " {quote}{}{quote}{more}", shown.escape_ascii())?;
        }
        match self.0.len() {
            n if n > ARGS => write!(f, " ... ({n} words)"),
            _ => Ok(()),
        }
    }
}

/// What stands at a place of a file.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A command of so many bytes.
    Command(usize),
    /// A line that is not part of the data, of so many bytes.
    Annotation(usize),
    /// The file ends before the command does.
    Incomplete,
    /// No command: what was expected instead.
    Bad(&'static str),
}

/// Parses what `bytes` begins with; the arguments of a command go into `args`.
fn parse<'a>(bytes: &'a [u8], args: &mut Vec<&'a [u8]>) -> Parsed {
    args.clear();
    if bytes[0] == b'#' {
        return match bytes.iter().take(1024).position(|&b| b == b'\n') {
            Some(at) => Parsed::Annotation(at + 1),
            None if bytes.len() < 1024 => Parsed::Incomplete,
            None => Parsed::Bad("a line's end"),
        };
    }
    let (count, mut at) = match number(bytes, 0, b'*') {
        Ok(found) => found,
        Err(parsed) => return parsed,
    };
    if count == 0 {
        return Parsed::Bad("an array with elements");
    }
    for _ in 0..count {
        let (len, start) = match number(bytes, at, b'$') {
            Ok(found) => found,
            Err(parsed) => return parsed,
        };
        let Some(end) = usize::try_from(len).ok().and_then(|len| start.checked_add(len)) else {
            return Parsed::Bad("a string's length");
        };
        match bytes.get(end..) {
            None | Some([] | [b'\r']) => return Parsed::Incomplete,
            Some([b'\r', b'\n', ..]) => args.push(&bytes[start..end]),
            Some(_) => return Parsed::Bad("CRLF after a string"),
        }
        at = end + 2;
    }
    Parsed::Command(at)
}

/// The number after `kind` at `at`, and where its line ends.
fn number(bytes: &[u8], at: usize, kind: u8) -> Result<(u64, usize), Parsed> {
    let expected = if kind == b'*' { "an array ('*')" } else { "a bulk string ('$')" };
    let Some(&first) = bytes.get(at) else { return Err(Parsed::Incomplete) };
    if first != kind {
        return Err(Parsed::Bad(expected));
    }
    let mut value: u64 = 0;
    for (i, &b) in bytes[at + 1..].iter().enumerate().take(20) {
        match b {
            // Nobody writes leading zeros, and no other reader of requests takes them.
            b'0'..=b'9' if i == 1 && bytes[at + 1] == b'0' => {
                return Err(Parsed::Bad("a length without a leading zero"));
            }
            b'0'..=b'9' if i < 19 => value = value * 10 + u64::from(b - b'0'),
            b'\r' if i > 0 => {
                return match bytes.get(at + 2 + i) {
                    None => Err(Parsed::Incomplete),
                    Some(b'\n') => Ok((value, at + 3 + i)),
                    Some(_) => Err(Parsed::Bad("CRLF after a length")),
                };
            }
            _ => return Err(Parsed::Bad("a length in digits")),
        }
    }
    Err(if bytes.len() - at - 1 < 20 { Parsed::Incomplete } else { Parsed::Bad("a length") })
}

/// Why and where the reading of a file ended before its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop<E> {
    /// The file was cut inside the command, or the transaction, that begins at this position with
    /// this database selected.
    Cut { position: usize, db: u32 },
    /// At this position something else was expected.
    Damaged { position: usize, what: String },
    /// The receiver of the commands refused one.
    Refused(E),
}

/// The bytes before the zeros that a file ends in. A log's last byte is a line feed, so these zeros
/// are not the log's: some file systems leave them where a power cut took the data of a file whose
/// new size they had noted.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1)]
}

/// What a disk writes whole, or not at all, in bytes: file systems' blocks are multiples of it.
const SECTOR: usize = 512;
/// So many zeros at a sector's end are taken for a hole: less would be found in values too often.
pub(super) const HOLE: usize = 16;

/// A file of commands, in memory.
pub struct Reading<'a> {
    /// The file, for messages.
    pub path: &'a Path,
    /// Its bytes, up to where the log ends in it.
    pub bytes: &'a [u8],
    /// The offset of the first byte.
    pub start: Offset,
    /// What the sidecar index says of it.
    pub records: &'a [Record],
    /// From this byte on it may be what a power cut left of bytes that were not synced ...
    pub doubtful: usize,
    /// ... and from this byte on nothing is known to be synced, so that zeros may be a hole.
    pub unsynced: usize,
    /// The database selected at `position`.
    pub db: u32,
}

impl<'a> Reading<'a> {
    /// Of bytes that are to be as they were written.
    pub fn new(
        path: &'a Path,
        bytes: &'a [u8],
        start: Offset,
        records: &'a [Record],
        db: u32,
    ) -> Reading<'a> {
        let (doubtful, unsynced) = (bytes.len(), bytes.len());
        Reading { path, bytes, start, records, doubtful, unsynced, db }
    }

    /// Gives every command from `position` to the end to `apply`, except `SELECT`, `MULTI` and
    /// `EXEC`, which are told by [`Command::db`] and by giving a transaction only when its `EXEC`
    /// is there. Returns the database selected at the end.
    pub fn replay<E>(
        &self,
        position: usize,
        apply: &mut dyn FnMut(Command<'_>) -> Result<(), E>,
    ) -> Result<u32, Stop<E>> {
        let mut checked = self.records.iter();
        let mut at = position;
        let mut db = self.db;
        // A transaction is read twice: to find its EXEC, and to apply it.
        let mut multi: Option<(usize, u32)> = None;
        let mut applying_until = 0;
        let mut args: Vec<&'a [u8]> = Vec::new();
        // A base of commands says that its checksum is to come.
        let mut is_sum_due = false;
        while at < self.bytes.len() {
            let len = match self.parse(at, &mut args) {
                Parsed::Annotation(len) => {
                    match &self.bytes[at..at + len] {
                        rdb::SUMMED if at == 0 => is_sum_due = true,
                        line if line.starts_with(rdb::SUM) => {
                            self.check_sum(at, line)?;
                            is_sum_due = false;
                        }
                        _ => {}
                    }
                    at += len;
                    continue;
                }
                Parsed::Command(len) => len,
                // A flipped length looks like a cut, so a cut is only believed where the index has
                // nothing to say against it.
                Parsed::Incomplete => {
                    self.check(self.bytes.len(), &mut checked)?;
                    let (position, db) = multi.unwrap_or((at, db));
                    return Err(Stop::Cut { position, db });
                }
                Parsed::Bad(expected) => {
                    let what = format!("expected {expected}");
                    return Err(Stop::Damaged { position: at, what });
                }
            };
            self.check(at + len, &mut checked)?;
            let name = args[0];
            if name.eq_ignore_ascii_case(b"multi") && at >= applying_until {
                // One inside another begins nothing: the cut must leave none open.
                multi.get_or_insert((at, db));
            } else if name.eq_ignore_ascii_case(b"select") {
                let text = args.get(1).and_then(|db| std::str::from_utf8(db).ok());
                let Some(selected) = text.and_then(|db| db.parse().ok()) else {
                    let what = "expected SELECT of a database".into();
                    return Err(Stop::Damaged { position: at, what });
                };
                db = selected;
            } else if name.eq_ignore_ascii_case(b"exec") {
                if let Some((begin, db_before)) = multi.take() {
                    applying_until = at + len;
                    (at, db) = (begin, db_before);
                    continue;
                }
            } else if multi.is_none() && !name.eq_ignore_ascii_case(b"multi") {
                let end = self.start + (at + len) as u64;
                let (file, position) = (self.path, at as u64);
                apply(Command { args: &args, db, end, file, position }).map_err(Stop::Refused)?;
            }
            at += len;
        }
        match multi {
            Some((position, db)) => Err(Stop::Cut { position, db }),
            None if is_sum_due => {
                Err(Stop::Damaged { position: at, what: "expected its checksum".into() })
            }
            None => Ok(db),
        }
    }

    /// Compares what comes before `at` with the checksum in the line there.
    fn check_sum<E>(&self, at: usize, line: &[u8]) -> Result<(), Stop<E>> {
        let found = rdb::sum_line(rdb::crc64(&self.bytes[..at]));
        if line == found {
            return Ok(());
        }
        let text = |line: &[u8]| line[rdb::SUM.len()..].trim_ascii().escape_ascii().to_string();
        let what =
            format!("the CRC-64 of what is before is {}, expected {}", text(&found), text(line));
        Err(Stop::Damaged { position: at, what })
    }

    /// Parses what stands at `at`. If that is no command, or may be one with a hole, a power cut may have left it where
    /// it is doubtful: it is as if the file ended there.
    fn parse(&self, at: usize, args: &mut Vec<&'a [u8]>) -> Parsed {
        match parse(&self.bytes[at..], args) {
            Parsed::Command(len) if self.may_have_hole(at, at + len) => Parsed::Incomplete,
            Parsed::Bad(_) if self.is_doubtful(at) => Parsed::Incomplete,
            other => other,
        }
    }

    /// Whether what is certain ends before the command at `at`, or within it.
    fn is_doubtful(&self, at: usize) -> bool {
        let certain = &self.bytes[..self.doubtful];
        self.doubtful < self.bytes.len()
            && certain.get(at..).is_none_or(|command| {
                command.is_empty() || parse(command, &mut Vec::new()) == Parsed::Incomplete
            })
    }

    /// Whether a sector of this range that was not synced ends in zeros, as one does that was not written to its end.
    fn may_have_hole(&self, from: usize, upto: usize) -> bool {
        let first = from.max(self.unsynced) / SECTOR + 1;
        let mut ends = (first..=upto / SECTOR).map(|sector| sector * SECTOR);
        ends.any(|end| self.bytes[end - HOLE..end] == [0; HOLE])
    }

    /// Compares the stretches that begin before `upto` with the index.
    pub(super) fn check<E>(
        &self,
        upto: usize,
        unchecked: &mut std::slice::Iter<'_, Record>,
    ) -> Result<(), Stop<E>> {
        while let Some(record) = unchecked.as_slice().first() {
            let position = (record.start - self.start) as usize;
            if position >= upto {
                break;
            }
            let stretch = &self.bytes[position..position + record.len as usize];
            let found = crc32c(stretch);
            if found != record.crc {
                let what = format!(
                    "the CRC-32C of its {} bytes is {found:08x}, expected {:08x}",
                    record.len, record.crc
                );
                return Err(Stop::Damaged { position, what });
            }
            unchecked.next();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offset::HistoryId;
    use varve_engine::Keyspace;
    use varve_engine::entry::Payload;

    type Seen = Vec<(String, u32, u64)>;

    fn commands(bytes: &[u8]) -> (Seen, Result<u32, Stop<()>>) {
        let mut seen = Vec::new();
        let path = Path::new("a.aof");
        let reading = Reading::new(path, bytes, Offset(100), &[], 0);
        let result = reading.replay(0, &mut |command| {
            let text = String::from_utf8_lossy(&command.args.join(&b' ')).into_owned();
            seen.push((text, command.db, command.end.0));
            Ok(())
        });
        (seen, result)
    }

    #[test]
    fn a_transaction_is_all_or_nothing_and_select_is_followed() {
        let whole = b"#TS:1\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nDEL\r\n$1\r\na\r\n\
                      *2\r\n$6\r\nselect\r\n$1\r\n3\r\n*2\r\n$3\r\nDEL\r\n$1\r\nb\r\n*1\r\n$4\r\nEXEC\r\n";
        let (seen, end) = commands(whole);
        assert_eq!(end, Ok(3));
        assert_eq!(
            seen.iter().map(|s| (&s.0[..], s.1)).collect::<Vec<_>>(),
            [("DEL a", 2), ("DEL b", 3)]
        );
        for len in 31..whole.len() {
            let (seen, end) = commands(&whole[..len]);
            assert_eq!((seen.len(), end), (0, Err(Stop::Cut { position: 30, db: 2 })), "{len}");
        }
    }

    /// Where a flipped bit leaves commands, they were run; where a cut leaves them, the rest was missing.
    #[test]
    fn a_flipped_bit_or_a_cut_of_a_base_of_commands_is_noticed() {
        let mut ks = Keyspace::new(2, 1);
        for (db, key) in [(0, &b"a"[..]), (1, b"b")] {
            ks.add(db, key, Payload::string(b"value"), Some(1 << 40));
        }
        let options = rdb::SaveOptions {
            version: 10,
            compress: false,
            checksum: true,
            now_ms: 0,
            used_memory: 0,
            history: HistoryId::from_random([7; 20]),
            offset: Offset(0),
            db: 0,
            aof_base: true,
            lfu: false,
            evicts: false,
        };
        let mut whole = Vec::new();
        let mut write = |part: &[u8]| {
            whole.extend_from_slice(part);
            Ok(())
        };
        let mut buffers = rdb::Buffers::new();
        rdb::save_as_commands(&ks, &options, &mut buffers, &mut write, &mut |_| {}).unwrap();
        let (seen, end) = commands(&whole);
        assert_eq!((seen.len(), end), (4, Ok(1)));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (seen_now, end) = commands(&flipped);
            assert!(end.is_err() || seen_now == seen, "bit {bit}: {seen_now:?}");
        }
        for len in 1..whole.len() {
            assert!(commands(&whole[..len]).1.is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_transaction_in_a_transaction_is_cut_off_with_it() {
        let multi = "*1\r\n$5\r\nMULTI\r\n";
        let whole = format!("{multi}{multi}*2\r\n$3\r\nDEL\r\n$1\r\na\r\n");
        assert_eq!(commands(whole.as_bytes()).1, Err(Stop::Cut { position: 0, db: 0 }));
        let (seen, end) = commands(format!("{whole}*1\r\n$4\r\nEXEC\r\n").as_bytes());
        assert_eq!((seen.len(), end), (1, Ok(0)));
    }

    #[test]
    fn a_command_tells_where_it_stands() {
        let long = "x".repeat(70);
        let bytes = format!(
            "#TS:1\r\n*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nDEL\r\n$1\r\na\r\n\
             *4\r\n$3\r\nSET\r\n$2\r\nb \r\n$70\r\n{long}\r\n$0\r\n\r\n*1\r\n$4\r\nEXEC\r\n"
        );
        let mut told = Vec::new();
        let path = Path::new("a.aof");
        let bytes = bytes.as_bytes();
        let reading = Reading::new(path, bytes, Offset(100), &[], 0);
        let result = reading.replay(0, &mut |command| {
            told.push(command.to_string());
            assert_eq!(bytes[command.position as usize], b'*');
            if told.len() == 2 { Err("no") } else { Ok(()) }
        });
        assert_eq!(result, Err(Stop::Refused("no")));
        let short = "x".repeat(64);
        assert_eq!(
            told,
            [
                "\"a.aof\" at byte 22: DEL a".to_owned(),
                format!("\"a.aof\" at byte 42: SET \"b \" {short}... \"\"")
            ]
        );
    }

    #[test]
    fn damage_is_told_from_a_cut() {
        let good = b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n";
        for (bad, at) in [
            (&b"*2\r\n$3\r\nDELx\r\n$1\r\na\r\n"[..], 0),
            (b"+OK\r\n", 0),
            (b"*0\r\n", 0),
            (b"*2\r\n:3\r\n", 0),
            (b"*-1\r\n", 0),
            (b"*99999999999999999999\r\n", 0),
            (b"*1\r\n$\r\n", 0),
            (b"*02\r\n", 0),
            (b"*1\r\n$04\r\nPING\r\n", 0),
        ] {
            let bytes = [&good[..], bad].concat();
            let (seen, end) = commands(&bytes);
            assert_eq!(seen.len(), 1);
            let stop = matches!(end, Err(Stop::Damaged { position, .. }) if position == 20 + at);
            assert!(stop, "{end:?} {}", String::from_utf8_lossy(bad));
        }
    }

    /// The story: power fails, and a page is on disk that was written after one that is not.
    #[test]
    fn behind_what_was_synced_a_hole_ends_the_log() {
        let set = |value: &[u8]| {
            [
                format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", value.len()).as_bytes(),
                value,
                b"\r\n",
            ]
            .concat()
        };
        let first = set(b"synced");
        let at = first.len();
        let log = [first, set(&[b'x'; 1500]), set(b"last")].concat();
        let replay = |hole: std::ops::Range<usize>, doubtful: usize, unsynced: usize| {
            let mut bytes = log.clone();
            bytes[hole].fill(0);
            let mut reading = Reading::new(Path::new("a.aof"), &bytes, Offset(0), &[], 0);
            (reading.doubtful, reading.unsynced) = (doubtful, unsynced);
            let mut count = 0;
            let result = reading.replay(0, &mut |_| {
                count += 1;
                Ok::<(), ()>(())
            });
            (count, result)
        };
        let (len, cut) = (log.len(), Err(Stop::Cut { position: at, db: 0 }));
        assert_eq!(replay(0..0, at, at), (3, Ok(0)));
        // In a value, up to a sector's end: a whole sector of it, or the end of one.
        assert_eq!(replay(512..1024, at, at), (1, cut));
        assert_eq!(replay(1024 - HOLE..1024, at, at), (1, Err(Stop::Cut { position: at, db: 0 })));
        // Where it may be what was written: too few zeros, none at a sector's end, and what is known to be synced.
        assert_eq!(replay(1024 - HOLE + 1..1024, at, at), (3, Ok(0)));
        assert_eq!(replay(700..1000, at, at), (3, Ok(0)));
        assert_eq!(replay(512..1024, at, 1024), (3, Ok(0)));
        // Where it is no command any more.
        for begin in [at, at + 1, at + 10, at + 20] {
            let (count, result) = replay(begin..512, at, len);
            assert_eq!((count, result), (1, Err(Stop::Cut { position: at, db: 0 })), "{begin}");
            let (_, result) = replay(begin..512, 1024, 1024);
            assert!(matches!(result, Err(Stop::Damaged { .. })), "{begin}: {result:?}");
        }
        // The command's beginning was synced, and its end was not.
        let second_end = len - set(b"last").len();
        let (count, result) = replay(1100..second_end, 1024, len);
        assert_eq!((count, result), (1, Err(Stop::Cut { position: at, db: 0 })));
    }
}
