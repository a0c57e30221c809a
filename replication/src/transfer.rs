//! The RDB transfer of a full sync, as the replica reads it.
//!
//! After `+FULLRESYNC` come any number of bare newlines (the primary is alive but its child is not
//! done), then one header:
//!
//! ```text
//! $<length>\r\n            <length bytes>
//! $EOF:<40-byte mark>\r\n  <bytes, any number> <the mark>
//! -<error>\r\n             the primary gives up
//! ```
//!
//! The mark is random, so that it is not in the RDB. It may arrive cut in any place: the last 39
//! bytes that came are always left with the caller, who hands them in again in front of the next
//! ones, so a cut mark is seen whole without a copy. Behind the mark the command stream may follow
//! in the same read.

use std::ops::Range;

use crate::wire::{self, ProtocolError};

const MARK_LEN: usize = 40;

/// What a piece of input meant. Ranges are of the slice that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A newline before the header.
    Keepalive,
    /// The header; the size in bytes if it is known.
    Begin(Option<u64>),
    Bytes(Range<usize>),
    End,
    /// An error line in place of the header, without its `-`.
    Refused(String),
}

#[derive(Debug)]
enum Part {
    Header,
    Sized { left: u64 },
    Marked { mark: [u8; MARK_LEN], skip: Box<[u8; 256]> },
}

/// The place of one reader in a transfer.
#[derive(Debug)]
pub(crate) struct Transfer {
    part: Part,
    size: Option<u64>,
    received: u64,
}

impl Transfer {
    pub fn new() -> Transfer {
        Transfer { part: Part::Header, size: None, received: 0 }
    }

    /// Whether the header was seen.
    pub fn begun(&self) -> bool {
        !matches!(self.part, Part::Header)
    }

    pub fn size(&self) -> Option<u64> {
        self.size
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    /// What `buf` begins with and how many bytes that takes; `None` until more comes. After
    /// [`Event::End`] it must not be asked again.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<(usize, Event)>, ProtocolError> {
        match &mut self.part {
            Part::Header => self.header(buf),
            Part::Sized { left: 0 } => Ok(Some((0, Event::End))),
            Part::Sized { .. } if buf.is_empty() => Ok(None),
            Part::Sized { left } => {
                let n = (buf.len() as u64).min(*left);
                *left -= n;
                self.received += n;
                Ok(Some((n as usize, Event::Bytes(0..n as usize))))
            }
            Part::Marked { mark, skip } => {
                let n = match find(mark, skip, buf) {
                    Some(0) => return Ok(Some((MARK_LEN, Event::End))),
                    Some(n) => n,
                    None => buf.len().saturating_sub(MARK_LEN - 1),
                };
                self.received += n as u64;
                Ok((n > 0).then_some((n, Event::Bytes(0..n))))
            }
        }
    }

    fn header(&mut self, buf: &[u8]) -> Result<Option<(usize, Event)>, ProtocolError> {
        let Some((line, taken)) = wire::line(buf)? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some((taken, Event::Keepalive)));
        }
        if let Some(error) = line.strip_prefix(b"-") {
            return Ok(Some((taken, Event::Refused(wire::printable(error)))));
        }
        let Some(size) = line.strip_prefix(b"$") else {
            return Err(ProtocolError("no RDB where one was announced"));
        };
        if let Some(mark) = size.strip_prefix(b"EOF:") {
            let mark: [u8; MARK_LEN] =
                mark.try_into().map_err(|_| ProtocolError("an end mark that is not 40 bytes"))?;
            self.part = Part::Marked { mark, skip: skips(&mark) };
        } else {
            let left = wire::count(size).ok_or(ProtocolError("an RDB of impossible size"))?;
            self.size = Some(left);
            self.part = Part::Sized { left };
        }
        Ok(Some((taken, Event::Begin(self.size))))
    }
}

/// For each byte, how far the search moves when the window ends in it (Horspool, 1980). RDB bytes are
/// mostly no hexadecimal digits, so the search looks at about one byte in forty.
fn skips(mark: &[u8; MARK_LEN]) -> Box<[u8; 256]> {
    let mut skip = Box::new([MARK_LEN as u8; 256]);
    for (i, &byte) in mark[..MARK_LEN - 1].iter().enumerate() {
        skip[byte as usize] = (MARK_LEN - 1 - i) as u8;
    }
    skip
}

fn find(mark: &[u8; MARK_LEN], skip: &[u8; 256], buf: &[u8]) -> Option<usize> {
    let mut end = MARK_LEN;
    while end <= buf.len() {
        if &buf[end - MARK_LEN..end] == mark {
            return Some(end - MARK_LEN);
        }
        end += skip[buf[end - 1] as usize] as usize;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a transfer over `stream` in reads of the given sizes (the last one repeats). Returns the
    /// RDB and what was left behind it.
    fn receive(stream: &[u8], reads: &[usize]) -> Result<Option<(Vec<u8>, usize)>, ProtocolError> {
        let mut transfer = Transfer::new();
        let (mut start, mut arrived, mut rdb) = (0, 0, vec![]);
        let mut reads = reads.iter().chain(std::iter::repeat(reads.last().unwrap()));
        loop {
            while let Some((taken, event)) = transfer.next(&stream[start..arrived])? {
                match event {
                    Event::Bytes(range) => rdb.extend_from_slice(&stream[start..arrived][range]),
                    Event::End => {
                        assert_eq!(transfer.received(), rdb.len() as u64);
                        return Ok(Some((rdb, start + taken)));
                    }
                    Event::Keepalive | Event::Begin(_) => {}
                    Event::Refused(_) => return Ok(None),
                }
                start += taken;
            }
            if arrived == stream.len() {
                return Ok(None);
            }
            arrived = (arrived + reads.next().unwrap()).min(stream.len());
        }
    }

    #[test]
    fn sized_transfers_end_at_their_size() {
        let stream = b"\n\n$5\r\nREDIS*1\r\n";
        for read in 1..stream.len() {
            assert_eq!(receive(stream, &[read]), Ok(Some((b"REDIS".to_vec(), 11))));
        }
        assert_eq!(receive(b"$0\r\n", &[9]), Ok(Some((vec![], 4))));
    }

    #[test]
    fn a_mark_is_seen_at_every_cut() {
        let mark = b"0123456789abcdef0123456789abcdef01234567";
        // The data ends in all but the last byte of the mark, and the mark repeats inside itself.
        let data = [b"REDIS", &mark[..39], b"x", &mark[..10]].concat();
        let stream = [b"$EOF:", &mark[..], b"\r\n", &data, mark, b"*1\r\n"].concat();
        let end = stream.len() - 4;
        for first in 1..stream.len() {
            assert_eq!(receive(&stream, &[first, 1000]), Ok(Some((data.clone(), end))));
        }
        assert_eq!(receive(&stream, &[1]), Ok(Some((data, end))));
    }

    #[test]
    fn garbage_is_refused() {
        for bad in [
            &b"$-1\r\n"[..],
            b"$abc\r\n",
            b"$\r\n",
            b"$99999999999999999999\r\n",
            b"$EOF:short\r\n",
            b"+OK\r\n",
            b"REDIS0011\n",
            &[b'$'; 5000],
        ] {
            assert!(receive(bad, &[1]).is_err(), "{}", bad.escape_ascii());
        }
        let mut transfer = Transfer::new();
        let refused = transfer.next(b"-ERR no\x07 child\r\n").unwrap().unwrap();
        assert_eq!(refused, (16, Event::Refused("ERR no? child".into())));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            mark in prop::collection::vec(0u8..3, 40),
            data in prop::collection::vec(0u8..3, 0..300),
            reads in prop::collection::vec(1usize..60, 1..30),
        ) {
            // Few byte values, so that beginnings of the mark are common in the data.
            let mark: Vec<u8> = mark.iter().map(|b| b + b'a').collect();
            let data: Vec<u8> = data.iter().map(|b| b + b'a').collect();
            let body = [&data[..], &mark].concat();
            let at = body.windows(40).position(|w| w == mark).unwrap();
            let stream = [b"$EOF:", &mark[..], b"\r\n", &body, b"tail"].concat();
            let expected = Some((data[..at.min(data.len())].to_vec(), 47 + at + 40));
            prop_assert_eq!(receive(&stream, &reads).unwrap(), expected);
        }
    }
}
