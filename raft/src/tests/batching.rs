//! Group commit, its bounds, and what happens past them.

use std::sync::Arc;

use futures_util::future::join_all;
use kelson_engine::{Command, MemoryBackend, Outcome};

use super::{TestDisk, config, eventually, keys, open, put, write};
use crate::{Config, Error};

#[tokio::test]
async fn many_waiting_commands_share_few_entries_and_syncs() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    let (entries, syncs) = (node.status().index, disk.syncs());
    disk.hold();
    // One entry fills the pipeline, whatever comes then waits.
    let mut puts = vec![tokio::spawn({
        let node = node.clone();
        async move { write(&node, "first", "0").await }
    })];
    eventually("it reaches the disk", || disk.stuck() == 1).await;
    puts.extend((0..500).map(|i| {
        let node = node.clone();
        tokio::spawn(async move { write(&node, format!("key{i:03}"), "value").await })
    }));
    eventually("the others wait", || node.status().pending == 500).await;
    disk.let_go();
    let mut revisions: Vec<i64> = join_all(puts).await.into_iter().map(Result::unwrap).collect();
    revisions.sort_unstable();
    let start = revisions[0];
    assert!(revisions.iter().copied().eq(start..start + 501), "each has a revision of its own and none is skipped");
    let status = node.status();
    assert!(status.index - entries <= 3, "501 puts took {} entries", status.index - entries);
    assert!(disk.syncs() - syncs <= 3, "501 puts took {} syncs", disk.syncs() - syncs);
    assert_eq!(keys(&node).len(), 501);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_entry_keeps_to_its_bounds() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let bounded = Config { max_batch_commands: 10, max_batch_bytes: 5_000, ..config() };
    let node = open(bounded, &disk, &backend).await.unwrap();
    let before = node.status().index;
    let puts = (0..100).map(|i| node.propose(put(format!("key{i:02}"), "v")));
    join_all(puts).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    assert!(node.status().index - before >= 10, "by count");
    let before = node.status().index;
    let puts = (0..20).map(|i| node.propose(put(format!("key{i:02}"), "v".repeat(4_000))));
    join_all(puts).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    assert!(node.status().index - before >= 10, "by bytes");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(Config { max_inflight: 8, ..config() }, &disk, &backend).await.unwrap();
    disk.hold();
    let waiting: Vec<_> = (0..200)
        .map(|i| {
            let node = node.clone();
            tokio::spawn(async move { node.propose(put(format!("key{i:03}"), "value")).await })
        })
        .collect();
    eventually("the refused ones have their answer", || waiting.iter().filter(|task| task.is_finished()).count() > 100)
        .await;
    disk.let_go();
    let outcomes: Vec<_> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    let refused = outcomes.iter().filter(|outcome| **outcome == Err(Error::TooManyRequests)).count();
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(refused + accepted, 200, "{outcomes:?}");
    assert_eq!(keys(&node).len(), accepted, "a refused command changed nothing");
    write(&node, "later", "value").await;
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_refusal_of_one_command_leaves_its_neighbours_alone() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    let (good, bad, lease) = tokio::join!(
        node.propose(put("key", "value")),
        node.propose(Command::LeaseRevoke { id: 99 }),
        node.propose(Command::LeaseGrant { id: 7, ttl: 60 }),
    );
    assert!(matches!(good, Ok(Outcome::Put { .. })));
    assert_eq!(bad, Err(Error::Engine(kelson_engine::Error::LeaseNotFound)));
    assert!(matches!(lease, Ok(Outcome::LeaseGrant { id: 7, ttl: 60, .. })));
    node.shutdown().await.unwrap();
}
