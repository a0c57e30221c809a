//! The few bytes of protocol that both ends make and read themselves.
//!
//! Everything large (RDB bytes, the command stream) passes through as ranges of the caller's buffer
//! and never comes here.

use std::fmt;

/// The primary's sign of life in the stream. It is a command of the log like any other.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Asks every replica to say at once what it holds. It goes into the log as well, so that every
/// replica sees the same bytes.
pub const GETACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";

/// The capability (`REPLCONF capa`) of a Varve: it understands `-ROLLBACK`, former names, and parts of
/// a file.
pub(crate) const CAPA_VARVE: &[u8] = b"varve";

/// What the word `REPLCONF capa` begins with that names the replica's node. Primaries that are no
/// Varve skip it, as they do all capabilities that they do not know.
pub(crate) const CAPA_NODE: &[u8] = b"varve-node=";

/// The capability of a replica that reads compressed frames.
pub(crate) const CAPA_LZ4: &[u8] = b"varve-lz4";

/// How the capability begins that tells which part of a file is held ([`crate::file::Part`]).
pub(crate) const CAPA_RESUME: &[u8] = b"varve-resume=";

/// How the word begins, in a `+FULLRESYNC`, that tells which file is sent ([`crate::file::FileId`]).
pub(crate) const FILE: &str = "file=";

/// How the word begins that tells from which byte on.
pub(crate) const FROM: &str = "from=";

/// How the words begin that name, in a `+CONTINUE`, the primary's former histories: `<id>:<offset>`
/// follows, with how far that history is the same as the one that goes on.
pub(crate) const FORMER: &str = "former=";

/// The word that ends a reply to `PSYNC` after which all is compressed frames.
pub(crate) const LZ4: &str = "lz4";

/// The error that a primary has for itself.
pub(crate) const ITSELF: &str = "can't replicate from itself";

/// What a primary says when it is asked to take over.
pub const PRIMARY_ALREADY: &str = "ERR PSYNC FAILOVER can't be sent to a master.";

/// The longest reply line that is taken from a peer. Error replies may quote what they refuse.
pub(crate) const MAX_LINE: usize = 4096;

/// The peer sent what the protocol does not allow; the connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub &'static str);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ProtocolError {}

/// `parts` as a RESP command.
pub fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + parts.iter().map(|p| p.len() + 16).sum::<usize>());
    bytes.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The line that `buf` begins with, without its ending (LF, or CR and LF), and the bytes it takes.
/// `None` until it is complete.
pub(crate) fn line(buf: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let head = &buf[..buf.len().min(MAX_LINE)];
    match head.iter().position(|&b| b == b'\n') {
        Some(end) => {
            let text = &head[..end];
            Ok(Some((text.strip_suffix(b"\r").unwrap_or(text), end + 1)))
        }
        None if head.len() == MAX_LINE => Err(ProtocolError("a line without an end")),
        None => Ok(None),
    }
}

/// A count of bytes in decimal digits, as offsets and sizes are written.
pub(crate) fn count(text: &[u8]) -> Option<u64> {
    varve_engine::num::parse_int(text).and_then(|n| u64::try_from(n).ok())
}

/// A peer's text, made fit for one line of a log file.
pub(crate) fn printable(text: &[u8]) -> String {
    text.iter()
        .take(256)
        .map(|&b| if (b' '..0x7f).contains(&b) { b as char } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_lf_and_are_bounded() {
        assert_eq!(line(b"+OK\r\nx"), Ok(Some((&b"+OK"[..], 5))));
        assert_eq!(line(b"\n\n"), Ok(Some((&b""[..], 1))));
        assert_eq!(line(b"+OK\r"), Ok(None));
        assert_eq!(line(&[b'a'; MAX_LINE - 1]), Ok(None));
        assert!(line(&[b'a'; MAX_LINE]).is_err());
    }

    #[test]
    fn commands_are_resp_arrays() {
        assert_eq!(command(&[b"PING"]), PING);
        assert_eq!(command(&[b"REPLCONF", b"GETACK", b"*"]), GETACK);
    }
}
