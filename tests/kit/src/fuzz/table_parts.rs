//! The parts of a table, each decoded by itself: footer, fences, point index, blocks.

use terrace::Bytes;
use terrace_base::hash::seeded;
use terrace_base::key::{KeyspaceId, SeqNo, UserKey};
use terrace_sstable::internals::{Block, FenceKeys, Index, recode_footer};

use super::input::Input;
use super::log::typed;
use super::repair::{self, put, u32_at, u64_at};
use super::table::{check_answers, sample};
use super::{Outcome, REPAIR, expect};

/// So many fences or entries are compared with each other.
const MOST: usize = 48;

/// `flags | size beyond the tail / 64 | tail`
pub(super) fn footer(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let (flags, beyond) = (input.u8(), u64::from(input.u8()) * 64);
    let mut tail = input.rest().to_vec();
    let size = tail.len() as u64 + beyond;
    if flags & REPAIR != 0 {
        repair::footer(&mut tail, size);
    }
    let id = tail.len().checked_sub(36).and_then(|at| u64_at(&tail, at));
    match recode_footer(&tail, id.unwrap_or(0), size) {
        Ok(again) => expect(tail.ends_with(&again), || {
            format!("a footer is written again as {again:?}")
        }),
        Err(error) => typed(&error),
    }
}

/// `flags | end of the data / 8: u16 | payload`; with [`REPAIR`] the end is that of the last block.
pub(super) fn fences(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let (flags, units) = (input.u8(), u64::from(input.u16()));
    let payload = input.rest();
    let last = u32_at(payload, 0)
        .and_then(|count| u32_at(payload, (count as usize).checked_mul(12)?.checked_add(8)?));
    let end = match (flags & REPAIR, last) {
        (REPAIR, Some(last)) => u64::from(last) * 8,
        _ => units * 8,
    };
    let fences = match FenceKeys::decode(payload, end) {
        Ok(fences) => fences,
        Err(error) => return typed(&error),
    };
    let again = FenceKeys::decode(&fences.encode(), end).map_err(|error| error.to_string())?;
    let count = fences.count();
    let same = count == again.count() && (0..count).all(|i| fences.fence(i) == again.fence(i));
    expect(same, || "fences are read back as others".into())?;
    let key = |i: usize| fences.fence(i).0;
    for i in 0..count.min(MOST) {
        let mut longer = key(i).bytes.to_vec();
        longer.push(0);
        let shorter = longer.get(..longer.len().saturating_sub(2)).unwrap_or(&[]);
        let keyspace = key(i).keyspace;
        let above = KeyspaceId(keyspace.0.wrapping_add(1));
        for wanted in [
            key(i),
            UserKey::new(keyspace, &longer),
            UserKey::new(keyspace, shorter),
            UserKey::new(above, key(i).bytes),
        ] {
            let found = fences.locate(wanted);
            let below = (0..count).take_while(|i| key(*i) < wanted).count();
            let equal = (below..count).take_while(|i| key(*i) == wanted).count();
            let before = below.saturating_sub(1);
            let right = match equal {
                0 => before..before + 1,
                _ => below..below + equal,
            };
            expect(found == right, || {
                format!("the fences lead to {found:?} for {wanted:?}, not to {right:?}")
            })?;
        }
    }
    Ok(())
}

/// Keys are placed and found again, instead of a section being decoded.
pub(super) const PLACE: u8 = 2;
/// The bytes lie over the index of a table.
pub(super) const IN_TABLE: u8 = 4;

/// `flags | blocks: u16 |` and a section, or keys by their hash ([`PLACE`]), or what lies over a
/// table's index ([`IN_TABLE`]).
pub(super) fn index(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let (flags, blocks) = (input.u8(), usize::from(input.u16()));
    match flags {
        flags if flags & PLACE != 0 => place(input, blocks.max(1)),
        flags if flags & IN_TABLE != 0 => in_table(input),
        _ => probe(input.rest(), blocks),
    }
}

fn probe(section: &[u8], blocks: usize) -> Outcome {
    let section = Bytes::copy_from_slice(section);
    let index = match Index::decode(&section, blocks, false) {
        Ok(index) => index,
        Err(error) => return typed(&error),
    };
    let mapped = Index::decode(&section, blocks, true).map_err(|error| error.to_string())?;
    for n in 0..64u64 {
        // Homes all over the buckets, and fingerprints that occur.
        let word = u32_at(&section, 64 + 4 * n as usize).unwrap_or(0) >> 10;
        let hash = n << 58 | n << 32 | u64::from(word);
        let hash = unseeded(hash, u64_at(&section, 0).unwrap_or(0));
        let found = index.probe(hash);
        let bounded = found.len() <= 32 * 15 && found.iter().all(|place| place.1 < 8 << 10);
        expect(bounded && found == mapped.probe(hash), || {
            format!("a probe gives {found:?}")
        })?;
    }
    Ok(())
}

/// Some hash that a seed makes much like `wanted`: one of a few tried.
fn unseeded(wanted: u64, seed: u64) -> u64 {
    let near = |tried: &u64| (seeded(*tried, seed) ^ wanted).leading_zeros();
    (0..16u64)
        .map(|n| wanted.rotate_left(n as u32 * 4))
        .max_by_key(near)
        .unwrap_or(wanted)
}

fn place(input: &mut Input<'_>, blocks: usize) -> Outcome {
    let blocks = blocks.min(8192);
    let seed = input.u64();
    let mut keys = Vec::new();
    while !input.is_empty() && keys.len() < 2048 {
        let hash = input.u64();
        let at = keys.len();
        keys.push((hash, at % blocks, at * 40 % 8192));
    }
    let Some(section) = Index::encode(seed, &keys, blocks) else {
        return Ok(());
    };
    let section = Bytes::from(section);
    let index = Index::decode(&section, blocks, false).map_err(|error| error.to_string())?;
    for (hash, block, pos) in keys {
        let found = index.probe(hash);
        expect(found.contains(&(block, pos)), || {
            format!("the key {hash:#x} at {block}, {pos} is not among {found:?}")
        })?;
    }
    Ok(())
}

fn in_table(input: &mut Input<'_>) -> Outcome {
    let sample = sample();
    let mut bytes = sample.bytes.clone();
    let at = usize::from(input.u16()) % sample.index.len().max(1);
    let room = sample.index.len() - at;
    put(&mut bytes, sample.index.start + at, input.bytes(room));
    repair::table(&mut bytes);
    check_answers(bytes, &sample.entries)
}

/// `flags | block`, raw; with [`REPAIR`] its header is made to fit.
pub(super) fn block(data: &[u8]) -> Outcome {
    stored_block(data, 0)
}

/// `flags | block`, packed.
pub(super) fn packed(data: &[u8]) -> Outcome {
    stored_block(data, 1)
}

fn stored_block(data: &[u8], kind: u8) -> Outcome {
    let input = &mut Input::new(data);
    let flags = input.u8();
    let mut stored = input.rest().to_vec();
    put(&mut stored, 12, &[kind]);
    if flags & REPAIR != 0 {
        repair_header(&mut stored, kind);
    }
    let block = match Block::unchecked(&stored) {
        Ok(block) => block,
        Err(error) => return typed(&error),
    };
    for i in 0..block.count().min(MOST) {
        if let Some((key, _)) = block.entry(i) {
            block.lower_bound(key.user.bytes, key.seq);
        }
    }
    if let Err(error) = block.validate() {
        return typed(&error);
    }
    let mut entries = Vec::with_capacity(block.count());
    for i in 0..block.count() {
        let (key, value) = block.entry(i).ok_or("a valid block lacks an entry")?;
        entries.push((key.to_owned(), value.to_vec()));
    }
    let rising = entries.windows(2).all(|pair| match pair {
        [a, b] => a.0.as_ref() < b.0.as_ref(),
        _ => true,
    });
    expect(rising, || "the entries of a valid block do not rise".into())?;
    search(&block)?;
    for (what, other) in [
        (
            "packed",
            block.pack().map(|stored| Block::unchecked(&stored)),
        ),
        ("built", Some(Block::build(&entries))),
    ] {
        let Some(other) = other else { continue };
        let other = other.map_err(|error| format!("{what}: {error}"))?;
        other
            .validate()
            .map_err(|error| format!("{what}: {error}"))?;
        let same = other.count() == block.count()
            && (0..block.count()).all(|i| other.entry(i) == block.entry(i));
        expect(same, || format!("{what}, a block has other entries"))?;
        let bytes = other.bytes().get(4..) == block.bytes().get(4..);
        expect(bytes || what == "built", || {
            "a block is unpacked to other bytes".into()
        })?;
    }
    Ok(())
}

/// Highest sequence number and lengths, as far as they can be told.
fn repair_header(stored: &mut [u8], kind: u8) {
    if kind == 0 {
        let len = stored.len() as u32;
        put(stored, 24, &len.to_le_bytes());
        put(stored, 28, &[0; 4]);
    }
    if let Ok(block) = Block::unchecked(stored) {
        let seqs = (0..block.count()).filter_map(|i| block.entry(i));
        let highest = seqs.map(|(key, _)| key.seq.get()).max().unwrap_or(0);
        put(stored, 16, &highest.to_le_bytes());
    }
}

/// A search agrees with going through all entries.
fn search(block: &Block) -> Outcome {
    let count = block.count();
    let step = count / MOST + 1;
    for i in (0..count).step_by(step) {
        let Some((key, _)) = block.entry(i) else {
            continue;
        };
        let mut longer = key.user.bytes.to_vec();
        longer.push(0);
        let before = SeqNo::new(key.seq.get().saturating_sub(1));
        for (bytes, seq) in [
            (key.user.bytes, key.seq),
            (key.user.bytes, before),
            (key.user.bytes, SeqNo::MAX),
            (key.user.bytes, SeqNo::ZERO),
            (&longer, SeqNo::MAX),
            (longer.get(..longer.len() / 2).unwrap_or(&[]), SeqNo::MAX),
        ] {
            let found = block.lower_bound(bytes, seq);
            let below = |i: &usize| {
                block.entry(*i).is_some_and(|(key, _)| {
                    let order = key.user.bytes.cmp(bytes);
                    order.then_with(|| seq.cmp(&key.seq)).is_lt()
                })
            };
            let right = (0..count).take_while(below).count();
            expect(found == right, || {
                format!("a search for {bytes:?} at {seq} finds entry {found}, not {right}")
            })?;
        }
    }
    Ok(())
}
