//! What happens around the lives of handles.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::Db;

#[test]
fn a_panic_of_the_caller_that_drops_the_last_handle_closes_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let (ended, end) = mpsc::channel();
    // A thread of its own and no join: before, the drop waited for a lock that its own thread held.
    thread::Builder::new()
        .spawn(move || {
            let result = thread::Builder::new()
                .spawn(move || {
                    let db = Db::open(path).unwrap();
                    db.put("k", "v").unwrap();
                    panic!("the caller's own");
                })
                .unwrap()
                .join();
            ended.send(result.is_err()).ok();
        })
        .unwrap();
    let panicked = end.recv_timeout(Duration::from_secs(30));
    assert!(panicked.expect("the drop hangs"));
    let db = Db::open(dir.path()).unwrap();
    assert!(db.contains_key("k").unwrap());
    db.put("writes go on", "").unwrap();
}
