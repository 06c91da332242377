//! The same on files.

use std::{fs, path::Path, sync::Arc};

use kelson_engine::Command;

use super::{
    config, dump, keys,
    suite::{Builder, passes_up_to_transfer},
    write,
};
use crate::{
    Config, Data, Error, Node,
    log::{disk::Disk, segment::SegmentDisk},
};

fn in_dir(path: &Path) -> Config {
    Config { data: Data::Dir(path.to_owned()), ..config() }
}

#[tokio::test]
async fn log_on_disk() {
    let disk = || {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(SegmentDisk::open(dir.path()).unwrap()) as Arc<dyn Disk>, dir)
    };
    let with = |overlaps| passes_up_to_transfer(Builder { disk, tail_bytes: 0, overlaps });
    tokio::join!(with(true), with(false));
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

/// Overwrites a few keys until the state takes some megabytes; values do not compress.
async fn churn(node: &Node) -> i64 {
    let mut seed = 1_u64;
    let mut revision = 0;
    for i in 0..600 {
        let value: String = (0..1000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b' ' + (seed >> 33) as u8 % 90)
            })
            .collect();
        revision = write(node, format!("key{}", i % 10), value).await;
    }
    revision
}

#[tokio::test]
async fn a_physical_compaction_returns_when_the_space_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    let revision = churn(&node).await;
    let before = node.status();
    assert!(before.db_size > 500_000 && before.db_size_in_use <= before.db_size, "{before:?}");
    node.propose(Command::Compact { revision }).await.unwrap();
    node.compaction_done().await.unwrap();
    let after = node.status();
    assert!(after.db_size < before.db_size / 4, "{} of {}", after.db_size, before.db_size);
    assert_eq!(keys(&node).len(), 10);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_defragmentation_shrinks_state_and_log_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    let revision = churn(&node).await;
    let before = node.status();
    node.propose(Command::Compact { revision }).await.unwrap();
    let (one, other) = (node.clone(), node.clone());
    let both = tokio::spawn(async move { tokio::join!(one.defragment(), other.defragment()) });
    let mut written = 0;
    while !both.is_finished() || written < 10 {
        write(&node, "beside", format!("{written}")).await;
        written += 1;
    }
    let (one, other) = both.await.unwrap();
    one.unwrap();
    other.unwrap();
    node.compaction_done().await.unwrap();
    let after = node.status();
    assert!(after.db_size < before.db_size / 2, "state: {} of {}", after.db_size, before.db_size);
    assert!(after.log_size < before.log_size / 2, "log: {} of {}", after.log_size, before.log_size);
    let expected = dump(&node);
    node.shutdown().await.unwrap();
    drop(node);
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    assert_eq!(dump(&node), expected);
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
    // A flipped byte in the middle of the log is not a torn end.
    let file = copy.path().join("log/0000000000000001.log");
    let mut bytes = fs::read(&file).unwrap();
    bytes[10_000] ^= 0xff;
    fs::write(&file, bytes).unwrap();
    let error = Node::open(in_dir(copy.path())).await.err().unwrap().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn the_log_can_lie_elsewhere_and_need_not_be_synced() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log_dir = elsewhere.path().join("wal");
    let config = Config { log_dir: Some(log_dir.clone()), fsync: false, ..in_dir(dir.path()) };
    let node = Node::open(config.clone()).await.unwrap();
    write(&node, "key", "value").await;
    node.shutdown().await.unwrap();
    drop(node);
    assert!(crate::has_log(&log_dir) && !dir.path().join("log").exists());
    // Without its log the state is not taken for a new one's.
    assert!(matches!(Node::open(in_dir(dir.path())).await, Err(Error::Mismatch { .. })));
    let node = Node::open(config).await.unwrap();
    assert_eq!(keys(&node), ["key"]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_log_of_an_earlier_version_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("log")).unwrap();
    fs::write(dir.path().join("log/CURRENT"), "MANIFEST-000005\n").unwrap();
    let error = Node::open(in_dir(dir.path())).await.err().unwrap().to_string();
    assert!(error.contains("earlier version") && error.contains("snapshot"), "{error}");
    assert!(crate::has_log(&dir.path().join("log")));
}
