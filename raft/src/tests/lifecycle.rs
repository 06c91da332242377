//! Founding, restarting, stopping, and directories that are not what they should be.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kelson_engine::{Command, MemoryBackend};

use super::{TestDisk, config, eventually, keys, open, put, write};
use crate::{Change, Config, Data, Error, Member, Node};

#[tokio::test]
async fn a_new_node_leads_at_once_and_says_who_it_is() {
    let urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
    let node = Node::open(Config { client_urls: urls(2379), peer_urls: urls(2380), ..config() }).await.unwrap();
    let status = node.status();
    assert!(status.is_leader && !status.is_learner && node.is_leader());
    assert_eq!((status.leader, status.member_id), (node.status().member_id, Config::new("test", Data::Memory).node_id));
    assert_eq!((status.applied, status.failure), (status.index, None));
    let me = Member {
        id: status.member_id,
        name: "test".into(),
        peer_urls: urls(2380),
        client_urls: urls(2379),
        is_learner: false,
    };
    assert_eq!(node.members(), [me]);
    node.read_barrier().await.unwrap();
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_members_addresses_are_replaced_for_good() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
    let founded = Config { peer_urls: urls(2380), ..config() };
    let node = open(founded.clone(), &disk, &backend).await.unwrap();
    let id = node.status().member_id;
    assert_eq!(node.change_members(Change::Update { id: id + 1, peer_urls: urls(1) }).await, Err(Error::NoMember));
    node.change_members(Change::Update { id, peer_urls: urls(2390) }).await.unwrap();
    let of = |node: &Node| node.members().into_iter().flat_map(|member| member.peer_urls).collect::<Vec<_>>();
    assert_eq!(of(&node), urls(2390));
    write(&node, "key", "value").await;
    node.shutdown().await.unwrap();
    let node = open(founded, &disk, &backend).await.unwrap();
    assert_eq!(of(&node), urls(2390));
    node.shutdown().await.unwrap();
    assert_eq!(node.change_members(Change::Update { id, peer_urls: urls(1) }).await, Err(Error::Stopped));
}

#[tokio::test]
async fn a_restart_keeps_everything_and_begins_a_new_term() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let mut revisions = Vec::new();
    let mut terms = Vec::new();
    for life in 0..3 {
        let node = open(config(), &disk, &backend).await.unwrap();
        terms.push(node.status().term);
        revisions.push(write(&node, format!("key{life}"), "value").await);
        node.shutdown().await.unwrap();
    }
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    assert!(revisions.is_sorted_by(|a, b| a + 1 == *b), "{revisions:?}");
    let node = open(config(), &disk, &backend).await.unwrap();
    assert_eq!(keys(&node), ["key0", "key1", "key2"]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_log_is_dropped_as_far_as_the_state_is_flushed() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::with_crashes()));
    let settings = Config { snapshot_bytes: 20_000, ..config() };
    let node = open(settings.clone(), &disk, &backend).await.unwrap();
    for i in 0..200 {
        write(&node, format!("key{i:03}"), "v".repeat(1_000)).await;
    }
    eventually("the log is short", || node.status().log_size < 60_000).await;
    assert!(backend.unflushed() < 60, "{} batches only in memory", backend.unflushed());
    let expected = keys(&node);
    node.shutdown().await.unwrap();
    let node = open(settings, &disk, &backend).await.unwrap();
    assert_eq!(keys(&node), expected);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_compaction_finishes_without_further_writes_even_across_a_restart() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    let puts = (0..6_000).map(|i| node.propose(put(format!("key{}", i % 3_000), "value")));
    futures_util::future::join_all(puts).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    assert!(node.reader().history_count() >= 3_000);
    let revision = node.reader().revision();
    node.propose(Command::Compact { revision }).await.unwrap();
    // Left half done: the next start finds out and goes on.
    node.shutdown().await.unwrap();
    let node = open(config(), &disk, &backend).await.unwrap();
    tokio::time::timeout(super::DEADLINE, node.compaction_done()).await.unwrap().unwrap();
    assert_eq!(node.reader().history_count(), 0);
    assert_eq!(keys(&node).len(), 3_000);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stopped_node_answers_what_was_in_the_log_and_refuses_the_rest() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    disk.hold();
    let under_way = tokio::spawn({
        let node = node.clone();
        async move { node.propose(put("under way", "value")).await }
    });
    eventually("it reaches the disk", || disk.stuck() == 1).await;
    let shutdown = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    eventually("new commands are refused", || {
        futures_util::FutureExt::now_or_never(node.propose(put("late", "value"))) == Some(Err(Error::Stopped))
    })
    .await;
    disk.let_go();
    shutdown.await.unwrap().unwrap();
    under_way.await.unwrap().unwrap();
    assert_eq!(node.propose(put("later", "value")).await, Err(Error::Stopped));
    assert_eq!(node.read_barrier().await, Err(Error::Stopped));
    assert_eq!(node.shutdown().await, Ok(()), "a second time");
    assert_eq!(node.stopped().await, Ok(()));
}

#[tokio::test]
async fn a_node_that_nobody_holds_ends() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    drop(open(config(), &disk, &backend).await.unwrap());
    eventually("its threads let go of the disk", || Arc::strong_count(&disk) == 1).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout() {
    let disk = Arc::new(TestDisk::default());
    let settings = Config { request_timeout: Duration::from_millis(20), ..config() };
    let node = open(settings, &disk, &Arc::new(MemoryBackend::new())).await.unwrap();
    disk.hold();
    assert_eq!(node.propose(put("key", "value")).await, Err(Error::Timeout));
    disk.let_go();
    eventually("it took effect all the same", || keys(&node) == ["key"]).await;
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn another_members_data_and_half_a_data_directory_are_refused() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(Config { snapshot_entries: 2, ..config() }, &disk, &backend).await.unwrap();
    for i in 0..20 {
        write(&node, format!("key{i}"), "value").await;
    }
    eventually("some of the log is dropped", || crate::log::purged_end(&*disk).unwrap() > 0).await;
    node.shutdown().await.unwrap();

    let refusal =
        async |config: Config, disk: &Arc<TestDisk>, backend: &Arc<MemoryBackend>| match open(config, disk, backend)
            .await
            .err()
        {
            Some(Error::Mismatch { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
    let mine = config().node_id;
    let text = refusal(Config { node_id: 7, ..config() }, &disk, &backend).await;
    assert!(text.starts_with(&format!("it belongs to member {mine:x} of cluster")), "{text}");
    let text = refusal(Config { cluster_id: 7, ..config() }, &disk, &backend).await;
    assert!(text.ends_with(&format!("not to member {mine:x} of cluster 7")), "{text}");
    let text = refusal(config(), &Arc::new(TestDisk::default()), &backend).await;
    assert_eq!(text, "it holds a state but its log is gone");
    let text = refusal(config(), &disk, &Arc::new(MemoryBackend::new())).await;
    assert!(text.ends_with("the state is gone or old"), "{text}");
}

#[tokio::test]
async fn shared_barrier_rounds_answer_all_who_wait() {
    let node = Node::open(config()).await.unwrap();
    write(&node, "key", "value").await;
    // A leader of one answers without a round; the rounds are the same for every size of group.
    let rounds = futures_util::future::join_all((0..50).map(|_| node.barrier_round()));
    for outcome in tokio::time::timeout(super::DEADLINE, rounds).await.unwrap() {
        outcome.unwrap();
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn members_of_an_older_configuration_keep_their_place() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let node = open(config(), &disk, &backend).await.unwrap();
    node.shutdown().await.unwrap();
    let moved = Config { client_urls: vec!["http://10.0.0.1:2379".into()], name: "new name".into(), ..config() };
    let node = open(moved, &disk, &backend).await.unwrap();
    let listed: BTreeMap<_, _> = node.members().into_iter().map(|m| (m.name, m.client_urls)).collect();
    assert_eq!(listed, BTreeMap::from([("new name".to_owned(), vec!["http://10.0.0.1:2379".to_owned()])]));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn data_that_is_there_keeps_its_ids_and_peer_urls_where_it_is_told_to() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let founding = Config { peer_urls: vec!["http://a:2380".into()], keep_ids: true, ..config() };
    let node = open(founding.clone(), &disk, &backend).await.unwrap();
    let founded = (node.status().cluster_id, node.status().member_id);
    node.shutdown().await.unwrap();
    let later = Config {
        node_id: 17,
        cluster_id: 18,
        name: "renamed".into(),
        peer_urls: vec!["http://b:2380".into()],
        ..founding
    };
    let node = open(later.clone(), &disk, &backend).await.unwrap();
    assert_eq!((node.status().cluster_id, node.status().member_id), founded);
    assert_eq!((&*node.members()[0].name, &node.members()[0].peer_urls[0][..]), ("renamed", "http://a:2380"));
    write(&node, "key", "value").await;
    node.shutdown().await.unwrap();
    let refused = open(Config { keep_ids: false, ..later }, &disk, &backend).await;
    assert!(matches!(refused, Err(Error::Mismatch { .. })));
}
