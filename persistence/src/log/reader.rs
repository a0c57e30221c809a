//! The log read back from its segments, by offset: for a replica that the memory tail has left
//! behind.
//!
//! A reader goes from segment to segment over a list that the log made; when the list ends before
//! the log does, [`SegmentReader::refresh`] gives it a newer one. It may block on the disk, so it
//! belongs on a thread of its own.

use super::disk::{Disk, DiskFile};
use super::folder::SegmentInfo;
use crate::offset::Offset;
use std::io;
use std::sync::Arc;

/// A place in the segments.
pub struct SegmentReader {
    disk: Arc<dyn Disk>,
    segments: Arc<Vec<SegmentInfo>>,
    open: Option<(Offset, Arc<dyn DiskFile>)>,
    offset: Offset,
}

impl SegmentReader {
    /// A reader at `offset`, if one of `segments` covers it.
    pub fn new(
        disk: Arc<dyn Disk>,
        segments: Arc<Vec<SegmentInfo>>,
        offset: Offset,
    ) -> Option<SegmentReader> {
        let reader = SegmentReader { disk, segments, open: None, offset };
        reader.segment().is_some().then_some(reader)
    }

    fn segment(&self) -> Option<&SegmentInfo> {
        let at =
            |s: &&SegmentInfo| s.start <= self.offset && s.end.is_none_or(|end| self.offset < end);
        self.segments.iter().find(at)
    }

    /// The offset of the next byte.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Takes the log's present list of segments.
    pub fn refresh(&mut self, segments: Arc<Vec<SegmentInfo>>) {
        self.segments = segments;
        self.open = None;
    }

    /// Reads the next bytes, none at or beyond `upto` (the log's released offset). 0 before `upto`
    /// means that the log has begun another segment: refresh.
    pub fn read(&mut self, buf: &mut [u8], upto: Offset) -> io::Result<usize> {
        let Some(segment) = self.segment() else { return Ok(0) };
        let (start, end) = (segment.start, segment.end.map_or(upto, |end| end.min(upto)));
        let file = match &self.open {
            Some((opened, file)) if *opened == start => file.clone(),
            _ => self.disk.open(&segment.path)?,
        };
        self.open = Some((start, file.clone()));
        let left = end.0.saturating_sub(self.offset.0).min(buf.len() as u64) as usize;
        let n = file.read_at(&mut buf[..left], self.offset - start)?;
        self.offset += n as u64;
        Ok(n)
    }
}
