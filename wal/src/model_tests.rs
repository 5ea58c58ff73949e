//! Random lives of a log against a model: appends, syncs, marks, flushes, and then a power cut that
//! keeps any subset of the unsynced sectors, a kill that keeps everything, a failing call, or a
//! clean end; again and again over the same files.

use proptest::prelude::*;

use crate::testing_log::Engine;

#[derive(Clone, Debug)]
enum Step {
    Append(usize, u32),
    Sync,
    Mark,
    /// Tables hold the log up to this share of its unflushed frames.
    Flush(u8),
    /// A spare is ready before it is needed.
    Prepare,
    /// Which calls succeed before all fail, and then a cut or a kill.
    Fail(u8, End),
    Close,
    End(End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    /// A power cut: how likely an unsynced sector is kept, of 8, and a seed.
    Cut(u8, u64),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        1 => Just(End::Kill),
        4 => (0..=8u8, any::<u64>()).prop_map(|(share, seed)| End::Cut(share, seed)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..900usize, 1..4u32).prop_map(|(len, count)| Step::Append(len, count)),
        1 => (3000..9000usize, 1..4u32).prop_map(|(len, count)| Step::Append(len, count)),
        5 => Just(Step::Sync),
        2 => Just(Step::Mark),
        2 => any::<u8>().prop_map(Step::Flush),
        1 => Just(Step::Prepare),
        1 => (0..12u8, end()).prop_map(|(calls, end)| Step::Fail(calls, end)),
        1 => Just(Step::Close),
        2 => end().prop_map(Step::End),
    ]
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn crash(engine: &mut Engine, end: End) {
    engine.vfs.fail_after(u64::MAX);
    if let End::Cut(share, seed) = end {
        let mut seed = seed | 1;
        engine
            .vfs
            .cut(&mut || random(&mut seed) % 8 < u64::from(share));
    }
    engine.reopen();
}

/// A few steps during which calls begin to fail.
fn fail(engine: &mut Engine, calls: u8, end: End) {
    engine.prepare(0).ok();
    engine.vfs.fail_after(u64::from(calls));
    let mut tried = 0;
    let failed = loop {
        tried += 1;
        // Half of the runs end in a close whose parts fail.
        let result = match tried % 3 {
            _ if tried > 8 && calls.is_multiple_of(2) => close(engine),
            0 => engine.sync(),
            _ => engine.append(&[tried; 300], 1).map(drop),
        };
        if result.is_err() || tried > 20 {
            break result.is_err();
        }
    };
    if failed {
        assert!(engine.log.mark().is_err(), "a failure is final");
    }
    crash(engine, end);
}

fn close(engine: &mut Engine) -> terrace_base::Result<()> {
    let last = terrace_base::SeqNo::new(engine.seq);
    let point = engine.log.end();
    engine.log.close(last, engine.edit)?;
    engine.synced = engine.synced.max(point);
    Ok(())
}

fn live(steps: &[Step]) {
    let mut engine = Engine::new(4096);
    for step in steps {
        match *step {
            Step::Append(len, count) => {
                let byte = engine.seq as u8 | 1;
                engine.append(&vec![byte; len], count).unwrap();
            }
            Step::Sync => engine.sync().unwrap(),
            Step::Mark => engine.log.mark().unwrap(),
            Step::Flush(share) => {
                let n = engine.written.len() * usize::from(share) / 255;
                if let Some(frame) = n.checked_sub(1).map(|i| engine.written[i].end) {
                    engine.flush(frame);
                }
            }
            Step::Prepare => {
                if !engine.log.has_spare() {
                    engine.prepare(0).unwrap();
                }
            }
            Step::Fail(calls, end) => fail(&mut engine, calls, end),
            Step::Close => {
                let in_use = engine.log.current_size() > 0;
                close(&mut engine).unwrap();
                engine.vfs.cut(&mut || false);
                let closed = engine.reopen().close.is_some();
                assert!(closed || !in_use);
            }
            Step::End(end) => crash(&mut engine, end),
        }
    }
    engine.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_ends_in_a_prefix_with_all_that_was_synced(
        steps in proptest::collection::vec(step(), 1..150)
    ) {
        live(&steps);
    }
}
