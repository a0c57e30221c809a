//! What the allocator spends on a request.
//!
//! jemalloc has its memory in size classes: eight and multiples of 16 up to 128 bytes, then four for each
//! doubling up to 32 KiB, and whole pages from there. A request takes the class that it fits in, up to a quarter
//! more than it asks for.

/// The bytes that `len` bytes take, which are not 0.
#[inline]
pub const fn size_class(len: usize) -> usize {
    let step = match len {
        0..=8 => 8,
        9..=128 => 16,
        129..=0x8000 => 1 << ((len - 1).ilog2() - 2),
        _ => 4096,
    };
    (len + (step - 1)) & !(step - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_and_waste_little() {
        for len in 1..100_000 {
            let class = size_class(len);
            assert!(class >= len && class - len <= 15.max(len / 4), "{len} {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
