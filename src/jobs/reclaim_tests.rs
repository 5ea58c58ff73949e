use terrace_base::vfs::MemVfs;

use super::MANY_DELETES;
use crate::jobs::flush::tend_memtable;
use crate::jobs::reclaim::forget_if_many;
use crate::options::keyspace::KeyspaceOptions;
use crate::{Compression, Db, Options};

fn options() -> Options {
    let options =
        Options::new().merge_operator("joined", |_: &[u8], a: &[u8], b: &[u8]| [a, b].concat());
    options.tune(|tuning| tuning.manual = true)
}

/// What is known of dropped keyspaces: by the manifest, by the catalogue, and of their options.
fn known(db: &Db) -> (usize, usize, usize) {
    let engine = db.shared();
    let manifest = engine.versions.lock().state.dropped.len();
    let policies = engine.context.policies.known();
    (manifest, engine.catalogue.dropped().len(), policies)
}

fn own_options() -> KeyspaceOptions {
    KeyspaceOptions::new()
        .merge_operator("joined")
        .compression(Some(Compression::Lz4))
        .blob_threshold(Some(1 << 20))
}

/// They were listed for as long as the database was open, and each idle check went over all of
/// them.
#[test]
fn a_dropped_keyspace_is_forgotten_once_nothing_of_it_is_left() {
    let vfs = MemVfs::new(1);
    let db = options().vfs(vfs.clone()).open("/db").unwrap();
    let kept = db.create_keyspace("kept", own_options()).unwrap();
    kept.put("k", "1").unwrap();
    for n in 0..300 {
        let name = format!("short-lived {n}");
        let short = db.create_keyspace(&name, own_options()).unwrap();
        if n % 3 == 0 {
            short.put("k", "1").unwrap();
            short.merge("k", "2").unwrap();
        }
        if n % 50 == 0 {
            db.flush().unwrap();
        }
        db.drop_keyspace(&name).unwrap();
    }
    db.compact_all().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(known(&db), (0, 0, 1));
    db.close().unwrap();
    let db = options().vfs(vfs).open("/db").unwrap();
    assert_eq!(known(&db), (0, 0, 1));
    assert_eq!(db.keyspaces().unwrap().len(), 2);
}

#[test]
fn a_dropped_keyspace_is_known_while_a_snapshot_sees_it() {
    let db = options().vfs(MemVfs::new(1)).open("/db").unwrap();
    let short = db.create_keyspace("short-lived", own_options()).unwrap();
    short.put("k", "1").unwrap();
    short.merge("k", "2").unwrap();
    let snapshot = short.snapshot();
    db.drop_keyspace("short-lived").unwrap();
    db.wait_idle().unwrap();
    assert_eq!(known(&db), (1, 1, 1));
    let seen = snapshot.get("k").unwrap();
    assert_eq!(seen.unwrap(), "12");
    drop(snapshot);
    db.compact_all().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(known(&db), (0, 0, 0));
}

/// They were kept as long as any reader was there, and beside a load there always is one.
#[test]
fn dropped_keyspaces_are_forgotten_beside_readers_that_never_pause() {
    let db = options().vfs(MemVfs::new(1)).open("/db").unwrap();
    db.put("k", "v").unwrap();
    let mut reader = db.iter();
    for n in 0..30 {
        let name = format!("short-lived {n}");
        let short = db.create_keyspace(&name, own_options()).unwrap();
        short.put("k", "1").unwrap();
        // The next reader begins before this one ends, and its view is replaced.
        let next = db.iter();
        assert!(reader.next().is_some());
        reader = next;
        db.drop_keyspace(&name).unwrap();
        db.flush().unwrap();
        db.wait_idle().unwrap();
    }
    let (listed, _, _) = known(&db);
    assert!(listed <= 2, "{listed} dropped keyspaces are kept");
}

/// A reader of an older view keeps all that it may need; others do not wait for it.
#[test]
fn a_reader_from_before_a_drop_keeps_the_merge_operator() {
    let db = options().vfs(MemVfs::new(1)).open("/db").unwrap();
    let short = db.create_keyspace("short-lived", own_options()).unwrap();
    short.put("k", "1").unwrap();
    short.merge("k", "2").unwrap();
    let reader = short.iter();
    db.drop_keyspace("short-lived").unwrap();
    db.put("k", "v").unwrap();
    db.wait_idle().unwrap();
    db.put("k", "w").unwrap();
    db.wait_idle().unwrap();
    let seen: Vec<_> = reader.map(|entry| entry.unwrap().1).collect();
    assert_eq!(seen, ["12"]);
    db.put("k", "x").unwrap();
    db.wait_idle().unwrap();
    assert_eq!(known(&db), (0, 0, 0));
}

/// Under load merges are due all the time, and what was dropped meanwhile took what memory it
/// liked: 260,000 keyspaces in a minute.
#[test]
fn many_dropped_keyspaces_do_not_wait_for_an_idle_database() {
    let db = options().vfs(MemVfs::new(1)).open("/db").unwrap();
    let drop_some = |from: usize, count: usize| {
        for n in from..from + count {
            let name = format!("short-lived {n}");
            db.create_keyspace(&name, own_options()).unwrap();
            db.drop_keyspace(&name).unwrap();
        }
        db.flush().unwrap();
        forget_if_many(db.shared()).unwrap();
        known(&db).0
    };
    assert_eq!(drop_some(0, MANY_DELETES), MANY_DELETES);
    assert_eq!(drop_some(MANY_DELETES, 1), 0);
    // A reader keeps them; a look is worth its cost again once there are twice as many.
    let reader = db.iter();
    assert_eq!(drop_some(1000, 300), 300);
    assert_eq!(drop_some(2000, 300), 600);
    drop(reader);
    assert_eq!(drop_some(3000, 1), 0);
}

/// What the manifest had not taken yet was held in memory until the log was long.
#[test]
fn many_changes_of_the_catalogue_make_a_flush_due() {
    let options = options().memory(4 << 20).vfs(MemVfs::new(1));
    let db = options.open("/db").unwrap();
    let engine = db.shared();
    let change = |n: u32| {
        db.create_keyspace(&format!("short-lived {n}"), own_options())
            .unwrap();
    };
    (0..1000).for_each(change);
    tend_memtable(engine).unwrap();
    assert_eq!(engine.catalogue.unflushed(), 1000);
    (1000..1400).for_each(change);
    tend_memtable(engine).unwrap();
    assert_eq!(engine.catalogue.unflushed(), 0);
}
