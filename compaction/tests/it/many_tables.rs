//! Edits of trees with many tables: the next version is what it would be if it were built anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use terrace_base::{FileNumber, KeyspaceId, UserKey};
use terrace_compaction::*;

use crate::store::Store;

/// Tables by level and first key: number and last key.
type Model = BTreeMap<(usize, u32), (u64, u32)>;

fn added(level: usize, number: u64, first: u32, last: u32) -> AddedTable {
    let text = format!("{number:06}:[k{first:05}#1-k{last:05}#2]");
    let meta = TableMeta::parse(&text).unwrap();
    let run = if level == 0 { number } else { 0 };
    AddedTable { level, run, meta }
}

fn as_edit(model: &Model) -> VersionEdit {
    let tables = model.iter();
    VersionEdit {
        added: tables
            .map(|((level, first), (number, last))| added(*level, *number, *first, *last))
            .collect(),
        ..VersionEdit::default()
    }
}

/// A tree with a table for every third key, in level 5 and level 6.
fn full(tables: u32) -> Model {
    let both = (0..tables).flat_map(|n| [(5, n * 3), (6, n * 3)]);
    both.zip(1..)
        .map(|((level, first), number)| ((level, first), (number, first + 1)))
        .collect()
}

fn overlaps(model: &Model, level: usize, first: u32, last: u32) -> bool {
    let mut tables = model.range((level, 0)..(level + 1, 0));
    tables.any(|((_, f), (_, l))| *f <= last && first <= *l)
}

/// One step of the edit, and of the model if it is right.
fn step(edit: &mut VersionEdit, model: &mut Model, (kind, at, len): (u8, usize, u32), next: u64) {
    let place = model.iter().nth(at % model.len().max(1));
    let Some(((level, first), (number, last))) = place.map(|(k, v)| (*k, *v)) else {
        return;
    };
    let taken = edit.moved.iter().any(|moved| moved.number.0 == number)
        || edit.added.iter().any(|added| added.meta.number.0 == number);
    match kind {
        0 if !taken => {
            let number = FileNumber(number);
            edit.removed.push(RemovedTable { level, number });
            model.remove(&(level, first));
        }
        1 if !taken && !overlaps(model, 11 - level, first, last) => {
            edit.moved.push(MovedTable {
                from_level: level,
                to_level: 11 - level,
                run: 0,
                number: FileNumber(number),
            });
            model.remove(&(level, first));
            model.insert((11 - level, first), (number, last));
        }
        _ if !overlaps(model, level, last + 1, last + 1 + len) => {
            edit.added
                .push(added(level, next, last + 1, last + 1 + len));
            model.insert((level, last + 1), (next, last + 1 + len));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn edits_of_many_tables_lead_to_what_they_say(
        tables in 1u32..400,
        edits in prop::collection::vec(
            prop::collection::vec((0u8..3, any::<usize>(), 0u32..3), 1..60), 1..20),
        probes in prop::collection::vec(0u32..1300, 20),
    ) {
        let store = Store::new().shared();
        let mut model = full(tables);
        let mut version = Version::empty().apply(&as_edit(&model), &store).unwrap();
        let mut all = vec![as_edit(&model)];
        let mut next = 1_000_000;
        for steps in edits {
            let mut edit = VersionEdit::default();
            for one in steps {
                next += 1;
                step(&mut edit, &mut model, one, next);
            }
            version = version.apply(&edit, &store).unwrap();
            version.check_order().unwrap();
            all.push(edit);
        }
        let anew = Version::empty().apply(&as_edit(&model), &store).unwrap();
        prop_assert_eq!(format!("{version:?}"), format!("{anew:?}"));
        let at_once = Version::empty().apply_all(&all, &store).unwrap();
        prop_assert_eq!(format!("{at_once:?}"), format!("{anew:?}"));
        for ((level, _), (number, _)) in &model {
            prop_assert_eq!(version.level_of(FileNumber(*number)), Some(*level));
        }
        prop_assert_eq!(version.tables().count(), model.len());
        for run in version.runs() {
            let tables = run.tables().to_vec();
            for (i, table) in tables.iter().enumerate() {
                prop_assert!(Arc::ptr_eq(run.tables().get(i).unwrap(), table));
            }
            for probe in &probes {
                let text = format!("k{probe:05}");
                let key = UserKey::new(KeyspaceId(0), text.as_bytes());
                let touches = |t: &&Arc<TableFile>| {
                    t.info().smallest.as_ref() <= key && key <= t.info().largest.as_ref()
                };
                let found = run.find(key).filter(|t| touches(t)).map(|t| t.number());
                prop_assert_eq!(found, tables.iter().find(touches).map(|t| t.number()));
                let part = run.tables().part(run.overlapping(key, key)).unwrap();
                prop_assert_eq!(part.len(), tables.iter().filter(touches).count());
            }
        }
    }

    #[test]
    fn a_table_that_overlaps_its_neighbours_is_refused_wherever_it_goes(
        tables in 120u32..400,
        first in 0u32..1200,
        len in 0u32..4,
    ) {
        let store = Store::new().shared();
        let mut model = full(tables);
        model.retain(|(_, first), _| first % 4 != 0);
        let version = Version::empty().apply(&as_edit(&model), &store).unwrap();
        let edit = VersionEdit {
            added: vec![added(6, 1_000_000, first, first + len)],
            ..VersionEdit::default()
        };
        let applied = version.apply(&edit, &store);
        prop_assert_eq!(applied.is_err(), overlaps(&model, 6, first, first + len));
    }
}
