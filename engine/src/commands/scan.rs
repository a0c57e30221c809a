//! The arguments that `SCAN`, `HSCAN`, `SSCAN` and `ZSCAN` share.

use super::util::{int, is};
use crate::value::Type;
use crate::{Args, Error, Reply, glob};

/// `cursor [MATCH pattern] [COUNT n] [TYPE name]`.
pub struct Scan<'a> {
    pub cursor: u64,
    /// About how many elements a call returns.
    pub count: usize,
    pattern: Option<&'a [u8]>,
    /// Only with `SCAN`.
    pub of_type: Option<&'a [u8]>,
}

impl<'a> Scan<'a> {
    /// Reads the arguments from the cursor at `at` on; `typed` allows `TYPE`.
    pub fn parse(args: &'a Args<'_>, at: usize, typed: bool) -> Result<Scan<'a>, Error> {
        let cursor = Scan::cursor(&args[at])?;
        let mut scan = Scan { cursor, count: 10, pattern: None, of_type: None };
        let mut i = at + 1;
        while i < args.len() {
            let value = args.get(i + 1).ok_or(Error::SYNTAX)?;
            match &args[i] {
                w if is(w, "count") => {
                    let n = int(value)?;
                    if n < 1 {
                        return Err(Error::SYNTAX);
                    }
                    scan.count = n as usize;
                }
                w if is(w, "match") => scan.pattern = (value != b"*").then_some(value),
                w if is(w, "type") && typed => scan.of_type = Some(value),
                _ => return Err(Error::SYNTAX),
            }
            i += 2;
        }
        Ok(scan)
    }

    /// A cursor argument: an unsigned integer, as C reads one.
    pub fn cursor(arg: &[u8]) -> Result<u64, Error> {
        let end = arg.iter().position(|&b| b == 0).unwrap_or(arg.len());
        let (negative, digits) = match &arg[..end] {
            [] => return Ok(0),
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] | digits => (false, digits),
        };
        let all_digits = digits.iter().all(u8::is_ascii_digit);
        let value = std::str::from_utf8(digits).ok().filter(|_| all_digits);
        let value: u64 =
            value.and_then(|digits| digits.parse().ok()).ok_or(Error::new("ERR invalid cursor"))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// The reply of a scan with nothing to walk over.
    pub fn reply_nothing(reply: &mut Reply) {
        reply.array(2);
        reply.bulk(b"0");
        reply.array(0);
    }

    pub fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|p| glob::matches(p, name, false))
    }

    pub fn wants(&self, t: Type) -> bool {
        self.of_type.is_none_or(|name| is(name, t.name()))
    }
}
