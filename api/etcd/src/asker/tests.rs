use std::pin::pin;
use std::time::Duration;

use kelson_raft::{Config, Data, Node};
use kelson_wire::pb::v3electionpb::CampaignRequest;
use kelson_wire::pb::v3electionpb::election_server::Election;
use kelson_wire::pb::v3lockpb::LockRequest;
use kelson_wire::pb::v3lockpb::lock_server::Lock;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ServerOptions;
use crate::election::ElectionService;
use crate::lock::LockService;

#[test]
fn keys_end_with_the_lease_in_hexadecimal() {
    let prefix = prefix(b"name");
    assert_eq!(own_key(&prefix, 0x2a), "name/2a");
    assert_eq!(own_key(&prefix, -0x2a), "name/-2a");
    assert_eq!(own_key(&prefix, i64::MIN), "name/-8000000000000000");
}

/// Goes on with a future so many times, or until it is done.
async fn polled(times: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    for _ in 0..times {
        let done = poll_fn(|task| Poll::Ready(future.as_mut().poll(task).is_ready())).await;
        if done {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Waits until the holder's is the only key under a prefix.
async fn alone(asker: &Asker, prefix: &'static [u8]) {
    let prefix = Bytes::from_static(prefix);
    let request = RangeRequest { range_end: prefix_end(&prefix), key: prefix, count_only: true, ..Default::default() };
    let emptied = async {
        while asker.range(request.clone()).await.unwrap().count != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), emptied).await.expect("the places of those who gave up are free");
}

/// The store takes the key before the call hears of it: who gives up in between leaves nothing behind either.
#[tokio::test]
async fn who_gives_up_at_any_moment_leaves_the_queue() {
    const POLLS: usize = 60;
    let node = Node::open(Config::new("test", Data::Memory)).await.unwrap();
    let context = Arc::new(Context::new(node.clone(), ServerOptions::default(), CancellationToken::new()));
    let services = Services::new(context);
    let (asker, ()) = services.asker(Request::new(()));
    let lease = async |id| {
        services.lease.lease_grant(Request::new(LeaseGrantRequest { ttl: 60, id })).await.unwrap();
        id
    };
    let (locks, elections) = (LockService::new(services.clone()), ElectionService::new(services.clone()));
    let lock = |lease| locks.lock(Request::new(LockRequest { name: Bytes::from_static(b"door"), lease }));
    let campaign = |lease| {
        let request = CampaignRequest { name: Bytes::from_static(b"chair"), lease, ..Default::default() };
        elections.campaign(Request::new(request))
    };
    let holder = lease(1).await;
    lock(holder).await.unwrap();
    campaign(holder).await.unwrap();
    for polls in 1..POLLS {
        let lease = lease(100 + polls as i64).await;
        assert!(!polled(polls, lock(lease)).await, "the lock is the holder's");
        assert!(!polled(polls, campaign(lease)).await, "the holder leads");
        // Who has the lock may ask again and give that up.
        polled(polls, lock(holder)).await;
    }
    alone(&asker, b"door/").await;
    alone(&asker, b"chair/").await;
    lock(holder).await.unwrap();
    node.shutdown().await.unwrap();
}
