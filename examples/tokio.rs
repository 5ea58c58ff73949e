//! From async code: submitted batches are awaited, everything else goes through `spawn_blocking`.
//!
//! ```text
//! cargo run --example tokio
//! ```
//!
//! Terrace needs no runtime. `submit` appends to the log and gives a ticket, which is a future on
//! the standard library's waker: awaiting it costs no thread, and all tickets that are under way
//! share a sync. `submit` waits only where writers outrun the disk. Reads may have to touch the
//! disk, so they belong on a blocking thread.

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
