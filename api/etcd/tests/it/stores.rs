//! The local store, and the remote one on our server, do what the model does.

use kelson_etcd::{LocalStore, ServerOptions};
use kelson_raft::{Config, Data, Node};
use kelson_wire::remote::{RemoteOptions, RemoteStore};
use kelson_wire::store::{Store, StoreError};
use kelson_wire::store_suite;

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local() {
    let node = Node::open(Config::new("local", Data::Memory)).await.unwrap();
    let store = LocalStore::new(node.clone(), 3 << 19);
    store_suite::run(&store).await;
    match store.put("k".into(), vec![0; 3 << 19].into(), 0, 0).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, "etcdserver: request is too large"),
        other => panic!("a value above the bound: {other:?}"),
    }
    node.shutdown().await.unwrap();
    assert!(matches!(store.put("k".into(), "v".into(), 0, 0).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote() {
    let server = Server::start(ServerOptions::default()).await;
    let store = RemoteStore::new(RemoteOptions::new(["http://127.0.0.1:1".to_owned(), server.url()])).unwrap();
    store_suite::run(&store).await;
    match store.put("k".into(), vec![0; 3 << 19].into(), 0, 0).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, "etcdserver: request is too large"),
        other => panic!("a value above the bound: {other:?}"),
    }
    server.stop().await;
    assert!(matches!(store.get("k".into()).await, Err(StoreError::Unavailable(_))));
}
