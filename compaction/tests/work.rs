//! What an edit costs, told by the memory that it takes: time would depend on the machine. One test, for memory is
//! counted over the whole process.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use peak_alloc::PeakAlloc;
use terrace_base::FileNumber;
use terrace_compaction::*;
use terrace_sstable::Table;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

#[derive(Debug)]
struct NoFiles;

impl TableStore for NoFiles {
    fn open(&self, _: &TableMeta) -> terrace_base::Result<Table> {
        Err(terrace_base::Error::invalid("there are no files here"))
    }
    fn obsolete(&self, _: FileNumber) {}
}

fn table(number: u64, key: u64) -> AddedTable {
    let text = format!("{number:06}:[key{key:09}a#1-key{key:09}z#2](size=32M)");
    AddedTable {
        level: 6,
        run: 0,
        meta: TableMeta::parse(&text).unwrap(),
    }
}

/// The most bytes that one of a hundred edits of a tree of `tables` tables takes beyond what is
/// there. Each replaces a table, as a merge does.
fn most_bytes(tables: u64) -> usize {
    let store: Arc<dyn TableStore> = Arc::new(NoFiles);
    let added = (0..tables).map(|n| table(n + 1, n)).collect();
    let first = VersionEdit {
        added,
        ..VersionEdit::default()
    };
    let mut version = Version::empty().apply(&first, &store).unwrap();
    let mut most = 0;
    for n in 0..100 {
        let at = n * 7919 % tables;
        let old = version.level(6).runs[0].find(
            TableMeta::parse(&format!("1:[key{at:09}m#1-key{at:09}m#1]"))
                .unwrap()
                .info
                .smallest
                .as_ref(),
        );
        let number = old.unwrap().number();
        let edit = VersionEdit {
            removed: vec![RemovedTable { level: 6, number }],
            added: vec![table(tables + n + 1, at)],
            ..VersionEdit::default()
        };
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let next = version.apply(&edit, &store).unwrap();
        most = most.max(HEAP.peak_usage().saturating_sub(before));
        version = next;
    }
    most
}

#[test]
fn an_edit_costs_what_it_changes_and_not_the_tables_there_are() {
    let (few, many) = (most_bytes(256), most_bytes(16_384));
    println!("an edit takes {few} bytes of memory with 256 tables, {many} with 16,384");
    assert!(
        many < 4 * few,
        "{few} bytes, and {many} with 64 times the tables"
    );
}
