//! Random transactions of many threads, and the search for what no serial order explains.

use terrace::Isolation;
use terrace::vfs::MemVfs;
use terrace_kit::{Mode, Scenario, isolation};

fn rounds(seeds: std::ops::Range<u64>, isolation: Isolation) -> isolation::Findings {
    let mut all = isolation::Findings::default();
    for seed in seeds {
        println!("seed {seed}");
        let db = Scenario::on(MemVfs::new(seed), Mode::Threads)
            .open(seed)
            .unwrap();
        let found = isolation::round(&db, seed, 8, 250, isolation);
        all.committed += found.committed;
        all.given_up += found.given_up;
        all.dependencies += found.dependencies;
        all.anomalies.extend(found.anomalies);
    }
    all
}

/// `TERRACE_TRANSACTIONS` says how many, if more are wanted.
#[test]
fn serializable_transactions_are_as_if_one_after_another() {
    let wanted = std::env::var("TERRACE_TRANSACTIONS").ok();
    let wanted: u64 = wanted.map_or(10_000, |n| n.parse().unwrap());
    let (mut committed, mut given_up, mut seed) = (0, 0, 0);
    while committed < wanted {
        let found = rounds(seed..seed + 1, Isolation::Serializable);
        assert_eq!(found.anomalies, [""; 0], "seed {seed}");
        committed += found.committed;
        given_up += found.given_up;
        seed += 1;
    }
    println!("{committed} committed, {given_up} given up, 0 anomalies");
}

/// The search finds what there is to find: write skew, and nothing that snapshot isolation forbids.
#[test]
fn snapshot_isolation_shows_its_anomalies() {
    let found = rounds(0..5, Isolation::Snapshot);
    assert!(!found.anomalies.is_empty(), "{found:?}");
    let cycles = found.anomalies.iter();
    let other: Vec<_> = cycles.filter(|text| !text.starts_with("a cycle")).collect();
    assert!(other.is_empty(), "{other:?}");
}
