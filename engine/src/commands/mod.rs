//! The commands on data, a family a file. Each file ends in its table, `COMMANDS`.

pub mod bits;
pub mod blocking;
pub mod hashes;
pub mod keys;
pub mod lists;
pub mod scan;
pub mod sets;
pub mod sort;
pub mod strings;
pub mod zsets;

use crate::command::{Command, Handler};

/// Every command on data.
pub fn all() -> impl Iterator<Item = &'static Command<Handler>> {
    [
        strings::COMMANDS,
        keys::COMMANDS,
        hashes::COMMANDS,
        lists::COMMANDS,
        sets::COMMANDS,
        zsets::COMMANDS,
        sort::COMMANDS,
        bits::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
pub(crate) mod tests;

/// What several families share.
pub(crate) mod util {
    use crate::Error;
    use crate::num::{parse_double, parse_int};

    /// An integer argument.
    pub fn int(arg: &[u8]) -> Result<i64, Error> {
        parse_int(arg).ok_or(Error::NOT_INT)
    }

    /// A double argument.
    pub fn double(arg: &[u8]) -> Result<f64, Error> {
        parse_double(arg).ok_or(Error::NOT_FLOAT)
    }

    /// An element of a listpack as a bulk string.
    pub fn reply_entry(reply: &mut crate::Reply, entry: crate::listpack::Entry<'_>) {
        match entry {
            crate::listpack::Entry::Int(n) => reply.bulk_int(n),
            crate::listpack::Entry::Str(text) => reply.bulk(text),
        }
    }

    /// Whether an option word is `word` (given in lower case).
    pub fn is(arg: &[u8], word: &str) -> bool {
        arg.eq_ignore_ascii_case(word.as_bytes())
    }

    /// The part of `0..len` that Redis's inclusive, possibly negative `start` and `end` name.
    pub fn range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
        let len = len as i64;
        let start = if start < 0 { (len + start).max(0) } else { start };
        let end = if end < 0 { len + end } else { end.min(len - 1) };
        if start > end || start >= len {
            return 0..0;
        }
        start as usize..end as usize + 1
    }
}
