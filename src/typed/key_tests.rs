use std::cmp::Ordering;
use std::fmt::Debug;

use proptest::prelude::*;
use terrace_base::ErrorKind;

use super::*;

/// Order, return and uniqueness of the encodings of two keys, alone and inside of others.
fn check<K: Key + Clone + Debug>(a: &K, b: &K, compare: fn(&K, &K) -> Ordering) {
    let order = compare(a, b);
    assert_eq!(a.to_bytes().cmp(&b.to_bytes()), order, "{a:?} and {b:?}");
    // Inside, what follows decides only between equals.
    for (x, y) in [(0u8, 0u8), (0, 255), (255, 0)] {
        let (left, right) = ((a.clone(), x), (b.clone(), y));
        let wanted = order.then(x.cmp(&y));
        assert_eq!(
            left.to_bytes().cmp(&right.to_bytes()),
            wanted,
            "{left:?} and {right:?}"
        );
    }
    let (left, right) = ((7u8, Some(a.clone())), (7u8, Some(b.clone())));
    assert_eq!(
        left.to_bytes().cmp(&right.to_bytes()),
        order,
        "{left:?} and {right:?}"
    );
    let none = (7u8, None::<K>).to_bytes();
    assert!(none < left.to_bytes() && none < right.to_bytes());
    for key in [a, b] {
        let back = K::from_bytes(&key.to_bytes()).unwrap();
        assert!(compare(key, &back).is_eq(), "{key:?} came back as {back:?}");
        let (back, x) = <(K, u8)>::from_bytes(&(key.clone(), 9u8).to_bytes()).unwrap();
        assert!(
            compare(key, &back).is_eq() && x == 9,
            "{key:?} came back as {back:?}"
        );
    }
}

/// Whatever the bytes are, they are one key's or `Invalid`.
fn hostile<K: Key>(bytes: &[u8]) {
    match K::from_bytes(bytes) {
        Ok(key) => assert_eq!(key.to_bytes(), bytes),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
    }
}

type Six = (u8, String, Option<i16>, Vec<u8>, bool, Option<String>);
type Nested = ((String, Vec<u8>), Option<(Option<Vec<u8>>, String)>);

/// Strings that share beginnings and hold what the escapes are made of.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(0u8),
        Just(1),
        Just(2),
        Just(b'a'),
        Just(254),
        Just(255),
        any::<u8>()
    ];
    prop::collection::vec(byte, 0..6)
}

fn text() -> impl Strategy<Value = String> {
    let letter = prop_oneof![
        Just('\0'),
        Just('\u{1}'),
        Just('a'),
        Just('é'),
        Just('\u{10ffff}')
    ];
    prop::collection::vec(letter, 0..6).prop_map(String::from_iter)
}

fn six() -> impl Strategy<Value = Six> {
    let short = prop_oneof![Just(-1i16), Just(0), any::<i16>()];
    (
        0..2u8,
        text(),
        prop::option::of(short),
        bytes(),
        any::<bool>(),
        prop::option::of(text()),
    )
}

fn nested() -> impl Strategy<Value = Nested> {
    let inner = (prop::option::of(bytes()), text());
    ((text(), bytes()), prop::option::of(inner))
}

macro_rules! kinds {
    ($($name:ident: $strategy:expr, $compare:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
            $(
                #[test]
                fn $name((a, b) in ($strategy, $strategy)) {
                    check(&a, &b, $compare);
                    check(&a, &a, $compare);
                }
            )*
        }
    };
}

kinds! {
    u8s: any::<u8>(), Ord::cmp;
    u16s: any::<u16>(), Ord::cmp;
    u32s: any::<u32>(), Ord::cmp;
    u64s: any::<u64>(), Ord::cmp;
    u128s: any::<u128>(), Ord::cmp;
    i8s: any::<i8>(), Ord::cmp;
    i16s: any::<i16>(), Ord::cmp;
    i32s: any::<i32>(), Ord::cmp;
    i64s: any::<i64>(), Ord::cmp;
    i128s: any::<i128>(), Ord::cmp;
    bools: any::<bool>(), Ord::cmp;
    f32s: any::<u32>().prop_map(f32::from_bits), f32::total_cmp;
    f64s: any::<u64>().prop_map(f64::from_bits), f64::total_cmp;
    usual_f64s: -3.0..3.0f64, f64::total_cmp;
    byte_strings: bytes(), Ord::cmp;
    strings: text(), Ord::cmp;
    options: prop::option::of(any::<i32>()), Ord::cmp;
    options_of_options: prop::option::of(prop::option::of(bytes())), Ord::cmp;
    single: (text(),), Ord::cmp;
    pairs: (text(), bytes()), Ord::cmp;
    triples: (bytes(), bytes(), bytes()), Ord::cmp;
    fours: (bytes(), any::<u8>(), text(), prop::option::of(any::<bool>())), Ord::cmp;
    fives: (0..2u8, 0..2u16, 0..2u32, bytes(), text()), Ord::cmp;
    sixes: six(), Ord::cmp;
    tuples_in_tuples: nested(), Ord::cmp;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..Default::default() })]
    #[test]
    fn any_bytes_are_one_key_or_invalid(bytes in prop_oneof![
        bytes(),
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..40),
        six().prop_map(|key| key.to_bytes()),
    ]) {
        hostile::<u8>(&bytes);
        hostile::<u32>(&bytes);
        hostile::<i128>(&bytes);
        hostile::<f32>(&bytes);
        hostile::<f64>(&bytes);
        hostile::<bool>(&bytes);
        hostile::<Vec<u8>>(&bytes);
        hostile::<String>(&bytes);
        hostile::<Option<u16>>(&bytes);
        hostile::<Option<Option<String>>>(&bytes);
        hostile::<(String, Vec<u8>)>(&bytes);
        hostile::<(Vec<u8>, Option<Vec<u8>>, bool)>(&bytes);
        hostile::<Six>(&bytes);
        hostile::<Nested>(&bytes);
    }
}

#[test]
fn floats_have_one_order() {
    let rising = [
        -f64::NAN,
        f64::NEG_INFINITY,
        f64::MIN,
        -1.0,
        -f64::MIN_POSITIVE,
        -5e-324,
        -0.0,
        0.0,
        5e-324,
        1.0,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
    ];
    for pair in rising.windows(2) {
        assert!(pair[0].to_bytes() < pair[1].to_bytes(), "{pair:?}");
        assert!(
            (pair[0] as f32).to_bytes() <= (pair[1] as f32).to_bytes(),
            "{pair:?}"
        );
    }
}

#[test]
fn the_worked_examples() {
    assert_eq!(1u32.to_bytes(), [0, 0, 0, 1]);
    assert_eq!((-1i16).to_bytes(), [0x7f, 0xff]);
    assert_eq!(1.0f32.to_bytes(), [0xbf, 0x80, 0, 0]);
    assert_eq!((-1.0f32).to_bytes(), [0x40, 0x7f, 0xff, 0xff]);
    assert_eq!([false.to_bytes(), true.to_bytes()], [[0], [1]]);
    assert_eq!("ab".to_string().to_bytes(), b"ab");
    let inside = |text: &str| {
        let mut out = Vec::new();
        text.to_string().encode(Place::Inside, &mut out);
        out
    };
    assert_eq!(inside("ab"), [0x61, 0x62, 0, 1]);
    assert_eq!(inside("a\0"), [0x61, 0, 0xff, 0, 1]);
    assert_eq!(inside(""), [0, 1]);
    assert_eq!(None::<u8>.to_bytes(), [0]);
    assert_eq!(Some(7u8).to_bytes(), [1, 7]);
    let key = (42u16, "ab".to_string(), Some(-1i8));
    assert_eq!(key.to_bytes(), [0, 0x2a, 0x61, 0x62, 0, 1, 1, 0x7f]);
}
