//! One workload, crashed everywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace::vfs::{ImageKind, MemVfs};
use terrace_kit::{
    Allowed, Crash, Model, Moment, Op, Outcome, Profile, Random, Recovery, Runner, Scenario,
    Trouble, Watch,
};

use super::Seen;
use super::examine::{Examiner, copy};
use crate::place::Place;
use crate::rounds::Tally;

/// What is wrong, and where.
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) life: u64,
    pub(super) call: u64,
}

/// What a workload does.
enum Step {
    Op(Op),
    /// It goes on with what a crash leaves: the number says which.
    Crash(u64),
}

/// The step number `at` of the workload of `seed`.
fn step(seed: u64, at: usize) -> Step {
    let mut random = Random::new(seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut profile = Profile::crashes();
    match seed % 3 {
        // A long log: many segments are released at once.
        0 => profile.maintenance = 5,
        // A tree of some levels.
        1 => (profile.keys, profile.maintenance) = (60, 30),
        _ => {}
    }
    let number = random.number();
    match random.one_in(25) {
        true => Step::Crash(number),
        false => Step::Op(profile.op(number)),
    }
}

/// One workload, crashed everywhere.
pub(super) struct Everywhere<'a> {
    seed: u64,
    place: &'a Place,
    tally: &'a Tally,
    examiner: Examiner<'a>,
    runner: Runner,
    vfs: Arc<MemVfs>,
    /// What the options of the open database follow from.
    options: u64,
    life: u64,
    /// An image of the last operation, for a life that begins with it.
    left: Option<(Arc<MemVfs>, Allowed)>,
    calls: Arc<AtomicU64>,
}

impl<'a> Everywhere<'a> {
    pub(super) fn new(
        seed: u64,
        place: &'a Place,
        seen: &'a Seen,
        tally: &'a Tally,
    ) -> Everywhere<'a> {
        let vfs = MemVfs::crashable(seed);
        Everywhere {
            seed,
            place,
            tally,
            examiner: Examiner::new(seen),
            runner: Runner::closed(Scenario::by_hand(vfs.clone())),
            vfs,
            options: seed,
            life: 0,
            left: None,
            calls: Arc::default(),
        }
    }

    /// Runs it. Failures of the workload itself count too.
    pub(super) fn run(mut self) -> Result<(), Wrong> {
        let mut watch = self.watch();
        let seed = self.seed;
        let opened = self.runner.open(seed);
        self.look(&watch, opened, "the first open")?;
        for &at in &self.place.ops {
            match step(seed, at) {
                Step::Op(op) => {
                    if let Op::Reopen(seed) = op {
                        self.options = seed;
                    }
                    let done = self.runner.apply(&op);
                    self.look(&watch, done, format_args!("operation {at}, {op:.200?}"))?;
                }
                Step::Crash(number) => {
                    drop(watch);
                    watch = self.next_life(number)?;
                }
            }
        }
        let closed = self.runner.close(true);
        self.look(&watch, closed, "the close")?;
        drop(watch);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let moments = self.at_the_end();
        self.examine(moments, "the end")?;
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        let Examiner {
            crashes: [first, second, third],
            distinct,
            differing,
            ..
        } = self.examiner;
        self.tally.done(distinct);
        self.tally.add([
            ("images", distinct),
            ("differing", differing),
            ("crashes", first + second + third),
            ("in recoveries", second),
            ("in recoveries of those", third),
            ("calls", self.calls.load(Ordering::Relaxed)),
            ("operations", self.place.ops.len() as u64),
            ("lives", self.life + 1),
            ("workloads", 1),
        ]);
    }

    /// Takes images of the workload.
    fn watch(&self) -> Watch {
        let progress = self.runner.progress();
        self.watch_for(self.seed, move |kind| Allowed::by(&progress, kind))
    }

    fn watch_for(
        &self,
        seed: u64,
        allowed: impl Fn(ImageKind) -> Allowed + Send + Sync + 'static,
    ) -> Watch {
        let (place, life, calls) = (self.place.clone(), self.life, self.calls.clone());
        let wanted = move |call| {
            calls.fetch_add(1, Ordering::Relaxed);
            match place.looks_at(life, call) {
                true => Crash::all().collect(),
                false => Vec::new(),
            }
        };
        Watch::new(&self.vfs, seed, wanted, allowed)
    }

    /// The crashes when everything is over.
    fn at_the_end(&self) -> Vec<Moment> {
        let call = self.vfs.mutations() + 1;
        let progress = self.runner.progress();
        let moment = |crash: Crash| Moment {
            call,
            crash,
            image: crash.image(&self.vfs, self.seed ^ (call << 8)),
            allowed: Allowed::by(&progress, crash.kind),
            uncut: self.vfs.content_hash(),
        };
        match self.place.looks_at(self.life, call) {
            true => Crash::all().map(moment).collect(),
            false => Vec::new(),
        }
    }

    /// Looks at the crashes of an operation, and at its own outcome.
    fn look(
        &mut self,
        watch: &Watch,
        done: Outcome,
        what: impl std::fmt::Display,
    ) -> Result<(), Wrong> {
        done.map_err(|trouble| Wrong {
            what: trouble.within(&what).to_string(),
            life: self.life,
            call: self.vfs.mutations(),
        })?;
        let moments = watch.take();
        self.keep_one(&moments);
        self.examine(moments, what)
    }

    fn examine(&mut self, moments: Vec<Moment>, what: impl std::fmt::Display) -> Result<(), Wrong> {
        let recovery = Recovery {
            scenario: self.runner.scenario(),
            seed: self.options,
            model: self.runner.model(),
        };
        let mut moments = moments.into_iter();
        let failed = moments.find_map(|moment| {
            let trouble = self.examiner.examine(&recovery, &moment, 0).err()?;
            Some((moment, trouble))
        });
        match failed {
            Some((moment, trouble)) => Err(self.wrong(&moment, trouble.within(what))),
            None => Ok(()),
        }
    }

    fn wrong(&self, moment: &Moment, trouble: Trouble) -> Wrong {
        Wrong {
            what: trouble
                .within(format_args!("life {}, {moment}", self.life))
                .to_string(),
            life: self.life,
            call: moment.call,
        }
    }

    /// Keeps a copy of one of the images for the next life.
    fn keep_one(&mut self, moments: &[Moment]) {
        let at = Random::new(self.seed ^ self.vfs.mutations()).below(moments.len());
        if let Some(moment) = moments.get(at) {
            self.left = Some((copy(&moment.image), moment.allowed.clone()));
        }
    }

    /// Goes on with an image of the last operation that left one, or of this moment.
    fn next_life(&mut self, number: u64) -> Result<Watch, Wrong> {
        let mut random = Random::new(number);
        let (vfs, allowed) = self.left.take().unwrap_or_else(|| {
            let crash = match random.one_in(3) {
                true => Crash::KILL,
                false => Crash::some_cut(&mut random),
            };
            let image = crash.image(&self.vfs, number);
            (image, Allowed::by(&self.runner.progress(), crash.kind))
        });
        self.vfs = vfs;
        self.life += 1;
        self.options = number;
        // Crashes of this recovery too: which of the commits it finds is known when it is done.
        let then = allowed.clone();
        let watch = self.watch_for(number, move |kind| then.then(kind));
        let before: Model = self.runner.model().clone();
        let survived = self.runner.survive(self.vfs.clone(), &allowed, number);
        let moments = watch.take();
        drop(watch);
        let what = format!("life {} with what a crash left", self.life);
        survived.map_err(|trouble| Wrong {
            what: trouble.within(&what).to_string(),
            life: self.life,
            call: self.vfs.mutations(),
        })?;
        let recovery = Recovery {
            scenario: self.runner.scenario(),
            seed: number,
            model: &before,
        };
        for moment in moments {
            let examined = self.examiner.examine(&recovery, &moment, 1);
            examined.map_err(|trouble| self.wrong(&moment, trouble.within(&what)))?;
        }
        Ok(self.watch())
    }
}
