//! The log read back from its segments, by offset: for a replica that the memory tail has left
//! behind.
//!
//! A reader goes from segment to segment, history and live ones alike, over a list that the log made;
//! when the list ends before the log does, [`SegmentReader::refresh`] gives it a newer one. A file
//! that it has open it reads to its end, even if that is compressed or removed meanwhile. It may
//! block on the disk, so it belongs on a thread of its own.
//!
//! A segment that can not be read is marked for everybody: the log then begins after it
//! ([`super::Log::first_available`]), so whoever asks for its bytes again is told that they are gone
//! and does not try for ever.

use super::disk::{Disk, DiskFile};
use super::folder::SegmentInfo;
use super::lz4::{self, Compressed};
use crate::offset::Offset;
use std::io;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::sync::Arc;

/// A place in the segments.
pub struct SegmentReader {
    disk: Arc<dyn Disk>,
    segments: Arc<Vec<SegmentInfo>>,
    open: Option<(SegmentInfo, File)>,
    offset: Offset,
}

enum File {
    Plain(Arc<dyn DiskFile>),
    Compressed(Box<Compressed>),
}

impl SegmentReader {
    /// A reader at `offset`, if one of `segments` covers it.
    pub fn new(
        disk: Arc<dyn Disk>,
        segments: Arc<Vec<SegmentInfo>>,
        offset: Offset,
    ) -> Option<SegmentReader> {
        let covered = segments.iter().any(|segment| segment.covers(offset));
        covered.then_some(SegmentReader { disk, segments, open: None, offset })
    }

    /// The offset of the next byte.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Takes the log's present list of segments.
    pub fn refresh(&mut self, segments: Arc<Vec<SegmentInfo>>) {
        if let Some((open, _)) = &mut self.open {
            let same_log = segments.first().is_some_and(|first| first.epoch == open.epoch);
            match segments.iter().find(|segment| segment.seq == open.seq) {
                _ if !same_log => self.open = None,
                Some(now) => open.end = now.end,
                // Where it was cut is known only of a segment that was sealed when it was opened.
                None if open.end.is_none() => self.open = None,
                None => {}
            }
        }
        self.segments = segments;
    }

    /// Reads the next bytes, none at or beyond `upto` (what is released and written). 0 before `upto`
    /// means that the log has begun another segment, or has no longer what comes next: refresh.
    ///
    /// An error names the file, and if it is damaged the place. The reader has not moved then.
    pub fn read(&mut self, buf: &mut [u8], upto: Offset) -> io::Result<usize> {
        let offset = self.offset;
        let (info, mut file) = match self.open.take() {
            Some(open) if open.0.covers(offset) => open,
            _ => {
                let Some(info) = self.segments.iter().find(|s| s.covers(offset)) else {
                    return Ok(0);
                };
                match self.open_segment(info) {
                    Ok(file) => (info.clone(), file),
                    // Most likely it has been compressed since the list was made. If not, the next
                    // list is without it.
                    Err(error) if error.kind() == NotFound && info.end.is_some() => {
                        info.unreadable.set();
                        return Ok(0);
                    }
                    Err(error) => return Err(failed(info, error)),
                }
            }
        };
        let end = info.end.map_or(upto, |end| end.min(upto));
        let left = end.0.saturating_sub(offset.0).min(buf.len() as u64) as usize;
        let n = match &mut file {
            File::Plain(file) => file.read_at(&mut buf[..left], offset - info.start),
            File::Compressed(file) => file.read_at(&mut buf[..left], offset - info.start),
        };
        let n = match n {
            Ok(0) if left > 0 && info.end.is_some() => Err(UnexpectedEof.into()),
            other => other,
        };
        let n = n.map_err(|error| failed(&info, error))?;
        self.open = Some((info, file));
        self.offset += n as u64;
        Ok(n)
    }

    fn open_segment(&self, info: &SegmentInfo) -> io::Result<File> {
        if !info.path.file_name().is_some_and(lz4::is_name) {
            return Ok(File::Plain(self.disk.open(&info.path)?));
        }
        let file = Compressed::open(&*self.disk, &info.path)?;
        if (file.start(), Some(file.end())) != (info.start, info.end) {
            let what = format!(
                "it holds offsets {} to {}, and the manifest says {} to {}",
                file.start(),
                file.end(),
                info.start,
                info.end.unwrap_or_default()
            );
            return Err(io::Error::new(InvalidData, what));
        }
        Ok(File::Compressed(Box::new(file)))
    }
}

/// Marks the segment if what is wrong is wrong with the file, and names it.
fn failed(info: &SegmentInfo, error: io::Error) -> io::Error {
    if matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
        || error.raw_os_error() == Some(libc::EIO)
    {
        info.unreadable.set();
    }
    io::Error::new(error.kind(), format!("can't read {:?}: {error}", info.path))
}
