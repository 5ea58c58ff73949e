//! What the threads of `endure` do with their keys: single writes, batches, tickets, transactions, reads

use std::time::Instant;

use terrace::{Bytes, ErrorKind};

use super::scenario::{INTERVAL, Kind};
use super::worker::{Kept, Step, Worker, value, wrong};

impl Worker {
    /// A put, a delete or a write on a condition.
    pub(crate) fn write_one(&mut self) -> Step {
        let key = self.r.below(self.map.len());
        let (name, stamp) = (self.key(key), self.next_stamp());
        let new = value(key, stamp);
        let old = self.map[key];
        self.unknown(&[key]);
        match self.r.below(8) {
            0 => {
                self.keys("delete", |db| db.delete(&name))?;
                self.deleted(key);
            }
            1 => {
                let now = self.keys("update", |db| db.update(&name, |_| Some(new.clone())))?;
                self.check("update", key, stamp, now.as_deref())?;
                self.wrote(key, stamp);
            }
            2 => {
                let taken = self.keys("take", |db| db.take(&name))?;
                self.check("take", key, old, taken.as_deref())?;
                self.deleted(key);
            }
            3 => {
                let swapped = self.keys("put_if_absent", |db| db.put_if_absent(&name, &new))?;
                match swapped.is_done() {
                    true => self.wrote(key, stamp),
                    false => self.wrote(key, old),
                }
            }
            _ => {
                self.keys("put", |db| db.put(&name, &new))?;
                self.wrote(key, stamp);
            }
        }
        Ok(())
    }

    /// Some keys in one batch, written or submitted.
    pub(crate) fn write_batch(&mut self) -> Step {
        let count = 1 + self.r.below(20);
        let keys: Vec<usize> = (0..count).map(|_| self.r.below(self.map.len())).collect();
        let stamp = self.next_stamp();
        let mut batch = self.batch();
        for &key in &keys {
            batch.put(self.key(key), value(key, stamp));
        }
        self.unknown(&keys);
        if self.r.one_in(3) && self.tickets.len() < 8 {
            let ticket = self.keys("submit", |db| db.submit(batch))?;
            // It is no older than this: the call may have waited before it was appended.
            self.tickets.push((Instant::now(), ticket));
            return Ok(());
        }
        self.keys("write", |db| db.write(batch))?;
        keys.iter().for_each(|&key| self.wrote(key, stamp));
        self.overdue()
    }

    /// A write under `Interval` that began when an older one was overdue has waited for that one's
    /// sync.
    fn overdue(&mut self) -> Step {
        if self.shared.scenario.durability != Kind::Interval {
            return Ok(());
        }
        let began = Instant::now();
        let batch = {
            let mut batch = self.batch();
            batch.put(format!("overdue/{}", self.id), "x");
            batch
        };
        self.keys("write", |db| db.write(batch))?;
        for (submitted, ticket) in &self.tickets {
            let age = began - *submitted;
            if age > INTERVAL + INTERVAL / 2 && !ticket.is_durable() {
                return wrong(format!(
                    "a write that began {age:?} after another returned before that was durable, \
                     with {INTERVAL:?} promised"
                ));
            }
        }
        Ok(())
    }

    /// Waits for the oldest ticket.
    pub(crate) fn wait_ticket(&mut self) -> Step {
        if self.tickets.is_empty() {
            return Ok(());
        }
        let (_, ticket) = self.tickets.remove(0);
        self.keys("ticket", |_| ticket.wait()).map(drop)
    }

    /// A transaction on keys of this thread, which nobody else writes: it cannot conflict.
    pub(crate) fn transact(&mut self, reads: usize) -> Step {
        // What was submitted may become visible after the transaction has begun.
        while !self.tickets.is_empty() {
            self.wait_ticket()?;
        }
        let key = self.r.below(self.map.len());
        let (name, stamp) = (self.key(key), self.next_stamp());
        let first = self.r.below(self.map.len());
        let old = self.map[key];
        self.unknown(&[key]);
        let names: Vec<String> = (0..reads)
            .map(|n| self.key((first + n) % self.map.len()))
            .collect();
        let done = self.keys("transaction", |db| {
            let tx = db.transaction();
            for name in &names {
                tx.get(name)?;
            }
            let found = tx.get(&name)?;
            tx.put(&name, value(key, stamp))?;
            match tx.commit() {
                Ok(_) => Ok(Ok(found)),
                Err(error) if error.kind() == ErrorKind::Conflict => Ok(Err(error)),
                Err(error) => Err(error),
            }
        })?;
        match done {
            Ok(found) => self.check("transaction", key, old, found.as_deref())?,
            Err(error) => return wrong(format!("a transaction on keys of its own: {error:?}")),
        }
        self.wrote(key, stamp);
        Ok(())
    }

    /// Deletes a range of keys.
    pub(crate) fn delete_range(&mut self) -> Step {
        let first = self.r.below(self.map.len());
        let end = (first + 1 + self.r.below(200)).min(self.map.len());
        let keys: Vec<usize> = (first..end).collect();
        let range = self.key(first)..self.key(end);
        self.unknown(&keys);
        if self.r.one_in(2) {
            self.keys("delete_range", |db| db.delete_range(range))?;
        } else {
            let mut batch = self.batch();
            batch.delete_range(range);
            self.keys("write", |db| db.write(batch))?;
        }
        keys.iter().for_each(|&key| self.deleted(key));
        Ok(())
    }

    /// A batch of range deletes, most of nothing, then a scan of three.
    pub(crate) fn delete_ranges(&mut self) -> Step {
        let mut batch = self.batch();
        for n in 0..1 + self.r.below(100) {
            batch.delete_range(
                format!("void-{}/{n:06}", self.id)..format!("void-{}/{n:06}z", self.id),
            );
        }
        self.keys("write", |db| db.write(batch))?;
        self.scan()
    }

    /// Reads one key in one of the ways there are.
    pub(crate) fn read_one(&mut self) -> Step {
        let key = self.r.below(self.map.len());
        let (name, stamp) = (self.key(key), self.map[key]);
        let found: Option<Bytes> = match self.r.below(5) {
            0 => self.keys("get_with", |db| db.get_with(&name, Bytes::copy_from_slice))?,
            1 => {
                let entry = self.keys("get_entry", |db| db.get_entry(&name))?;
                entry.map(|entry| entry.value)
            }
            2 => {
                let mut found = self.keys("multi_get", |db| db.multi_get([&name]))?;
                found.pop().flatten()
            }
            3 => {
                let mut cursor = self.db.cursor();
                let hit = self.keys("seek", |_| cursor.seek(&name))?;
                match hit && cursor.key() == name.as_bytes() {
                    true => self
                        .keys("value", |_| cursor.value().map(Bytes::copy_from_slice))
                        .map(Some)?,
                    false => None,
                }
            }
            _ => self.keys("get", |db| db.get(&name))?,
        };
        self.check("get", key, stamp, found.as_deref())
    }

    /// A few keys in order, forwards or backwards.
    pub(crate) fn scan(&mut self) -> Step {
        let first = self.r.below(self.map.len());
        let end = (first + 10).min(self.map.len());
        let range = self.key(first)..self.key(end);
        let backwards = self.r.one_in(2);
        let mut found = self.keys("scan", |db| {
            let iter = db.range(range);
            match backwards {
                true => iter.rev().collect::<terrace::Result<Vec<_>>>(),
                false => iter.collect(),
            }
        })?;
        if backwards {
            found.reverse();
        }
        let mut found = found.into_iter().peekable();
        for key in first..end {
            let name = self.key(key);
            let here = found.next_if(|(at, _)| at == name.as_bytes());
            let here = here.as_ref().map(|(_, value)| &value[..]);
            self.check("scan", key, self.map[key], here)?;
        }
        match found.next() {
            None => Ok(()),
            Some((key, _)) => wrong(format!("scan: {key:?} is no key of this thread")),
        }
    }

    /// Keeps an iterator or a snapshot, or asks one that is kept.
    pub(crate) fn keep(&mut self) -> Step {
        if self.kept.len() < 4 {
            let kept = match self.r.one_in(2) {
                true => Kept::Iter(Box::new(self.db.prefix(format!("w{:02}/", self.id)))),
                false => {
                    let known = (0..5).map(|_| self.r.below(self.map.len()));
                    let known = known.collect::<Vec<_>>();
                    let known = known.into_iter().map(|key| (key, self.map[key])).collect();
                    let snapshot = self.db.snapshot();
                    let first = self.keys("snapshot get", |_| snapshot.get(self.expiring()))?;
                    Kept::Snapshot(snapshot, known, first.map(Into::into))
                }
            };
            self.kept.push((Instant::now(), kept));
            self.pinned();
            return Ok(());
        }
        let at = self.r.below(self.kept.len());
        let (made, mut kept) = self.kept.swap_remove(at);
        let checked = self.ask(&mut kept);
        self.kept.push((made, kept));
        checked
    }

    fn ask(&self, kept: &mut Kept) -> Step {
        match kept {
            Kept::Iter(iter) => self.keys("next", |_| iter.next().transpose()).map(drop),
            Kept::Snapshot(snapshot, known, first) => {
                for &(key, stamp) in &*known {
                    let found = self.keys("snapshot get", |_| snapshot.get(self.key(key)))?;
                    self.check("snapshot", key, stamp, found.as_deref())?;
                }
                let now = self.keys("snapshot get", |_| snapshot.get(self.expiring()))?;
                match now.as_deref() == first.as_deref() {
                    true => Ok(()),
                    false => wrong(format!(
                        "a snapshot said {first:?} of a key that expires, and now says {now:?}"
                    )),
                }
            }
        }
    }
}
