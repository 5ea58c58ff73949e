use super::super::{CrashPolicy, File, Fs, ImageKind, MemVfs};
use super::*;
use crate::ErrorKind;

fn setup() -> (Arc<MemVfs>, Arc<FaultVfs>, Fs, File) {
    let mem = MemVfs::crashable(1);
    let fault = FaultVfs::new(mem.clone());
    let fs = Fs::new(fault.clone());
    let file = fs.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    (mem, fault, fs, file)
}

#[test]
fn an_error_is_met_once_or_from_then_on() {
    let (mem, fault, fs, file) = setup();
    fault.arm(2, Fault::Errno(28), false);
    file.write_all_at(b"one", 0).unwrap();
    let error = file.write_all_at(b"two", 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    file.write_all_at(b"3", 3).unwrap();
    assert_eq!(mem.read_file("/a").unwrap(), b"one3");
    assert_eq!((fault.calls(), fault.injected()), (5, 1));

    fault.arm_when(
        |call| call.op == Op::Open && call.path.ends_with("a"),
        Fault::Error(io::ErrorKind::PermissionDenied),
        true,
    );
    for _ in 0..3 {
        assert!(fs.open(Path::new("/a"), OpenMode::Read).is_err());
        assert!(fs.open(Path::new("/b"), OpenMode::CreateOrTruncate).is_ok());
    }
    assert_eq!(fault.injected(), 4);
    fault.disarm();
    assert!(fs.open(Path::new("/a"), OpenMode::Read).is_ok());
}

#[test]
fn every_kind_of_call_can_fail() {
    let (_, fault, fs, file) = setup();
    let (a, b, d) = (Path::new("/a"), Path::new("/b"), Path::new("/d"));
    let all = |fs: &Fs, file: &File| {
        let mut buf = [0; 4];
        [
            fs.open(a, OpenMode::Read).map(drop),
            fs.open(b, OpenMode::CreateOrTruncate).map(drop),
            fs.create_dir_all(d),
            fs.read_dir(Path::new("/")).map(drop),
            fs.hard_link(a, b),
            fs.rename(a, b),
            fs.remove_file(b),
            fs.sync_dir(Path::new("/")),
            fs.metadata(a).map(drop),
            fs.lock(Path::new("/LOCK"), true).map(drop),
            file.read_at(&mut buf, 0).map(drop),
            file.write_all_at(b"x", 0),
            file.sync(),
            file.len().map(drop),
            file.map(0).map(drop),
        ]
    };
    fault.arm(1, Fault::Errno(EIO), true);
    let before = fault.calls();
    assert!(all(&fs, &file).iter().all(|result| result.is_err()));
    assert_eq!(fault.calls() - before, 15);
    assert_eq!(fault.injected(), 15);
    // `create_dir_all` failed at the first of its calls, and the others are one each.
    let ops: BTreeSet<Op> = fault.injected_sites().iter().map(|site| site.op).collect();
    assert_eq!(ops.len(), 14, "{ops:?}");
}

#[test]
fn short_transfers_are_finished_and_torn_writes_are_not() {
    let (mem, fault, _, file) = setup();
    fault.arm(1, Fault::ShortWrite, true);
    file.write_all_at(b"0123456789", 0).unwrap();
    assert_eq!(mem.read_file("/a").unwrap(), b"0123456789");
    assert_eq!(fault.injected(), 4, "5, 2, 1 and 1 bytes, then 1 whole");
    fault.disarm();

    fault.arm(1, Fault::ShortRead, true);
    let mut buf = [0; 10];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"0123456789");
    fault.disarm();

    fault.arm(1, Fault::TornWrite, false);
    assert!(file.write_all_at(b"abcd", 10).is_err());
    assert_eq!(mem.read_file("/a").unwrap(), b"0123456789ab");
}

#[test]
fn a_late_error_comes_after_the_effect() {
    let (mem, fault, fs, file) = setup();
    fault.arm(1, Fault::Late(EIO), true);
    assert!(file.write_all_at(b"abcd", 0).is_err());
    assert!(file.sync().is_err());
    assert!(fs.rename(Path::new("/a"), Path::new("/b")).is_err());
    assert!(fs.open(Path::new("/c"), OpenMode::CreateNew).is_err());
    assert!(fs.sync_dir(Path::new("/")).is_err());
    assert_eq!(fault.injected(), 5);
    let cut = mem.image(ImageKind::Cut, CrashPolicy::DropAll, 0);
    assert_eq!(cut.read_file("/b").unwrap(), b"abcd");
    assert_eq!(cut.files().len(), 2);
}

#[test]
fn a_fault_waits_for_a_call_that_it_fits() {
    let (mem, fault, _, file) = setup();
    fault.arm(1, Fault::TornWrite, false);
    file.len().unwrap();
    file.sync().unwrap();
    assert_eq!(fault.injected(), 0);
    assert!(file.write_all_at(b"abcd", 0).is_err());
    assert_eq!(mem.read_file("/a").unwrap(), b"ab");
}

#[test]
fn an_interrupted_call_is_repeated_but_not_for_ever() {
    let (_, fault, _, file) = setup();
    fault.arm(1, Fault::Error(io::ErrorKind::Interrupted), false);
    file.write_all_at(b"abcd", 0).unwrap();
    assert_eq!(fault.injected(), 1);
    fault.arm(1, Fault::Error(io::ErrorKind::Interrupted), true);
    assert!(file.write_all_at(b"abcd", 0).is_err());
}

#[test]
fn a_delay_delays() {
    let (_, fault, _, file) = setup();
    let clock = crate::SystemClock::default();
    let clock: &dyn crate::Clock = &clock;
    fault.arm(1, Fault::Delay(Duration::from_millis(20)), false);
    let start = clock.monotonic();
    file.write_all_at(b"abcd", 0).unwrap();
    assert!(clock.monotonic() - start >= Duration::from_millis(20));
    assert_eq!(fault.injected(), 1);
}

#[test]
fn a_lost_sync_leaves_both_outcomes_possible_and_no_later_sync_helps() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..64 {
        let mem = MemVfs::crashable(seed);
        let fault = FaultVfs::new(mem.clone());
        let fs = Fs::new(fault.clone());
        let file = fs.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fault.arm_when(|call| call.op == Op::SyncData, Fault::SyncLost, false);
        file.write_all_at(b"first", 0).unwrap();
        assert!(file.sync().is_err());
        file.sync().unwrap();
        let killed = mem.image(ImageKind::Kill, CrashPolicy::KeepAll, seed);
        assert_eq!(killed.read_file("/a").unwrap(), b"first");
        let again = Fs::new(killed.clone()).open(Path::new("/a"), OpenMode::ReadWrite);
        again.unwrap().sync().unwrap();
        for policy in CrashPolicy::ALL {
            for mem in [&mem, &killed] {
                let cut = mem.image(ImageKind::Cut, *policy, seed);
                match cut.read_file("/a").unwrap().as_slice() {
                    b"first" => kept += 1,
                    rest => {
                        assert!(rest.iter().all(|byte| *byte == 0));
                        lost += 1;
                    }
                }
            }
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

mod elsewhere {
    use super::*;

    /// Calls through functions of its own, as a crate above does.
    pub(super) fn read_all(file: &File) -> (u32, crate::Result<Vec<u8>>) {
        (line!(), file.read_to_end(100))
    }

    #[track_caller]
    pub(super) fn tracked(file: &File) -> crate::Result<()> {
        file.sync()
    }
}

#[test]
fn sites_are_the_lines_that_call_fs_and_file() {
    let (_, fault, fs, file) = setup();
    let known = fault.sites();
    let new = |fault: &FaultVfs| -> Vec<(u32, Op)> {
        let sites = fault.sites();
        let new = sites.difference(&known);
        new.inspect(|site| assert!(site.file.ends_with("fault_tests.rs"), "{site}"))
            .map(|site| (site.line, site.op))
            .collect()
    };
    file.write_all_at(b"abc", 0).unwrap();
    let written = line!() - 1;
    let (read, bytes) = elsewhere::read_all(&file);
    assert_eq!(bytes.unwrap(), b"abc");
    elsewhere::tracked(&file).unwrap();
    let synced = line!() - 1;
    fs.create_dir_all(Path::new("/x/y/z")).unwrap();
    let created = line!() - 1;
    assert_eq!(
        new(&fault),
        [
            (read, Op::Read),
            (read, Op::Len),
            (written, Op::Write),
            (synced, Op::SyncData),
            (created, Op::CreateDir),
            (created, Op::SyncDir),
            (created, Op::Metadata),
        ]
    );
    assert!(fault.injected_sites().is_empty());
    fault.arm(1, Fault::Errno(EIO), false);
    assert!(file.len().is_err());
    let hit: Vec<Site> = fault.injected_sites().into_iter().collect();
    assert_eq!((hit.len(), hit[0].line), (1, line!() - 2));
    assert!(hit[0].to_string().contains("fault_tests.rs:"));
}

/// A copy is whole, or an error: also of a file that somebody cuts off while it is made.
#[test]
fn what_cannot_be_linked_is_copied_whole() {
    for cut in [false, true] {
        let disk = MemVfs::new(1);
        let bytes: Vec<u8> = (0..5 << 19).map(|n: u32| (n / 7) as u8).collect();
        disk.write_file("/from", &bytes);
        let faulty = FaultVfs::new(disk.clone());
        let inner = disk.clone();
        let when = move |call: &Call| {
            if cut && call.op == Op::Write {
                inner.write_file("/from", "short");
            }
            call.op == Op::HardLink
        };
        faulty.arm_when(when, Fault::Errno(18), true);
        let fs = Fs::new(faulty);
        let copied = fs.link_or_copy(Path::new("/from"), Path::new("/to"));
        assert_eq!(copied.is_err(), cut, "{copied:?}");
        if !cut {
            assert!(disk.read_file("/to").unwrap() == bytes);
        }
    }
}
