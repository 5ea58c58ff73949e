//! The append of a write: large values apart, pacing, and the commit path

use std::sync::Arc;
use std::sync::atomic::Ordering;

use terrace_base::{Error, KeyspaceId, Result, SeqNo};

use crate::Batch;
use crate::commit::checks::Checks;
use crate::commit::committer::Receipt;
use crate::db::large_values::{may_be_large, separate};
use crate::db::resolve::append_conditional;
use crate::engine::Engine;
use crate::jobs::pacing::pace;
use crate::keyspace::state::KeyspaceState;
use crate::options::Durability;
use crate::write::payload::encode_clock;
use crate::write::prepared::Write;

/// A list with more operands than this is sealed.
const OPERANDS: u64 = 2048;

/// Appends a write if `checks` hold; `None` if they do not. It is done once it is visible.
pub(crate) fn append_if(
    engine: &Engine,
    write: &Write<'_>,
    durability: Option<Durability>,
    keyspaces: &[Arc<KeyspaceState>],
    checks: &Checks<'_>,
) -> Result<Option<Receipt>> {
    engine.check_process()?;
    if may_be_large(engine, write) {
        return separate(engine, write, |small| {
            append_if(engine, small, durability, keyspaces, checks)
        });
    }
    pace(engine, write)?;
    let durability = durability.unwrap_or(engine.options.durability);
    let receipt =
        engine
            .committer
            .append_if(write, durability, keyspaces, Some(checks), &mut |_| {})?;
    if receipt.is_some() {
        engine.counters.written(write);
    }
    Ok(receipt)
}

#[inline]
pub(crate) fn commit(
    engine: &Engine,
    write: &Write<'_>,
    durability: Option<Durability>,
    keyspaces: &[Arc<KeyspaceState>],
) -> Result<SeqNo> {
    engine.check_process()?;
    if may_be_large(engine, write) {
        return separate(engine, write, |small| {
            commit(engine, small, durability, keyspaces)
        });
    }
    pace(engine, write)?;
    let durability = durability.unwrap_or(engine.options.durability);
    let last = engine.committer.commit(write, durability, keyspaces)?;
    engine.counters.written(write);
    Ok(last)
}

pub(crate) fn write_batch(engine: &Engine, batch: &mut Batch) -> Result<SeqNo> {
    check_batch(engine, batch)?;
    if batch.is_conditional() {
        let receipt = append_conditional(engine, batch)?;
        engine.committer.wait_visible(receipt.last)?;
        note_operands(engine, batch);
        return Ok(receipt.last);
    }
    if batch.count == 0 {
        return Ok(nothing_written(engine)?.last);
    }
    let clock = date(engine, batch);
    let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
    let write = Write::of_batch(batch, &parts);
    let last = commit(engine, &write, batch.durability, &batch.keyspaces)?;
    note_operands(engine, batch);
    Ok(last)
}

fn note_operands(engine: &Engine, batch: &Batch) {
    if !batch.merging.is_empty() {
        operands_written(engine, batch.count);
    }
}

/// Seals the active list early if it may hold many operands: a read gathers all of its key one
/// by one, and those of sealed pieces are combined.
#[cold]
pub(crate) fn operands_written(engine: &Engine, count: u32) {
    let before = engine
        .operands
        .fetch_add(u64::from(count), Ordering::Relaxed);
    let after = before.wrapping_add(u64::from(count));
    if before / OPERANDS != after / OPERANDS && !engine.options.tuning.manual {
        engine.committer.seal();
    }
}

/// Appends a batch without waiting for it to be durable.
pub(crate) fn submit_batch(engine: &Engine, batch: &mut Batch) -> Result<Receipt> {
    check_batch(engine, batch)?;
    if batch.is_empty() && !batch.is_conditional() {
        return nothing_written(engine);
    }
    engine.check_process()?;
    engine
        .committer
        .wait_for_room(engine.options.largest_segment())?;
    let receipt = match batch.is_conditional() {
        false => append_plain(engine, batch)?,
        true => append_conditional(engine, batch)?,
    };
    note_operands(engine, batch);
    if !receipt.visible {
        engine.background.ticket_waits();
    }
    Ok(receipt)
}

/// What a batch without operations comes to.
pub(crate) fn nothing_written(engine: &Engine) -> Result<Receipt> {
    engine.check_open()?;
    let (end, _) = engine.committer.end();
    Ok(Receipt {
        last: engine.committer.visible(),
        end,
        visible: true,
    })
}

fn append_plain(engine: &Engine, batch: &mut Batch) -> Result<Receipt> {
    let clock = date(engine, batch);
    let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
    let write = Write::of_batch(batch, &parts);
    append_write(engine, &write, batch)
}

fn append_write(engine: &Engine, write: &Write<'_>, batch: &Batch) -> Result<Receipt> {
    if may_be_large(engine, write) {
        return separate(engine, write, |small| append_write(engine, small, batch));
    }
    pace(engine, write)?;
    let durability = batch.durability.unwrap_or(engine.options.durability);
    let receipt = engine
        .committer
        .append(write, durability, &batch.keyspaces, &mut |_| {})?;
    engine.counters.written(write);
    Ok(receipt)
}

/// Checks what a batch holds, and gives its plain puts the expiry that their keyspaces have.
pub(crate) fn check_batch(engine: &Engine, batch: &mut Batch) -> Result<()> {
    if let Some(wrong) = &batch.wrong {
        return Err(wrong.clone());
    }
    check_owners(engine, batch)?;
    for id in &batch.merging {
        engine.context.policies.check_merge(*id)?;
    }
    let default = engine.default_keyspace.expiry();
    if default.is_some() || batch.keyspaces.iter().any(|k| k.expiry().is_some()) {
        let keyspaces = batch.keyspaces.clone();
        batch.expire(|id| match keyspaces.iter().find(|state| state.id == id) {
            Some(state) => state.expiry(),
            None => default,
        })?;
    }
    Ok(())
}

fn check_owners(engine: &Engine, batch: &Batch) -> Result<()> {
    match batch
        .keyspaces
        .iter()
        .find(|keyspace| keyspace.owner != engine.id)
    {
        None => Ok(()),
        Some(foreign) => Err(Error::invalid(format!(
            "keyspace `{}` in the batch is of another database",
            foreign.name()
        ))),
    }
}

/// Fixes the times in a batch; the operation that says in the log what time it was, if one is
/// due.
pub(crate) fn date(engine: &Engine, batch: &mut Batch) -> Option<Vec<u8>> {
    if batch.deadlines.is_empty() {
        return None;
    }
    for id in &batch.expiring {
        state_of(engine, *id, &batch.keyspaces).note_expiring();
    }
    let now = engine.context.now();
    let first = batch.date(now);
    stamp(engine, now, first)
}

/// Notes that entries are written of which the first expires at `first`; the operation that
/// says in the log that it is `now`, if one is due.
pub(crate) fn stamp(engine: &Engine, now: u64, first: u64) -> Option<Vec<u8>> {
    engine.context.note_expiry(first);
    engine.context.stamp_is_due(now).then(|| encode_clock(now))
}

/// The keyspace `id` of a batch that names `keyspaces`.
pub(crate) fn state_of<'a>(
    engine: &'a Engine,
    id: KeyspaceId,
    keyspaces: &'a [Arc<KeyspaceState>],
) -> &'a KeyspaceState {
    let found = keyspaces.iter().find(|state| state.id == id);
    found.unwrap_or(&engine.default_keyspace) // Batches do not name it.
}
