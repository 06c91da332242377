//! Leases end by the leader's clock, through the log, and a few at a time.

use std::sync::Arc;

use kelson_engine::{Command, MemoryBackend, command::Put};

use super::{HandClock, TestDisk, config, eventually, keys, open, write};
use crate::{Config, Node};

async fn grant(node: &Node, id: i64, ttl: i64) {
    node.propose(Command::LeaseGrant { id, ttl }).await.unwrap();
    let key = format!("lease{id:04}");
    let attached = Put { key: key.into(), value: "value".into(), lease: id, ..Put::default() };
    node.propose(Command::Put(attached)).await.unwrap();
}

fn with_clock() -> (Config, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (Config { clock: clock.clone(), ..config() }, clock)
}

async fn left(node: &Node, id: i64) -> Option<i64> {
    node.lease_remaining(id).await.unwrap()
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_up_and_not_before() {
    let (config, clock) = with_clock();
    let node = open(config, &Arc::new(TestDisk::default()), &Arc::new(MemoryBackend::new())).await.unwrap();
    grant(&node, 1, 10).await;
    grant(&node, 2, 20).await;
    write(&node, "plain", "value").await;
    clock.turn_to(9_999);
    assert_eq!((left(&node, 1).await, left(&node, 2).await, left(&node, 3).await), (Some(0), Some(10), None));
    assert_eq!((node.lease_renew(2).await, node.lease_renew(3).await), (Ok(Some(20)), Ok(None)));
    clock.turn_to(10_000);
    eventually("lease 1 is gone", || node.reader().lease(1).is_none()).await;
    // The table of leases is a moment ahead of what can be read.
    eventually("its key is gone with it", || keys(&node) == ["lease0002", "plain"]).await;
    assert_eq!(node.lease_renew(1).await, Ok(None), "nothing to renew any more");
    clock.turn_to(29_998);
    assert_eq!(left(&node, 2).await, Some(0));
    write(&node, "later", "value").await;
    assert!(node.reader().lease(2).is_some(), "it was renewed");
    clock.turn_to(29_999);
    eventually("lease 2 is gone", || node.reader().lease(2).is_none()).await;
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_gives_short_leases_their_full_time_again() {
    let (config, clock) = with_clock();
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config.clone(), &disk, &backend).await.unwrap();
    grant(&node, 1, 10).await;
    clock.turn_to(9_000);
    node.shutdown().await.unwrap();
    let node = open(config, &disk, &backend).await.unwrap();
    assert_eq!(left(&node, 1).await, Some(10));
    clock.turn_to(19_000);
    eventually("the lease is gone", || node.reader().lease(1).is_none()).await;
    node.shutdown().await.unwrap();
}

fn noted(node: &Node, id: i64) -> i64 {
    node.reader().lease(id).map_or(-1, |lease| lease.remaining)
}

#[tokio::test]
async fn a_restart_gives_long_leases_what_is_noted_and_never_less() {
    let (config, clock) = with_clock();
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config.clone(), &disk, &backend).await.unwrap();
    for id in 1..=3 {
        grant(&node, id, 3600).await;
    }
    clock.turn_to(1_000_000);
    eventually("all are noted", || (1..=3).all(|id| noted(&node, id) == 2600)).await;
    // What is noted is taken back before the renewal is promised.
    assert_eq!(node.lease_renew(2).await, Ok(Some(3600)));
    assert_eq!((noted(&node, 1), noted(&node, 2)), (2600, 0));
    clock.turn_to(1_200_000);
    assert_eq!(left(&node, 1).await, Some(2400));
    // As a kill would: the state as it was flushed last, and what the log has synced.
    let (crashed_disk, crashed_backend) = (Arc::new(disk.crashed(0)), Arc::new(MemoryBackend::new()));
    node.shutdown().await.unwrap();

    let node = open(config.clone(), &crashed_disk, &crashed_backend).await.unwrap();
    let each = [left(&node, 1).await.unwrap(), left(&node, 2).await.unwrap(), left(&node, 3).await.unwrap()];
    assert_eq!(each, [2600, 3600, 2600], "no less than at the stop, and not all of it again");
    clock.turn_to(1_500_000);
    eventually("1 and 3 are noted again", || noted(&node, 1) == 2300 && noted(&node, 3) == 2300).await;
    assert_eq!(noted(&node, 2), 3300);
    clock.turn_to(1_200_000 + 2_599_999);
    assert_eq!(left(&node, 1).await, Some(0));
    clock.turn_to(1_200_000 + 2_600_000);
    eventually("1 and 3 have ended", || node.reader().lease(1).is_none() && node.reader().lease(3).is_none()).await;
    assert!(node.reader().lease(2).is_some());
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_renewal_is_not_promised_before_the_checkpoint_is_taken_back() {
    let (config, clock) = with_clock();
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config, &disk, &backend).await.unwrap();
    grant(&node, 1, 3600).await;
    clock.turn_to(500_000);
    eventually("the lease is noted", || noted(&node, 1) == 3100).await;
    disk.hold();
    let other = node.clone();
    let renewal = tokio::spawn(async move { other.lease_renew(1).await });
    eventually("the renewal reaches the disk", || disk.stuck() == 1).await;
    assert!(!renewal.is_finished(), "promised before it would survive a restart");
    disk.let_go();
    assert_eq!(renewal.await.unwrap(), Ok(Some(3600)));
    assert_eq!(noted(&node, 1), 0);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn checkpoints_come_in_bounded_batches() {
    let (config, clock) = with_clock();
    let config = Config { lease_checkpoints: 10, ..config };
    let node = open(config, &Arc::new(TestDisk::default()), &Arc::new(MemoryBackend::new())).await.unwrap();
    for id in 1..=100 {
        node.propose(Command::LeaseGrant { id, ttl: 1000 }).await.unwrap();
    }
    let before = node.status().index;
    clock.turn_to(400_000);
    eventually("all are noted", || node.reader().leases().all(|lease| lease.remaining == 600)).await;
    assert_eq!(node.status().index - before, 10, "100 leases, 10 at a time, each once");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn mass_expiry_comes_in_bounded_batches() {
    let (config, clock) = with_clock();
    let node =
        open(Config { lease_revokes: 10, ..config }, &Arc::new(TestDisk::default()), &Arc::new(MemoryBackend::new()))
            .await
            .unwrap();
    for id in 1..=100 {
        node.propose(Command::LeaseGrant { id, ttl: 5 }).await.unwrap();
    }
    let before = node.status().index;
    clock.turn_to(5_000);
    eventually("all leases are gone", || node.reader().lease_count() == 0).await;
    assert!(node.status().index - before >= 10, "100 revocations, 10 at a time");
    node.shutdown().await.unwrap();
}
