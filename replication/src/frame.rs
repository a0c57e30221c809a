//! Where the units of the command stream end.
//!
//! A replica's log may hold whole units only: a command, or a `MULTI` with everything up to its
//! `EXEC`. A connection that breaks inside a unit leaves a tail that belongs to nobody; the next
//! `PSYNC` asks for that unit again from its first byte.
//!
//! The framer looks at headers and at the names of commands, and steps over everything else. It
//! remembers how far it looked, so a value of 512 MB that comes in ten thousand reads is never looked
//! at twice, and nothing is copied: the bytes stay in the buffer of the caller, who hands them in
//! again, with more behind them, until the unit is whole.

use crate::wire::ProtocolError;

/// The most arguments a command can have.
const MAX_ARGS: u64 = i32::MAX as u64;
/// The longest argument. Nothing is allocated for it before it comes; the bound only keeps sums of
/// lengths far from overflowing.
const MAX_BULK: u64 = 1 << 40;
/// The longest header: a type byte, 20 digits, CR and LF.
const MAX_HEADER: usize = 23;

/// A whole unit: the first `len` bytes of what was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub len: usize,
    /// Whether the unit has a `REPLCONF GETACK` in it.
    pub getack: bool,
    /// Whether it is more than a `PING`, a `SELECT` or a `REPLCONF`, none of which changes data.
    pub writes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// `*<number of arguments>`
    Count,
    /// `$<length of the argument>`
    Length,
    /// The argument and its CRLF.
    Body(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Other,
    Multi,
    Exec,
    Replconf,
    /// Until its database was seen.
    Select,
    /// `PING`, `SELECT`
    Harmless,
}

/// The place of one reader in a stream of commands.
#[derive(Clone, Debug)]
pub struct Framer {
    /// The bytes of the unit that need not be looked at again.
    pos: usize,
    part: Part,
    args_left: u64,
    /// Which argument of its command comes next.
    arg: u64,
    command: Command,
    in_multi: bool,
    getack: bool,
}

impl Default for Framer {
    fn default() -> Framer {
        Framer {
            pos: 0,
            part: Part::Count,
            args_left: 0,
            arg: 0,
            command: Command::Other,
            in_multi: false,
            getack: false,
        }
    }
}

impl Framer {
    /// The unit that `buf` begins with, or `None` if more bytes are needed; the same bytes must then
    /// come again in front of the new ones. After a unit, the next one is looked for behind it.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<Unit>, ProtocolError> {
        loop {
            match self.part {
                Part::Count => {
                    let Some(count) = self.header(buf, b'*')? else { return Ok(None) };
                    if count == 0 || count > MAX_ARGS {
                        return Err(ProtocolError("a command with an impossible argument count"));
                    }
                    self.args_left = count;
                    self.arg = 0;
                    self.command = Command::Other;
                    self.part = Part::Length;
                }
                Part::Length => {
                    let Some(len) = self.header(buf, b'$')? else { return Ok(None) };
                    if len > MAX_BULK {
                        return Err(ProtocolError("an argument of impossible length"));
                    }
                    self.part = Part::Body(len as usize);
                }
                Part::Body(len) => {
                    let end = self.pos + len;
                    if buf.len() < end + 2 {
                        return Ok(None);
                    }
                    if &buf[end..end + 2] != b"\r\n" {
                        return Err(ProtocolError("an argument longer than its length"));
                    }
                    if self.arg < 2 {
                        self.see(&buf[self.pos..end]);
                    }
                    self.pos = end + 2;
                    self.arg += 1;
                    self.args_left -= 1;
                    self.part = Part::Length;
                    if self.args_left == 0 {
                        self.part = Part::Count;
                        // No start takes a log that has it.
                        if self.command == Command::Select {
                            return Err(ProtocolError("a SELECT of no database"));
                        }
                        if let Some(unit) = self.command_ended() {
                            return Ok(Some(unit));
                        }
                    }
                }
            }
        }
    }

    /// How many bytes, from the unit's first, must be there before [`Framer::next`] can go on: a hint
    /// for the size of the next read.
    pub fn wanted(&self) -> usize {
        match self.part {
            Part::Body(len) => self.pos + len + 2,
            Part::Count | Part::Length => self.pos + 4,
        }
    }

    fn header(&mut self, buf: &[u8], kind: u8) -> Result<Option<u64>, ProtocolError> {
        let rest = buf.get(self.pos..).unwrap_or_default();
        let Some((&first, rest)) = rest.split_first() else { return Ok(None) };
        if first != kind {
            return Err(ProtocolError(match kind {
                b'*' => "something that is no command in the stream",
                _ => "something that is no argument in a command",
            }));
        }
        let mut value = 0u64;
        for (i, &byte) in rest.iter().take(MAX_HEADER - 1).enumerate() {
            match byte {
                // Whoever executes the unit takes no number like this.
                b'0'..=b'9' if i == 1 && rest[0] == b'0' => {
                    return Err(ProtocolError("a length with a leading zero"));
                }
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add((byte - b'0') as u64))
                        .ok_or(ProtocolError("a length beyond all bounds"))?;
                }
                b'\r' if i > 0 => {
                    return match rest.get(i + 1) {
                        Some(b'\n') => {
                            self.pos += i + 3;
                            Ok(Some(value))
                        }
                        Some(_) => Err(ProtocolError("a length that does not end in CRLF")),
                        None => Ok(None),
                    };
                }
                _ => return Err(ProtocolError("a length that is no number")),
            }
        }
        if rest.len() >= MAX_HEADER - 1 {
            return Err(ProtocolError("a length without an end"));
        }
        Ok(None)
    }

    fn see(&mut self, arg: &[u8]) {
        if self.arg == 0 {
            self.command = match arg.len() {
                4 if arg.eq_ignore_ascii_case(b"EXEC") => Command::Exec,
                4 if arg.eq_ignore_ascii_case(b"PING") => Command::Harmless,
                6 if arg.eq_ignore_ascii_case(b"SELECT") => Command::Select,
                5 if arg.eq_ignore_ascii_case(b"MULTI") => Command::Multi,
                8 if arg.eq_ignore_ascii_case(b"REPLCONF") => Command::Replconf,
                _ => Command::Other,
            };
        } else if self.command == Command::Replconf && arg.eq_ignore_ascii_case(b"GETACK") {
            self.getack = true;
        } else if self.command == Command::Select
            && std::str::from_utf8(arg).is_ok_and(|db| db.parse::<u32>().is_ok())
        {
            self.command = Command::Harmless;
        }
    }

    fn command_ended(&mut self) -> Option<Unit> {
        match self.command {
            Command::Multi => self.in_multi = true,
            Command::Exec => self.in_multi = false,
            Command::Other | Command::Replconf | Command::Select | Command::Harmless => {}
        }
        if self.in_multi {
            return None;
        }
        let writes = !matches!(self.command, Command::Replconf | Command::Harmless);
        let unit = Unit { len: self.pos, getack: self.getack, writes };
        self.pos = 0;
        self.getack = false;
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GETACK, PING, command};
    use proptest::prelude::*;

    /// Feeds `stream` in reads of the given sizes (the last one repeats) as a caller with one buffer
    /// does, and returns where units ended.
    fn ends(stream: &[u8], reads: &[usize]) -> Result<Vec<usize>, ProtocolError> {
        let mut framer = Framer::default();
        let (mut start, mut arrived, mut ends) = (0, 0, vec![]);
        let mut reads = reads.iter().chain(std::iter::repeat(reads.last().unwrap()));
        while arrived < stream.len() {
            arrived = (arrived + reads.next().unwrap()).min(stream.len());
            while let Some(unit) = framer.next(&stream[start..arrived])? {
                start += unit.len;
                ends.push(start);
            }
        }
        Ok(ends)
    }

    #[test]
    fn a_group_is_one_unit() {
        let stream = [
            PING.to_vec(),
            command(&[b"multi"]),
            command(&[b"SET", b"EXEC", b"MULTI"]),
            command(&[b"SET", b"k", b""]),
            command(&[b"Exec"]),
            command(&[b"SET", b"a", b"\r\n*1\r\n$5\r\nMULTI\r\n"]),
        ];
        let group: usize = stream[1..5].iter().map(Vec::len).sum();
        let all = stream.concat();
        let expected = vec![PING.len(), PING.len() + group, all.len()];
        assert_eq!(ends(&all, &[1]).unwrap(), expected);
        assert_eq!(ends(&all, &[all.len()]).unwrap(), expected);
    }

    #[test]
    fn getack_is_seen_and_only_where_it_is_a_command() {
        let mut framer = Framer::default();
        assert!(framer.next(GETACK).unwrap().unwrap().getack);
        assert!(!framer.next(PING).unwrap().unwrap().getack);
        let set = command(&[b"SET", b"REPLCONF", b"GETACK"]);
        assert!(!framer.next(&set).unwrap().unwrap().getack);
    }

    #[test]
    fn what_changes_no_data_is_known() {
        let mut framer = Framer::default();
        let mut writes = |unit: &[u8]| framer.next(unit).unwrap().unwrap().writes;
        assert!(!writes(PING) && !writes(GETACK) && !writes(&command(&[b"select", b"1"])));
        assert!(
            writes(&command(&[b"SET", b"PING", b"x"]))
                && writes(&command(&[b"PUBLISH", b"c", b"m"]))
        );
        let group = [command(&[b"MULTI"]), PING.to_vec(), command(&[b"EXEC"])].concat();
        assert!(writes(&group));
    }

    #[test]
    fn garbage_is_refused_at_once_and_in_bounded_space() {
        let long = [b"*1\r\n$", &[b'0'; 64][..]].concat();
        for bad in [
            &b"PING\r\n"[..],
            b"\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$1\r\nabc",
            b"*99999999999\r\n",
            b"*1\r\n$99999999999999999999999\r\n",
            b"*1\r\n$18446744073709551615\r\n",
            b"*1\rx",
            b"*01\r\n",
            b"*1\r\n$04\r\nPING\r\n",
            &long,
        ] {
            assert!(Framer::default().next(bad).is_err(), "{}", bad.escape_ascii());
            assert!(ends(bad, &[1]).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_select_of_no_database_is_refused() {
        for bad in [&b""[..], b"-1", b"4294967296", b"zero", b"\xff"] {
            assert!(Framer::default().next(&command(&[b"Select", bad])).is_err());
        }
        assert!(Framer::default().next(&command(&[b"SELECT"])).is_err());
        let all = [command(&[b"MULTI"]), command(&[b"SELECT", b"x"])].concat();
        assert!(ends(&all, &[1]).is_err());
        assert!(Framer::default().next(&command(&[b"SELECT", b"4294967295"])).is_ok());
    }

    #[test]
    fn a_large_value_says_how_much_is_wanted() {
        let mut framer = Framer::default();
        let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n";
        assert_eq!(framer.next(head).unwrap(), None);
        assert_eq!(framer.wanted(), head.len() + 536870912 + 2);
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..4), 1..20),
            reads in prop::collection::vec(1usize..40, 1..50),
        ) {
            let mut stream = vec![];
            let mut expected = vec![];
            for (i, parts) in commands.iter().enumerate() {
                let mut parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                parts.insert(0, match i % 5 { 1 => b"MULTI", 3 => b"EXEC", _ => b"SET" });
                stream.extend(command(&parts));
                if !matches!(i % 5, 1 | 2) {
                    expected.push(stream.len());
                }
            }
            prop_assert_eq!(ends(&stream, &reads).unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()],
            0..200)) {
            let whole = ends(&bytes, &[bytes.len().max(1)]);
            prop_assert_eq!(whole, ends(&bytes, &[1]));
        }
    }
}
