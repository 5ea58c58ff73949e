//! Conditional writes: a contended lease, a document with many editors, a batch with
//! preconditions.
//!
//! ```text
//! cargo run --release --example conditions
//! ```
//!
//! Each is one atomic call that reads, decides and writes. The program fails if a lease is held
//! twice or an edit is lost.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use terrace::{Batch, Db, ErrorKind, Expiry, SeqNo, Swap};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const THREADS: usize = 4;
const EDITS: usize = 100;

/// Runs `work` by several threads and gives what each returned.
fn together<T: Send>(work: impl Fn(usize) -> terrace::Result<T> + Sync) -> Result<Vec<T>, Failure> {
    let results: Vec<_> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS)
            .map(|id| scope.spawn(move || work(id)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let done = results.into_iter();
    done.map(|result| Ok(result.map_err(|_| "a thread panicked")??))
        .collect()
}

/// Whoever puts its name first holds the lease, until it gives it back.
fn leases(db: &Db) -> Result<(), Failure> {
    let holders = AtomicI32::new(0);
    let turns = together(|id| {
        let name = format!("worker {id}");
        let mut turns = 0;
        while turns < EDITS {
            match db.put_if_absent("lease", &name)? {
                Swap::Done(_) => {}
                _ => {
                    thread::yield_now();
                    continue;
                }
            }
            // Should this worker vanish, the lease ends by itself.
            let minute = Expiry::In(Duration::from_secs(60));
            let still = db.set_expiry("lease", minute)?;
            if !still || holders.fetch_add(1, Ordering::SeqCst) != 0 {
                return Err(terrace::Error::other("two hold the lease"));
            }
            turns += 1;
            holders.fetch_sub(1, Ordering::SeqCst);
            // Gives back its own, never another's.
            let back = db.compare_and_swap("lease", Some(name.as_bytes()), None)?;
            if !back.is_done() {
                return Err(terrace::Error::other("the lease was taken away"));
            }
        }
        Ok(turns)
    })?;
    println!(
        "{} turns with the lease, never two at a time",
        turns.iter().sum::<usize>()
    );
    Ok(())
}

/// Each thread adds its lines. `update` runs again when another edit came in between.
fn edits(db: &Db) -> Result<(), Failure> {
    together(|id| {
        for n in 0..EDITS {
            let line = format!("{id}:{n}\n");
            db.update("text", |old| {
                Some([old.unwrap_or_default(), line.as_bytes()].concat())
            })?;
        }
        Ok(())
    })?;
    let text = db.take("text")?.ok_or("the text is gone")?;
    let text = String::from_utf8(text.to_vec())?;
    println!("{} lines by {THREADS} threads", text.lines().count());
    for id in 0..THREADS {
        let own = format!("{id}:");
        let lines = text.lines().filter(|line| line.starts_with(&own));
        if !lines.eq((0..EDITS).map(|n| format!("{id}:{n}"))) {
            return Err("an edit is lost, or in the wrong place".into());
        }
    }
    Ok(())
}

/// A batch that is written only if a key is as it was read: across keyspaces, without a
/// transaction.
fn batches(db: &Db) -> Result<(), Failure> {
    let index = db.keyspace("titles")?;
    let first = db.put("page/1", "Salt")?;
    index.put("Salt", "page/1")?;
    let rename = |version: SeqNo, from: &str, to: &str| {
        let mut batch = Batch::new();
        batch.require_version("page/1", version).put("page/1", to);
        let mut titles = batch.keyspace(&index);
        titles.require_absent(to).delete(from).put(to, "page/1");
        db.write(batch)
    };
    rename(first, "Salt", "Sugar")?;
    let version = || Ok::<_, Failure>(db.get_entry("page/1")?.ok_or("the page is gone")?.version);
    let second = version()?;
    // Somebody else has read the page before that.
    let late = rename(first, "Salt", "Pepper")
        .err()
        .ok_or("a lost update")?;
    println!("too late: {late}");
    if late.kind() != ErrorKind::Conflict || late.key() != Some(b"page/1") {
        return Err(late.into());
    }
    index.put("Pepper", "page/2")?;
    let taken = rename(second, "Sugar", "Pepper")
        .err()
        .ok_or("a title twice")?;
    println!("taken:    {taken}");
    let titles: Vec<_> = index.iter().keys().collect::<terrace::Result<_>>()?;
    if taken.key() != Some(b"Pepper") || titles != ["Pepper", "Sugar"] || version()? != second {
        return Err(format!("{taken}: {titles:?}").into());
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let db = Db::in_memory()?;
    leases(&db)?;
    edits(&db)?;
    batches(&db)?;
    Ok(db.close()?)
}
