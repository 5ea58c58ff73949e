//! What random operations found, each in its smallest form.

use terrace::Db;

/// Its slices were made of a null pointer when it was the first of a list.
#[test]
fn an_empty_key_with_an_empty_value_is_an_entry() {
    let db = Db::in_memory().unwrap();
    db.put("", "").unwrap();
    assert_eq!(db.get("").unwrap().unwrap(), "");
    assert_eq!(db.first().unwrap().unwrap(), Default::default());
    let mut cursor = db.cursor();
    assert!(cursor.seek("").unwrap());
    assert!(cursor.seek_for_prev("").unwrap());
    assert_eq!(cursor.value().unwrap(), b"");
    db.flush().unwrap();
    assert_eq!(db.iter().count(), 1);
}
