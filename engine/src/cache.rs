//! Hints to the processor's cache: what is asked for early is there when it is read.
//!
//! A hint changes nothing that the program sees. It pays where the next reads are known and depend
//! on one another, so that the processor would wait for each in turn.

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Asks for the line at `address`, which need not be valid.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: a prefetch is a hint; it never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for every line of `value`.
#[inline(always)]
pub(crate) fn prefetch_all<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for at in (0..size_of::<T>()).step_by(LINE) {
        prefetch(start.wrapping_add(at));
    }
}
