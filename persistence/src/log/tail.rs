//! The memory tail: the newest bytes of the history, which replicas and the log's files are fed
//! from.
//!
//! A queue of blocks. A reader keeps an offset, not a block: one that lags costs nothing and holds
//! nothing back. With the log on disk the newest blocks are a pool's (`pool.rs`), as long as it
//! has any, so that what is appended is safe from the process's end at once.

use super::block::{Block, BlockWriter, PAGE};
use super::pool::Pool;
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
    pool: Option<Arc<Pool>>,
    /// How many of the oldest blocks are known to be in memory of their own.
    own_blocks: usize,
    /// What is allocated for the blocks themselves, in bytes.
    allocated: usize,
    /// Where the segment begins that the next bytes are for: that byte is at a page's beginning.
    segment_start: Offset,
    /// All before it outlives the process: the end of a turn.
    safe: Offset,
    /// Up to where the pool was told of what changed.
    noted: Offset,
    /// From where on, and up to where, some bytes are in no pool.
    outside: Option<(Offset, Offset)>,
}

impl Tail {
    /// An empty tail at `start` that keeps at least `keep_bytes`.
    pub fn new(start: Offset, keep_bytes: u64) -> Tail {
        let writer = BlockWriter::new(start, 0);
        let first = writer.share();
        Tail {
            allocated: first.memory(),
            blocks: VecDeque::from([first]),
            writer,
            end: start,
            keep_bytes,
            spare: None,
            pool: None,
            own_blocks: 0,
            segment_start: start,
            safe: start,
            noted: start,
            outside: Some((start, start)),
        }
    }

    /// What is appended from now on is for a segment that begins at `segment_start`, and goes into
    /// blocks of the pool if there is one. Up to `written`, segments have it.
    pub fn set_pool(&mut self, pool: Option<Arc<Pool>>, segment_start: Offset, written: Offset) {
        self.writer.close();
        self.pool = pool;
        self.segment_start = segment_start;
        self.safe = written;
        self.outside = Some((written, self.end));
    }

    /// A segment begins at the end.
    pub fn cut(&mut self) {
        self.writer.close();
        self.segment_start = self.end;
    }

    /// At the end of a turn, when segments have all up to `written`: what comes before the offset
    /// returned outlives the process. Of what is only in the pool, nothing beyond `limit` counts.
    pub fn publish(&mut self, written: Offset, limit: Offset) -> Offset {
        if self.pool.as_ref().is_some_and(|pool| pool.is_broken()) {
            self.set_pool(None, self.segment_start, self.safe.max(written));
        }
        let is_pooled = self.writer.is_pooled();
        let outside = if is_pooled { self.outside } else { self.outside_now() };
        let safe = match outside {
            Some((from, upto)) if written < upto => from.max(written),
            _ => self.end,
        };
        let safe = safe.min(limit).max(written.min(self.end));
        if is_pooled && outside.is_some_and(|(_, upto)| written >= upto) {
            self.outside = None;
        }
        if self.pool.is_some() {
            for piece in self.pieces(self.noted.max(self.first()), self.end) {
                piece.block.note_changed(piece.range);
            }
            self.noted = self.end;
        }
        if safe > self.safe {
            if let Some(pool) = &self.pool {
                pool.publish(safe, self.writer.filled());
                if pool.is_broken() {
                    return self.publish(written, limit); // that it is safe is not in the file
                }
            }
            self.safe = safe;
        }
        self.safe
    }

    fn outside_now(&self) -> Option<(Offset, Offset)> {
        Some((self.outside.map_or(self.safe, |(from, _)| from), self.end))
    }

    /// The offset after the last byte.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The offset of the oldest byte kept.
    pub fn first(&self) -> Offset {
        self.blocks[0].start()
    }

    /// What is allocated for the blocks, in bytes. The bytes of the pool's blocks are not: they are a file's.
    pub fn memory(&self) -> usize {
        self.allocated
            + self.spare.as_ref().map_or(0, |block| block.memory())
            + self.blocks.capacity() * size_of::<Arc<Block>>()
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

    /// Adds a value at the end, whose bytes are not copied. Only while there is no pool, in which they would have to be.
    pub fn append_text(&mut self, text: Arc<Vec<u8>>) {
        debug_assert!(self.pool.is_none());
        self.push_block(Block::of_text(self.end, text.clone()));
        self.end += text.len() as u64;
        match self.writer.rest(self.end) {
            Some(rest) => self.go_on_in(rest),
            None => self.begin_block(),
        }
    }

    /// Adds `bytes` bytes at the end that nobody will read: of what there is, nothing is kept.
    pub fn jump(&mut self, bytes: u64) {
        self.end += bytes;
        self.begin_block();
        let last = self.blocks.len() - 1;
        self.drop_oldest(last);
    }

    #[cold]
    fn append_in_new_blocks(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.begin_block();
            let n = self.writer.push(bytes);
            self.end += n as u64;
            bytes = &bytes[n..];
        }
    }

    fn begin_block(&mut self) {
        self.writer.close();
        let start = self.end;
        let skip = start.0.wrapping_sub(self.segment_start.0) as usize % PAGE;
        let pooled = self.pool.as_ref().and_then(|pool| BlockWriter::pooled(pool, start, skip));
        if !self.writer.is_pooled() || pooled.is_none() {
            self.outside = self.outside_now();
        }
        let writer = pooled.unwrap_or_else(|| {
            let spare = self.spare.take();
            let spare = spare.and_then(|block| BlockWriter::reuse(block, start, skip));
            spare.unwrap_or_else(|| BlockWriter::new(start, skip))
        });
        self.go_on_in(writer);
    }

    fn go_on_in(&mut self, writer: BlockWriter) {
        self.push_block(writer.share());
        self.writer = writer;
    }

    fn push_block(&mut self, block: Arc<Block>) {
        self.allocated += block.memory();
        self.blocks.push_back(block);
    }

    fn drop_oldest(&mut self, blocks: usize) {
        for block in self.blocks.drain(..blocks) {
            self.allocated -= block.memory();
            self.spare = Some(block).filter(|block| block.is_own());
        }
        self.own_blocks = self.own_blocks.saturating_sub(blocks);
    }

    /// Drops blocks that are older than what is to be kept, and none that reaches beyond `needed`.
    pub fn trim(&mut self, needed: Offset) {
        let floor = Offset(self.end.0.saturating_sub(self.keep_bytes)).min(needed);
        while self.blocks.len() > 1 && self.blocks[1].start() <= floor {
            self.drop_oldest(1);
        }
    }

    /// Gives blocks back to a pool that runs low, whose bytes are only kept for readers: segments have
    /// all up to `written`.
    pub fn relieve_pool(&mut self, written: Offset) {
        let Some(pool) = &self.pool else { return };
        while self.own_blocks + 1 < self.blocks.len()
            && self.blocks[self.own_blocks + 1].start() <= written
            && pool.is_low()
        {
            let block = &mut self.blocks[self.own_blocks];
            if block.is_pooled() {
                self.allocated -= block.memory();
                *block = block.copy();
                self.allocated += block.memory();
            }
            self.own_blocks += 1;
        }
    }

    /// The bytes at `from`, as many as lie together, at most `max_bytes` and none beyond `upto`.
    /// `None` if there are none, or `from` is older than the tail.
    pub fn piece(&self, from: Offset, max_bytes: usize, upto: Offset) -> Option<Piece> {
        let upto = upto.min(self.end);
        if from < self.first() || from >= upto || max_bytes == 0 {
            return None;
        }
        let mut block = self.blocks.back()?;
        if from < block.start() {
            let index = self.blocks.partition_point(|block| block.start() <= from);
            block = &self.blocks[index - 1];
        }
        let start = (from - block.start()) as usize;
        let left = usize::try_from(upto.min(block.end()) - from).unwrap_or(usize::MAX);
        let len = left.min(max_bytes);
        Some(Piece { block: block.clone(), range: start..start + len })
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
    use super::super::block::BLOCK_BYTES;
    use super::super::disk::OsDisk;
    use super::super::fake::FakeDisk;
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use varve_engine::size_class;

    /// What the pool had of the tail counted as allocated, so up to 16 MiB of data did not for `maxmemory`.
    #[test]
    fn memory_is_what_is_allocated_for_the_blocks() {
        let mut tail = Tail::new(Offset(0), 0);
        let counted = |tail: &Tail| {
            let own = tail.blocks.iter().chain(&tail.spare).filter(|block| block.is_own());
            let fixed = (tail.blocks.len() + usize::from(tail.spare.is_some())) * Block::OVERHEAD;
            own.count() * BLOCK_BYTES + fixed + tail.blocks.capacity() * 8
        };
        assert_eq!(tail.memory(), counted(&tail));
        tail.append_text(Arc::new(vec![b'x'; 20_000]));
        tail.append(b"x");
        assert_eq!(tail.memory(), counted(&tail) + size_class(20_000));
        tail.jump(1);
        assert_eq!((tail.memory(), tail.blocks.len()), (counted(&tail), 1));
        tail = Tail::new(Offset(0), 0);
        let pool = Pool::open(&*FakeDisk::new(1), Path::new("p"), 4, 7, Offset(0)).unwrap();
        tail.set_pool(Some(pool), Offset(0), Offset(0));
        let mut seen = Vec::new();
        for nth in 1..=12 {
            tail.append(&[b'x'; BLOCK_BYTES]);
            if nth > 8 {
                tail.relieve_pool(tail.end());
                tail.trim(Offset((nth - 8) * 3 * BLOCK_BYTES as u64));
            }
            assert_eq!(tail.memory(), counted(&tail), "after {nth} blocks");
            let pooled = tail.blocks.iter().filter(|block| block.is_pooled()).count();
            seen.push((pooled, tail.blocks.len()));
        }
        assert_eq!((seen[0], seen[7]), ((1, 2), (4, 9)));
        assert!(seen.last().is_some_and(|(pooled, _)| (1..4).contains(pooled)), "{seen:?}");
    }

    /// Each save begins a segment. What a server with few writes had of them took 64 KiB of memory for each.
    #[test]
    fn many_short_segments_take_little_memory() {
        let mut tail = Tail::new(Offset(0), 1 << 20);
        let pool = Pool::open(&*FakeDisk::new(1), Path::new("p"), 4, 7, Offset(0)).unwrap();
        tail.set_pool(Some(pool), Offset(0), Offset(0));
        for _ in 0..100 {
            tail.append(&[b'x'; 30]);
            tail.cut();
            tail.relieve_pool(tail.end());
        }
        assert_eq!((tail.first(), tail.end()), (Offset(0), Offset(3000)));
        assert!(tail.memory() < 2 * BLOCK_BYTES, "{}", tail.memory());
    }

    /// The story: a file system that makes a copy of what is written is full, and has no room for that of the
    /// page that says what is safe.
    #[test]
    fn what_the_pool_could_not_publish_is_not_safe() {
        let path = std::env::temp_dir().join(format!("varve-tail-{}", std::process::id()));
        let pool = Pool::open(&OsDisk, &path, 1, 7, Offset(0)).unwrap();
        let mut tail = Tail::new(Offset(0), 0);
        tail.set_pool(Some(pool), Offset(0), Offset(0));
        tail.append(b"safe");
        assert_eq!(tail.publish(Offset(0), tail.end()), Offset(4));
        tail.append(b"lost");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(tail.publish(Offset(0), tail.end()), Offset(4));
        assert_eq!(tail.publish(Offset(8), tail.end()), Offset(8), "a segment has it");
        std::fs::remove_file(&path).unwrap();
    }

    proptest! {
        #[test]
        fn the_tail_reads_back_what_was_appended(
            appends in prop::collection::vec((0..100_000usize, any::<bool>()), 1..30),
            keep in 0..400_000u64,
            start in 0..1_000_000u64,
        ) {
            let mut tail = Tail::new(Offset(start), keep);
            let mut model = Vec::new();
            let mut longest = BLOCK_BYTES;
            for (i, &(n, is_text)) in appends.iter().enumerate() {
                let bytes: Vec<u8> = (0..n).map(|b| (b * 7 + i) as u8).collect();
                model.extend_from_slice(&bytes);
                match is_text {
                    true => {
                        longest = longest.max(n);
                        tail.append_text(Arc::new(bytes));
                    }
                    false => tail.append(&bytes),
                }
                let needed = Offset(start + model.len() as u64 / 2);
                tail.trim(needed);
                prop_assert_eq!(tail.end(), Offset(start + model.len() as u64));
                let wanted = needed.0.min(tail.end().0.saturating_sub(keep)).max(start);
                prop_assert!(tail.first().0 <= wanted);
                prop_assert!(wanted - tail.first().0 <= longest as u64);
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
