//! The same on files.

use std::{fs, path::Path, sync::Arc};

use super::{
    config, dump, keys,
    suite::{Builder, passes_up_to_transfer},
    write,
};
use crate::{
    Config, Data, Error, Node,
    log::{disk::Disk, rocks::RocksDisk},
};

fn in_dir(path: &Path) -> Config {
    Config { data: Data::Dir(path.to_owned()), ..config() }
}

#[tokio::test]
async fn log_on_disk() {
    let disk = || {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(RocksDisk::open(dir.path()).unwrap()) as Arc<dyn Disk>, dir)
    };
    passes_up_to_transfer(Builder { disk, tail_bytes: 0 }).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/dir");
    let node = Node::open(in_dir(&path)).await.unwrap();
    for i in 0..100 {
        write(&node, format!("key{i:02}"), format!("value{i}")).await;
    }
    let expected = dump(&node);
    node.shutdown().await.unwrap();
    drop(node);
    let node = Node::open(in_dir(&path)).await.unwrap();
    assert_eq!(dump(&node), expected);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_log_alone_brings_back_a_state_that_was_never_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    for i in 0..50 {
        write(&node, format!("key{i:02}"), "value").await;
    }
    let expected = dump(&node);
    // A copy of the files while the node runs is what a kill leaves: what was synced, and no last flush.
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    node.shutdown().await.unwrap();
    let node = Node::open(in_dir(copy.path())).await.unwrap();
    assert_eq!(dump(&node), expected);
    node.shutdown().await.unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_node_is_kept_out_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    assert_eq!(Node::open(in_dir(dir.path())).await.err(), Some(Error::InUse(dir.path().to_owned())));
    write(&node, "key", "value").await;
    assert_eq!(keys(&node), ["key"]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn damaged_files_are_an_error_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    for i in 0..50 {
        write(&node, format!("key{i:02}"), "some value that is long enough to be hit").await;
    }
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    node.shutdown().await.unwrap();
    // The log's own log: a flipped byte in its middle is not a torn end.
    let log = copy.path().join("log");
    let files: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file =
        files.iter().filter(|f| f.extension().is_some_and(|e| e == "log")).max_by_key(|f| f.metadata().unwrap().len());
    let file = file.unwrap();
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(file, bytes).unwrap();
    let error = Node::open(in_dir(copy.path())).await.err().unwrap().to_string();
    assert!(error.contains(&log.display().to_string()), "{error}");
}
