use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use terrace_base::vfs::{Fs, OsVfs};

use crate::Db;

#[test]
fn a_database_dropped_by_a_panic_of_its_user_closes_as_always() {
    let dir = tempfile::tempdir().unwrap();
    let user = || {
        let db = Db::open(dir.path()).unwrap();
        db.put("k", "v").unwrap();
        panic!("of the user");
    };
    assert!(catch_unwind(AssertUnwindSafe(user)).is_err());
    let names = || Fs::new(Arc::new(OsVfs)).read_dir(dir.path()).unwrap();
    let before = names();
    let db = Db::open(dir.path()).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert_eq!(before, names(), "the log did not end with its close frame");
}
