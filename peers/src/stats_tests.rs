use super::*;

#[test]
fn the_median_is_the_middle() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
}

#[test]
fn a_ratio_is_taken_within_its_round() {
    // The machine was twice as fast in the second round, for both.
    let ours = [Some(10.0), Some(20.0), Some(12.0)];
    let theirs = [Some(5.0), Some(10.0), Some(3.0)];
    let spread = ratios(&ours, &theirs).unwrap();
    assert_eq!((spread.median, spread.min, spread.max), (2.0, 2.0, 4.0));
    // A ratio of medians would say something else.
    assert_eq!(
        median(&[10.0, 20.0, 12.0]).unwrap() / median(&[5.0, 10.0, 3.0]).unwrap(),
        2.4
    );
}

#[test]
fn rounds_that_lack_one_side_do_not_count() {
    let ours = [Some(10.0), None, Some(12.0)];
    let theirs = [None, Some(10.0), Some(3.0)];
    assert_eq!(ratios(&ours, &theirs).unwrap().median, 4.0);
    assert_eq!(ratios(&ours, &[None, None, None]), None);
    assert_eq!(ratios(&[], &[]), None);
    assert_eq!(ratios(&[Some(1.0)], &[Some(0.0)]), None);
}

#[test]
fn buckets_follow_each_other_without_gap() {
    let mut last = 0;
    for ns in 0..100_000u64 {
        let at = bucket(ns);
        assert!(at == last || at == last + 1, "{ns}");
        assert!(bucket_end(at) >= ns);
        assert!(at == 0 || bucket_end(at - 1) < ns);
        last = at;
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    assert_eq!(bucket_end(BUCKETS - 1), u64::MAX);
}

#[test]
fn quantiles_are_known_to_three_percent() {
    let mut histogram = Histogram::default();
    for i in 1..=100_000u64 {
        histogram.add(i * 10);
    }
    for (q, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
        let found = histogram.quantile(q) as f64;
        assert!(found >= exact && found <= exact * 1.035, "{q}: {found}");
    }
    assert_eq!(histogram.quantile(1.0), 1_000_000);
    assert_eq!(histogram.latency().max, 1_000_000);
}

#[test]
fn small_values_are_exact_and_merging_adds() {
    let mut one = Histogram::default();
    let mut two = Histogram::default();
    assert_eq!(one.latency().p50, 0);
    for ns in 0..50 {
        one.add(ns);
        two.add(ns + 50);
    }
    two.note_max(7_000);
    one.merge(&two);
    assert_eq!(one.quantile(0.25), 24);
    assert_eq!(one.quantile(0.01), 0);
    assert_eq!(one.latency().max, 7_000);
}
