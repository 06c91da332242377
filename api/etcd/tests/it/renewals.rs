//! Keep-alives by the thousand.

use kelson_etcd::ServerOptions;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use tonic::transport::Endpoint;

use crate::harness::{Server, within};

/// Answers come one for each request and in their order, whatever became of the leases meanwhile, and the stream ends
/// when the client has said all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_keep_alive_is_answered_in_its_turn() {
    const REQUESTS: i64 = 3_000;
    let server = Server::start(ServerOptions::default()).await;
    let channel = Endpoint::from_shared(server.url()).unwrap().connect_lazy();
    let mut leases = LeaseClient::new(channel.clone());
    for id in 1..=3 {
        let grant = LeaseGrantRequest { id, ttl: 60 + id };
        within("a grant", leases.lease_grant(grant)).await.unwrap();
    }
    // Of four leases the fourth does not exist.
    let id = |number: i64| 1 + number % 4;
    let requests = tokio_stream::iter((0..REQUESTS).map(move |number| LeaseKeepAliveRequest { id: id(number) }));
    let mut answers = within("a stream", leases.lease_keep_alive(requests)).await.unwrap().into_inner();
    let mut revoked = false;
    for number in 0..REQUESTS {
        let answer = within("an answer", answers.message()).await.unwrap().expect("one for each request");
        assert_eq!(answer.id, id(number), "answer {number}");
        assert_eq!(answer.header.unwrap().revision, 1);
        match answer.id {
            4 => assert_eq!(answer.ttl, 0),
            // It is gone from some answer on, and then for good.
            3 if answer.ttl == 0 => revoked = true,
            id => assert!(answer.ttl == 60 + id && !(id == 3 && revoked), "answer {number}: {}", answer.ttl),
        }
        if number == REQUESTS / 2 {
            let revoke = LeaseRevokeRequest { id: 3 };
            within("a revocation", LeaseClient::new(channel.clone()).lease_revoke(revoke)).await.unwrap();
        }
    }
    assert!(within("the end", answers.message()).await.unwrap().is_none());
    server.stop().await;
}
