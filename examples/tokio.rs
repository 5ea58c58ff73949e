//! Async code: submitted batches are awaited, everything else uses `spawn_blocking`.
//!
//! ```text
//! cargo run --example tokio
//! ```
//!
//! Terrace needs no runtime. `submit` appends to the log and returns a ticket, which is a
//! future that uses the waker of the standard library: awaiting it blocks no thread, and all
//! pending tickets share a sync. `submit` waits only when writers are faster than the disk.
//! Reads may access the disk, so they belong on a blocking thread.

use terrace::{Batch, Bytes, Db};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    db: &Db,
    work: impl FnOnce(&Db) -> terrace::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let db = db.clone();
    Ok(tokio::task::spawn_blocking(move || work(&db)).await??)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_path_buf();
    let db = tokio::task::spawn_blocking(move || Db::open(path)).await??;

    // A hundred writers, each waiting for its own write to be on disk.
    let writers: Vec<_> = (0..100)
        .map(|i| {
            let db = db.clone();
            tokio::spawn(async move {
                let mut batch = Batch::new();
                batch.put(format!("user {i:03}"), format!("value {i}"));
                db.submit(batch)?.await
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }

    let value: Option<Bytes> = blocking(&db, |db| db.get("user 042")).await?;
    println!("user 042 has {value:?}");
    let count = blocking(&db, |db| db.count("user "..)).await?;
    println!("{count} users are on disk");

    // The last handle closes the database, which waits for the disk: not on an async thread.
    blocking(&db, Db::close).await
}
