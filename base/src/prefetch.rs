//! A hint to the processor that a line of memory will be read soon.
//!
//! A point read knows the lines that it may need in every level before it needs the first of them;
//! asking for all at once turns several cache misses in a row into one.
#![allow(unsafe_code)]

/// Starts loading the cache line that holds the start of `bytes`. Does nothing where unsupported.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching is a hint: it never faults and changes no architectural state, and the
    // pointer comes from a live slice anyway.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_slice_may_be_prefetched() {
        super::prefetch(&[]);
        super::prefetch(&[1, 2, 3]);
    }
}
