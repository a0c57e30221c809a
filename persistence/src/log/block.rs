//! A block of the memory tail: bytes that one thread appends and many threads read, without locks.
//!
//! A replica's connection, the log thread and the loop all hold the same block, and send its bytes
//! from where they lie. What makes that sound: there is one [`BlockWriter`] to a block, a byte
//! below `filled` is never written again, and `filled` only grows.

use crate::offset::Offset;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of a block. Small enough that a tail of 1 MiB is kept to within a sixteenth, large
/// enough that a `pwritev` of 64 of them moves 4 MiB.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// A piece of the history, from [`Block::start`] on. `as_ref` gives the bytes appended so far.
pub struct Block {
    start: Offset,
    filled: AtomicUsize,
    bytes: Box<[UnsafeCell<MaybeUninit<u8>>]>,
}

// SAFETY: the bytes below `filled` are only read, the bytes above it are only touched by the one
// BlockWriter (which needs `&mut self`), and a byte goes from the second kind to the first through
// a release store of `filled` that every reader's acquire load sees before it looks.
unsafe impl Sync for Block {}

impl Block {
    /// The offset of the block's first byte.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset after the last byte appended so far.
    pub fn end(&self) -> Offset {
        self.start + self.filled.load(Ordering::Acquire) as u64
    }

    /// Where the bytes lie.
    fn address(&self) -> *mut u8 {
        UnsafeCell::raw_get(self.bytes.as_ptr()).cast()
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        let filled = self.filled.load(Ordering::Acquire);
        // SAFETY: the first `filled` bytes were initialised before the store that this load read,
        // lie inside the allocation, and nobody writes them while the block is shared.
        unsafe { std::slice::from_raw_parts(self.address(), filled) }
    }
}

/// The one end at which a block grows.
pub struct BlockWriter {
    block: Arc<Block>,
    filled: usize,
}

impl BlockWriter {
    /// An empty block for the bytes from `start` on.
    pub fn new(start: Offset) -> BlockWriter {
        let bytes = Box::new_uninit_slice(BLOCK_BYTES);
        // SAFETY: the elements are themselves MaybeUninit, for which every content is valid.
        let bytes = unsafe { bytes.assume_init() };
        let block = Arc::new(Block { start, filled: AtomicUsize::new(0), bytes });
        BlockWriter { block, filled: 0 }
    }

    /// `block` emptied for the bytes from `start` on, if nobody else holds it any more; its pages
    /// are already mapped and in the cache.
    pub fn reuse(mut block: Arc<Block>, start: Offset) -> Option<BlockWriter> {
        let alone = Arc::get_mut(&mut block)?;
        alone.start = start;
        *alone.filled.get_mut() = 0;
        Some(BlockWriter { block, filled: 0 })
    }

    /// Appends as much of `bytes` as fits, and says how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(BLOCK_BYTES - self.filled);
        // SAFETY: `filled + n` is within the allocation; readers look only below `filled`, which is
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
        let mut writer = BlockWriter::new(Offset(7));
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
        let mut writer = BlockWriter::new(Offset(0));
        assert_eq!(writer.push(&vec![1; BLOCK_BYTES + 1]), BLOCK_BYTES);
        let (kept, reader) = (writer.share(), writer.share());
        drop(writer);
        assert!(BlockWriter::reuse(kept, Offset(9)).is_none());
        assert_eq!((*reader).as_ref()[BLOCK_BYTES - 1], 1);
        let again = BlockWriter::reuse(reader, Offset(9)).unwrap();
        assert!((*again.share()).as_ref().is_empty());
        assert_eq!(again.share().start(), Offset(9));
    }
}
