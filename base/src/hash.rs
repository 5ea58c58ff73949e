//! The hash of a user key, shared by the point index of tables and the filters of memtables.
//!
//! ```text
//! key_hash(keyspace, key)  = XXH3-64(key, seed = keyspace)
//! seeded(hash, seed)       = fold(hash xor seed, 0x9E3779B97F4A7C15)
//! fold(a, b)               = low 64 bits of a*b xor high 64 bits of a*b
//! ```
//!
//! A reader hashes its key once; each table then mixes in its own random seed, so that keys chosen
//! to collide in one table do not collide in the next. Stored on disk: the functions never change.

use twox_hash::XxHash3_64;

use crate::key::UserKey;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of `key`, before any table's seed.
#[inline]
pub fn key_hash(key: UserKey<'_>) -> u64 {
    XxHash3_64::oneshot_with_seed(u64::from(key.keyspace.0), key.bytes)
}

/// `hash` as the structure with this `seed` sees it.
#[inline]
pub fn seeded(hash: u64, seed: u64) -> u64 {
    let product = u128::from(hash ^ seed) * u128::from(MULTIPLIER);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyspaceId;

    #[test]
    fn vectors_fix_the_format() {
        let hash = |id, key: &[u8]| key_hash(UserKey::new(KeyspaceId(id), key));
        // XXH3-64 of the empty string with seed 0, as its author publishes it.
        assert_eq!(hash(0, b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(hash(0, b"terrace"), VECTOR_TERRACE_0);
        assert_eq!(hash(7, b"terrace"), VECTOR_TERRACE_7);
        assert_eq!(seeded(hash(0, b"terrace"), 42), VECTOR_SEEDED);
    }

    const VECTOR_TERRACE_0: u64 = 0xCDDC_9E8E_F76E_D303;
    const VECTOR_TERRACE_7: u64 = 0xDA95_EA4E_DB33_C270;
    const VECTOR_SEEDED: u64 = 0x2197_7DDB_E413_21C0;
}
