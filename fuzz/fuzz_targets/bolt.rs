//! Any bytes as an etcd backend file: reading it gives its content or an error that says what is wrong.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use kelson_bolt::Db;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a temporary file"));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let file = FILE.with_borrow_mut(|file| {
        file.set_len(0).expect("an empty file");
        file.seek(SeekFrom::Start(0)).expect("its start");
        file.write_all(data).expect("a file");
        file.try_clone().expect("a handle")
    });
    let Ok(db) = Db::of(file, "input") else { return };
    let _ = db.check();
    let _ = db.status(|_| {});
    let mut items = db.cursor(&db.root());
    while let Ok(Some(item)) = items.next() {
        let _ = item.bucket();
    }
});
