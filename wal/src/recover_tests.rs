use proptest::prelude::*;
use terrace_base::vfs::OpenMode;
use terrace_base::{ErrorKind, FileNumber};

use super::*;
use crate::format::{Fields, Use, encode};
use crate::scan::Scanner;
use crate::testing_log::{Engine, Written, dir, path_of};

/// Three segments, with promises here and there and an unsynced tail.
fn small() -> Engine {
    let mut engine = Engine::new(4096);
    for i in 0..30 {
        engine.put(i * 41 % 700);
        if [3, 11, 12, 20].contains(&i) {
            engine.sync().unwrap();
        }
        if i == 12 {
            engine.log.mark().unwrap();
        }
    }
    assert_eq!(engine.listed.len(), 3);
    engine
}

fn known(edit: u64) -> Known {
    Known {
        flushed: Lsn(0),
        edit,
        last_seq: SeqNo::MAX,
    }
}

fn corruption(engine: &Engine) -> Error {
    let error = engine.recover().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert!(error.file().is_some(), "{error}");
    error
}

/// Where each frame of a segment begins, with its promise; read without the code under test's
/// chain.
fn frames(engine: &Engine, meta: &SegmentMeta) -> Vec<(u64, u64, u64)> {
    let file = engine
        .fs
        .open(&path_of(meta.number.0), OpenMode::Read)
        .unwrap();
    let mut scanner = Scanner::new(file, meta.salt, meta.size);
    let mut out = Vec::new();
    scanner
        .search(0, &mut |offset, frame| {
            out.push((offset, frame.total, frame.fields.synced));
            Ok(())
        })
        .unwrap();
    out
}

/// Checks recovery of `small` with the frame at (segment, offset) broken: `Corruption` at its place
/// if another frame promises more than its position, else the frames before it.
fn check_broken(engine: &Engine, all: &[(usize, u64, u64, u64)], broken: usize, what: &str) {
    let (segment, offset, lsn, _) = all[broken];
    let others = all.iter().enumerate().filter(|(i, _)| *i != broken);
    let promise = others.map(|(_, frame)| frame.3).max().unwrap();
    if promise > lsn {
        let error = corruption(engine);
        let (path, at) = error.file().unwrap();
        if offset > 0 {
            assert_eq!(
                path,
                path_of(engine.listed[segment].number.0),
                "{what}: {error}"
            );
            assert_eq!(at, offset, "{what}: {error}");
        }
    } else {
        let (result, found) = engine.recover().unwrap();
        let whole = engine
            .written
            .iter()
            .filter(|frame| frame.end.0 <= lsn)
            .count();
        assert_eq!(found, engine.written[..whole], "{what}");
        assert_eq!(result.end, Lsn(lsn), "{what}");
        assert!(result.close.is_none());
    }
}

/// All frames: segment, offset, position, promise.
fn all_frames(engine: &Engine) -> Vec<(usize, u64, u64, u64)> {
    let mut first = 0;
    let mut all = Vec::new();
    for (i, meta) in engine.listed.iter().enumerate() {
        let frames = frames(engine, meta);
        let (last, len, _) = *frames.last().unwrap();
        all.extend(
            frames
                .iter()
                .map(|(offset, _, synced)| (i, *offset, first + offset, *synced)),
        );
        first += last + len;
    }
    assert_eq!(Lsn(first), engine.log.end());
    all
}

#[test]
fn what_was_appended_is_read_back() {
    let engine = small();
    let result = engine.check();
    assert_eq!(engine.recover().unwrap().1, engine.written);
    assert_eq!(result.end, engine.log.end());
    assert_eq!(result.last_seq.get(), engine.seq);
    assert_eq!(result.synced, engine.synced);
    assert_eq!(result.used.len(), 3);
    assert_eq!(result.used[0].end, result.used[1].first);
    assert!(result.close.is_none() && result.predecessor.is_none());
    assert_eq!(result.dropped_frames, 0);
}

#[test]
fn replay_begins_at_the_flushed_position_and_needs_nothing_below() {
    let mut engine = small();
    let written = engine.written.clone();
    let pristine: Vec<_> = (1..=3).map(|n| engine.vfs.bytes(&path_of(n))).collect();
    let all = all_frames(&engine);
    for i in 0..written.len() {
        let end = written[i].end;
        engine.flushed = end;
        assert_eq!(engine.recover().unwrap().1, written[i + 1..]);
        // All below the flushed position but the link may be gone.
        let (segment, offset, lsn, _) = *all.iter().rfind(|frame| frame.2 < end.0).unwrap();
        let path = path_of(segment as u64 + 1);
        if offset > 0 {
            let upto = (offset + end.0 - lsn) as usize;
            engine.vfs.edit(&path, |bytes| bytes[96..upto].fill(0xdb));
            assert_eq!(engine.recover().unwrap().1, written[i + 1..]);
            engine
                .vfs
                .edit(&path, |bytes| bytes.clone_from(&pristine[segment]));
        }
    }
    // A position that is no frame's end, below a promise.
    engine.flushed = Lsn(written[3].end.0 - 8);
    corruption(&engine);
    engine.flushed = Lsn(written[3].end.0 - 3);
    corruption(&engine);
    engine.flushed = Lsn(u64::MAX);
    assert!(engine.recover().is_err());
}

#[test]
fn every_changed_bit_is_damage_below_a_promise_and_a_tear_above() {
    let engine = small();
    let all = all_frames(&engine);
    for (segment, meta) in engine.listed.iter().enumerate() {
        let path = path_of(meta.number.0);
        let frames = frames(&engine, meta);
        for bit in 0..meta.size as usize * 8 {
            let at = bit as u64 / 8;
            let hit = frames
                .iter()
                .find(|(offset, len, _)| (*offset..offset + len).contains(&at));
            // Payloads are long and alike: one bit of each byte will do there.
            let inside =
                hit.is_none_or(|(offset, len, _)| at > offset + 40 && at + 8 < offset + len);
            if inside && bit % 8 != bit / 8 % 8 {
                continue;
            }
            engine
                .vfs
                .edit(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            match hit {
                Some((offset, ..)) => {
                    let broken = all
                        .iter()
                        .position(|f| f.0 == segment && f.1 == *offset)
                        .unwrap();
                    check_broken(
                        &engine,
                        &all,
                        broken,
                        &format!("segment {segment} bit {bit}"),
                    );
                }
                None => assert_eq!(engine.recover().unwrap().1, engine.written),
            }
            engine
                .vfs
                .edit(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
    }
}

#[test]
fn zeroes_from_every_byte_on_leave_a_prefix() {
    let engine = small();
    let all = all_frames(&engine);
    let last = engine.listed.last().unwrap();
    let path = path_of(last.number.0);
    let whole = engine.vfs.bytes(&path);
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in (0..used).rev() {
        engine.vfs.edit(&path, |bytes| bytes[cut..].fill(0));
        let bytes = engine.vfs.bytes(&path);
        let cut_lsn = all.iter().find(|f| f.0 == 2).unwrap().2 + cut as u64;
        let left = all.iter().filter(|f| f.2 < cut_lsn);
        let intact = left.filter(|f| f.0 < 2 || bytes[f.1 as usize..] != whole[f.1 as usize..]);
        // The frames that remain promise nothing above the cut, so this is never damage.
        assert!(intact.count() > 0);
        let (result, found) = engine.recover().unwrap();
        assert_eq!(found, engine.written[..found.len()]);
        let kept = engine.written.iter().filter(|f| f.end.0 <= cut_lsn).count();
        assert!(found.len() >= kept, "cut at {cut}");
        assert!(result.synced <= result.end);
    }
}

#[test]
fn the_same_in_the_middle_segment_is_damage_while_the_last_one_promises_more() {
    let mut engine = small();
    engine.sync().unwrap();
    engine.log.mark().unwrap();
    let path = path_of(2);
    let len = frames(&engine, &engine.listed[1])
        .last()
        .map(|f| f.0 + f.1)
        .unwrap();
    for cut in 0..len as usize {
        let mut changed = false;
        let before = engine.vfs.bytes(&path);
        engine.vfs.edit(&path, |bytes| {
            changed = bytes[cut..].iter().any(|byte| *byte != 0);
            bytes[cut..].fill(0);
        });
        match changed {
            true => drop(corruption(&engine)),
            false => assert_eq!(engine.recover().unwrap().1, engine.written),
        }
        engine.vfs.edit(&path, |bytes| *bytes = before);
    }
}

#[test]
fn a_hole_in_the_middle_segment_is_never_skipped() {
    let mut engine = Engine::new(4096);
    for _ in 0..30 {
        engine.put(400);
    }
    assert!(engine.listed.len() >= 3);
    let middle: Vec<_> = frames(&engine, &engine.listed[1]);
    let first = engine.recover().unwrap().0.used[1].first.0;
    for (offset, ..) in middle {
        let path = path_of(2);
        engine
            .vfs
            .edit(&path, |bytes| bytes[offset as usize + 9] ^= 4);
        let (result, found) = engine.recover().unwrap();
        let kept = engine
            .written
            .iter()
            .filter(|f| f.end.0 <= first + offset)
            .count();
        assert_eq!(found, engine.written[..kept]);
        assert_eq!(result.end, Lsn(first + offset));
        assert!(result.dropped_frames > 0);
        assert_eq!(
            result.dropped.len(),
            engine.listed.len() - if offset == 0 { 1 } else { 2 }
        );
        assert!(result.highest_seen >= engine.log.end());
        engine
            .vfs
            .edit(&path, |bytes| bytes[offset as usize + 9] ^= 4);
    }
}

#[test]
fn segments_that_are_missing_short_long_swapped_or_doubled_are_damage() {
    let mut engine = small();
    engine.sync().unwrap();
    let files: Vec<_> = (1..=3).map(|n| engine.vfs.bytes(&path_of(n))).collect();
    for n in 1..=3 {
        let whole = &files[n as usize - 1];
        for len in (0..4096).step_by(61).chain([4095, 4097, 8192]) {
            engine.vfs.edit(&path_of(n), |bytes| bytes.resize(len, 0));
            corruption(&engine);
        }
        engine
            .vfs
            .edit(&path_of(n), |bytes| bytes.clone_from(whole));
        for other in (1..=3).filter(|other| *other != n) {
            let copy = &files[other as usize - 1];
            engine.vfs.edit(&path_of(n), |bytes| bytes.clone_from(copy));
            corruption(&engine);
            engine
                .vfs
                .edit(&path_of(other), |bytes| bytes.clone_from(whole));
            corruption(&engine);
            engine
                .vfs
                .edit(&path_of(n), |bytes| bytes.clone_from(whole));
            engine
                .vfs
                .edit(&path_of(other), |bytes| bytes.clone_from(copy));
        }
    }
    engine.check();
    let listed = engine.listed.clone();
    engine.listed.push(listed[0].clone());
    corruption(&engine);
    engine.listed = listed[1..].to_vec();
    let error = corruption(&engine);
    assert!(error.to_string().contains("begins at"), "{error}");
    engine.listed = vec![listed[0].clone(), listed[2].clone()];
    corruption(&engine);
    engine.listed = vec![listed[2].clone(), listed[0].clone(), listed[1].clone()];
    engine.check();
    engine.listed = listed;
    engine.vfs.remove(&path_of(2));
    let error = corruption(&engine);
    assert_eq!(error.file().unwrap().0, path_of(2));
}

#[test]
fn a_log_beyond_the_manifest_is_damage() {
    let mut engine = small();
    engine.edit -= 1;
    corruption(&engine);
}

#[test]
fn an_empty_log_and_unused_spares_are_no_log() {
    let mut engine = Engine::new(4096);
    assert_eq!(engine.check().end, Lsn(0));
    engine.prepare(0).unwrap();
    let result = engine.check();
    assert_eq!((result.end, result.highest_seen), (Lsn(0), Lsn(0)));
    assert_eq!(result.unused, engine.listed);
    assert!(result.close.is_none());
}

#[test]
fn flushed_in_a_segment_whose_link_was_lost() {
    let mut engine = Engine::new(4096);
    while engine.listed.len() < 2 {
        engine.put(500);
    }
    engine.put(500);
    let flushed = engine.log.end();
    engine.put(500);
    engine.put(500);
    for keep_first in [true, false] {
        let mut engine_at = Engine::new(4096);
        std::mem::swap(&mut engine_at, &mut engine);
        engine_at.flushed = flushed;
        if !keep_first {
            engine_at.log.release(flushed);
            engine_at.listed.remove(0);
        }
        let link = engine_at.vfs.bytes(&path_of(2))[..96].to_vec();
        engine_at.vfs.edit(&path_of(2), |bytes| bytes[..96].fill(0));
        let (result, found) = engine_at.recover().unwrap();
        assert!(found.is_empty());
        assert_eq!(result.end, flushed);
        assert_eq!(
            result.dropped,
            engine_at.listed[engine_at.listed.len() - 1..]
        );
        assert!(result.highest_seen >= engine_at.log.end());
        engine_at
            .vfs
            .edit(&path_of(2), |bytes| bytes[..96].copy_from_slice(&link));
        std::mem::swap(&mut engine_at, &mut engine);
    }
    // The same, but more than the flushed position was durable.
    engine.sync().unwrap();
    engine.put(10);
    engine.vfs.edit(&path_of(2), |bytes| bytes[..96].fill(0));
    corruption(&engine);
}

#[test]
fn flushed_just_at_the_end_of_a_segment_and_the_next_link_lost() {
    let mut engine = Engine::new(4096);
    while engine.listed.len() < 2 {
        engine.put(500);
    }
    let flushed = engine.written[engine.written.len() - 2].end;
    engine.put(500);
    let keep = engine.listed.clone();
    engine.flush(flushed);
    assert_eq!(engine.listed.len(), 1, "the first segment was released");
    engine.check();
    for listed in [keep, engine.listed.clone()] {
        engine.listed = listed;
        let link = engine.vfs.bytes(&path_of(2))[..96].to_vec();
        engine.vfs.edit(&path_of(2), |bytes| bytes[..96].fill(0));
        let (result, found) = engine.recover().unwrap();
        assert_eq!((result.end, found.len()), (flushed, 0));
        engine
            .vfs
            .edit(&path_of(2), |bytes| bytes[..96].copy_from_slice(&link));
    }
}

#[test]
fn only_links_above_the_flushed_position_survived_an_unsynced_log() {
    let mut engine = Engine::new(4096);
    while engine.listed.len() < 3 {
        engine.put(500);
    }
    engine.vfs.edit(&path_of(1), |bytes| bytes[..96].fill(0));
    engine.vfs.edit(&path_of(2), |bytes| bytes[..96].fill(0));
    let (result, found) = engine.recover().unwrap();
    assert_eq!((result.end, found.len()), (Lsn(0), 0));
    assert_eq!(result.dropped.len(), 3);
    assert!(result.highest_seen >= engine.log.end());
    engine.listed.remove(1);
    assert!(corruption(&engine).to_string().contains("begins at"));
}

#[test]
fn stale_frames_of_an_earlier_use_are_no_frames() {
    let mut engine = Engine::new(4096);
    for _ in 0..200 {
        let end = engine.put(333);
        engine.sync().unwrap();
        if engine.listed.len() > 1 {
            engine.flush(end);
        }
        engine.check();
    }
    assert!(
        engine.listed[0].number <= FileNumber(3),
        "files are used again"
    );
    let result = engine.check();
    assert_eq!(result.dropped_frames, 0);
}

#[test]
fn a_closed_log_goes_on_in_a_new_segment() {
    let mut engine = small();
    engine
        .log
        .close(SeqNo::new(engine.seq + 5), engine.edit)
        .unwrap();
    engine.synced = engine.log.end();
    let result = engine.check();
    assert_eq!(result.close.unwrap().last_seq.get(), engine.seq + 5);
    assert_eq!(result.end, engine.log.end());
    assert_eq!(result.highest_seen, result.end);
    let lsn = result.predecessor.as_ref().unwrap().lsn;
    assert_eq!(lsn.0 + 48, result.end.0);
    assert_eq!(result.synced, lsn);
    for round in 0..4 {
        let result = engine.reopen();
        assert!(result.close.is_some(), "round {round}");
        let spare = engine.listed[0].clone();
        let stale = engine.log.put_spare(
            SegmentMeta {
                number: FileNumber(99),
                ..spare
            },
            engine.edit,
        );
        assert_eq!(stale.unwrap_err().kind(), ErrorKind::Invalid);
        engine.put(100);
        assert!(engine.check().close.is_none());
        // Cut before the sync: what was closed is still whole.
        let before = engine.vfs.bytes(&path_of(4 + round));
        engine.vfs.edit(&path_of(4 + round), |bytes| bytes.fill(0));
        engine.synced = lsn;
        let close = engine.check().close;
        assert!(close.is_some());
        engine
            .vfs
            .edit(&path_of(4 + round), |bytes| *bytes = before);
        engine
            .log
            .close(SeqNo::new(engine.seq), engine.edit)
            .unwrap();
    }
    assert_eq!(engine.check().used.len(), 7);
    // Without its last use the log still ends with a close frame, but not with the last one.
    let used = engine.check().used.last().unwrap().meta.number.0;
    engine.vfs.edit(&path_of(used), |bytes| bytes[3] ^= 1);
    corruption(&engine);
}

#[test]
fn a_chain_holds_without_the_close_frame_in_it() {
    let mut engine = small();
    let close_at = engine.log.end();
    engine
        .log
        .close(SeqNo::new(engine.seq), engine.edit)
        .unwrap();
    let old = engine.reopen().used.last().unwrap().clone();
    engine.put(50);
    engine.sync().unwrap();
    engine.put(50);
    assert_eq!(engine.recover().unwrap().1, engine.written);
    let offset = (close_at.0 - old.first.0) as usize;
    engine
        .vfs
        .edit(&path_of(old.meta.number.0), |bytes| bytes[offset..].fill(0));
    assert_eq!(engine.recover().unwrap().1, engine.written);
    // A flush up to the end of the old life, or into the skipped positions, begins with the new
    // one.
    let all: Vec<Written> = engine.written[engine.written.len() - 2..].to_vec();
    for lsn in [close_at.0, close_at.0 + 8, close_at.0 + 48] {
        engine.flushed = Lsn(lsn);
        assert_eq!(engine.recover().unwrap().1, all);
    }
    let released = engine.log.release(Lsn(close_at.0 + 48));
    engine.listed.retain(|meta| !released.contains(meta));
    assert_eq!(engine.listed.len(), 1);
    assert_eq!(engine.recover().unwrap().1, all);
    // The new use loses its first sector: damage, since it was durable.
    let number = engine.listed[0].number.0;
    engine
        .vfs
        .edit(&path_of(number), |bytes| bytes[..96].fill(0));
    corruption(&engine);
}

#[test]
fn a_closed_log_is_searched_only_if_edits_followed() {
    let mut engine = Engine::new(4096);
    engine.put(10);
    engine.size = 8 << 20;
    engine.prepare(0).unwrap();
    engine
        .log
        .close(SeqNo::new(engine.seq), engine.edit)
        .unwrap();
    let reads = |engine: &Engine| {
        engine.vfs.fail_reads_after(1000);
        let result = engine.check();
        assert!(result.close.is_some());
        assert_eq!(result.unused.len(), 1);
        1000 - engine.vfs.reads_left()
    };
    assert_eq!(reads(&engine), 3, "a link of each, and a salt");
    engine.edit += 1;
    assert!(reads(&engine) > 10, "the spare was searched");
    engine.edit -= 2;
    engine.vfs.fail_reads_after(u64::MAX);
    corruption(&engine);
}

#[test]
fn a_sync_before_the_first_frame_promises_nothing_of_the_life_before() {
    let mut engine = small();
    let lsn = engine.log.end();
    engine
        .log
        .close(SeqNo::new(engine.seq), engine.edit)
        .unwrap();
    // The process was killed: its close frame is seen now and lost by the power cut below.
    let old = engine.reopen().used.last().unwrap().clone();
    engine.sync().unwrap();
    engine.log.mark().unwrap();
    assert_eq!(engine.log.synced(), engine.log.end());
    engine.put(600);
    engine.put(600);
    let offset = (lsn.0 - old.first.0) as usize;
    engine
        .vfs
        .edit(&path_of(old.meta.number.0), |bytes| bytes[offset..].fill(0));
    engine.vfs.edit(&path_of(4), |bytes| bytes[..512].fill(0));
    engine.synced = lsn;
    let result = engine.check();
    assert_eq!(result.end, lsn);
    assert_eq!(result.dropped_frames, 1);
}

/// Writes a frame that verifies into a segment.
fn forge(engine: &Engine, meta: &SegmentMeta, offset: u64, fields: Fields, payload: &[u8]) -> u64 {
    let mut frame = Vec::new();
    encode(&mut frame, fields, &[payload], meta.salt, offset).unwrap();
    let end = offset as usize + frame.len();
    if end <= meta.size as usize {
        engine.vfs.edit(&path_of(meta.number.0), |bytes| {
            bytes[offset as usize..end].copy_from_slice(&frame);
        });
    }
    end as u64
}

fn fields(kind: FrameKind, count: u32, seq: u64, synced: u64) -> Fields {
    Fields {
        kind,
        count,
        first_seq: SeqNo::new(seq),
        synced,
    }
}

#[test]
fn frames_that_verify_and_contradict_each_other_are_damage() {
    let engine = small();
    let last = engine.listed[2].clone();
    let tail = frames(&engine, &last).last().map(|f| f.0 + f.1).unwrap();
    let (seq, end) = (engine.seq, engine.log.end().0);
    let close = |last_seq, manifest_edit| {
        Close {
            last_seq: SeqNo::new(last_seq),
            manifest_edit,
        }
        .encode()
        .to_vec()
    };
    let whole = engine.vfs.bytes(&path_of(3));
    for (forged, payload) in [
        (fields(FrameKind::Data, 1, seq, 0), vec![]),
        (fields(FrameKind::Data, 2, SeqNo::MAX.get(), 0), vec![]),
        (fields(FrameKind::Data, 1, seq + 1, end + 8), vec![]),
        (fields(FrameKind::Link, 0, seq, 0), vec![]),
        (fields(FrameKind::Close, 0, seq, 0), close(seq - 1, 1)),
        (
            fields(FrameKind::Close, 0, seq, 0),
            close(seq, engine.edit + 1),
        ),
        (fields(FrameKind::Close, 0, seq, 0), vec![]),
    ] {
        forge(&engine, &last, tail, forged, &payload);
        corruption(&engine);
        engine
            .vfs
            .edit(&path_of(3), |bytes| bytes.clone_from(&whole));
    }
    // In the middle segment: a frame over its end, and a close frame before it.
    let middle = engine.listed[1].clone();
    let (offset, len, _) = *frames(&engine, &middle).last().unwrap();
    let whole = engine.vfs.bytes(&path_of(2));
    let seq_there = engine
        .recover()
        .unwrap()
        .1
        .iter()
        .filter(|f| f.end.0 <= 8000)
        .count() as u64;
    assert!(seq_there > 0);
    forge(
        &engine,
        &middle,
        offset,
        fields(FrameKind::Data, 1, seq, 0),
        &vec![0; len as usize],
    );
    assert!(corruption(&engine).to_string().contains("beyond the end"));
    forge(
        &engine,
        &middle,
        offset,
        fields(FrameKind::Close, 0, seq, 0),
        &close(seq, 1),
    );
    assert!(corruption(&engine).to_string().contains("behind its close"));
    engine
        .vfs
        .edit(&path_of(2), |bytes| bytes.clone_from(&whole));
    engine.check();
}

#[test]
fn a_link_carries_the_sequence_number_over() {
    let mut engine = Engine::new(4096);
    engine.put(10);
    engine.sync().unwrap();
    let mut result = engine.reopen();
    assert!(result.close.is_none());
    engine.put(3900);
    engine.put(3900);
    let expected = engine.seq;
    // All but the last link is lost or flushed.
    engine.flush(engine.written[0].end);
    let number = engine.listed[0].number.0;
    engine
        .vfs
        .edit(&path_of(number), |bytes| bytes[96..].fill(0));
    result = engine.recover().unwrap().0;
    assert_eq!(result.last_seq.get(), expected - 1);
    assert!(expected > 1 << 32);
    // A link that goes back is damage.
    let mut engine = small();
    let meta = engine.listed[1].clone();
    let mut link = engine.recover_link(&meta);
    link.last_seq = SeqNo::new(1);
    forge(
        &engine,
        &meta,
        0,
        fields(FrameKind::Link, 0, 1, 0),
        &link.encode(),
    );
    corruption(&engine);
    engine.listed.clear();
}

impl Engine {
    fn recover_link(&self, meta: &SegmentMeta) -> Link {
        let file = self
            .fs
            .open(&path_of(meta.number.0), OpenMode::Read)
            .unwrap();
        let mut scanner = Scanner::new(file, meta.salt, meta.size);
        Link::decode(scanner.frame_at(0).unwrap().unwrap().payload).unwrap()
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..9000u64, 2 => (0..1200u64).prop_map(|n| n * 8), 1 => any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Frames that verify, with anything in them: never a panic, and never a frame below `flushed`.
    #[test]
    fn hostile_segments_are_errors_or_logs(
        links in proptest::collection::vec(
            (0..4u64, 0..4u64, number(), number(), number(), number()), 1..4),
        bodies in proptest::collection::vec((0..3usize, 0..6u8, number(), number(), 0..300usize), 0..20),
        flushed in number(),
        noise in proptest::collection::vec((0..3usize, 0..4096usize, any::<u8>()), 0..4),
    ) {
        let mut engine = Engine::new(4096);
        for n in 1..=3u64 {
            crate::create_segment(&engine.fs, dir(), FileNumber(n), 4096).unwrap();
            engine.listed.push(SegmentMeta { number: FileNumber(n), salt: n * 77, size: 4096 });
        }
        let mut at = [0; 3];
        for (i, (number, before, end, from, first, seq)) in links.into_iter().enumerate() {
            let meta = engine.listed[i].clone();
            let link = Link {
                salt: meta.salt,
                predecessor: Some(Use { number: FileNumber(number), salt: before * 77, end }),
                from: Lsn(from.min(first)),
                first: Lsn(first),
                last_seq: SeqNo::new(seq),
                manifest_edit: 1,
            };
            let promise = first.min(seq);
            at[i] = forge(&engine, &meta, 0, fields(FrameKind::Link, 0, seq, promise), &link.encode());
        }
        for (i, kind, seq, synced, len) in bodies {
            let kind = match kind {
                0 => FrameKind::Mark,
                1 => FrameKind::Close,
                2 => FrameKind::Link,
                _ => FrameKind::Data,
            };
            let len = if kind == FrameKind::Close { 16 } else { len };
            let fields = fields(kind, 1, seq, synced);
            at[i] = forge(&engine, &engine.listed[i], at[i], fields, &vec![0; len]);
        }
        for (i, offset, byte) in noise {
            engine.vfs.edit(&path_of(i as u64 + 1), |bytes| bytes[offset] = byte);
        }
        engine.flushed = Lsn(flushed);
        match engine.recover() {
            Ok((result, found)) => {
                prop_assert!(result.end >= engine.flushed);
                prop_assert!(found.iter().all(|frame| frame.end > engine.flushed));
                prop_assert!(found.windows(2).all(|w| w[0].seq < w[1].seq && w[0].end < w[1].end));
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corruption),
        }
    }
}

#[test]
fn a_read_error_is_that_error() {
    let engine = small();
    let mut n = 0;
    loop {
        engine.vfs.fail_reads_after(n);
        match engine.recover() {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "read {n}"),
        }
        n += 1;
    }
    assert!(n >= 3);
    engine.vfs.fail_reads_after(u64::MAX);
    let mut calls = 0;
    let result = recover(
        &engine.fs,
        dir(),
        &engine.listed,
        known(engine.edit),
        &mut |_| {
            calls += 1;
            Err(Error::invalid("no more"))
        },
    );
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(calls, 1);
}

#[test]
fn a_large_zeroed_segment_is_searched_fast() {
    let directory = tempfile::tempdir().unwrap();
    let fs = Fs::new(std::sync::Arc::new(terrace_base::vfs::OsVfs));
    crate::create_segment(&fs, directory.path(), FileNumber(1), 64 << 20).unwrap();
    let listed = [SegmentMeta {
        number: FileNumber(1),
        salt: 12345,
        size: 64 << 20,
    }];
    #[allow(clippy::disallowed_methods)] // A measurement of real time.
    let start = std::time::Instant::now();
    let result = recover(&fs, directory.path(), &listed, known(1), &mut |_| Ok(())).unwrap();
    let elapsed = start.elapsed();
    println!("64 MiB searched in {elapsed:?}");
    assert_eq!(result.unused, listed);
    assert!(elapsed.as_millis() < 1000, "{elapsed:?}");
}

#[test]
fn numbers_are_missing_only_up_to_what_an_edit_names() {
    let mut engine = Engine::new(4096);
    engine.put(10);
    engine.seq += 1000; // Taken by what did not go through the log.
    engine.put(20);
    engine.sync().unwrap();
    for (last_seq, told) in [(1000, true), (1001, false), (5000, false)] {
        let known = Known {
            last_seq: SeqNo::new(last_seq),
            ..known(engine.edit)
        };
        let result = recover(&engine.fs, dir(), &engine.listed, known, &mut |_| Ok(()));
        match result {
            Err(error) => assert!(told && error.kind() == ErrorKind::Corruption, "{error}"),
            Ok(_) => assert!(!told, "{last_seq}"),
        }
    }
}
