//! How tables are packed: all alike, but for keyspaces that say otherwise.
//!
//! Only tables of the last level are compressed, as the database says or, where it has a
//! compression of its own, as the keyspace does; the size of blocks counts everywhere. A block
//! holds entries of one keyspace, so a new block size begins with the keyspace, in the middle of a
//! table. A compression is that of a whole table: where the wanted one changes, a merge begins a
//! new table.
//!
//! That a rewrite ends takes one rule for both sides, [`Packings::common`]: a merge puts two
//! keyspaces into one table only if every keyspace from the one to the other wants the same
//! compression, there or not; and the picker takes a table for well packed if that holds from its
//! first key to its last, which is all that it knows of it. So nothing that a merge wrote is picked
//! for its compression again, unless its options changed meanwhile.

use std::collections::BTreeMap;

use terrace_base::{KeyspaceId, PersistentMap};
use terrace_sstable::Compression;

/// How entries are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Of blocks in the last level.
    pub compression: Compression,
    /// Bytes of a raw block.
    pub block_size: usize,
}

impl Default for Packing {
    fn default() -> Packing {
        Packing {
            compression: Compression::None,
            block_size: 8192,
        }
    }
}

/// The packings of all keyspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packings {
    default: Packing,
    /// Of keyspaces whose packing is another one.
    own: PersistentMap<KeyspaceId, Packing>,
    /// Nothing is compressed.
    plain: bool,
}

impl Packings {
    /// One for all keyspaces but those that have their `own`.
    pub fn new(default: Packing, mut own: BTreeMap<KeyspaceId, Packing>) -> Packings {
        own.retain(|_, packing| *packing != default);
        Packings {
            default,
            own: own.into_iter().collect(),
            plain: false,
        }
    }

    /// The keyspace has this packing from now on. Costs the logarithm of the number of keyspaces.
    pub fn set(&mut self, id: KeyspaceId, packing: Packing) {
        match packing == self.default {
            true => self.own.remove(&id),
            false => self.own.insert(id, packing),
        };
    }

    /// These block sizes, without compression.
    pub fn plain(&self) -> Packings {
        Packings {
            plain: true,
            ..self.clone()
        }
    }

    /// How keyspaces are compressed that do not say.
    pub fn default_compression(&self) -> Compression {
        self.compression(self.default)
    }

    /// How a keyspace is packed.
    pub fn of(&self, id: KeyspaceId) -> Packing {
        let packing = self.own.get(&id).copied().unwrap_or(self.default);
        Packing {
            compression: self.compression(packing),
            ..packing
        }
    }

    /// The compression of every keyspace from `first` to `last`; `None` if they differ.
    pub fn common(&self, first: KeyspaceId, last: KeyspaceId) -> Option<Compression> {
        let wanted = self.of(first).compression;
        if first >= last || self.plain || self.own.is_empty() {
            return Some(wanted);
        }
        let mut others = 0;
        let from_first = self.own.iter_from(|id| id.cmp(&first));
        let within = from_first.take_while(|(id, _)| **id <= last);
        let mut between = within.inspect(|_| others += 1);
        let alike = between.all(|(_, packing)| packing.compression == wanted);
        // Those that are not listed are as the default says.
        let all_listed = others > last.0 - first.0;
        (alike && (all_listed || self.default.compression == wanted)).then_some(wanted)
    }

    fn compression(&self, packing: Packing) -> Compression {
        match self.plain {
            true => Compression::None,
            false => packing.compression,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyspaces_have_a_compression_in_common_if_all_between_them_agree() {
        use Compression::{Lz4, None as Raw};
        let packing = |compression, block_size| Packing {
            compression,
            block_size,
        };
        let (first, last) = (0, 9);
        for default in [Raw, Lz4] {
            for bits in 0..1u32 << (2 * (last - first)) {
                if bits % 37 != 0 {
                    continue; // A part of all there are is enough.
                }
                let own = (first..last).filter_map(|id| match bits >> (2 * id) & 3 {
                    0 => Some((KeyspaceId(id), packing(Raw, 512))),
                    1 => Some((KeyspaceId(id), packing(Lz4, 8192))),
                    _ => Option::None,
                });
                let packings = Packings::new(packing(default, 8192), own.collect());
                let plain = packings.plain();
                for a in first..=last {
                    let wanted = packings.of(KeyspaceId(a)).compression;
                    for b in a..=last {
                        let alike =
                            (a..=b).all(|id| packings.of(KeyspaceId(id)).compression == wanted);
                        let (a, b) = (KeyspaceId(a), KeyspaceId(b));
                        assert_eq!(packings.common(a, b), alike.then_some(wanted));
                        // An answer, whatever it is.
                        let _: Option<Compression> = packings.common(b, a);
                        assert_eq!(plain.common(a, b), Some(Raw));
                        assert_eq!(plain.of(a).block_size, packings.of(a).block_size);
                    }
                }
            }
        }
        let ends = (KeyspaceId(0), KeyspaceId(u32::MAX));
        assert_eq!(Packings::default().common(ends.0, ends.1), Some(Raw));
        let all = [(ends.0, packing(Lz4, 512)), (ends.1, packing(Lz4, 512))];
        let packings = Packings::new(packing(Raw, 512), all.into());
        assert_eq!(packings.common(ends.0, ends.1), None);
    }
}
