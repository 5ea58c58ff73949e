use terrace_base::ErrorKind;

use super::*;
use crate::testing::*;

fn writer() -> TableWriter<Vec<u8>> {
    TableWriter::new(Vec::new(), WriterOptions::new(ID, SEED))
}

#[test]
fn entries_out_of_order_are_corruption() {
    for (first, second) in [
        (put(b"b", 1, b""), put(b"a", 2, b"")),
        (put(b"a", 1, b""), put(b"a", 1, b"")),
        (put(b"a", 1, b""), put(b"a", 2, b"")),
        (
            put(b"a", 5, b""),
            (key(0, b"a", 5, ValueKind::Tombstone), vec![]),
        ),
        ((key(1, b"a", 1, ValueKind::Put), vec![]), put(b"b", 1, b"")),
    ] {
        let mut writer = writer();
        writer.add(first.0.as_ref(), &first.1).unwrap();
        let error = writer.add(second.0.as_ref(), &second.1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert_eq!(writer.entries(), 1);
    }
}

#[test]
fn what_a_table_cannot_hold_is_invalid() {
    let kind = |result: Result<()>| result.unwrap_err().kind();
    let mut writer = writer();
    let long = vec![0; MAX_KEY_LEN + 1];
    assert_eq!(
        kind(writer.add(put(&long, 1, b"").0.as_ref(), b"")),
        ErrorKind::Invalid
    );
    let dead = key(0, b"a", 1, ValueKind::Tombstone);
    assert_eq!(kind(writer.add(dead.as_ref(), b"x")), ErrorKind::Invalid);
    assert!(writer.last_user_key().is_none());
    assert_eq!(kind(writer.finish().map(|_| ())), ErrorKind::Invalid);
}

#[test]
fn the_estimate_is_near_the_size() {
    for compression in compressions() {
        let mut writer = TableWriter::new(Vec::new(), options(compression, 8192));
        for i in 0..5000u64 {
            let (key, value) = put(format!("key{i:08}").as_bytes(), i, &[b'v'; 50]);
            writer.add(key.as_ref(), &value).unwrap();
        }
        let estimate = writer.estimated_size();
        assert_eq!(writer.last_user_key().unwrap().bytes, b"key00004999");
        let (info, _) = writer.finish().unwrap();
        assert!(
            estimate.abs_diff(info.size) < info.size / 20 + 9000,
            "{estimate} {info:?}"
        );
    }
}

#[test]
fn a_failing_sink_fails_the_writer() {
    struct Full(usize);
    impl Sink for Full {
        fn write(&mut self, bytes: &[u8]) -> Result<()> {
            match self.0.checked_sub(bytes.len()) {
                Some(left) => self.0 = left,
                None => return Err(Error::new(ErrorKind::NoSpace, "full")),
            }
            Ok(())
        }
        fn finish(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let model: Model = (0..300u64)
        .map(|i| put(format!("key{i:08}").as_bytes(), i, &[b'v'; 50]))
        .collect();
    let write = |room: usize| -> Result<TableInfo> {
        let mut writer = TableWriter::new(Full(room), options(Compression::None, 512));
        for (key, value) in &model {
            writer.add(key.as_ref(), value)?;
        }
        Ok(writer.finish()?.0)
    };
    let size = write(usize::MAX).unwrap().size as usize;
    for room in 0..size {
        assert_eq!(write(room).unwrap_err().kind(), ErrorKind::NoSpace);
    }
    assert!(write(size).is_ok());
}

#[test]
fn a_file_sink_writes_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let bytes: Vec<u8> = (0..9 << 20).map(|_| random.next() as u8).collect();
    let file = fs()
        .open(
            &dir.path().join("f"),
            terrace_base::vfs::OpenMode::CreateNew,
        )
        .unwrap();
    let mut sink = crate::FileSink::new(file);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let n = (random.below(1 << 20) as usize).min(rest.len());
        sink.write(&rest[..n]).unwrap();
        rest = &rest[n..];
    }
    sink.finish().unwrap();
    assert!(sink.file().read_to_end(u64::MAX).unwrap() == bytes);
}
