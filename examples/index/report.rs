//! The report that this program prints.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use terrace::Db;

use crate::check::{Checked, Expected};
use crate::load::Killed;
use crate::source::Source;
use crate::{Arguments, Failure};

/// With commas.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn rate(count: u64, time: Duration) -> String {
    let per_second = count as f64 / time.as_secs_f64().max(1e-9);
    format!("{}/s", grouped(per_second as u64))
}

pub(crate) fn input(arguments: &Arguments, source: &Source) {
    println!(
        "indexing {}: {} files, {}; {:?} writes, at most {}",
        source.root.display(),
        grouped(source.files.len() as u64),
        size(source.bytes),
        arguments.durability,
        size(arguments.limit),
    );
    if source.cut {
        println!("the walk ended at --limit: later files are left out");
    }
}

pub(crate) fn recovery(db: &Db, time: Duration, killed: &Killed) {
    let stats = db.stats();
    println!(
        "opened again in {time:.1?}: of {} left behind, {} are tables now, and {} entries are in memory",
        size(killed.left_behind),
        size(stats.table_bytes),
        grouped(stats.memtable_entries),
    );
}

pub(crate) fn recovered(checked: &Checked, expected: &Expected) {
    let acknowledged = expected.count_acknowledged();
    println!(
        "all {} acknowledged files are there with all {} words{}",
        grouped(acknowledged),
        grouped(checked.words),
        match checked.files.saturating_sub(acknowledged) {
            0 => "; of the one in flight, nothing".to_string(),
            more => format!("; {more} more was in flight, and is whole"),
        }
    );
}

pub(crate) fn folder_size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            folder_size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

pub(crate) fn table(
    db: &Db,
    database: &Path,
    killed: &Killed,
    checked: &Checked,
    load_time: Duration,
    settling: Duration,
) -> Result<(), Failure> {
    let stats = db.stats();
    let puts = checked.files + checked.words;
    let line = |name: &str, text: String| println!("  {name:<22}{text}");
    println!();
    line("files", grouped(checked.files));
    line("words", grouped(checked.words));
    line("bytes of files", size(checked.bytes));
    line("keys and values", size(checked.stored));
    line(
        "written",
        format!(
            "{} entries in {load_time:.1?}, reading and splitting included: {}",
            grouped(puts),
            rate(puts, load_time)
        ),
    );
    line("settled after", format!("{settling:.1?} more"));
    line(
        "point reads",
        format!(
            "{} in {:.1?}: {}",
            grouped(checked.gets),
            checked.get_time,
            rate(checked.gets, checked.get_time)
        ),
    );
    line(
        "scan of everything",
        format!(
            "{:.1?}: {}",
            checked.scan_time,
            rate(puts, checked.scan_time)
        ),
    );
    for (number, level) in stats.levels.iter().enumerate() {
        if level.tables > 0 {
            let text = format!(
                "{} in {} tables, {} runs",
                size(level.bytes),
                level.tables,
                level.runs
            );
            line(&format!("level {number}"), text);
        }
    }
    let user = killed.written.user + stats.bytes_written;
    let tables = killed.written.flushed
        + killed.written.compacted
        + stats.bytes_flushed
        + stats.bytes_compacted;
    line(
        "write amplification",
        format!(
            "{:.2} (log and tables, of both processes)",
            1.0 + tables as f64 / user.max(1) as f64
        ),
    );
    let disk = folder_size(database)?;
    line(
        "space amplification",
        format!(
            "{:.2} ({} on disk, {} of it log, for {} of keys and values)",
            disk as f64 / checked.stored.max(1) as f64,
            size(disk),
            size(stats.log_bytes),
            size(checked.stored)
        ),
    );
    Ok(())
}

pub(crate) fn skipped(source: &Source) {
    let total: u64 = source.skipped.values().sum();
    println!("  {:<22}{}", "skipped", grouped(total));
    for (reason, count) in &source.skipped {
        println!("    {:<20}{}", grouped(*count), reason.text());
    }
}
