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

#[tokio::test]
async fn a_lease_ends_when_its_time_is_up_and_not_before() {
    let (config, clock) = with_clock();
    let node = open(config, &Arc::new(TestDisk::default()), &Arc::new(MemoryBackend::new())).await.unwrap();
    grant(&node, 1, 10).await;
    grant(&node, 2, 20).await;
    write(&node, "plain", "value").await;
    clock.turn_to(9_999);
    assert_eq!((node.lease_remaining(1), node.lease_remaining(2), node.lease_remaining(3)), (Some(0), Some(10), None));
    assert_eq!((node.lease_renew(2), node.lease_renew(3)), (Some(20), None));
    clock.turn_to(10_000);
    eventually("lease 1 is gone", || node.reader().lease(1).is_none()).await;
    assert_eq!(keys(&node), ["lease0002", "plain"], "its key went with it");
    assert_eq!(node.lease_renew(1), None, "nothing to renew any more");
    clock.turn_to(29_998);
    assert_eq!(node.lease_remaining(2), Some(0));
    write(&node, "later", "value").await;
    assert!(node.reader().lease(2).is_some(), "it was renewed");
    clock.turn_to(29_999);
    eventually("lease 2 is gone", || node.reader().lease(2).is_none()).await;
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_gives_leases_their_full_time_again() {
    let (config, clock) = with_clock();
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config.clone(), &disk, &backend).await.unwrap();
    grant(&node, 1, 10).await;
    clock.turn_to(9_000);
    node.shutdown().await.unwrap();
    let node = open(config, &disk, &backend).await.unwrap();
    assert_eq!(node.lease_remaining(1), Some(10));
    clock.turn_to(19_000);
    eventually("the lease is gone", || node.reader().lease(1).is_none()).await;
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
