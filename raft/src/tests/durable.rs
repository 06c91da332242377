//! An answer never goes out before the sync that makes it true.

use std::sync::Arc;

use kelson_engine::MemoryBackend;

use super::{TestDisk, config, dump, eventually, keys, open, put, write};
use crate::Error;

#[tokio::test]
async fn no_answer_and_nothing_to_read_before_the_sync() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    write(&node, "before", "1").await;
    disk.hold();
    let other = node.clone();
    let waiting = tokio::spawn(async move { other.propose(put("held", "2")).await });
    eventually("the write reaches the disk", || disk.stuck() == 1).await;
    // Who would answer too early was woken before the write was begun, on a thread that runs beside these turns.
    for _ in 0..100_000 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "answered before the sync");
    assert_eq!(keys(&node), ["before"], "readable before the sync");
    disk.let_go();
    waiting.await.unwrap().unwrap();
    assert_eq!(keys(&node), ["before", "held"]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_is_never_acknowledged_and_stops_the_node() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    write(&node, "good", "1").await;
    disk.break_down();
    let lost = node.propose(put("lost", "2")).await.unwrap_err();
    assert!(matches!(&lost, Error::Storage(text) if text.contains("the test's disk is broken")), "{lost:?}");
    let stopped = node.stopped().await.unwrap_err();
    assert!(stopped.to_string().contains("the test's disk is broken"), "{stopped}");
    let after = node.propose(put("after", "3")).await.unwrap_err();
    assert_eq!(after, stopped, "later callers hear the reason");
    assert_eq!(node.status().failure, Some(stopped.to_string()));
    assert_eq!(node.read_barrier().await, Err(stopped));
    assert_eq!(keys(&node), ["good"]);

    let again = open(config(), &Arc::new(disk.crashed(0)), &Arc::new(MemoryBackend::new())).await.unwrap();
    assert_eq!(keys(&again), ["good"]);
    again.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_corrupted_entry_stops_the_start_and_is_named() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    for i in 0..5 {
        write(&node, format!("key{i}"), "value").await;
    }
    let index = node.status().applied - 2;
    node.shutdown().await.unwrap();
    disk.corrupt(index);
    // With a state that is older than the entry it must be read, and is found out.
    let error = open(config(), &disk, &Arc::new(MemoryBackend::new())).await.err().unwrap().to_string();
    assert!(error.contains(&format!("the test's log is corrupted: entry {index}: checksum mismatch")), "{error}");
}

#[tokio::test]
async fn one_log_serves_any_older_state() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    for i in 0..200 {
        write(&node, format!("key{}", i % 17), format!("value{i}")).await;
    }
    let expected = dump(&node);
    node.shutdown().await.unwrap();
    let replayed = open(config(), &disk, &Arc::new(MemoryBackend::new())).await.unwrap();
    assert_eq!(dump(&replayed), expected);
    replayed.shutdown().await.unwrap();
}
