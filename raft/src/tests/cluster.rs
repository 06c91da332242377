//! Several members: what clients may count on at any of them.

use std::{sync::Arc, time::Duration};

use kelson_engine::{Command, Engine, Outcome};

use super::{
    HandClock, dump, eventually,
    net::{Cluster, url},
    poll::insist,
    put, write,
};
use crate::{Change, Clock, Config, Error, Node};

const THREE: [u64; 3] = [1, 2, 3];

async fn read(node: &Node, key: &str) -> Option<String> {
    node.read_barrier().await.unwrap();
    let found = dump(node).into_iter().find(|kv| kv.key == key.as_bytes());
    found.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

fn followers(leader: u64) -> [u64; 2] {
    let others: Vec<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
    [others[0], others[1]]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_takes_writes_and_reads_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::found(&THREE, |config| config).await;
    cluster.leader(&THREE).await;
    for round in 0..5 {
        for writer in THREE {
            let value = format!("{round}-{writer}");
            write(&cluster.node(writer), "key", value.clone()).await;
            for reader in THREE {
                assert_eq!(read(&cluster.node(reader), "key").await, Some(value.clone()), "{reader} after {writer}");
            }
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_without_the_leader_and_it_catches_up() {
    let mut cluster = Cluster::found(&THREE, |config| config).await;
    let leader = cluster.leader(&THREE).await;
    write(&cluster.node(leader), "before", "1").await;
    cluster.net.isolate(leader, &THREE);
    let others = followers(leader);
    // Proposed while nobody leads: it waits for who does.
    write(&cluster.node(others[0]), "during", "2").await;
    assert_eq!(read(&cluster.node(others[1]), "during").await.as_deref(), Some("2"));
    eventually("the lonely leader notices", || cluster.node(leader).status().leader == 0).await;
    cluster.net.heal();
    assert_eq!(read(&cluster.node(leader), "during").await.as_deref(), Some("2"));
    // And after a restart of all, one by one, with writes in between.
    for id in THREE {
        cluster.stop(id).await.unwrap();
        let running = followers(id);
        write(&cluster.node(running[0]), format!("without{id}"), "3").await;
        let node = cluster.start(id).await.unwrap();
        node.joined().await.unwrap();
        assert_eq!(read(&node, &format!("without{id}")).await.as_deref(), Some("3"));
    }
    cluster.end().await;
}

/// Each client counts its own key up at one member; a write that takes effect twice shows in the key's version.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_takes_effect_twice_however_often_the_lead_changes() {
    let cluster = Arc::new(Cluster::found(&THREE, |config| config).await);
    cluster.leader(&THREE).await;
    let clients: Vec<_> = (0..6_u64)
        .map(|client| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let node = cluster.node(client % 3 + 1);
                let mut acknowledged = 0;
                for _ in 0..150 {
                    if node.propose(put(format!("client{client}"), "x")).await.is_ok() {
                        acknowledged += 1;
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..6 {
        let leader = cluster.leader(&THREE).await;
        let next = followers(leader)[0];
        // It may have lost the lead by itself in between.
        let _ = cluster.node(leader).transfer_leader(next).await;
    }
    let node = cluster.node(1);
    for (client, counted) in (0..).zip(clients) {
        let acknowledged: i64 = counted.await.unwrap();
        node.read_barrier().await.unwrap();
        let key = format!("client{client}");
        let version = dump(&node).into_iter().find(|kv| kv.key == key.as_bytes()).map_or(0, |kv| kv.version);
        assert!((acknowledged..=150).contains(&version), "{key}: {acknowledged} acknowledged, {version} in effect");
    }
    Arc::into_inner(cluster).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_too_far_behind_goes_on_from_another_ones_state() {
    let few = |config| Config { snapshot_entries: 20, kept_flushes: 1, log_tail_bytes: 0, ..config };
    let mut cluster = Cluster::found(&THREE, few).await;
    let leader = cluster.leader(&THREE).await;
    let [late, other] = followers(leader);
    cluster.stop(late).await.unwrap();
    for n in 0..200 {
        write(&cluster.node(other), format!("key{}", n % 50), n.to_string()).await;
    }
    eventually("the leader's log is dropped", || cluster.node(leader).status().log_size < 20_000).await;
    let written = cluster.node(leader).reader().revision();
    let node = cluster.start(late).await.unwrap();
    assert_eq!(node.stopped().await, Err(Error::Replaced));
    cluster.net.isolate(late, &THREE);
    let node = cluster.start(late).await.unwrap();
    assert!(node.reader().revision() >= written, "the state is older than the member's return");
    cluster.net.heal();
    node.joined().await.unwrap();
    assert_eq!(read(&node, "key49").await.as_deref(), Some("199"));
    write(&node, "after", "1").await;
    let revision = cluster.node(leader).reader().revision();
    eventually("the same revision", || node.reader().revision() == revision).await;
    assert_eq!(dump(&node), dump(&cluster.node(leader)));
    eventually("who sent it knows", || cluster.node(leader).status().states_sent == [(late, 1)]).await;
    // It is a member like any other: it can lead, and restart.
    cluster.stop(leader).await.unwrap();
    write(&node, "last", "1").await;
    cluster.stop(late).await.unwrap();
    let node = cluster.start(late).await.unwrap();
    node.joined().await.unwrap();
    assert_eq!(read(&node, "last").await.as_deref(), Some("1"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut cluster = Cluster::found(&[1], |config| config).await;
    write(&cluster.node(1), "first", "1").await;
    let add = |id, learner| Change::Add { id, peer_urls: vec![url(id)], learner };
    // The second one is no member with a vote before it has caught up: the first goes on meanwhile.
    cluster.node(1).change_members(add(2, false)).await.unwrap();
    write(&cluster.node(1), "second", "2").await;
    assert_eq!(cluster.node(1).change_members(add(3, false)).await, Err(Error::NotEnoughStarted));
    let two = cluster.start(2).await.unwrap();
    two.joined().await.unwrap();
    assert_eq!(read(&two, "first").await.as_deref(), Some("1"));
    cluster.node(1).change_members(add(3, true)).await.unwrap();
    assert_eq!(cluster.node(2).change_members(add(3, true)).await, Err(Error::MemberExists));
    assert_eq!(cluster.node(2).change_members(Change::Promote { id: 2 }).await, Err(Error::NotALearner));
    let three = cluster.start(3).await.unwrap();
    three.joined().await.unwrap();
    assert_eq!(three.propose(put("x", "y")).await, Err(Error::Learner));
    assert_eq!(three.read_barrier().await, Err(Error::Learner));
    eventually("the learner follows", || three.reader().revision() == two.reader().revision()).await;
    let promote = async || cluster.node(2).change_members(Change::Promote { id: 3 }).await;
    insist("the leader hears that the learner follows", Error::LearnerNotReady, promote).await.unwrap();
    write(&three, "third", "3").await;
    let moved = Change::Update { id: 3, peer_urls: vec![url(3), "http://elsewhere:1".into()] };
    cluster.node(1).change_members(moved).await.unwrap();
    let members = three.members();
    assert_eq!(
        members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(),
        ["member1", "member2", "member3"]
    );
    assert_eq!((members[2].peer_urls.len(), members[2].is_learner), (2, false));
    // Whoever leads can go; it hears that it is gone, and the others go on.
    let leader = cluster.leader(&[1, 2, 3]).await;
    let other = followers(leader)[0];
    cluster.node(other).change_members(Change::Remove { id: leader }).await.unwrap();
    let gone = cluster.node(leader);
    let gone = tokio::time::timeout(Duration::from_secs(20), gone.stopped()).await;
    assert_eq!(gone, Ok(Err(Error::Removed)));
    write(&cluster.node(other), "fourth", "4").await;
    assert_eq!(cluster.node(other).members().len(), 2);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_does_not_come_back_by_what_it_said_of_itself() {
    let cluster = Cluster::found(&THREE, |config| config).await;
    let leader = cluster.leader(&THREE).await;
    let (lead, other) = (cluster.node(leader), cluster.node(followers(leader)[0]));
    for _ in 0..10 {
        lead.change_members(Change::Add { id: 9, peer_urls: vec![url(9)], learner: true }).await.unwrap();
        let publish = Change::Publish { id: 9, name: "nine".into(), client_urls: Vec::new() };
        let (removed, _) = tokio::join!(lead.change_members(Change::Remove { id: 9 }), other.change_members(publish));
        removed.unwrap();
        assert!(lead.members().iter().all(|member| member.id != 9));
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_leader_ends_no_lease_early() {
    let cluster = Cluster::found(&THREE, |config| {
        let clock: Arc<dyn Clock> = CLOCK.clone();
        Config { clock, ..config }
    })
    .await;
    let leader = cluster.leader(&THREE).await;
    let [next, other] = followers(leader);
    let grant = Command::LeaseGrant { id: 9, ttl: 100 };
    assert!(matches!(cluster.node(other).propose(grant).await, Ok(Outcome::LeaseGrant { .. })));
    // Renewed at the one that leads, through one that does not; the next leader has only seen it granted.
    CLOCK.turn_to(90_000);
    assert_eq!(cluster.node(other).lease_renew(9).await, Ok(Some(100)));
    CLOCK.turn_to(150_000);
    assert_eq!(cluster.node(other).lease_remaining(9).await, Ok(Some(40)));
    cluster.node(leader).transfer_leader(next).await.unwrap();
    assert_eq!(cluster.node(other).lease_renew(9).await, Ok(Some(100)));
    write(&cluster.node(other), "key", "value").await;
    assert!(cluster.node(next).reader().lease(9).is_some());
    CLOCK.turn_to(251_000);
    eventually("it ends when it is over", || cluster.node(other).reader().lease(9).is_none()).await;
    cluster.end().await;
}

/// Of the test above; a configuration is made by a function without a state.
static CLOCK: std::sync::LazyLock<Arc<HandClock>> = std::sync::LazyLock::new(Arc::default);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_cluster_can_be_made_a_new_one() {
    let mut cluster = Cluster::found(&THREE, |config| config).await;
    let leader = cluster.leader(&THREE).await;
    write(&cluster.node(leader), "key", "value").await;
    let [one, other] = followers(leader);
    assert_eq!(read(&cluster.node(one), "key").await.as_deref(), Some("value"));
    for id in [leader, other, one] {
        // The last ones have nobody to hand the lead to.
        let _ = cluster.stop(id).await;
    }
    let config = Config { force_new_cluster: true, ..cluster.base(one) };
    let node = cluster.start_with(one, config).await.unwrap();
    assert_eq!(node.members().iter().map(|member| member.id).collect::<Vec<_>>(), [one]);
    assert_eq!(read(&node, "key").await.as_deref(), Some("value"));
    write(&node, "more", "1").await;
    cluster.stop(one).await.unwrap();
    let node = cluster.start(one).await.unwrap();
    assert_eq!((node.members().len(), read(&node, "more").await.as_deref()), (1, Some("1")));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_come_to_the_same_state() {
    let mut cluster = Cluster::found(&THREE, |config| config).await;
    cluster.leader(&THREE).await;
    for n in 0..100_u64 {
        write(&cluster.node(n % 3 + 1), format!("key{}", n % 7), n.to_string()).await;
    }
    let last = THREE.map(|id| cluster.node(id).reader().applied().unwrap().index).into_iter().max().unwrap();
    for id in THREE {
        let node = cluster.node(id);
        eventually("all is applied", || node.reader().applied().unwrap().index >= last).await;
    }
    let mut hashes = Vec::new();
    for id in THREE {
        let _ = cluster.stop(id).await;
        // What the others append when they notice is the same for whoever has it; keys and revisions are compared.
        let engine = Engine::open(cluster.backend(id)).unwrap();
        hashes.push(engine.reader().hash_kv(0).unwrap());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    cluster.start(1).await.unwrap();
    cluster.end().await;
}
