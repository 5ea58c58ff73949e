//! Crashes of a database in memory: what each may leave at each moment, and what a recovery from it must hold.
//!
//! ```text
//! workload ──hook──> Watch ──> Moment {image, which commits it may hold}
//!                                 └──> Recovery: open, compare, write more, cut again, close, open
//!                                         └──hook──> Watch: moments of the recovery itself, and so on
//! ```
//!
//! A [`Watch`] only takes images, which are cheap and share their pages; they are opened when the
//! operation that was under way has returned, with no lock of the engine held.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs};
use terrace::{Batch, Db, Durability};

use crate::digest::{self, digest};
use crate::generate::Random;
use crate::model::Model;
use crate::oracle::{Contents, Oracle};
use crate::progress::Progress;
use crate::scenario::Scenario;
use crate::trouble::{Outcome, Trouble, failed};

/// What ended, and what of the unsynced the disk had then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Crash {
    /// The machine or the process.
    pub kind: ImageKind,
    /// What a cut keeps.
    pub policy: CrashPolicy,
}

impl Crash {
    /// The end of the process alone.
    pub const KILL: Crash = Crash {
        kind: ImageKind::Kill,
        policy: CrashPolicy::KeepAll,
    };

    /// A loss of power.
    pub const fn cut(policy: CrashPolicy) -> Crash {
        let kind = ImageKind::Cut;
        Crash { kind, policy }
    }

    /// A cut by each policy, and the kill.
    pub fn all() -> impl Iterator<Item = Crash> + Clone {
        let cuts = CrashPolicy::ALL.iter().map(|policy| Crash::cut(*policy));
        cuts.chain([Crash::KILL])
    }

    /// A cut by one of the policies.
    pub fn some_cut(random: &mut Random) -> Crash {
        let at = random.below(CrashPolicy::ALL.len());
        Crash::cut(
            CrashPolicy::ALL
                .get(at)
                .copied()
                .unwrap_or(CrashPolicy::DropAll),
        )
    }

    /// What it leaves. `seed` says which random part.
    pub fn image(self, vfs: &MemVfs, seed: u64) -> Arc<MemVfs> {
        vfs.image(self.kind, self.policy, seed)
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ImageKind::Kill => f.write_str("kill"),
            ImageKind::Cut => write!(f, "cut {:?}", self.policy),
        }
    }
}

/// After how many commits the state may be, and what goes on from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// In this image.
    pub now: RangeInclusive<usize>,
    /// In what a loss of power makes of it before it has been recovered.
    pub cut: RangeInclusive<usize>,
    /// No sequence number up to this is given out again.
    pub last_seq: u64,
}

impl Allowed {
    /// What a crash leaves at this moment of a workload.
    pub fn by(progress: &Progress, kind: ImageKind) -> Allowed {
        Allowed {
            now: progress.after(kind),
            cut: progress.after(ImageKind::Cut),
            last_seq: progress.last_seq(),
        }
    }

    /// What another crash leaves during the recovery.
    pub fn then(&self, kind: ImageKind) -> Allowed {
        match kind {
            ImageKind::Kill => self.clone(),
            ImageKind::Cut => Allowed {
                now: self.cut.clone(),
                ..self.clone()
            },
        }
    }
}

/// What a crash may have left at a moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Before which changing call.
    pub call: u64,
    /// Which crash.
    pub crash: Crash,
    /// What it left.
    pub image: Arc<MemVfs>,
    /// What that may hold.
    pub allowed: Allowed,
    /// The content of the disk without the crash, as a hash.
    pub uncut: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} before call {}", self.crash, self.call)
    }
}

/// Takes images of a file system at each of its changing calls, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    vfs: Arc<MemVfs>,
    taken: Arc<Mutex<Vec<Moment>>>,
}

impl Watch {
    /// Takes the images of the crashes that `wanted` names for a call. `allowed` says what they may
    /// hold: it is asked before and after one is taken, and other threads may have come on in
    /// between.
    pub fn new(
        vfs: &Arc<MemVfs>,
        seed: u64,
        wanted: impl Fn(u64) -> Vec<Crash> + Send + Sync + 'static,
        allowed: impl Fn(ImageKind) -> Allowed + Send + Sync + 'static,
    ) -> Watch {
        let taken: Arc<Mutex<Vec<Moment>>> = Arc::default();
        let sink = taken.clone();
        vfs.set_hook(Some(Arc::new(move |vfs, call| {
            let crashes = wanted(call);
            if crashes.is_empty() {
                return;
            }
            let uncut = vfs.content_hash();
            for crash in crashes {
                let before = allowed(crash.kind);
                let image = crash.image(vfs, seed ^ (call << 8));
                let after = allowed(crash.kind);
                let moment = Moment {
                    call,
                    crash,
                    image,
                    allowed: Allowed {
                        now: *before.now.start()..=*after.now.end(),
                        cut: *before.cut.start()..=*after.cut.end(),
                        last_seq: before.last_seq,
                    },
                    uncut,
                };
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(moment);
            }
        })));
        let vfs = vfs.clone();
        Watch { vfs, taken }
    }

    /// The images taken since the last call of this.
    pub fn take(&self) -> Vec<Moment> {
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.vfs.set_hook(None);
    }
}

/// How what a crash left is opened, and what it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Recovery<'a> {
    /// Where and how.
    pub scenario: &'a Scenario,
    /// What the options follow from.
    pub seed: u64,
    /// The commits.
    pub model: &'a Model,
}

impl Recovery<'_> {
    /// Opens an image.
    ///
    /// # Errors
    /// The database's.
    pub fn open(&self, image: &Arc<MemVfs>) -> Outcome<Db> {
        let scenario = self.scenario.elsewhere(image.clone());
        failed("open", scenario.open(self.seed))
    }

    /// Opens an image and reads all of it.
    ///
    /// # Errors
    /// The database's, and answers that differ from each other.
    pub fn open_and_read(&self, image: &Arc<MemVfs>) -> Outcome<(Db, Contents)> {
        let db = self.open(image)?;
        let contents = Oracle::read(&db)?;
        Ok((db, contents))
    }

    /// Opens an image, compares all of it, and says after how many commits it is. Files that the
    /// database does not know must be gone.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, image: &Arc<MemVfs>, allowed: &Allowed) -> Outcome<(Db, usize)> {
        let db = self.open(image)?;
        let found = Oracle::check(&db, self.model, allowed.now.clone())?;
        no_file_left_over(image, &db)?;
        Ok((db, found))
    }

    /// Goes on with what `check` has opened: it is cut again, as what was read once must stay;
    /// something is written under `Sync`, with a number above `last_seq`, and it is cut again; then
    /// it is closed, and a second open has nothing to write. `seen` is told each image.
    ///
    /// # Errors
    /// What is wrong.
    pub fn go_on(
        &self,
        image: &Arc<MemVfs>,
        db: &Db,
        found: usize,
        last_seq: u64,
        random: &mut Random,
        seen: &mut dyn FnMut(&MemVfs),
    ) -> Outcome {
        let before = self.model.digest_after(found);
        for policy in [CrashPolicy::DropAll, CrashPolicy::RandomEntries] {
            self.again(image, Crash::cut(policy), before, random, seen)
                .map_err(|trouble| trouble.within("read, then"))?;
        }
        let digest = before.wrapping_add(write_more(db, last_seq, random)?);
        for crash in [Crash::cut(CrashPolicy::DropAll), Crash::some_cut(random)] {
            self.again(image, crash, digest, random, seen)
                .and_then(|(again, db)| self.closes_well(&again, &db, digest))
                .map_err(|trouble| trouble.within("written, then"))?;
        }
        Ok(())
    }

    /// Crashes and finds what has this digest.
    fn again(
        &self,
        image: &Arc<MemVfs>,
        crash: Crash,
        digest: u64,
        random: &mut Random,
        seen: &mut dyn FnMut(&MemVfs),
    ) -> Outcome<(Arc<MemVfs>, Db)> {
        let again = crash.image(image, random.number());
        seen(&again);
        let place = |trouble: Trouble| trouble.within(crash);
        let db = self.holds(&again, digest).map_err(place)?;
        Ok((again, db))
    }

    fn holds(&self, image: &Arc<MemVfs>, wanted: u64) -> Outcome<Db> {
        let (db, contents) = self.open_and_read(image)?;
        if digest(&contents) != wanted {
            let now = self.model.find(digest(&contents), 0..=self.model.len());
            return Err(format!("not the same: now after {now:?} commits").into());
        }
        Ok(db)
    }

    fn closes_well(&self, image: &Arc<MemVfs>, db: &Db, digest: u64) -> Outcome {
        failed("close", db.close())?;
        let calls = image.mutations();
        let place = |trouble: Trouble| trouble.within("closed");
        let db = self.holds(image, digest).map_err(place)?;
        failed("a second close", db.close())?;
        match image.mutations() == calls {
            true => Ok(()),
            false => Err("an open after a close wrote something".into()),
        }
    }
}

/// Writes under `Sync`, and returns by how much that changes the digest.
fn write_more(db: &Db, last_seq: u64, random: &mut Random) -> Outcome<u64> {
    let (key, value) = (b"after the crash", random.number().to_le_bytes());
    let mut batch = Batch::new();
    batch.put(key, value).durability(Durability::Sync);
    let seq = failed("a write", db.write(batch))?;
    if seq.get() <= last_seq {
        let again = format!("{seq} was given out before: {last_seq} was the last");
        return Err(again.into());
    }
    match random.below(8) {
        0 => failed("flush", db.flush())?,
        1 => failed("wait_idle", db.wait_idle())?,
        2 => failed("compact_all", db.compact_all())?,
        _ => {}
    }
    Ok(digest::entry(db.name(), key, &value))
}

/// After an open every file of the database's is one that its manifest lists.
///
/// # Errors
/// The files, if there are others.
pub fn no_file_left_over(vfs: &MemVfs, db: &Db) -> Outcome {
    let stats = db.stats();
    let files = vfs.files();
    let with = |extension: &str| {
        let is = |path: &PathBuf| path.extension().is_some_and(|e| e == extension);
        let found = files.iter().filter(|(path, _)| is(path));
        found.fold((0, 0), |(n, bytes), (_, len)| (n + 1, bytes + len))
    };
    let is_manifest = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("MANIFEST-"))
    };
    let manifests = files.iter().filter(|(path, _)| is_manifest(path)).count();
    let tables: usize = stats.levels.iter().map(|level| level.tables).sum();
    if with("sst") != (tables, stats.table_bytes)
        || with("wal").1 != stats.log_bytes
        || manifests != 1
        || with("tmp").0 != 0
    {
        return Err(format!("files are left over: {files:?}").into());
    }
    Ok(())
}
