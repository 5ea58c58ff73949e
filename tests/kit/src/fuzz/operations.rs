//! Bytes as operations on a database, compared with the model step by step; then it crashes.

use std::sync::Arc;

use terrace::Durability;
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};

use super::Outcome;
use super::input::Input;
use crate::{Op, Oracle, Profile, Runner, Scenario};

/// So many operations are made of one input.
const MOST: usize = 96;

fn profile() -> Profile {
    let mut profile = Profile::default();
    (profile.keys, profile.keyspaces) = (16, 3);
    (profile.large_one_in, profile.longest_key_one_in) = (1 << 40, 1 << 40);
    (profile.maintenance, profile.reopens) = (12, 3);
    profile.copies = false; // A crash is not to find another database's files.
    profile
}

/// Two bytes an operation. No time passes: what is synced after a while is synced when it is asked
/// for.
fn operations_of(input: &mut Input<'_>) -> Vec<Op> {
    let profile = profile();
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MOST {
        let mut op = profile.op(u64::from(input.u16()));
        if let Op::Batch(_, durability @ Some(Durability::Interval(_)), _) = &mut op {
            *durability = Some(Durability::Buffered);
        }
        ops.push(op);
    }
    ops
}

/// `options | crash | operation: u16 ...`
pub(super) fn operations(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let (seed, crash) = (u64::from(input.u8()), u64::from(input.u8()));
    let vfs = MemVfs::crashable(seed);
    let mut scenario = Scenario::by_hand(vfs.clone());
    scenario.mixed_durability = false;
    let mut runner = Runner::new(scenario.clone(), seed)?;
    runner.run(operations_of(input))?;
    runner.check()?;
    let policy = CrashPolicy::ALL.get(crash as usize % CrashPolicy::ALL.len());
    let cut = (ImageKind::Cut, *policy.unwrap_or(&CrashPolicy::DropAll));
    for (kind, policy) in [cut, (ImageKind::Kill, CrashPolicy::KeepAll)] {
        let image = vfs.image(kind, policy, crash);
        crashed(&runner, &scenario, &image, kind, crash)
            .map_err(|error| format!("{kind:?} {policy:?}: {error}"))?;
    }
    Ok(())
}

/// Opens what a crash has left, twice: the second time after the power went during the first.
fn crashed(
    runner: &Runner,
    scenario: &Scenario,
    image: &Arc<MemVfs>,
    kind: ImageKind,
    seed: u64,
) -> Outcome {
    let allowed = runner.progress().after(kind);
    let reopened = |vfs: &Arc<MemVfs>| {
        let vfs: Arc<dyn Vfs> = vfs.clone();
        let db = scenario
            .elsewhere(vfs)
            .open(seed)
            .map_err(|error| format!("open: {error:?}"))?;
        let found = Oracle::check(&db, runner.model(), allowed.clone())?;
        Ok::<_, String>((db, found))
    };
    let (db, found) = reopened(image)?;
    let cut = image.image(ImageKind::Cut, CrashPolicy::DropAll, seed);
    drop(db);
    // What recovery has shown is durable, whatever was so before.
    let (_, again) = reopened(&cut)?;
    match again == found {
        true => Ok(()),
        false => Err(format!("{found} commits, and after a second crash {again}")),
    }
}
