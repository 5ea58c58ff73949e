use std::path::Path;

use terrace_base::vfs::OsVfs;

use super::*;
use crate::segment::create_segment;
use crate::testing::TestVfs;

fn meta(number: u64, size: u64) -> SegmentMeta {
    SegmentMeta {
        number: FileNumber(number),
        salt: number * 0x1234_5678_9abc,
        size,
    }
}

fn log_on(fs: &Fs, dir: &Path) -> Log {
    let start = Start {
        next: Lsn(0),
        last_seq: SeqNo::ZERO,
        predecessor: None,
        sealed: Vec::new(),
    };
    Log::new(fs.clone(), dir.into(), start)
}

fn give(fs: &Fs, log: &mut Log, number: u64, size: u64) {
    create_segment(fs, Path::new("/"), FileNumber(number), size).unwrap();
    log.put_spare(meta(number, size), 1).unwrap();
}

#[test]
fn a_segment_file_is_zeroes_of_the_size_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Fs::new(Arc::new(OsVfs));
    create_segment(&fs, dir.path(), FileNumber(3), 200 << 10).unwrap();
    let file = fs
        .open(&dir.path().join("000003.wal"), OpenMode::Read)
        .unwrap();
    assert_eq!(file.read_to_end(1 << 20).unwrap(), vec![0; 200 << 10]);
    let again = create_segment(&fs, dir.path(), FileNumber(3), 4096);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Io);
    for size in [0, 4095, 4097] {
        assert!(create_segment(&fs, dir.path(), FileNumber(4), size).is_err());
    }
}

#[test]
fn room_is_what_it_says_down_to_the_byte() {
    let vfs = TestVfs::new();
    let fs = vfs.fs();
    let mut log = log_on(&fs, Path::new("/"));
    assert_eq!(log.room_for(10), Room::NeedsSegment { min_size: 4096 });
    let most = 4096 - (LINK_LEN + CLOSE_LEN) as usize - 32;
    assert_eq!(log.room_for(most), Room::NeedsSegment { min_size: 4096 });
    assert_eq!(
        log.room_for(most + 1),
        Room::NeedsSegment { min_size: 8192 }
    );
    give(&fs, &mut log, 1, 4096);
    assert_eq!(log.room_for(most), Room::Fits);
    assert_eq!(
        log.room_for(most + 1),
        Room::NeedsSegment { min_size: 8192 }
    );
    assert!(
        log.put_spare(meta(1, 4096), 1).is_err(),
        "one spare is enough"
    );
    give(&fs, &mut log, 2, 8192);
    assert_eq!(log.room_for(most + 1), Room::Fits);
    let Room::NeedsSegment { min_size } = log.room_for(isize::MAX as usize) else {
        panic!("no file is that large")
    };
    assert!(min_size > isize::MAX as u64 && min_size.is_multiple_of(4096));
    log.append(1, SeqNo::new(1), &[&vec![1; most]]).unwrap();
    assert_eq!(log.current_size(), 4096);
    assert_eq!(log.end(), Lsn(4096 - CLOSE_LEN));
    log.append(1, SeqNo::new(2), &[&vec![1; most + 1]]).unwrap();
    assert_eq!(log.current_size(), 8192);
    assert!(!log.has_spare());
    assert_eq!(log.segments(), [meta(1, 4096), meta(2, 8192)]);
    log.close(SeqNo::new(2), 1).unwrap();
}

#[test]
fn a_sync_point_covers_older_segments_first() {
    let vfs = TestVfs::new();
    let fs = vfs.fs();
    let mut log = log_on(&fs, Path::new("/"));
    assert!(log.sync_point().files.is_empty());
    give(&fs, &mut log, 1, 4096);
    log.append(1, SeqNo::new(1), &[&[1; 3000]]).unwrap();
    let early = log.sync_point();
    give(&fs, &mut log, 2, 4096);
    log.append(1, SeqNo::new(2), &[&[1; 3000]]).unwrap();
    let late = log.sync_point();
    assert_eq!(late.files.len(), 2);
    early.run().unwrap();
    log.note_synced(early.upto);
    assert_eq!(log.synced(), early.upto);
    let late = log.sync_point();
    assert_eq!(late.files.len(), 1, "nothing followed in the first segment");
    late.run().unwrap();
    log.note_synced(late.upto);
    assert_eq!(log.synced(), log.end());
    assert!(log.sync_point().files.is_empty());
    log.note_synced(Lsn(u64::MAX));
    assert_eq!(
        log.synced(),
        log.end(),
        "no promise for what is not written"
    );
    assert!(log.release(Lsn(3127)).is_empty());
    assert_eq!(log.release(early.upto), [meta(1, 4096)]);
    assert!(
        log.release(Lsn(u64::MAX)).is_empty(),
        "the current one stays"
    );
    assert_eq!(log.segments(), [meta(2, 4096)]);
}

#[test]
fn after_a_failed_store_every_call_gives_that_error() {
    let vfs = TestVfs::new();
    let fs = vfs.fs();
    let mut log = log_on(&fs, Path::new("/"));
    give(&fs, &mut log, 1, 4096);
    log.append(1, SeqNo::new(1), &[b"a"]).unwrap();
    vfs.fail_after(0);
    let error = log.append(1, SeqNo::new(2), &[b"b"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    vfs.fail_after(u64::MAX);
    let end = log.end();
    for result in [
        log.append(1, SeqNo::new(3), &[b"c"]).map(drop),
        log.mark(),
        log.close(SeqNo::new(3), 1).map(|_| ()),
        log.put_spare(meta(2, 4096), 1),
    ] {
        assert_eq!(result.unwrap_err().to_string(), error.to_string());
    }
    assert_eq!(log.end(), end);
}

#[test]
fn sequence_numbers_must_rise() {
    for (count, seq) in [(1, 2), (1, 0), (0, 4), (2, SeqNo::MAX.get())] {
        let vfs = TestVfs::new();
        let fs = vfs.fs();
        let mut log = log_on(&fs, Path::new("/"));
        give(&fs, &mut log, 1, 4096);
        log.append(3, SeqNo::new(1), &[b"a"]).unwrap();
        let error = log.append(count, SeqNo::new(seq), &[b"b"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_mark_is_written_once_per_promise_and_only_where_there_is_room() {
    let vfs = TestVfs::new();
    let fs = vfs.fs();
    let mut log = log_on(&fs, Path::new("/"));
    log.mark().unwrap();
    give(&fs, &mut log, 1, 4096);
    log.append(1, SeqNo::new(1), &[b"a"]).unwrap();
    log.mark().unwrap();
    assert_eq!(log.end(), Lsn(LINK_LEN + 40), "nothing was synced");
    let point = log.sync_point();
    point.run().unwrap();
    log.note_synced(point.upto);
    log.mark().unwrap();
    log.mark().unwrap();
    assert_eq!(log.end(), Lsn(LINK_LEN + 40 + MARK_LEN));
    let Room::Fits = log.room_for(3840) else {
        panic!("{:?}", log.room_for(3840))
    };
    log.append(1, SeqNo::new(2), &[&[0; 3840]]).unwrap();
    let point = log.sync_point();
    point.run().unwrap();
    log.note_synced(point.upto);
    let end = log.end();
    log.mark().unwrap();
    assert_eq!(log.end(), end, "the room left is the close frame's");
    log.close(SeqNo::new(2), 1).unwrap();
    assert!(log.end() <= Lsn(4096));
    assert_eq!(log.synced(), log.end());
    let error = log.append(1, SeqNo::new(3), &[b""]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[derive(Debug)]
struct Nowhere;

impl LogFile for Nowhere {
    fn store(&self, _: u64, bytes: &[u8]) -> Result<()> {
        std::hint::black_box(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Prints what an append costs: `cargo test -p terrace-wal cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_an_append() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Fs::new(Arc::new(OsVfs));
    for (number, nowhere) in [(1, true), (2, false)] {
        let mut log = log_on(&fs, dir.path());
        create_segment(&fs, dir.path(), FileNumber(number), 64 << 20).unwrap();
        log.put_spare(meta(number, 64 << 20), 1).unwrap();
        if nowhere {
            log.spares[0].file = Arc::new(Nowhere);
        }
        let payload = [7; 130];
        let n = 300_000;
        #[allow(clippy::disallowed_methods)] // A measurement of real time.
        let start = std::time::Instant::now();
        for seq in 1..=n {
            log.append(1, SeqNo::new(seq), &[&payload]).unwrap();
        }
        let cost = start.elapsed().as_nanos() as u64 / n;
        println!(
            "130 bytes, {}: {cost} ns",
            if nowhere {
                "encoding alone"
            } else {
                "by pwrite"
            }
        );
    }
}

#[test]
fn a_used_segment_says_which_edit_its_link_names() {
    let vfs = TestVfs::new();
    let fs = vfs.fs();
    let mut log = log_on(&fs, Path::new("/"));
    create_segment(&fs, Path::new("/"), FileNumber(1), 4096).unwrap();
    let named = || crate::edit_named_by(&fs, Path::new("/"), FileNumber(1)).unwrap();
    log.put_spare(meta(1, 4096), 77).unwrap();
    assert_eq!(named(), None);
    log.append(1, SeqNo::new(1), &[b"a"]).unwrap();
    assert_eq!(named(), Some(77));
    let path = Path::new("/000001.wal");
    for at in 0..LINK_LEN as usize {
        vfs.edit(path, |bytes| bytes[at] ^= 1);
        assert_eq!(named(), None, "byte {at}");
        vfs.edit(path, |bytes| bytes[at] ^= 1);
    }
    vfs.edit(path, |bytes| bytes.truncate(20));
    assert_eq!(named(), None);
}
