//! What the threads of `endure` do beside their keys: counters, queues, large values, expiry, keyspaces, ingests,
//! and calls on the whole database

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use terrace::{Expiry, KeyspaceOptions};

use super::scenario::Focus;
use super::watch::Reach;
use super::worker::{LARGE, Step, Worker, value, wrong};

/// How long a key that expires lives.
const LIFE: Duration = Duration::from_millis(300);

/// How often ten bytes are appended in one batch, and how long a list becomes before it begins
/// anew.
pub(crate) const APPENDS: usize = 200;
pub(crate) const LONGEST_LIST: usize = 20_000;

/// The merge operator that every database is opened with.
pub(crate) const SUM: &str = "sum";

/// Adds two numbers.
pub(crate) fn sum(_: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
    (number(older).wrapping_add(number(newer)))
        .to_le_bytes()
        .to_vec()
}

fn number(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_le_bytes)
}

impl Worker {
    /// One step of the load.
    pub(crate) fn step(&mut self) -> Step {
        self.release(Instant::now());
        // Where speed is the focus, what other threads do would have memory flushed early.
        let speed = [Focus::Fill, Focus::Overwrite, Focus::Compact].contains(&self.focus);
        let others = if speed {
            self.id % 8 == 7
        } else {
            self.id % 2 == 1
        };
        if !others && (speed || !self.r.one_in(16)) {
            match self.focus {
                Focus::Mixed => self.anything(),
                Focus::Fill | Focus::Overwrite => self.put_at_full_speed(),
                Focus::Queue => self.queue(),
                Focus::Blobs => self.large(),
                Focus::Ranges => self.delete_ranges(),
                Focus::Names => self.names(),
                Focus::Ingest => self.ingest(),
                Focus::Compact if self.id == 0 => self.whole("compact_all", |db| db.compact_all()),
                Focus::Compact => self.put_at_full_speed(),
                Focus::Transactions => self.transact(500),
            }
        } else {
            self.anything()
        }
    }

    fn anything(&mut self) -> Step {
        let speed = [Focus::Fill, Focus::Overwrite].contains(&self.focus);
        match self.r.below(if speed { 75 } else { 100 }) {
            0..25 => self.write_one(),
            25..35 => self.write_batch(),
            35..38 => self.wait_ticket(),
            38..42 => self.transact(5),
            42..44 => self.delete_range(),
            44..60 => self.read_one(),
            60..66 => self.scan(),
            66..72 => self.keep(),
            72..75 => self.count_up(),
            75..79 => self.queue(),
            79..82 => self.large(),
            82..85 => self.expire(),
            85..87 => self.merge(),
            87..89 => self.append(),
            89 => self.names(),
            90 => self.ingest(),
            91 if self.r.one_in(20) => self.maintain(),
            _ => self.ask_about_it(),
        }
    }

    /// One put; with focus `overwrite` of one of a few keys.
    fn put_at_full_speed(&mut self) -> Step {
        let few = self.focus == Focus::Overwrite;
        let key = self.r.below(if few { 10 } else { self.map.len() });
        let stamp = self.next_stamp();
        let (name, mut new) = (self.key(key), value(key, stamp));
        if few {
            new.resize(1000, 0);
            let name = format!("few-{name}");
            return self.keys("put", |db| db.put(name, new)).map(drop);
        }
        self.unknown(&[key]);
        self.keys("put", |db| db.put(&name, &new))?;
        self.wrote(key, stamp);
        Ok(())
    }

    fn count_up(&mut self) -> Step {
        let name = format!("counter/{}", self.id);
        let old = self.side.counter.take();
        let now = self.keys("add_i64", |db| db.add_i64(&name, 3))?;
        self.side.counter = Some(now);
        match old {
            Some(old) if now != old + 3 => wrong(format!("{old} and 3 are {now}")),
            _ => Ok(()),
        }
    }

    fn merge(&mut self) -> Step {
        let name = format!("sums-{}", self.id);
        let old = self.side.sum.take();
        let sums = self.keys("keyspaces", |db| db.keyspaces())?;
        let space = match sums.contains(&name) {
            true => self.keys("keyspace", |db| db.keyspace(&name))?,
            false => {
                let options = KeyspaceOptions::new().merge_operator(SUM);
                self.keys("create_keyspace", |db| db.create_keyspace(&name, options))?
            }
        };
        self.keys("merge", |_| space.merge("n", 5_i64.to_le_bytes()))?;
        let now = self.keys("get", |_| space.get("n"))?;
        let now = number(now.as_deref().unwrap_or_default());
        self.side.sum = Some(now);
        match old {
            Some(old) if now != old + 5 => wrong(format!("{old} merged with 5 is {now}")),
            _ => Ok(()),
        }
    }

    /// Appends, alone or many times in a batch.
    fn append(&mut self) -> Step {
        let name = format!("list/{}", self.id);
        let old = self.side.appended.take();
        let mut len = old.unwrap_or(0);
        if old.is_none() || len > LONGEST_LIST {
            self.keys("delete", |db| db.delete(&name))?;
            len = 0;
        }
        let times = if self.r.one_in(10) { APPENDS } else { 1 };
        let mut batch = self.batch();
        for _ in 0..times {
            batch.append(&name, [1; 10]);
        }
        self.keys("write", |db| db.write(batch))?;
        len += times * 10;
        let found = self.keys("get", |db| db.get(&name))?;
        match found.as_ref().map(|found| found.len()) == Some(len) {
            true => self.side.appended = Some(len),
            false => return wrong(format!("{len} bytes were appended: {found:?}")),
        }
        Ok(())
    }

    /// Pushes or pops some entries of a queue.
    fn queue(&mut self) -> Step {
        let space = self.space("queue")?;
        let Some((mut front, mut end)) = self.side.queue.take() else {
            self.keys("clear", |_| space.clear())?;
            self.side.queue = Some((0, 0));
            return Ok(());
        };
        let pushes = end - front < 200 && self.r.one_in(2);
        for _ in 0..20 {
            if pushes {
                self.keys("put", |_| space.put(end.to_be_bytes(), [7; 100]))?;
                end += 1;
                continue;
            }
            let popped = self.keys("pop_first", |_| space.pop_first())?;
            let right = match &popped {
                None => front == end,
                Some((key, _)) => front < end && key[..] == front.to_be_bytes(),
            };
            if !right {
                return wrong(format!(
                    "popped {popped:?} where {front} is the first of {end}"
                ));
            }
            front += u64::from(popped.is_some());
        }
        self.side.queue = Some((front, end));
        Ok(())
    }

    /// Overwrites or reads a large value.
    fn large(&mut self) -> Step {
        let n = self.r.below(self.side.large.len());
        let name = format!("large/{:02}/{n}", self.id);
        let stamp = self.next_stamp();
        if self.r.one_in(3) {
            let found = self.keys("get_slice", |db| db.get_slice(&name, 0..4))?;
            let known = self.side.large[n];
            let right = match known {
                0 => found.is_none(),
                u32::MAX => true,
                known => found.as_deref() == Some(&known.to_le_bytes()[..]),
            };
            return match right {
                true => Ok(()),
                false => wrong(format!("{name} has {found:?}, not stamp {known}")),
            };
        }
        let mut new = vec![stamp as u8; LARGE];
        new[..4].copy_from_slice(&stamp.to_le_bytes());
        self.side.large[n] = u32::MAX;
        self.keys("put large", |db| db.put(&name, &new))?;
        self.side.large[n] = stamp;
        Ok(())
    }

    /// The key that expires.
    pub(crate) fn expiring(&self) -> String {
        format!("session/{}", self.id)
    }

    /// Writes or reads the key that expires.
    fn expire(&mut self) -> Step {
        let name = self.expiring();
        let Some(written) = self.side.expiring.take() else {
            let now = Instant::now();
            self.keys("put_expiring", |db| {
                db.put_expiring(&name, "x", Expiry::In(LIFE))
            })?;
            self.side.expiring = Some(now);
            return Ok(());
        };
        let found = self.keys("get", |db| db.get(&name))?;
        let age = written.elapsed();
        if found.is_none() {
            // The clock of a database may lead that of this thread by what a write took.
            return match age < LIFE / 3 && self.shared.watch.disk_added().is_zero() {
                true => wrong(format!("a value for {LIFE:?} is gone after {age:?}")),
                false => Ok(()),
            };
        }
        if age < 10 * LIFE {
            self.side.expiring = Some(written);
            return Ok(());
        }
        wrong(format!("a value for {LIFE:?} is there after {age:?}"))
    }

    /// A keyspace is opened by a name that other threads open and drop too, and one of its own made
    /// and dropped.
    fn names(&mut self) -> Step {
        let shared = format!("shared-{}", self.r.below(2));
        let space = self.keys("keyspace", |db| db.keyspace(&shared))?;
        self.tolerating_drop(|| self.keys("put", |_| space.put("k", "v")).map(drop))?;
        self.dropped(&shared)?;
        let stamp = self.next_stamp();
        let own = format!("own-{}-{stamp}", self.id);
        let options = KeyspaceOptions::new().blob_threshold(Some(1 << 20));
        let space = self.keys("create_keyspace", |db| db.create_keyspace(&own, options))?;
        self.keys("put", |_| space.put("k", [1; 300]))?;
        let other = format!("{own}-renamed");
        let last = match self.r.one_in(4) {
            true => {
                self.keys("rename_keyspace", |db| db.rename_keyspace(&own, &other))?;
                other
            }
            false => own,
        };
        self.keys("drop_keyspace", |db| db.drop_keyspace(&last))
    }

    /// Drops a keyspace that another thread may have dropped.
    fn dropped(&self, name: &str) -> Step {
        self.tolerating_drop(|| self.keys("drop_keyspace", |db| db.drop_keyspace(name)))
    }

    fn tolerating_drop(&self, step: impl FnOnce() -> Step) -> Step {
        match step() {
            Err(super::worker::Stop::Wrong(what)) if what.contains("NotFound") => Ok(()),
            other => other,
        }
    }

    /// A small ingest, now and then one whose input panics. It flushes the database, and waits for the
    /// ingests of other threads.
    fn ingest(&mut self) -> Step {
        let stamp = self.next_stamp();
        let name = |n: usize| format!("bulk/{:02}/{n:04}", self.id);
        let entries = |to: usize| (0..to).map(|n| (name(n), value(n, stamp)));
        if self.r.one_in(20) {
            // A hook that is silent: the panic is meant.
            let broken = entries(100).map(|entry| match entry.0.ends_with("50") {
                true => std::panic::panic_any("meant"),
                false => entry,
            });
            let result = self.call("ingest", Reach::Database, |db| {
                match catch_unwind(AssertUnwindSafe(|| db.ingest(broken))) {
                    Ok(result) => result.map(Some),
                    Err(_) => Ok(None),
                }
            })?;
            return match result {
                None => Ok(()),
                Some(at) => wrong(format!("an ingest whose input panics: {at:?}")),
            };
        }
        let known = self.side.ingested.take();
        if let Some(known) = known {
            let found = self.keys("get", |db| db.get(name(17)))?;
            self.check("ingested", 17, known, found.as_deref())?;
        }
        let mut stamps = known;
        let result = match self.r.one_in(4) {
            true => self.call("ingest_unsorted", Reach::Database, |db| {
                db.ingest_unsorted(entries(100).rev(), 4096, |_| ())
            }),
            false => self.call("ingest", Reach::Database, |db| db.ingest(entries(100))),
        };
        stamps = result.map(|_| Some(stamp)).inspect_err(|_| stamps = None)?;
        self.side.ingested = stamps;
        Ok(())
    }

    /// A call on the whole database.
    fn maintain(&mut self) -> Step {
        match self.r.below(8) {
            0 => self.whole("compact_all", |db| db.compact_all()),
            // Beside writers it need not end.
            1 if self.shared.scenario.threads == 1 => self.whole("wait_idle", |db| db.wait_idle()),
            2 => {
                let range = self.key(0)..self.key(500);
                self.whole("compact", |db| db.compact(range))
            }
            3 => self.whole("sync", |db| db.sync()),
            4 => {
                let copy = self.site().dir.with_extension(format!("copy-{}", self.id));
                let made = self.whole("checkpoint", |db| db.checkpoint(&copy));
                std::fs::remove_dir_all(&copy).ok();
                made
            }
            _ => self.whole("flush", |db| db.flush()),
        }
    }

    /// Figures, names, health.
    fn ask_about_it(&mut self) -> Step {
        let range = self.key(0)..self.key(100);
        match self.r.below(5) {
            0 => self.keys("stats", |db| Ok(db.stats())).map(drop),
            1 => self.keys("health", |db| db.health()),
            2 => self
                .keys("approximate_count", |db| db.approximate_count(range))
                .map(drop),
            3 => self
                .keys("approximate_size", |db| db.approximate_size(range))
                .map(drop),
            _ => self.keys("keyspaces", |db| db.keyspaces()).map(drop),
        }
    }
}
