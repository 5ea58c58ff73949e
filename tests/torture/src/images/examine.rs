//! What becomes of an image: it is opened and compared, goes on, and its recovery is crashed in turn.

use std::collections::HashMap;
use std::sync::Arc;

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs};
use terrace_kit::{Crash, Moment, Outcome, Random, Recovery, Watch};

use super::Seen;
use crate::rounds::locked;

/// One recovery in so many is crashed at each of its calls: of a workload's images, and of a
/// recovery's.
const CRASHED_ONE_IN: [usize; 2] = [40, 150];
/// One recovery in so many goes on to writes, further cuts and closes.
const GOES_ON_ONE_IN: usize = 4;

/// Looks at images and counts them.
pub(super) struct Examiner<'a> {
    seen: &'a Seen,
    /// By the state of a disk, what was found in it.
    found: HashMap<u64, u64>,
    pub(super) distinct: u64,
    pub(super) differing: u64,
    /// Crashes of the workload, of recoveries, and of recoveries from those.
    pub(super) crashes: [u64; 3],
}

impl<'a> Examiner<'a> {
    pub(super) fn new(seen: &'a Seen) -> Examiner<'a> {
        Examiner {
            seen,
            found: HashMap::new(),
            distinct: 0,
            differing: 0,
            crashes: [0; 3],
        }
    }

    fn see(&mut self, content: u64, uncut: u64) {
        if locked(self.seen).insert(content) {
            self.distinct += 1;
            self.differing += u64::from(content != uncut);
        }
    }

    /// Looks at one image. `depth` says how many recoveries were crashed before.
    pub(super) fn examine(
        &mut self,
        recovery: &Recovery<'_>,
        moment: &Moment,
        depth: usize,
    ) -> Outcome {
        let (image, allowed) = (&moment.image, &moment.allowed);
        if let Some(crashes) = self.crashes.get_mut(depth) {
            *crashes += 1;
        }
        let state = image.state_hash();
        if let Some(digest) = self.found.get(&state) {
            // Opened before, after another crash that may have allowed more.
            return match recovery.model.find(*digest, allowed.now.clone()) {
                Some(_) => Ok(()),
                None => recovery.check(image, allowed).map(|_| ()),
            };
        }
        self.see(image.content_hash(), moment.uncut);
        let mut random = Random::new(state);
        let crashed = CRASHED_ONE_IN
            .get(depth)
            .is_some_and(|one_in| random.one_in(*one_in));
        if crashed {
            self.crash_recovery(recovery, moment, &mut random, depth + 1)?;
        }
        let (db, found) = recovery.check(image, allowed)?;
        self.found.insert(state, recovery.model.digest_after(found));
        if random.one_in(GOES_ON_ONE_IN) {
            let uncut = image.content_hash();
            let mut seen = |image: &MemVfs| self.see(image.content_hash(), uncut);
            recovery.go_on(image, &db, found, allowed.last_seq, &mut random, &mut seen)?;
        }
        Ok(())
    }

    /// Opens a copy of an image, and looks at what crashes during that leave.
    fn crash_recovery(
        &mut self,
        recovery: &Recovery<'_>,
        moment: &Moment,
        random: &mut Random,
        depth: usize,
    ) -> Outcome {
        let image = copy(&moment.image);
        let (seed, outer) = (random.number(), moment.allowed.clone());
        let wanted = move |call| {
            let some = Crash::some_cut(&mut Random::new(seed ^ call));
            vec![Crash::KILL, Crash::cut(CrashPolicy::DropAll), some]
        };
        let watch = Watch::new(&image, seed, wanted, move |kind| outer.then(kind));
        let opened = recovery.open(&image);
        let moments = watch.take();
        drop(watch);
        drop(opened?);
        for moment in moments {
            self.examine(recovery, &moment, depth)
                .map_err(|trouble| trouble.within(format_args!("its recovery, {moment}")))?;
        }
        Ok(())
    }
}

/// The same disk once more.
pub(super) fn copy(image: &MemVfs) -> Arc<MemVfs> {
    image.image(ImageKind::Kill, CrashPolicy::KeepAll, 0)
}
