use std::sync::Arc;

use terrace_base::SystemClock;

use super::*;
use crate::keyspace::policies::Policies;
use crate::options::Options;

const ID: KeyspaceId = KeyspaceId(3);

fn context() -> Context {
    let policies = Arc::new(Policies::new(&Options::default()));
    Context::new(Arc::new(SystemClock::default()), policies, 0)
}

fn at(seq: u64) -> ReadPoint {
    ReadPoint::newest(SeqNo::new(seq))
}

fn put(stretches: &Stretches, key: &[u8], seq: u64) {
    assert!(stretches.ask());
    stretches.wrote(UserKey::new(ID, key), SeqNo::new(seq), ValueKind::Put);
}

#[test]
fn a_stretch_is_watched_proven_used_and_cut() {
    let (stretches, context) = (Stretches::default(), context());
    let around = |key: &[u8], seq| stretches.around(ID, key, &mut at(seq), &context);
    let all = |from: &[u8], to: &[u8]| Some((from.to_vec(), Some(to.to_vec())));
    assert!(!stretches.ask());
    stretches.found_dead(ID, b"b", Some(b"m"), b"k", &at(10));
    assert_eq!(around(b"c", 20), None, "not watched");
    put(&stretches, b"x", 11); // The watch begins.
    stretches.found_dead(ID, b"b", Some(b"m"), b"k", &at(10));
    assert_eq!(around(b"c", 20), None, "proven before the watch began");
    stretches.found_dead(ID, b"b", Some(b"m"), b"k", &at(11));
    assert_eq!(around(b"c", 20), all(b"b", b"m"));
    assert_eq!(around(b"c", 10), None, "a snapshot of before");
    assert_eq!(around(b"m", 20), None);
    assert_eq!(around(b"a", 20), None);

    put(&stretches, b"f", 12);
    assert_eq!(around(b"c", 20), all(b"b", b"f"));
    assert_eq!(around(b"g", 20), None);
    // A walk that did not see the put proves nothing beyond it; nor does it below one.
    put(&stretches, b"a5", 13);
    stretches.found_dead(ID, b"a", Some(b"p"), b"o", &at(11));
    assert_eq!(around(b"c", 20), all(b"a5\0", b"f"));
    // Cut short, so it is watched anew: a proof of before that says nothing.
    stretches.found_dead(ID, b"a", Some(b"p"), b"o", &at(13));
    assert_eq!(around(b"c", 20), all(b"a5\0", b"f"));
    stretches.watch(SeqNo::new(14));
    stretches.found_dead(ID, b"a", None, b"o", &at(14));
    assert_eq!(around(b"zz", 20), Some((b"a".to_vec(), None)));
    stretches.forget();
    assert!(around(b"c", 20).is_none() && !stretches.ask());
}

#[test]
fn what_has_expired_is_dead_to_readers_of_later_times() {
    let (stretches, context) = (Stretches::default(), context());
    stretches.found_dead(ID, b"b", Some(b"m"), b"k", &at(10));
    stretches.watch(SeqNo::new(10));
    let timed = |now| ReadPoint {
        now: Some(now),
        ..at(10)
    };
    stretches.found_dead(ID, b"b", Some(b"m"), b"k", &timed(500));
    let around = |mut at| stretches.around(ID, b"c", &mut at, &context).is_some();
    assert!(around(timed(500)) && around(timed(501)) && !around(timed(499)));
    assert!(around(at(10)), "by the clock it is later");
    // What it proves with this holds from that time on.
    let mut reader = at(10);
    assert!(stretches.around(ID, b"c", &mut reader, &context).is_some() && reader.now >= Some(500));
}

#[test]
fn few_are_remembered_and_others_keyspaces_are_left_alone() {
    let (stretches, context) = (Stretches::default(), context());
    for n in 0..40u32 {
        let id = KeyspaceId(n);
        stretches.found_dead(id, b"b", Some(b"m"), b"k", &at(10));
        stretches.watch(SeqNo::new(10));
        stretches.found_dead(id, b"b", Some(b"m"), b"k", &at(10));
    }
    let known = |n| {
        let around = stretches.around(KeyspaceId(n), b"c", &mut at(10), &context);
        around.is_some()
    };
    assert_eq!((0..40).filter(|n| known(*n)).count(), MOST);
    stretches.wrote(
        UserKey::new(KeyspaceId(39), b"b"),
        SeqNo::new(11),
        ValueKind::Put,
    );
    assert!(known(38) && !known(39));
}
