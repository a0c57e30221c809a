//! A large hash's field: its name and its value in one allocation, reached by one word.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | length of the name, below 255 |
//! | 1, 2 | length and capacity of the value |
//! | 3.. | the name, then the value up to its capacity |
//!
//! A name of 255 bytes or more, or a value whose capacity is above 255, has the wide header:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | 255 |
//! | 4..8 | length of the name, `u32` |
//! | 8..12, 12..16 | length and capacity of the value, `u32` |
//! | 16.. | the name, then the value up to its capacity |
//!
//! A value is overwritten where it lies as long as it fits: counters and flags, which change most,
//! mostly do.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::size_class::size_class;
use crate::table::Slot;

const WIDE: u8 = u8::MAX;
const SHORT_HEADER: usize = 3;
const WIDE_HEADER: usize = 16;
/// Allocations are multiples of this; what is left over belongs to the value.
const STEP: usize = 8;

/// See the module's page.
pub struct Field(NonNull<u8>);

// SAFETY: a field is plain bytes with one owner, like a `Box<[u8]>`.
unsafe impl Send for Field {}
// SAFETY: shared references only read.
unsafe impl Sync for Field {}

/// What a header says.
#[derive(Clone, Copy)]
struct Shape {
    header: usize,
    name: usize,
    value: usize,
    capacity: usize,
}

impl Shape {
    /// The shape of a new field.
    fn of(name: usize, value: usize) -> Shape {
        let size = (SHORT_HEADER + name + value).next_multiple_of(STEP);
        let capacity = size - SHORT_HEADER - name;
        if name < WIDE as usize && capacity <= u8::MAX as usize {
            return Shape { header: SHORT_HEADER, name, value, capacity };
        }
        let size = (WIDE_HEADER + name + value).next_multiple_of(STEP);
        Shape { header: WIDE_HEADER, name, value, capacity: size - WIDE_HEADER - name }
    }

    fn layout(&self) -> Layout {
        let size = self.header + self.name + self.capacity;
        Layout::from_size_align(size, STEP).expect("name and value are at most 4 GiB each")
    }
}

impl Field {
    /// A copy of both.
    ///
    /// # Panics
    /// If one is nearly 4 GiB; the protocol's bound on arguments is far below.
    pub fn new(name: &[u8], value: &[u8]) -> Field {
        let shape = Shape::of(name.len(), value.len());
        assert!(name.len() <= u32::MAX as usize && shape.capacity <= u32::MAX as usize);
        let layout = shape.layout();
        // SAFETY: the layout's size is never zero, as the header is in it. Every write stays inside:
        // the header, then the name, then the value, which is at most its capacity; the `u32`s of
        // the wide header are aligned because the allocation is.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            if shape.header == SHORT_HEADER {
                start.write(name.len() as u8);
                start.add(2).write(shape.capacity as u8);
            } else {
                start.write(WIDE);
                start.add(4).cast::<u32>().write(name.len() as u32);
                start.add(12).cast::<u32>().write(shape.capacity as u32);
            }
            start.add(shape.header).as_ptr().copy_from_nonoverlapping(name.as_ptr(), name.len());
            let mut field = Field(start);
            field.write_value(shape, value);
            field
        }
    }

    #[inline]
    fn shape(&self) -> Shape {
        // SAFETY: `new` wrote the header that the first byte names, and `write_value` the length.
        unsafe {
            match self.0.read() {
                WIDE => Shape {
                    header: WIDE_HEADER,
                    name: self.0.add(4).cast::<u32>().read() as usize,
                    value: self.0.add(8).cast::<u32>().read() as usize,
                    capacity: self.0.add(12).cast::<u32>().read() as usize,
                },
                name => Shape {
                    header: SHORT_HEADER,
                    name: name as usize,
                    value: self.0.add(1).read() as usize,
                    capacity: self.0.add(2).read() as usize,
                },
            }
        }
    }

    #[inline]
    pub fn name(&self) -> &[u8] {
        // SAFETY: as in `shape`, without reading what a new field does not need of it; `new` wrote
        // as many bytes there, and nothing changes them.
        unsafe {
            let (header, len) = match self.0.read() {
                WIDE => (WIDE_HEADER, self.0.add(4).cast::<u32>().read() as usize),
                len => (SHORT_HEADER, len as usize),
            };
            std::slice::from_raw_parts(self.0.add(header).as_ptr(), len)
        }
    }

    #[inline]
    pub fn value(&self) -> &[u8] {
        let shape = self.shape();
        // SAFETY: `write_value` wrote as many bytes there as the header says.
        unsafe {
            let start = self.0.add(shape.header + shape.name);
            std::slice::from_raw_parts(start.as_ptr(), shape.value)
        }
    }

    /// Changes the value: in place if it fits and does not leave much unused.
    pub fn set_value(&mut self, value: &[u8]) {
        let shape = self.shape();
        if value.len() <= shape.capacity && shape.capacity - value.len() <= 16 + value.len() / 4 {
            // SAFETY: the shape is this field's own, and the value is within its capacity.
            unsafe { self.write_value(shape, value) };
        } else {
            *self = Field::new(self.name(), value);
        }
    }

    /// # Safety
    /// `shape` is the shape of this allocation, all but the value's length, and `value` is not
    /// longer than its capacity.
    #[inline]
    unsafe fn write_value(&mut self, shape: Shape, value: &[u8]) {
        // SAFETY: by the caller's promise both writes are inside the allocation; `value` cannot be
        // part of it, as `&mut self` is the only access to that.
        unsafe {
            if shape.header == SHORT_HEADER {
                self.0.add(1).write(value.len() as u8);
            } else {
                self.0.add(8).cast::<u32>().write(value.len() as u32);
            }
            let start = self.0.add(shape.header + shape.name).as_ptr();
            start.copy_from_nonoverlapping(value.as_ptr(), value.len());
        }
    }

    /// The bytes that it takes of the allocator.
    pub fn memory(&self) -> usize {
        size_class(self.shape().layout().size())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let layout = self.shape().layout();
        // SAFETY: allocated by `new` with this layout: name and capacity never change.
        unsafe { dealloc(self.0.as_ptr(), layout) }
    }
}

impl Clone for Field {
    fn clone(&self) -> Field {
        Field::new(self.name(), self.value())
    }
}

impl Slot for Field {
    #[inline]
    fn key(&self) -> &[u8] {
        self.name()
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_of_all_lengths_read_back() {
        let lengths = [0, 1, 4, 5, 12, 13, 100, 247, 248, 252, 253, 254, 255, 256, 70_000];
        let bytes: Vec<u8> = (0..70_000).map(|i| i as u8).collect();
        for name in lengths.map(|n| &bytes[..n]) {
            for value in lengths.map(|n| &bytes[..n]) {
                let mut field = Field::new(name, value);
                assert_eq!((field.name(), field.value()), (name, value));
                for next in lengths.map(|n| &bytes[bytes.len() - n..]) {
                    field.set_value(next);
                    assert_eq!((field.name(), field.value()), (name, next));
                    let least = name.len() + next.len();
                    let asked = field.shape().layout().size();
                    assert!(asked >= least);
                    assert!(asked <= least + 40 + next.len() / 4);
                    assert_eq!(field.memory(), size_class(asked));
                }
                let copy = field.clone();
                drop(field);
                assert_eq!((copy.name(), copy.value()), (name, &bytes[..]));
            }
        }
    }

    #[test]
    fn a_value_that_fits_stays_where_it_is() {
        let mut field = Field::new(b"counter", b"9");
        let address = field.address();
        field.set_value(b"10");
        assert_eq!((field.address(), field.value()), (address, &b"10"[..]));
        assert_eq!(size_of::<Option<Field>>(), 8);
    }
}
