//! Numbers that stand for what a database holds: equal contents have equal ones, and nothing else has in practice.
//!
//! The digest of a database is the sum of those of its keyspaces and entries, so that a change of
//! one key changes it by a difference, whatever else there is.

use terrace::Bytes;
use twox_hash::XxHash3_64;

use crate::model::Entry;
use crate::oracle::Contents;

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// An empty keyspace.
pub(crate) fn name(name: &str) -> u64 {
    hash(1, name.as_bytes())
}

/// A key and its value in a keyspace.
pub(crate) fn entry(keyspace: &str, key: &[u8], value: &[u8]) -> u64 {
    hash(hash(hash(2, keyspace.as_bytes()), key), value)
}

/// A keyspace and all in it.
pub(crate) fn keyspace<'a>(
    keyspace: &str,
    entries: impl Iterator<Item = (&'a Bytes, &'a Entry)>,
) -> u64 {
    let each = entries.map(|(key, found)| entry(keyspace, key, &found.value));
    each.fold(name(keyspace), u64::wrapping_add)
}

/// All that was read.
pub fn digest(contents: &Contents) -> u64 {
    let entries = contents
        .iter()
        .flat_map(|(name, map)| map.iter().map(move |(key, value)| entry(name, key, value)));
    let names = contents.keys().map(|keyspace| name(keyspace));
    names.chain(entries).fold(0, u64::wrapping_add)
}
