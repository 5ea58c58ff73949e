//! Delays of writers: what a write, a new run or a drop costs at the prices of the pacer

use std::time::Duration;

use terrace_base::{Result, mutant};

use crate::background::pacer::{REFUSED, RUN, SHORTEST_SLEEP_NS, TimeLine};
use crate::background::signals::Task;
use crate::engine::Engine;
use crate::jobs::space::check_space;
use crate::sync::{Ordering, thread};
use crate::write::prepared::Write;

/// Sleeps as long as `write` costs now.
#[inline]
pub(crate) fn pace(engine: &Engine, write: &Write<'_>) -> Result<()> {
    match engine.views.pacer.price.load(Ordering::Relaxed) {
        0 if write.range_deletes == 0 => Ok(()),
        price => pay(engine, write, price),
    }
}

/// Delays a caller that is about to add a run to level 0.
pub(crate) fn pace_run(engine: &Engine) {
    let pacer = &engine.views.pacer;
    let price = pacer.price.load(Ordering::Relaxed);
    if price == 0 || price == REFUSED || mutant("runs-without-price") {
        return;
    }
    sleep(engine, &pacer.line, price.saturating_mul(RUN) / 1024);
}

/// Delays a caller that is about to drop a keyspace, while `kept` dropped ones are kept.
pub(crate) fn pace_drop(engine: &Engine, kept: usize) {
    let pacer = &engine.views.pacer;
    sleep(engine, &pacer.delete_line, pacer.price_of_delete(kept));
}

#[cold]
fn pay(engine: &Engine, write: &Write<'_>, mut price: u64) -> Result<()> {
    let pacer = &engine.views.pacer;
    if price == REFUSED {
        check_space(engine, write)?;
        price = 0;
    }
    if price != 0 {
        let cost = price.saturating_mul(write.len as u64) / 1024;
        sleep(engine, &pacer.line, cost);
    }
    if write.range_deletes > 0 {
        let price = pacer.range_price.load(Ordering::Relaxed);
        let cost = price.saturating_mul(u64::from(write.range_deletes));
        sleep(engine, &pacer.delete_line, cost);
    }
    if engine.options.tuning.manual || mutant("memory-without-wall") {
        return Ok(());
    }
    let full = || engine.views.cell.load().sealed_bytes() >= pacer.full_bytes;
    match full() {
        true => engine.background.wait_for(Task::Flush, || !full()),
        false => Ok(()),
    }
}

/// Takes `cost` nanoseconds of a time line, and sleeps until they have passed.
fn sleep(engine: &Engine, line: &TimeLine, cost: u64) {
    if cost == 0 || engine.options.tuning.manual {
        return; // Without threads nothing is worked off meanwhile.
    }
    let now = u64::try_from(engine.clock().monotonic().as_nanos()).unwrap_or(u64::MAX);
    let delay = line.take_turn(now, cost);
    if delay >= SHORTEST_SLEEP_NS {
        thread::sleep(Duration::from_nanos(delay));
    }
}
