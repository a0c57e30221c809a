//! The memory tail: the newest bytes of the history, which replicas and the log's files are fed
//! from.
//!
//! A queue of equal blocks, so that the block of an offset is one division. A reader keeps an
//! offset, not a block: one that lags costs nothing and holds nothing back.

use super::block::{BLOCK_BYTES, Block, BlockWriter};
use crate::offset::Offset;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A reader's place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub offset: Offset,
}

/// Some bytes of the history, where they lie.
pub struct Piece {
    pub block: Arc<Block>,
    pub range: Range<usize>,
}

impl Piece {
    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        &(*self.block).as_ref()[self.range.clone()]
    }

    /// The offset of the first byte.
    pub fn start(&self) -> Offset {
        self.block.start() + self.range.start as u64
    }

    /// The offset after the last byte.
    pub fn end(&self) -> Offset {
        self.block.start() + self.range.end as u64
    }
}

/// The blocks from the oldest byte kept to the end.
pub struct Tail {
    blocks: VecDeque<Arc<Block>>,
    writer: BlockWriter,
    end: Offset,
    keep_bytes: u64,
    spare: Option<Arc<Block>>,
}

impl Tail {
    /// An empty tail at `start` that keeps at least `keep_bytes`.
    pub fn new(start: Offset, keep_bytes: u64) -> Tail {
        let writer = BlockWriter::new(start);
        Tail {
            blocks: VecDeque::from([writer.share()]),
            writer,
            end: start,
            keep_bytes,
            spare: None,
        }
    }

    /// The offset after the last byte.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The offset of the oldest byte kept.
    pub fn first(&self) -> Offset {
        self.blocks[0].start()
    }

    /// The memory that the blocks take, in bytes.
    pub fn memory(&self) -> usize {
        (self.blocks.len() + usize::from(self.spare.is_some())) * BLOCK_BYTES
    }

    /// How many bytes are kept at least.
    pub fn keep(&self) -> u64 {
        self.keep_bytes
    }

    /// How many bytes to keep from now on; [`Tail::trim`] applies it.
    pub fn set_keep(&mut self, keep_bytes: u64) {
        self.keep_bytes = keep_bytes;
    }

    /// Adds `bytes` at the end.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        let n = self.writer.push(bytes);
        self.end += n as u64;
        if n < bytes.len() {
            self.append_in_new_blocks(&bytes[n..]);
        }
    }

    #[cold]
    fn append_in_new_blocks(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = self.spare.take().and_then(|block| BlockWriter::reuse(block, self.end));
            self.writer = spare.unwrap_or_else(|| BlockWriter::new(self.end));
            self.blocks.push_back(self.writer.share());
            let n = self.writer.push(bytes);
            self.end += n as u64;
            bytes = &bytes[n..];
        }
    }

    /// Drops blocks that are older than what is to be kept, and none that reaches beyond `needed`.
    pub fn trim(&mut self, needed: Offset) {
        let floor = Offset(self.end.0.saturating_sub(self.keep_bytes)).min(needed);
        while self.blocks.len() > 1 && self.blocks[1].start() <= floor {
            self.spare = self.blocks.pop_front();
        }
    }

    /// The bytes at `from`, as many as lie together, at most `max_bytes` and none beyond `upto`.
    /// `None` if there are none, or `from` is older than the tail.
    pub fn piece(&self, from: Offset, max_bytes: usize, upto: Offset) -> Option<Piece> {
        let upto = upto.min(self.end);
        if from < self.first() || from >= upto || max_bytes == 0 {
            return None;
        }
        let place = (from - self.first()) as usize;
        let (index, start) = (place / BLOCK_BYTES, place % BLOCK_BYTES);
        let left = usize::try_from(upto - from).unwrap_or(usize::MAX);
        let len = left.min(max_bytes).min(BLOCK_BYTES - start);
        Some(Piece { block: self.blocks[index].clone(), range: start..start + len })
    }

    /// The pieces from `from` to `upto`, in order.
    pub fn pieces(&self, mut from: Offset, upto: Offset) -> impl Iterator<Item = Piece> {
        std::iter::from_fn(move || {
            let piece = self.piece(from, usize::MAX, upto)?;
            from = piece.end();
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_tail_reads_back_what_was_appended(
            appends in prop::collection::vec(0..100_000usize, 1..30),
            keep in 0..400_000u64,
            start in 0..1_000_000u64,
        ) {
            let mut tail = Tail::new(Offset(start), keep);
            let mut model = Vec::new();
            for (i, &n) in appends.iter().enumerate() {
                let bytes: Vec<u8> = (0..n).map(|b| (b * 7 + i) as u8).collect();
                tail.append(&bytes);
                model.extend_from_slice(&bytes);
                let needed = Offset(start + model.len() as u64 / 2);
                tail.trim(needed);
                prop_assert_eq!(tail.end(), Offset(start + model.len() as u64));
                let wanted = needed.0.min(tail.end().0.saturating_sub(keep)).max(start);
                prop_assert!(tail.first().0 <= wanted);
                prop_assert!(wanted - tail.first().0 <= BLOCK_BYTES as u64);
                let got: Vec<u8> = tail
                    .pieces(tail.first(), tail.end())
                    .flat_map(|piece| piece.bytes().to_vec())
                    .collect();
                prop_assert!(got == model[(tail.first().0 - start) as usize..]);
                if tail.first().0 > 0 {
                    prop_assert!(tail.piece(Offset(tail.first().0 - 1), 9, tail.end()).is_none());
                }
            }
        }
    }
}
