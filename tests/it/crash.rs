//! Crashes beside the database's own threads, and closes that leave nothing to do. Crashes at every call of a
//! database driven by hand are the mode `images` of the torture tests.

use terrace::vfs::{CrashPolicy, MemVfs};
use terrace_kit::{
    Allowed, Crash, Generator, Mode, Op, Profile, Random, Recovery, Runner, Scenario, Watch,
};

/// With its threads at work: flushes of a part of the log, compactions and spares come at any
/// moment.
#[test]
fn crashes_lose_nothing_beside_threads() {
    let mut images = 0;
    for seed in 0..12u64 {
        let vfs = MemVfs::crashable(seed);
        let scenario = Scenario::on(vfs.clone(), Mode::Threads);
        let mut runner = Runner::closed(scenario.clone());
        let progress = runner.progress();
        let wanted = |call: u64| {
            let at = (call / 3) as usize % CrashPolicy::ALL.len();
            let one = Crash::cut(CrashPolicy::ALL[at]);
            match call % 3 {
                0 => vec![Crash::cut(CrashPolicy::DropAll), one, Crash::KILL],
                _ => Vec::new(),
            }
        };
        let watch = Watch::new(&vfs, seed, wanted, move |kind| Allowed::by(&progress, kind));
        runner.open(seed).unwrap();
        // Flushes and the like are left to the background, which comes in between.
        let mut profile = Profile::crashes();
        (profile.maintenance, profile.pins, profile.reopens) = (0, 0, 0);
        for op in Generator::new(seed, profile).take(150) {
            runner
                .apply(&op)
                .unwrap_or_else(|e| panic!("seed {seed}: {op:?}: {e}"));
        }
        runner.close(true).unwrap();
        let by_hand = Scenario {
            mode: Mode::Manual,
            ..scenario
        };
        let recovery = Recovery {
            scenario: &by_hand,
            seed,
            model: runner.model(),
        };
        for moment in watch.take() {
            images += 1;
            let random = &mut Random::new(seed);
            let checked = recovery
                .check(&moment.image, &moment.allowed)
                .and_then(|(db, found)| {
                    let last_seq = moment.allowed.last_seq;
                    recovery.go_on(&moment.image, &db, found, last_seq, random, &mut |_| ())
                });
            checked.unwrap_or_else(|e| panic!("seed {seed}, {moment}: {e}"));
        }
    }
    println!("{images} images beside threads");
    assert!(images > 1000);
}

/// Also after a life that only rewrote tables, and so left the log as it was.
#[test]
fn an_open_after_a_close_writes_nothing() {
    let mut reopened = 0;
    for seed in 0..60 {
        let vfs = MemVfs::crashable(seed);
        let mut scenario = Scenario::by_hand(vfs.clone());
        scenario.short_replays = false;
        let mut runner = Runner::new(scenario, seed).unwrap();
        // An iterator that is kept would keep a file, which the next open removes.
        let pins = |op: &Op| matches!(op, Op::KeepIter(..) | Op::KeepCursor(_));
        let ops = Generator::new(seed, Profile::crashes()).filter(|op| !pins(op));
        for op in ops.take(40) {
            if !matches!(op, Op::Reopen(_) | Op::Flush | Op::WaitIdle) {
                runner.apply(&op).unwrap();
                continue;
            }
            for work in [&op, &Op::CompactAll, &Op::TakeSnapshot] {
                runner.apply(work).unwrap();
                runner.close(true).unwrap();
                let calls = vfs.mutations();
                runner.open(seed).unwrap();
                runner.check().unwrap();
                assert_eq!(vfs.mutations(), calls, "seed {seed}, after {work:?}");
                reopened += 1;
            }
        }
    }
    assert!(reopened > 500);
}
