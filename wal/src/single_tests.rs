use std::path::Path;

use proptest::prelude::*;
use terrace_base::ErrorKind;
use terrace_base::vfs::OpenMode;

use super::*;
use crate::testing::TestVfs;

const SALT: u64 = 0x55aa_1234_9999_0001;
const START: u64 = 64;

fn path() -> &'static Path {
    Path::new("/MANIFEST-000001")
}

fn create(vfs: &TestVfs) -> FrameFile {
    let file = vfs.fs().open(path(), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[0xaa; START as usize], 0).unwrap();
    FrameFile::create(file, SALT, START).unwrap()
}

fn open(vfs: &TestVfs) -> File {
    vfs.fs().open(path(), OpenMode::ReadWrite).unwrap()
}

type Frames = Vec<(u64, Vec<u8>)>;

fn read(vfs: &TestVfs) -> Result<(FrameFileTail, Frames)> {
    let mut found = Vec::new();
    let tail = read_frames(&open(vfs), SALT, START, &mut |number, payload| {
        found.push((number, payload.to_vec()));
        Ok(())
    })?;
    Ok((tail, found))
}

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; number as usize * 37 % 500]
}

#[test]
fn frames_are_read_back_and_gone_on_from() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    let mut expected = Vec::new();
    for number in 1..=400 {
        if number == 200 {
            let (tail, found) = read(&vfs).unwrap();
            assert_eq!(found, expected);
            assert!(!tail.torn);
            assert_eq!(tail.end, frames.end());
            frames = FrameFile::resume(open(&vfs), SALT, tail.end, tail.synced).unwrap();
        }
        frames.append(number, &payload(number)).unwrap();
        if number % 7 == 0 {
            frames.sync().unwrap();
        }
        expected.push((number, payload(number)));
    }
    assert!(frames.append(402, b"").is_err());
    assert!(frames.append(400, b"").is_err());
    assert_eq!(read(&vfs).unwrap().1, expected);
    assert!(vfs.bytes(path()).len() as u64 > BLOCK_LEN);
    assert_eq!(vfs.bytes(path()).len() as u64 % BLOCK_LEN, 0);
    frames.sync().unwrap();
    let end = frames.end();
    frames.mark().unwrap();
    frames.mark().unwrap();
    assert_eq!(frames.end(), end + format::MARK_LEN);
    assert_eq!(read(&vfs).unwrap().0.synced, end);
}

#[test]
fn damage_below_a_promise_is_damage_and_above_a_tear() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    let mut ends = vec![START];
    for number in 1..=8 {
        frames.append(number, &payload(number)).unwrap();
        ends.push(frames.end());
        if number == 5 {
            frames.sync().unwrap();
        }
    }
    let synced = ends[5];
    let whole = vfs.bytes(path());
    for at in START..frames.end() {
        let hit = ends.iter().position(|end| at < *end).unwrap() - 1;
        for bit in 0..8 {
            vfs.edit(path(), |bytes| bytes[at as usize] ^= 1 << bit);
            // The promise stands in frames 6, 7 and 8.
            match read(&vfs) {
                Ok((tail, found)) => {
                    assert!(ends[hit] >= synced, "byte {at}");
                    assert_eq!(found.len(), hit);
                    assert!(tail.torn);
                    assert_eq!((tail.end, tail.synced), (ends[hit], synced));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corruption);
                    assert_eq!(error.file(), Some((path(), ends[hit])));
                    // A length that became huge cannot be told from a file that was cut.
                    let cut = error.to_string().contains("cut short");
                    assert!(ends[hit] < synced || cut, "byte {at}: {error}");
                }
            }
            vfs.edit(path(), |bytes| bytes[at as usize] ^= 1 << bit);
        }
        // Zeroes from here to the end of the file, which take the promises with them.
        vfs.edit(path(), |bytes| bytes[at as usize..].fill(0));
        match read(&vfs) {
            Ok((tail, found)) => assert!(found.len() >= hit && tail.end >= ends[hit]),
            Err(error) => panic!("zeroes from {at}: {error}"),
        }
        // A file cut at any byte is short, never ended.
        vfs.edit(path(), |bytes| bytes.truncate(at as usize));
        assert_eq!(read(&vfs).unwrap_err().kind(), ErrorKind::Corruption);
        vfs.edit(path(), |bytes| bytes.clone_from(&whole));
    }
}

#[test]
fn a_file_cut_within_its_frames_is_short_in_later_blocks_too() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    let mut ends = Vec::new();
    for number in 1..=700 {
        frames.append(number, &payload(number)).unwrap();
        ends.push(frames.end());
    }
    let whole = vfs.bytes(path());
    for len in (0..frames.end()).rev().step_by(97).chain(ends.clone()) {
        vfs.edit(path(), |bytes| bytes.truncate(len as usize));
        let cut_at_block = len % BLOCK_LEN == 0 && ends.contains(&len);
        // Where a sector ends between length and salt, a cut looks like a tear.
        let straddles = ends
            .iter()
            .any(|end| end % 512 == 504 && *end < len && len < end + 600);
        if len < frames.end() && !cut_at_block && !straddles {
            assert_eq!(
                read(&vfs).unwrap_err().kind(),
                ErrorKind::Corruption,
                "{len}"
            );
        }
        vfs.edit(path(), |bytes| bytes.clone_from(&whole));
    }
    // Space that was only begun to be taken is no damage.
    vfs.edit(path(), |bytes| bytes.extend([0; 1000]));
    let (tail, found) = read(&vfs).unwrap();
    assert_eq!((tail.torn, found.len()), (false, 700));
    let mut frames = FrameFile::resume(open(&vfs), SALT, tail.end, tail.synced).unwrap();
    frames
        .append(701, &vec![1; 3 * BLOCK_LEN as usize])
        .unwrap();
    assert_eq!(read(&vfs).unwrap().1.len(), 701);
}

/// The first sector of a torn frame may hold anything, and the second what was stored.
#[test]
fn a_tear_between_length_and_salt_is_not_taken_for_a_cut_file() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    frames.append(1, &[7; 440 - format::HEADER_LEN]).unwrap();
    frames.sync().unwrap();
    let end = frames.end();
    assert_eq!(end % 512, 504);
    frames.append(2, &[8; 100]).unwrap();
    for garbage in [[0xee; 8], [0x7f; 8], [0xff; 8]] {
        vfs.edit(path(), |bytes| {
            bytes[end as usize..][..8].copy_from_slice(&garbage)
        });
        let (tail, found) = read(&vfs).unwrap();
        assert_eq!((tail.end, tail.torn, found.len()), (end, true, 1));
    }
}

#[test]
fn other_frames_do_not_belong_here() {
    for (kind, number) in [
        (FrameKind::Data, 9),
        (FrameKind::Data, 1),
        (FrameKind::Link, 2),
        (FrameKind::Close, 2),
    ] {
        let vfs = TestVfs::new();
        let mut frames = create(&vfs);
        frames.append(1, b"one").unwrap();
        let fields = Fields {
            kind,
            count: 1,
            first_seq: SeqNo::new(number),
            synced: 0,
        };
        frames.store(fields, b"two").unwrap();
        assert_eq!(read(&vfs).unwrap_err().kind(), ErrorKind::Corruption);
    }
}

#[test]
fn no_room_is_not_the_end_but_a_failed_sync_is() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    let large = vec![3; 2 * BLOCK_LEN as usize];
    // Zeroing fails: nothing was appended.
    vfs.fail_after(1);
    assert!(frames.append(1, &large).is_err());
    vfs.fail_after(u64::MAX);
    frames.append(1, &large).unwrap();
    frames.append(2, b"small").unwrap();
    vfs.fail_after(0);
    let error = frames.sync().unwrap_err();
    vfs.fail_after(u64::MAX);
    for result in [frames.append(3, b""), frames.sync(), frames.mark()] {
        assert_eq!(result.unwrap_err().to_string(), error.to_string());
    }
    assert_eq!(read(&vfs).unwrap().1.len(), 2);
}

#[test]
fn a_store_that_failed_ends_the_file() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    frames.append(1, b"one").unwrap();
    vfs.fail_after(0);
    assert!(frames.append(2, b"two").is_err());
    vfs.fail_after(u64::MAX);
    assert!(frames.append(2, b"two").is_err());
}

#[test]
fn space_found_by_a_reader_is_synced_before_a_frame_is_stored_in_it() {
    let vfs = TestVfs::new();
    let mut frames = create(&vfs);
    frames
        .append(1, &vec![1; BLOCK_LEN as usize - 200])
        .unwrap();
    frames.sync().unwrap();
    // Killed after the next block was zeroed and before it was synced.
    vfs.edit(path(), |bytes| bytes.extend(vec![0; BLOCK_LEN as usize]));
    let (tail, _) = read(&vfs).unwrap();
    let mut frames = FrameFile::resume(open(&vfs), SALT, tail.end, tail.synced).unwrap();
    frames.append(2, &[2; 300]).unwrap();
    vfs.cut(&mut || false);
    assert_eq!(vfs.bytes(path()).len() as u64, 2 * BLOCK_LEN);
    assert_eq!(read(&vfs).unwrap().1.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Sync,
    Mark,
    /// Opens again, by kill (0) or a power cut that keeps this share of 8, with a seed.
    Reopen(u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3000usize).prop_map(Step::Append),
        1 => (60_000..150_000usize).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => Just(Step::Mark),
        2 => (0..=8u8, any::<u64>()).prop_map(|(share, seed)| Step::Reopen(share, seed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn every_life_ends_in_a_prefix(steps in proptest::collection::vec(step(), 1..40)) {
        let vfs = TestVfs::new();
        let mut frames = create(&vfs);
        let (mut written, mut synced) = (Frames::new(), 0);
        for step in steps {
            match step {
                Step::Append(len) => {
                    let number = written.len() as u64 + 1;
                    let payload = vec![number as u8; len];
                    frames.append(number, &payload).unwrap();
                    written.push((number, payload));
                }
                Step::Sync => {
                    frames.sync().unwrap();
                    synced = written.len();
                }
                Step::Mark => frames.mark().unwrap(),
                Step::Reopen(share, seed) => {
                    let mut seed = seed | 1;
                    if share > 0 {
                        vfs.cut(&mut || {
                            seed ^= seed << 13;
                            seed ^= seed >> 7;
                            seed ^= seed << 17;
                            seed % 8 < u64::from(share - 1)
                        });
                    }
                    let (tail, found) = read(&vfs).unwrap();
                    prop_assert!(found.len() >= synced && found[..] == written[..found.len()]);
                    if tail.torn {
                        // A torn file is read, and never appended to.
                        return Ok(());
                    }
                    written = found;
                    frames = FrameFile::resume(open(&vfs), SALT, tail.end, tail.synced).unwrap();
                }
            }
        }
        prop_assert_eq!(read(&vfs).unwrap().1, written);
    }
}
