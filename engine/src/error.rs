//! The errors that clients see.
//!
//! The words are part of the protocol: client libraries match on the first word and users grep for
//! the rest, so they are Redis's, to the letter.

use std::borrow::Cow;
use std::fmt;

/// An error reply: its whole line without the leading `-` and the ending CRLF. Bytes, since some
/// quote what the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub Cow<'static, [u8]>);

impl Error {
    pub const WRONG_TYPE: Error =
        Error::new("WRONGTYPE Operation against a key holding the wrong kind of value");
    pub const SYNTAX: Error = Error::new("ERR syntax error");
    pub const NOT_INT: Error = Error::new("ERR value is not an integer or out of range");
    pub const NOT_FLOAT: Error = Error::new("ERR value is not a valid float");
    pub const OUT_OF_RANGE: Error = Error::new("ERR index out of range");
    pub const NO_SUCH_KEY: Error = Error::new("ERR no such key");
    pub const OVERFLOW: Error = Error::new("ERR increment or decrement would overflow");
    pub const TOO_LONG: Error =
        Error::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    pub const POSITIVE: Error = Error::new("ERR value is out of range, must be positive");
    pub const OOM: Error = Error::new("OOM command not allowed when used memory > 'maxmemory'.");

    /// An error whose words are fixed.
    pub const fn new(text: &'static str) -> Error {
        Error(Cow::Borrowed(text.as_bytes()))
    }

    /// `ERR` and a text made now.
    pub fn err(text: impl fmt::Display) -> Error {
        Error(Cow::Owned(format!("ERR {text}").into_bytes()))
    }

    /// A text made now that brings its own first word.
    pub fn text(text: String) -> Error {
        Error(Cow::Owned(text.into_bytes()))
    }

    /// `ERR`, and between two texts what a client sent. A zero byte ends the quotation, as it does
    /// in Redis.
    pub fn quoting(before: &str, quoted: &[u8], after: &str) -> Error {
        let end = quoted.iter().position(|&b| b == 0).unwrap_or(quoted.len());
        let parts = [b"ERR ", before.as_bytes(), &quoted[..end], after.as_bytes()];
        Error(Cow::Owned(parts.concat()))
    }

    /// The first word, by which clients tell errors apart.
    pub fn code(&self) -> &str {
        let word = self.0.split(|&b| b == b' ').next().unwrap_or_default();
        std::str::from_utf8(word).unwrap_or_default()
    }

    /// The wrong number of arguments for `command` (its full lower-case name, `config|get` for a
    /// subcommand).
    pub fn arity(command: &str) -> Error {
        Error::err(format_args!("wrong number of arguments for '{command}' command"))
    }

    /// An expiry that is not positive or overflows, in `command`.
    pub fn invalid_expire(command: &str) -> Error {
        Error::err(format_args!("invalid expire time in '{command}' command"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::error::Error for Error {}
