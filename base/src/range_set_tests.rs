use super::*;

fn range(keyspace: u32, lower: &str, upper: Option<&str>, seq: u64) -> DeletedRange {
    DeletedRange {
        keyspace: KeyspaceId(keyspace),
        lower: lower.as_bytes().into(),
        upper: upper.map(|upper| upper.as_bytes().into()),
        seq: SeqNo::new(seq),
    }
}

fn shown(set: &RangeSet) -> Vec<String> {
    let show = |fragment: &Fragment| {
        let upper = fragment.upper.as_deref().map_or("end".into(), |upper| {
            String::from_utf8_lossy(upper).into_owned()
        });
        let seqs: Vec<u64> = fragment.seqs.iter().map(|seq| seq.get()).collect();
        format!(
            "{}:{}-{upper} {seqs:?}",
            fragment.keyspace.0,
            String::from_utf8_lossy(&fragment.lower)
        )
    };
    set.fragments.iter().map(show).collect()
}

#[test]
fn the_worked_example() {
    let set = RangeSet::default()
        .with(range(0, "b", Some("f"), 5))
        .with(range(0, "d", Some("k"), 9));
    assert_eq!(shown(&set), ["0:b-d [5]", "0:d-f [9, 5]", "0:f-k [9]"]);
    let newest = |key: &str, at| {
        let key = UserKey::new(KeyspaceId(0), key.as_bytes());
        set.newest(key, SeqNo::new(at)).get()
    };
    assert_eq!(
        [newest("a", 99), newest("b", 99), newest("d", 99)],
        [0, 5, 9]
    );
    assert_eq!([newest("d", 8), newest("d", 4), newest("k", 99)], [5, 0, 0]);
}

#[test]
fn a_range_without_end_ends_with_its_keyspace() {
    let set = RangeSet::default()
        .with(range(1, "x", None, 3))
        .with(range(1, "", Some("a"), 4))
        .with(range(2, "", None, 5));
    assert_eq!(shown(&set), ["1:-a [4]", "1:x-end [3]", "2:-end [5]"]);
    let newest =
        |id, key: &str| set.newest(UserKey::new(KeyspaceId(id), key.as_bytes()), SeqNo::MAX);
    assert_eq!([newest(1, "zz").get(), newest(1, "b").get()], [3, 0]);
    assert_eq!([newest(2, "zz").get(), newest(3, "").get()], [5, 0]);
}

/// Every answer is that of looking at each delete by itself.
#[test]
fn fragments_say_what_the_ranges_do() {
    let mut state = 7u64;
    let mut random = move |limit: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % limit
    };
    let letters: Vec<String> = ('a'..='h').map(String::from).collect();
    for _ in 0..500 {
        let mut set = RangeSet::default();
        for seq in 1..=random(8) {
            let (a, b) = (random(8), random(9));
            let lower = letters[a as usize].as_str();
            let upper = letters.get(b as usize).map(String::as_str);
            if upper.is_none_or(|upper| upper > lower) {
                set = set.with(range(random(2) as u32, lower, upper, seq * 2));
            }
        }
        for id in 0..2 {
            for key in &letters {
                for at in 0..18 {
                    let key = UserKey::new(KeyspaceId(id), key.as_bytes());
                    let covering = set
                        .ranges
                        .iter()
                        .filter(|range| range.covers_keys(key, key) && range.seq <= SeqNo::new(at));
                    let wanted = covering.map(|range| range.seq).max().unwrap_or(SeqNo::ZERO);
                    assert_eq!(
                        set.newest(key, SeqNo::new(at)),
                        wanted,
                        "{set:?} {key:?} {at}"
                    );
                    // Where they come from two sets, and only what a reader then needs is kept.
                    let (a, b) = set.ranges.split_at(set.ranges.len() / 2);
                    let halves = [RangeSet::new(a.to_vec()), RangeSet::new(b.to_vec())];
                    let needed = RangeSet::union_at(&halves, SeqNo::new(at));
                    assert_eq!(needed.newest(key, SeqNo::MAX), wanted, "{set:?} {at}");
                    assert_eq!(
                        set.touches(key, key),
                        set.fragment(key).is_some(),
                        "{set:?} {key:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_newer_deletes_cover_is_left_out_for_who_sees_them() {
    let longer: Vec<RangeSet> = (1..=300u64)
        .map(|n| RangeSet::default().with(range(0, "", Some(&format!("{n:03}")), n)))
        .collect();
    assert_eq!(
        shown(&RangeSet::union_at(&longer, SeqNo::MAX)),
        ["0:-300 [300]"]
    );
    assert_eq!(
        shown(&RangeSet::union_at(&longer, SeqNo::new(7))),
        ["0:-007 [7]"]
    );
    assert_eq!(RangeSet::union(&longer).fragments.len(), 300);
}
