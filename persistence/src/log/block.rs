//! A block of the memory tail: bytes that one thread appends and many threads read, without locks.
//!
//! A replica's connection, the log thread and the loop all hold the same block, and send its bytes
//! from where they lie. What makes that sound: there is one [`BlockWriter`] to a block, a byte
//! below `filled` is never written again, and `filled` only grows.

use super::pool::{Filled, Pool};
use crate::offset::Offset;
use crc_fast::Digest;
use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use varve_engine::size_class;

/// The bytes of a block. Small enough that a tail of 1 MiB is kept to within a sixteenth, large
/// enough that a `pwritev` of 16 of them moves 1 MiB.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks begin at a page of memory, and what lies at a page of memory goes to a page of a file, so
/// that the disk can take it from where it lies.
pub const PAGE: usize = 4096;

const LAYOUT: Layout = match Layout::from_size_align(BLOCK_BYTES, PAGE) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// A piece of the history, from [`Block::start`] on. `as_ref` gives the bytes appended so far.
pub struct Block {
    start: Offset,
    /// At which of the block's bytes the piece begins.
    skip: usize,
    filled: AtomicUsize,
    /// Where they begin.
    at: NonNull<u8>,
    memory: Memory,
}

/// Whose a block's bytes are; they stay what they are as long as the block lives.
enum Memory {
    /// `BLOCK_BYTES` that are the block's own.
    Own,
    /// `BLOCK_BYTES` of a pool, under a number.
    Pool(Arc<Pool>, usize),
    /// A key's value, or a copy of a block, which the block was made full of.
    Text(Arc<Vec<u8>>),
    /// Another block's, whose piece of the history ended before them.
    Rest(Arc<Block>),
}

// SAFETY: the bytes below `filled` are only read, the bytes above it are only touched by the one
// BlockWriter (which needs `&mut self`), and a byte goes from the second kind to the first through
// a release store of `filled` that every reader's acquire load sees before it looks. Memory may be
// given back by any thread.
unsafe impl Sync for Block {}
// SAFETY: as above.
unsafe impl Send for Block {}

impl Block {
    /// What a block that is shared takes beside its bytes: itself and the two counts of its `Arc`.
    pub const OVERHEAD: usize = size_of::<Block>() + 2 * size_of::<usize>();

    /// The offset of the block's first byte.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset after the last byte appended so far.
    pub fn end(&self) -> Offset {
        self.start + self.filled.load(Ordering::Acquire) as u64
    }

    /// The bytes of a value, which are not copied.
    pub fn of_text(start: Offset, text: Arc<Vec<u8>>) -> Arc<Block> {
        let filled = AtomicUsize::new(text.len());
        let at = NonNull::from(text.as_slice()).cast();
        Arc::new(Block { start, skip: 0, filled, at, memory: Memory::Text(text) })
    }

    /// Whether the bytes outlive the process.
    pub fn is_pooled(&self) -> bool {
        matches!(self.memory, Memory::Pool(..))
    }

    /// Whether the memory is its own, so that the block can be used again.
    pub fn is_own(&self) -> bool {
        matches!(self.memory, Memory::Own)
    }

    /// What is allocated for this block, in bytes: a value's are counted, whoever else has it.
    pub fn memory(&self) -> usize {
        Block::OVERHEAD
            + match &self.memory {
                Memory::Own => BLOCK_BYTES,
                Memory::Text(text) => size_class(text.capacity()),
                Memory::Pool(..) | Memory::Rest(_) => 0,
            }
    }

    /// A block with the same bytes, in memory of its own. That is no more than few bytes need: where segments begin
    /// soon after each other, blocks hold no more.
    pub fn copy(&self) -> Arc<Block> {
        let bytes = self.as_ref();
        if bytes.len() <= BLOCK_BYTES / 2 {
            return Block::of_text(self.start, Arc::new(bytes.to_vec()));
        }
        let mut writer = BlockWriter::new(self.start, self.skip);
        writer.push(bytes);
        writer.block
    }

    /// To be called after the bytes in `range` were appended, for disks that remember such things.
    pub fn note_changed(&self, range: std::ops::Range<usize>) {
        if let Memory::Pool(pool, number) = &self.memory {
            pool.note_changed(*number, self.skip + range.start..self.skip + range.end);
        }
    }

    /// Where the bytes lie.
    fn address(&self) -> *mut u8 {
        // SAFETY: `skip` is within the bytes.
        unsafe { self.at.add(self.skip).as_ptr() }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        let filled = self.filled.load(Ordering::Acquire);
        // SAFETY: the first `filled` bytes were initialised before the store that this load read,
        // lie inside the block, and nobody writes them while the block is shared.
        unsafe { std::slice::from_raw_parts(self.address(), filled) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.memory {
            Memory::Pool(pool, number) => pool.give_back(*number),
            // SAFETY: allocated with this layout, and nobody has it any more: a rest's block holds it.
            Memory::Own => unsafe { alloc::dealloc(self.at.as_ptr(), LAYOUT) },
            Memory::Text(_) | Memory::Rest(_) => {}
        }
    }
}

/// The one end at which a block grows.
pub struct BlockWriter {
    block: Arc<Block>,
    filled: usize,
    /// As much is appended, and then no more.
    limit: usize,
    /// The checksum of a pool's block, until it is closed, and how many of its bytes that has.
    digest: Option<(Digest, usize)>,
}

impl BlockWriter {
    /// An empty block for the bytes from `start` on, the first of them at `skip`.
    pub fn new(start: Offset, skip: usize) -> BlockWriter {
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { alloc::alloc(LAYOUT) });
        let at = at.unwrap_or_else(|| alloc::handle_alloc_error(LAYOUT));
        BlockWriter::with(Block {
            start,
            skip,
            filled: AtomicUsize::new(0),
            at,
            memory: Memory::Own,
        })
    }

    /// As [`BlockWriter::new`], with a block of the pool, if it has one left.
    pub fn pooled(pool: &Arc<Pool>, start: Offset, skip: usize) -> Option<BlockWriter> {
        let number = pool.take(start, skip)?;
        let digest = Some((pool.digest(start), 0));
        let (at, memory) = (pool.address(number), Memory::Pool(pool.clone(), number));
        let block = Block { start, skip, filled: AtomicUsize::new(0), at, memory };
        Some(BlockWriter { digest, ..BlockWriter::with(block) })
    }

    /// Goes on for the bytes from `start` on in the rest of this block's memory, which is its own, and lets nothing
    /// more be appended to this block. `None` if there is no rest.
    pub fn rest(&mut self, start: Offset) -> Option<BlockWriter> {
        let owner = match &self.block.memory {
            Memory::Own => &self.block,
            Memory::Rest(owner) => owner,
            Memory::Pool(..) | Memory::Text(_) => return None,
        };
        let skip = self.block.skip + self.filled;
        let (at, memory) = (owner.at, Memory::Rest(owner.clone()));
        let block = Block { start, skip, filled: AtomicUsize::new(0), at, memory };
        self.close();
        (skip < BLOCK_BYTES).then(|| BlockWriter::with(block))
    }

    fn with(block: Block) -> BlockWriter {
        assert!(block.skip < BLOCK_BYTES);
        let limit = BLOCK_BYTES - block.skip;
        BlockWriter { limit, block: Arc::new(block), filled: 0, digest: None }
    }

    /// `block` emptied for the bytes from `start` on, the first of them at `skip`, if nobody else holds
    /// it any more and its memory is its own; its pages are already mapped and in the cache.
    pub fn reuse(mut block: Arc<Block>, start: Offset, skip: usize) -> Option<BlockWriter> {
        let alone = Arc::get_mut(&mut block).filter(|block| block.is_own())?;
        (alone.start, alone.skip) = (start, skip);
        *alone.filled.get_mut() = 0;
        Some(BlockWriter { limit: BLOCK_BYTES - skip, block, filled: 0, digest: None })
    }

    /// Appends as much of `bytes` as fits, and says how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.limit - self.filled);
        // SAFETY: `skip + filled + n` is within the block; readers look only below `filled`, which is
        // not moved until the bytes are there; this is the block's only writer and `&mut self`
        // excludes a second push.
        unsafe {
            let to = self.block.address().add(self.filled);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, n);
        }
        self.filled += n;
        self.block.filled.store(self.filled, Ordering::Release);
        n
    }

    /// Lets nothing more be appended.
    pub fn close(&mut self) {
        self.limit = self.filled;
        if let (Some(filled), Memory::Pool(pool, number)) = (self.filled(), &self.block.memory) {
            pool.close(*number, self.block.skip, filled);
            self.digest = None;
        }
    }

    /// What the block holds so far, if it is a pool's and not closed.
    pub fn filled(&mut self) -> Option<Filled> {
        let (digest, len) = self.digest.as_mut()?;
        digest.update(&(*self.block).as_ref()[*len..]);
        *len = self.filled;
        Some(Filled { start: self.block.start, len: *len, crc: digest.finalize() as u32 })
    }

    /// Whether the bytes outlive the process.
    pub fn is_pooled(&self) -> bool {
        self.block.is_pooled()
    }

    /// The block, to be read by whoever holds it.
    pub fn share(&self) -> Arc<Block> {
        self.block.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_a_growing_prefix_and_never_a_changing_byte() {
        let mut writer = BlockWriter::new(Offset(7), 0);
        let block = writer.share();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let seen = (*block).as_ref();
                    assert!(seen.iter().enumerate().all(|(i, &b)| b == i as u8));
                    if seen.len() == 3000 {
                        return;
                    }
                }
            });
            for i in 0..3000usize {
                assert_eq!(writer.push(&[i as u8]), 1);
            }
        });
        assert_eq!(block.end(), Offset(3007));
    }

    #[test]
    fn a_block_is_reused_only_when_nobody_reads_it() {
        let mut writer = BlockWriter::new(Offset(0), 0);
        assert_eq!(writer.push(&vec![1; BLOCK_BYTES + 1]), BLOCK_BYTES);
        let (kept, reader) = (writer.share(), writer.share());
        drop(writer);
        assert!(BlockWriter::reuse(kept, Offset(9), 0).is_none());
        assert_eq!((*reader).as_ref()[BLOCK_BYTES - 1], 1);
        let again = BlockWriter::reuse(reader, Offset(9), 0).unwrap();
        assert!((*again.share()).as_ref().is_empty());
        assert_eq!(again.share().start(), Offset(9));
    }
}
