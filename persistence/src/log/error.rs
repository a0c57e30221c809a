//! What can be wrong with a log, said so that an operator knows which file, where, and why.

use crate::offset::Offset;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A fault found while opening, reading or changing the log's files.
#[derive(Debug)]
pub enum Error {
    /// The system refused an operation.
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// The manifest says something that it must not.
    Manifest { path: PathBuf, line: usize, what: String },
    /// The manifest names a file that is not there.
    Missing { path: PathBuf, manifest: PathBuf },
    /// There is no manifest, and a segment that one must have named.
    Unnamed { path: PathBuf, manifest: PathBuf },
    /// A file's bytes are not what was written there.
    Damaged { path: PathBuf, position: u64, offset: Offset, what: String },
    /// The last segment does not end in a whole command, and `aof-load-truncated` is no.
    Truncated { path: PathBuf, position: u64, dropped: u64 },
    /// Another process has the folder open.
    Locked { path: PathBuf },
}

impl Error {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, path, source } => write!(f, "can't {what} {path:?}: {source}"),
            Error::Manifest { path, line, what } => write!(f, "{path:?} line {line}: {what}"),
            Error::Missing { path, manifest } => {
                write!(f, "{path:?} is missing, and {manifest:?} names it")
            }
            Error::Unnamed { path, manifest } => write!(
                f,
                "{manifest:?} is missing, and {path:?} is a segment of a log: restore the manifest, or move \
                 the folder away to begin another log"
            ),
            Error::Damaged { path, position, offset, what } => {
                write!(f, "{path:?} is damaged at byte {position} (offset {offset}): {what}")
            }
            Error::Truncated { path, position, dropped } => write!(
                f,
                "{path:?} does not end in a whole command: its last {dropped} bytes, from byte {position} on, \
                 are incomplete, and aof-load-truncated is no"
            ),
            Error::Locked { path } => write!(f, "{path:?} is in use by another process"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
