//! The typed layer over a database: what goes in comes out, in order, and what is of another type is told.

use std::ops::Bound;

use terrace::{Batch, Db, ErrorKind, Key, Typed, Value};

#[test]
fn entries_come_back_in_the_order_of_their_keys_from_both_ends() {
    let db = Db::in_memory().unwrap();
    let typed: Typed<i32, String> = db.typed();
    let keys = [7, -3, i32::MIN, 0, i32::MAX, 256, -70_000];
    for n in keys {
        typed.put(n, n.to_string()).unwrap();
    }
    let mut sorted = keys;
    sorted.sort();
    for _ in 0..2 {
        let found: Vec<(i32, String)> = typed.iter().map(Result::unwrap).collect();
        assert_eq!(found, sorted.map(|n| (n, n.to_string())));
        let mut both = typed.range(-70_000..=256);
        assert_eq!(both.next_back().unwrap().unwrap().0, 256);
        assert_eq!(both.next().unwrap().unwrap().0, -70_000);
        let rest: Vec<i32> = both.rev().map(|entry| entry.unwrap().0).collect();
        assert_eq!(rest, [7, 0, -3]);
        assert_eq!(typed.first().unwrap().unwrap().0, i32::MIN);
        assert_eq!(typed.last().unwrap().unwrap().0, i32::MAX);
        db.compact_all().unwrap();
    }
    typed.delete(7).unwrap();
    assert!(!typed.contains_key(7).unwrap() && typed.contains_key(0).unwrap());
    assert_eq!(typed.get(7).unwrap(), None);
    assert_eq!(typed.range(keys[0]..keys[1]).count(), 0);
    assert_eq!(
        typed
            .range((Bound::Excluded(0), Bound::<i32>::Unbounded))
            .count(),
        2
    );
}

#[test]
fn a_key_that_is_one_string_is_its_bytes() {
    let db = Db::in_memory().unwrap();
    let typed: Typed<String, i64> = db.typed();
    typed.put("hits", 5).unwrap();
    assert_eq!(db.add_i64("hits", 2).unwrap(), 7);
    assert_eq!(typed.get("hits").unwrap(), Some(7));
    assert_eq!(typed.range("h".."i").count(), 1);
    // A batch takes the bytes.
    let mut batch = Batch::new();
    batch.put("misses".to_string().to_bytes(), 3i64.to_value().unwrap());
    db.write(batch).unwrap();
    assert_eq!(typed.last().unwrap(), Some(("misses".to_string(), 3)));
}

#[test]
fn what_is_of_another_type_is_invalid_once() {
    let db = Db::in_memory().unwrap();
    db.put([0, 0, 0, 1], "eleven").unwrap();
    db.put([0, 0, 0, 2, 9], "x").unwrap();
    let typed: Typed<u32, u16> = db.typed();
    assert_eq!(typed.get(1).unwrap_err().kind(), ErrorKind::Invalid);
    let mut iter = db.typed::<u32, String>().iter();
    assert_eq!(iter.next().unwrap().unwrap(), (1, "eleven".to_string()));
    let error = iter.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(iter.next().is_none() && iter.next_back().is_none());
    assert!(db.health().is_ok(), "nothing is damaged");
    db.put("k", [0xff]).unwrap();
    let typed: Typed<Vec<u8>, String> = db.typed();
    assert_eq!(typed.get(b"k").unwrap_err().kind(), ErrorKind::Invalid);
    let long = vec![0; terrace::MAX_KEY_LEN + 1];
    assert_eq!(typed.put(long, "v").unwrap_err().kind(), ErrorKind::Invalid);
}

#[cfg(feature = "json")]
#[test]
fn json_values() {
    use std::collections::BTreeMap;

    use terrace::Json;
    let db = Db::in_memory().unwrap();
    type Ages = BTreeMap<String, u32>;
    let typed: Typed<u8, Json<Ages>> = db.typed();
    let ages = Ages::from([("Ada".to_string(), 36), ("Bo".to_string(), 4)]);
    typed.put(1, Json(ages.clone())).unwrap();
    assert_eq!(db.get([1]).unwrap().unwrap(), r#"{"Ada":36,"Bo":4}"#);
    assert_eq!(typed.get(1).unwrap().unwrap().0, ages);
    db.put([2], r#"{"secret":"x"}"#).unwrap();
    let error = typed.get(2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.to_string().contains("secret"), "{error}");
    let odd: Typed<u8, Json<BTreeMap<Vec<u8>, u8>>> = db.typed();
    let wrong = odd
        .put(3, Json(BTreeMap::from([(vec![1], 1)])))
        .unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
}
