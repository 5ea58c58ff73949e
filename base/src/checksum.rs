//! Checksums: CRC-32 of the bytes, plus a mix of where they belong.
//!
//! ```text
//! stored = crc32(bytes) + place(id, offset)   (modulo 2^32)
//! place(id, offset) = high 32 bits of fold(id xor rotate(offset, 32) , 0xD6E8FEB86659FD93)
//! ```
//!
//! `id` is the random 64-bit id of the file (of a log segment: the salt of its present use), so a
//! block that lies in another place or comes from another file does not verify. The mix is *added*,
//! not hashed in: a block copied whole keeps its CRC and only the mix changes, so damage stays
//! visible and is never laundered by a copy.

const MULTIPLIER: u64 = 0xD6E8_FEB8_6659_FD93;

/// What is added to the CRC of bytes at `offset` of the file with this `id`.
#[inline]
pub fn place(id: u64, offset: u64) -> u32 {
    let product = u128::from(id ^ offset.rotate_left(32)) * u128::from(MULTIPLIER);
    (((product as u64) ^ ((product >> 64) as u64)) >> 32) as u32
}

/// The plain CRC-32 (IEEE) of `bytes`.
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The plain CRC-32 of what `parts` are when laid end to end.
#[inline]
pub fn crc32_of_parts(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The checksum to store with `bytes` at `offset` of the file with this `id`.
#[inline]
pub fn checksum(bytes: &[u8], id: u64, offset: u64) -> u32 {
    crc32(bytes).wrapping_add(place(id, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_matters() {
        let sum = checksum(b"123456789", 1, 8);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32_of_parts(&[b"1234", b"", b"56789"]), 0xCBF4_3926);
        assert_ne!(sum, checksum(b"123456789", 2, 8));
        assert_ne!(sum, checksum(b"123456789", 1, 16));
        assert_eq!(sum.wrapping_sub(place(1, 8)), 0xCBF4_3926);
    }
}
