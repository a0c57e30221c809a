//! Files beside the log that its manifest does not name: what a crash left of those that were about to be, or
//! a log whose manifest is lost.

use super::error::Error;
use super::folder::Folder;
use super::history::TEMPORARY;
use super::manifest::FileType;
use super::{Options, aside, lz4};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Refuses a folder that lost its manifest: to begin a log there would remove the one that it holds. What a
/// crash left of a log's very beginning is no reason: nothing is in a segment before a manifest names it.
pub fn refuse_unnamed_segments(options: &Options) -> Result<(), Error> {
    for path in options.disk.list(&options.dir).unwrap_or_default() {
        let kind = path.file_name().and_then(|name| stray_kind(name, &options.base_name));
        if kind.is_some_and(|(kind, _)| kind == FileType::Incr)
            && path.extension() != Some(OsStr::new("idx"))
            && options.disk.open(&path).and_then(|file| file.size()).is_ok_and(|size| size > 0)
        {
            let manifest = Folder::manifest_path(&options.dir, &options.base_name);
            return Err(Error::Unnamed { path, manifest });
        }
    }
    Ok(())
}

/// Removes what a crash left of files that were about to join the log, which are numbered above the
/// manifest's, of segments that were being compressed (one form of each is in the manifest), and of tails
/// that were being set aside, which are still in the log.
pub fn remove(folder: &Folder) {
    let Ok(paths) = folder.disk.list(&folder.dir) else { return };
    for path in paths {
        let (Some(name), base) = (path.file_name(), &folder.base_name) else { continue };
        let manifest = &folder.manifest;
        let is_named = |name: &OsStr| manifest.entries.iter().any(|entry| entry.name == name);
        let stray = match name.as_bytes().strip_prefix(TEMPORARY.as_bytes()) {
            Some(rest) if lz4::is_name(name) => stray_kind(OsStr::from_bytes(rest), base).is_some(),
            Some(rest) => aside::is_name(rest, base),
            None => stray_kind(name, base).is_some_and(|(kind, seq)| {
                let segment = name.as_bytes().strip_suffix(b".idx").map(OsStr::from_bytes);
                if segment.is_some_and(is_named) {
                    return false;
                }
                // An index alone was left where Redis removed the history's segments.
                let left = lz4::is_name(name) || segment.is_some() || is_named(&lz4_of(name));
                !is_named(name) && (left || seq > manifest.last_seq(kind))
            }),
        };
        if stray {
            let _ = folder.disk.remove(&path);
        }
    }
}

/// The name of the compressed form of a segment, or of the segment that an index is beside.
fn lz4_of(name: &OsStr) -> OsString {
    let segment = name.as_bytes().strip_suffix(b".idx").unwrap_or(name.as_bytes());
    lz4::name_of(OsStr::from_bytes(segment))
}

/// The type and number of a file that is named as the log names its files.
fn stray_kind(name: &OsStr, base_name: &OsStr) -> Option<(FileType, u64)> {
    let rest = name.as_bytes().strip_prefix(base_name.as_bytes())?.strip_prefix(b".")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let (seq, suffix) = rest.split_once('.')?;
    let kind = match suffix {
        "incr.aof" | "incr.aof.idx" | "incr.aof.lz4" => FileType::Incr,
        "base.rdb" | "base.aof" => FileType::Base,
        _ => return None,
    };
    Some((kind, seq.parse().ok()?))
}
