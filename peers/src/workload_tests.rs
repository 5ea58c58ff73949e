use super::*;
use std::collections::HashSet;

#[test]
fn keys_differ_and_missing_ones_never_exist() {
    let n = 5_000;
    let mut work = Workload::new(n, 100);
    work.in_order_of_number();
    let present: HashSet<Key> = work.keys.iter().copied().collect();
    assert_eq!(present.len(), n);
    work.missing(3);
    assert_eq!(work.keys.len(), n);
    assert!(work.keys.iter().all(|key| !present.contains(key)));
}

#[test]
fn every_order_is_a_permutation_of_the_same_keys() {
    let n = 1_000;
    let mut work = Workload::new(n, 100);
    work.ascending();
    assert!(work.keys.is_sorted());
    let sorted = work.keys.clone();
    for seed in 0..3 {
        work.shuffled(seed);
        assert!(!work.keys.is_sorted());
        assert_eq!(work.keys[7], key(u64::from(work.order[7])));
        work.keys.sort_unstable();
        assert_eq!(work.keys, sorted);
    }
}

#[test]
fn values_are_known_again_and_differ_by_generation() {
    let work = Workload::new(10, 100);
    assert_eq!(work.value(3, 0), work.value(3, 0));
    assert_ne!(work.value(3, 0), work.value(3, 1));
    assert_ne!(work.value(3, 0), work.value(4, 0));
    assert_eq!(work.value(9, 9).len(), 100);
    let big = Workload::new(10, 3 << 20);
    assert_eq!(big.value(1, 1).len(), 3 << 20);
}

#[test]
fn zipf_prefers_the_first_ranks() {
    let zipf = Zipf::new(10_000, 0.99);
    let mut rng = Rng(1);
    let mut counts = vec![0u32; 10_000];
    for _ in 0..100_000 {
        counts[zipf.sample(&mut rng) as usize] += 1;
    }
    // The share of rank 0 is 1 / zeta(10,000) = 10.2 %, and half of that for rank 1.
    assert!((9_500..11_000).contains(&counts[0]), "{}", counts[0]);
    assert!((4_500..6_000).contains(&counts[1]), "{}", counts[1]);
    assert!(counts[5_000..].iter().sum::<u32>() < 12_000);
}
