//! Putting an [`Engine`] together from what recovery has found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use terrace_base::vfs::{LockGuard, Process};
use terrace_base::{Error, Result, SeqNo};
use terrace_wal::Log;

use crate::background::pacer::Pacer;
use crate::background::signals::Background;
use crate::commit::committer::{CommitStart, Committer, opened_read_only};
use crate::engine::Engine;
use crate::engine::claims::Claims;
use crate::engine::counters::Counters;
use crate::engine::forgetting::Forgetting;
use crate::engine::log_segments::Env;
use crate::engine::space::Space;
use crate::engine::turns::Turns;
use crate::keyspace::catalogue::Catalogue;
use crate::keyspace::policies::Policies;
use crate::keyspace::state::DEFAULT_NAME;
use crate::memtable::{Form, ListWriter};
use crate::open::opening::Found;
use crate::options::{LIST_BYTES, Options};
use crate::read::context::Context;
use crate::read::view::{View, Views};
use crate::storage::blob_files::Blobs;
use crate::storage::files::Files;
use crate::storage::version_set::VersionSet;
use crate::sync::{Mutex, Rank};

/// The engine that starts from what was found.
pub(crate) fn assemble(
    options: Options,
    files: Arc<Files>,
    policies: Arc<Policies>,
    found: Found,
    lock: Box<dyn LockGuard>,
) -> Result<Arc<Engine>> {
    static OPENED: AtomicU64 = AtomicU64::new(1);
    let id = OPENED.fetch_add(1, Ordering::Relaxed);
    let Found {
        state,
        manifest,
        database,
        image,
        log,
        last_seq,
        unused,
        changes,
        published: _,
        log_had: _,
    } = found;
    let catalogue = Arc::new(Catalogue::new(
        id,
        state.keyspaces.values().map(|record| &**record),
        state.next_keyspace,
        state.dropped.iter().map(|(id, at)| (*id, *at)),
        policies.clone(),
    )?);
    for (seq, change) in changes {
        catalogue.replay(id, seq, change)?;
    }
    let default_keyspace = catalogue
        .get(DEFAULT_NAME)
        .ok_or_else(|| Error::corruption("the default keyspace was dropped"))?;
    let context = Context::new(options.clock.clone(), policies, state.clock);
    let context = Arc::new(context);
    if let Some(Form::Image(table)) = image.as_ref().map(|image| &image.form) {
        catalogue.note_tables(std::iter::once(table.info()));
        if let Some(expiries) = table.info().expiries {
            context.note_expiry(expiries.first);
        }
    }
    catalogue.note_tables(state.version.tables().map(|(_, _, table)| table.info()));
    let list = ListWriter::new(options.list_bytes());
    let view = View {
        active: list.list().clone(),
        sealed: image.map(Arc::new).into_iter().collect(),
        version: state.version.clone(),
        tables_upto: last_seq,
    };
    let budget = options.write_budget();
    let free = (budget / 2).max(options.memtable_bytes() * 5 / 4);
    // The list that takes writes comes on top of what is sealed.
    let wall = budget.saturating_sub(options.list_bytes() as u64);
    let views = Arc::new(Views::new(view, Pacer::new(free, wall)));
    let versions = Arc::new(VersionSet::new(
        state,
        manifest,
        files.clone(),
        database,
        options.tuning.manifest_bytes,
    ));
    for segment in unused {
        versions
            .lock()
            .reusable
            .push_back((segment.number, segment.size));
    }
    let background = Arc::new(Background::default());
    let most = options.tuning.reserve_bytes;
    let space = Arc::new(Space::new(
        files.clone(),
        versions.clone(),
        views.clone(),
        background.clone(),
        most.unwrap_or(options.memtable_bytes() + LIST_BYTES as u64),
    ));
    let found_upto = views.cell.load().newest_sealed().unwrap_or(SeqNo::ZERO);
    let blobs = Arc::new(Blobs::new(
        files.clone(),
        options.tuning.blob_bytes,
        views.cell.load().version.blob_bytes().values().sum(),
        found_upto,
    ));
    files.removed_by(background.clone());
    let env = Arc::new(Env {
        blobs: blobs.clone(),
        files: files.clone(),
        versions: versions.clone(),
        background: background.clone(),
        space: space.clone(),
        next_segment: AtomicU64::new(options.tuning.segment_bytes.0),
        largest_segment: options.largest_segment(),
    });
    let start = CommitStart {
        log: Log::new(files.fs.clone(), files.dir.clone(), log),
        list,
        last_seq,
        list_entries: options.tuning.list_entries,
        list_bytes: options.list_bytes(),
        refusal: options.read_only.then(opened_read_only),
        stretches: context.stretches.clone(),
    };
    let committer = Committer::new(start, views.clone(), options.clock.clone(), env);
    Ok(Arc::new(Engine {
        id,
        process: Process::this(),
        context,
        options,
        files,
        versions,
        views,
        committer,
        catalogue,
        default_keyspace,
        background,
        claims: Claims::default(),
        space,
        blobs,
        counters: Counters::default(),
        operands: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        working: AtomicBool::new(false),
        directory_lock: Mutex::new(Rank::Leaf, Some(lock)),
        flushing: Mutex::new(Rank::Flushing, ()),
        ingests: Turns::default(),
        forgetting: Mutex::new(Rank::Forgetting, Forgetting::default()),
        closing: Mutex::new(Rank::Closing, ()),
        pushing: AtomicUsize::new(0),
    }))
}
