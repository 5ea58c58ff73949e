//! The row of transactions: one thread reads a key and writes it anew, in a transaction of its own for each key.
//!
//! It has a database of its own, since not every engine can change between transactions and plain writes at will.
//! All keys are there before, in the state in which the reads of the other rows find theirs.

use super::{COMPARE, FIRST, Life, SECOND};
use crate::Result;
use crate::engines::{Durability, Engine};
use crate::measure::{self, SAMPLE, Timed};
use std::fs;

impl<E: Engine> Life<'_, E> {
    pub(super) fn rmw(&mut self) -> Result<()> {
        let dir = self.fresh("rmw")?;
        let engine = self.open(&dir, Durability::Buffered)?;
        self.work.in_order_of_number();
        self.put_all(&engine, FIRST)?;
        engine.wait_idle()?;
        if self.compacts() {
            engine.compact()?;
        }
        self.warm(&mut engine.reader()?, FIRST)?;
        measure::calm(self.job.pause() / 4);

        self.work.shuffled(self.job.seed ^ 0x0072_6d77);
        self.foreign(); // What others did while it was filled is no matter of the row.
        let timed = self.update_all(&engine)?;
        self.report_rate("rmw", &timed)?;

        let mut reader = engine.reader()?;
        self.get_rows(&mut reader, self.job.keys, SECOND)?;
        drop(reader);
        engine.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    /// Takes each key from the first generation to the second.
    fn update_all(&self, engine: &E) -> Result<Timed> {
        let work = &self.work;
        measure::run(work.keys.len(), |i| {
            let key = &work.keys[i];
            let wanted = (i % COMPARE == SAMPLE / 2).then(|| work.value(work.order[i], FIRST));
            let mut right = true;
            let found = engine.read_modify_write(key, |old| {
                right = wanted.is_none_or(|wanted| old == wanted);
                std::hint::black_box(old.first());
                work.value(work.order[i], SECOND)
            })?;
            if !found || (E::REAL && !right) {
                return Err(format!("key {key:x?} is gone or has a wrong value").into());
            }
            Ok(())
        })
    }
}
