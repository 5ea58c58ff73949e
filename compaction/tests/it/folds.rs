//! Merges of operands: whatever is combined, no reader can tell.

use std::sync::Arc;

use proptest::prelude::*;
use terrace_base::key::split_expiry;
use terrace_base::{DeletedRange, KeyspaceId, OwnedKey, RangeSet, SeqNo, UserKey, ValueKind};
use terrace_compaction::*;

use crate::store::Sorted;

type Entry = (OwnedKey, Vec<u8>);

#[derive(Clone, Copy, Debug)]
enum Op {
    Put,
    Delete,
    Merge,
    Expire(u64),
    /// From the key on, so many keys.
    DeleteRange(u8),
}

fn op() -> impl Strategy<Value = (u8, Op)> {
    let op = prop_oneof![
        3 => Just(Op::Put),
        1 => Just(Op::Delete),
        6 => Just(Op::Merge),
        1 => (40..60u64).prop_map(Op::Expire),
        1 => (1..3u8).prop_map(Op::DeleteRange),
    ];
    (0..3u8, op)
}

/// All that was written, and the range deletes.
fn history(ops: &[(u8, Op)]) -> (Vec<Entry>, RangeSet) {
    let (mut entries, mut deleted) = (Vec::new(), Vec::new());
    for (i, &(key, op)) in ops.iter().enumerate() {
        let seq = SeqNo::new(i as u64 + 1);
        let text = format!("{seq},").into_bytes();
        let (kind, value) = match op {
            Op::Put => (ValueKind::Put, text),
            Op::Delete => (ValueKind::Tombstone, Vec::new()),
            Op::Merge => (ValueKind::Merge, text),
            Op::Expire(time) => {
                let value = [&time.to_le_bytes()[..], &text].concat();
                (ValueKind::PutExpiring, value)
            }
            Op::DeleteRange(keys) => {
                deleted.push(Arc::new(DeletedRange {
                    keyspace: KeyspaceId(0),
                    lower: [key].into(),
                    upper: Some([key + keys].into()),
                    seq,
                }));
                continue;
            }
        };
        let user = UserKey::new(KeyspaceId(0), &[key]).to_owned();
        entries.push((OwnedKey { user, seq, kind }, value));
    }
    (entries, RangeSet::new(deleted))
}

/// What a reader at `at` and `now` sees of a key.
fn read(entries: &[Entry], deleted: &RangeSet, key: u8, at: u64, now: u64) -> Option<Vec<u8>> {
    let user = UserKey::new(KeyspaceId(0), std::slice::from_ref(&key)).to_owned();
    let at = SeqNo::new(at);
    let hidden = deleted.newest(user.as_ref(), at);
    let mut of_key: Vec<&Entry> = entries
        .iter()
        .filter(|(k, _)| k.user == user && k.seq <= at && k.seq > hidden)
        .collect();
    of_key.sort_by_key(|(k, _)| k.seq);
    let mut parts: Vec<&[u8]> = Vec::new();
    for (key, value) in of_key.into_iter().rev() {
        match key.kind {
            ValueKind::Merge => {
                parts.push(value);
                continue;
            }
            ValueKind::Put => parts.push(value),
            ValueKind::PutExpiring => {
                let (time, value) = split_expiry(value).unwrap();
                parts.extend((now < time).then_some(value));
            }
            _ => {}
        }
        break;
    }
    parts.reverse();
    (!parts.is_empty()).then(|| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_reader_sees_that_operands_were_combined(
        ops in prop::collection::vec(op(), 1..40),
        snapshots in prop::collection::btree_map(0..40u64, 35..50u64, 0..4),
        below in 0..20u64,
        fails in prop::option::weighted(0.2, 0..3u8),
        carried in any::<bool>(),
    ) {
        let (all, deleted) = history(&ops);
        let visible = ops.len() as u64;
        let now = 50;
        let snapshots: Vec<(SeqNo, u64)> = snapshots.into_iter()
            .filter(|(seq, _)| *seq <= visible)
            .map(|(seq, time)| (SeqNo::new(seq), time)).collect();
        let (older, input): (Vec<Entry>, Vec<Entry>) = all.iter().cloned()
            .partition(|(key, _)| key.seq.get() <= below);
        let may_exist = |key: UserKey<'_>| older.iter().any(|(k, _)| k.user.as_ref() == key);
        let combine = |key: UserKey<'_>, parts: &[&[u8]]| {
            (Some(key.bytes[0]) != fails).then(|| parts.concat())
        };
        // An image acts on no range delete, for want of an edit that carries it; it knows them all
        // the same.
        let none = RangeSet::default();
        let rules = Rules {
            stripes: &Stripes::at(&snapshots, SeqNo::new(visible), now),
            dropped_keyspaces: &[],
            deleted: if carried { &deleted } else { &none },
            oldest_snapshot: snapshots.iter().map(|(seq, _)| *seq).min(),
            may_exist_below: &may_exist,
            folding: Some(Folding { combine: &combine, deleted: &deleted }),
            keeps: None,
            fetch: None,
        };
        let mut iter = CompactionIter::new(Sorted::new(input.clone()), rules);
        let mut output = Vec::new();
        while let Some((key, value)) = iter.next_kept().unwrap() {
            output.push((key.to_owned(), value.to_vec()));
        }
        prop_assert_eq!(iter.read(), input.len() as u64);
        prop_assert_eq!(iter.read(), output.len() as u64 + iter.counts().total());
        for pair in output.windows(2) {
            let (a, b) = (&pair[0].0, &pair[1].0);
            prop_assert!((&a.user, b.seq) < (&b.user, a.seq), "{:?} before {:?}", a, b);
        }
        let after = [output, older].concat();
        let now_on = (now..62).map(|time| (SeqNo::new(visible), time));
        for (at, time) in snapshots.iter().copied().chain(now_on) {
            for key in 0..3 {
                let was = read(&all, &deleted, key, at.get(), time);
                let is = read(&after, &deleted, key, at.get(), time);
                prop_assert_eq!(is, was, "key {} at {} and {}, after {:?}", key, at, time, after);
            }
        }
        // Without snapshots one operand a key is left at most, and none where nothing lies below
        // it.
        if snapshots.is_empty() && fails.is_none() {
            for key in 0..3u8 {
                let of_key = after.iter().filter(|(k, _)| k.user.bytes[0] == key && k.seq.get() > below);
                let operands = of_key.filter(|(k, _)| k.kind == ValueKind::Merge).count();
                prop_assert!(operands <= 1, "{} operands of {}", operands, key);
            }
        }
    }
}
