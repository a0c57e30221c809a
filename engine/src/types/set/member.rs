//! A large set's member: its bytes in one allocation, reached by one word.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | length if below 255, else 255 |
//! | 1..5 | the length as `u32`, only if byte 0 is 255 |
//! | 1.. or 5.. | the member |

use crate::size_class::size_class;
use crate::table::Slot;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

const LONG: u8 = u8::MAX;
const SHORT_HEADER: usize = 1;
const LONG_HEADER: usize = 5;

/// A member, owned.
pub struct Member(NonNull<u8>);

// SAFETY: a member is plain bytes with one owner, like a `Box<[u8]>`.
unsafe impl Send for Member {}
// SAFETY: shared references only read.
unsafe impl Sync for Member {}

fn header(len: usize) -> usize {
    if len < LONG as usize { SHORT_HEADER } else { LONG_HEADER }
}

fn layout(len: usize) -> Layout {
    Layout::array::<u8>(header(len) + len).expect("a member is at most 4 GiB")
}

impl Member {
    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is longer than 4 GiB; the protocol's bound on arguments is far below.
    pub fn new(bytes: &[u8]) -> Member {
        let len = u32::try_from(bytes.len()).expect("a member is at most 4 GiB");
        let layout = layout(bytes.len());
        // SAFETY: the layout's size is never zero, and every write stays inside: the header, then
        // `bytes.len()` more, which is what `layout` adds up to.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            if bytes.len() < LONG as usize {
                start.write(len as u8);
            } else {
                start.write(LONG);
                start.add(1).cast::<u32>().write_unaligned(len);
            }
            let to = start.add(header(bytes.len())).as_ptr();
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Member(start)
        }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `new` wrote the length and as many bytes, and nothing changes them.
        unsafe {
            let (len, header) = match self.0.read() {
                LONG => (self.0.add(1).cast::<u32>().read_unaligned() as usize, LONG_HEADER),
                len => (len as usize, SHORT_HEADER),
            };
            std::slice::from_raw_parts(self.0.add(header).as_ptr(), len)
        }
    }

    /// The bytes that this member takes of the allocator.
    pub fn memory(&self) -> usize {
        size_class(layout(self.bytes().len()).size())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let layout = layout(self.bytes().len());
        // SAFETY: allocated by `new` with the layout of the same length, which never changes.
        unsafe { dealloc(self.0.as_ptr(), layout) }
    }
}

impl Slot for Member {
    #[inline]
    fn key(&self) -> &[u8] {
        self.bytes()
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_all_lengths_read_back() {
        for len in [0, 1, 253, 254, 255, 256, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let member = Member::new(&bytes);
            assert_eq!(member.bytes(), bytes);
            let asked = len + if len < 255 { 1 } else { 5 };
            assert_eq!(member.memory(), size_class(asked));
        }
    }
}
