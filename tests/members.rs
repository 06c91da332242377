//! Several members as processes of their own, seen through etcdctl: who they are and become, and that what was
//! acknowledged is there at every one of them, whoever is killed, restarted or made anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::cluster::{KELSON, peer};
use crate::group::{Group, Member};
use crate::poll;
use crate::program::Program;

/// Bound on what a command is waited for, in seconds.
const PATIENCE: u64 = 60;

struct Members {
    group: Group,
    etcdctl: PathBuf,
}

impl std::ops::Deref for Members {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl std::ops::DerefMut for Members {
    fn deref_mut(&mut self) -> &mut Group {
        &mut self.group
    }
}

impl Members {
    fn new(etcdctl: &Path, names: &[&str]) -> Members {
        Members { group: Group::new(names, None), etcdctl: etcdctl.to_owned() }
    }

    /// What etcdctl prints at these endpoints, or what it says is wrong.
    fn try_at(&self, endpoints: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.etcdctl);
        let output = command.args(["--command-timeout=20s", "--endpoints", endpoints]).args(arguments).output();
        let output = output.expect("etcdctl runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.trim().to_owned()) } else { Err(format!("{out}{err}")) }
    }

    fn at(&self, endpoints: &str, arguments: &[&str]) -> String {
        self.try_at(endpoints, arguments).unwrap_or_else(|why| panic!("etcdctl {arguments:?} at {endpoints}: {why}"))
    }

    fn get(&self, at: usize, key: &str) -> String {
        self.at(&self.members[at].client(), &["get", key, "--print-value-only"])
    }

    /// Each member's id and whether it leads, asked of these.
    fn statuses(&self, of: impl IntoIterator<Item = usize>) -> Vec<(u64, u64)> {
        let told = self.at(&self.endpoints(of), &["endpoint", "status", "-w", "json"]);
        let told: Vec<Json> = serde_json::from_str(&told).expect("JSON");
        let number = |json: &Json| json.as_u64().unwrap_or(0);
        let ids =
            |status: &Json| (number(&status["Status"]["header"]["member_id"]), number(&status["Status"]["leader"]));
        told.iter().map(ids).collect()
    }

    /// Place of the leader, once these agree on it.
    fn leader(&self, of: &[usize]) -> usize {
        poll::until("a leader", PATIENCE, || {
            let statuses = self.statuses(of.iter().copied());
            let leader = statuses[0].1;
            let place = statuses.iter().position(|(id, _)| *id == leader).map(|at| of[at]);
            place.filter(|_| statuses.iter().all(|status| status.1 == leader)).ok_or(format!("{statuses:?}"))
        })
    }

    fn id_of(&self, at: usize) -> String {
        let statuses = self.statuses([at]);
        format!("{:x}", statuses[0].0)
    }
}

fn etcdctl() -> Option<PathBuf> {
    peer("KELSON_TEST_ETCDCTL", "etcdctl against several members")
}

#[test]
fn three_members_are_one_store_through_kills_and_a_rolling_restart() {
    let Some(etcdctl) = etcdctl() else { return };
    let mut members = Members::new(&etcdctl, &["a", "b", "c"]);
    members.start_all();
    let all = members.endpoints(0..3);
    let list = members.at(&members.members[0].client(), &["endpoint", "status", "--cluster", "-w", "json"]);
    let list: Vec<Json> = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list.len(), 3, "{list:?}");
    for at in 0..3 {
        let own = members.members[at].client();
        members.at(&own, &["put", "key", &at.to_string()]);
        for other in 0..3 {
            assert_eq!(members.get(other, "key"), at.to_string());
        }
    }
    // A leader that is killed costs time, not writes.
    let leader = members.leader(&[0, 1, 2]);
    members.kill(leader);
    let left: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    members.at(&members.endpoints(left.iter().copied()), &["put", "killed", "1"]);
    assert_eq!(members.get(left[1], "killed"), "1");
    members.begin(leader, "new");
    members.ready(leader);
    assert_eq!(members.get(leader, "killed"), "1");
    // Each in turn ends in order and comes back; clients with all endpoints see no error.
    for at in 0..3 {
        members.terminate(at);
        members.at(&all, &["put", "rolling", &at.to_string()]);
        members.begin(at, "new");
        members.ready(at);
        assert_eq!(members.get(at, "rolling"), at.to_string());
    }
    let leader = members.leader(&[0, 1, 2]);
    let next = (leader + 1) % 3;
    let refused = members.try_at(&members.members[next].client(), &["move-leader", &members.id_of(leader)]);
    assert!(refused.is_err(), "only all endpoints together have the leader among them: {refused:?}");
    members.at(&all, &["move-leader", &members.id_of(next)]);
    assert_eq!(members.leader(&[0, 1, 2]), next);
}

/// etcd's own Go client with all endpoints, at work without a pause: see `tests/peers/session/rolling.go`.
#[test]
fn a_go_client_works_on_through_a_rolling_restart() {
    let Some(peers) = peer("KELSON_TEST_PEERS", "the Go client through a rolling restart") else { return };
    let mut group = Group::new(&["a", "b", "c"], None);
    group.start_all();
    let mut command = Command::new(peers.join("session-go"));
    command.args([&group.endpoints(0..3), "rolling"]);
    let (mut session, input) = Program::start_with_input("the Go session", &mut command);
    session.wait_for("ROLLING", PATIENCE);
    for at in 0..3 {
        group.terminate(at);
        group.begin(at, "new");
        group.ready(at);
    }
    drop(input);
    let status = session.ended(PATIENCE);
    let (printed, errors) = (session.output(), session.errors());
    assert!(status.success(), "{status}\n{printed}\n{errors}");
    eprintln!("{printed}");
}

#[test]
fn members_are_added_promoted_moved_and_removed() {
    let Some(etcdctl) = etcdctl() else { return };
    let mut members = Members::new(&etcdctl, &["a", "b", "c"]);
    members.start_all();
    members.at(&members.endpoints(0..3), &["put", "key", "before"]);
    members.members.push(Member::on_loopback("d"));
    let first = members.members[0].client();
    let peer_url = members.members[3].peer();
    let added =
        members.at(&first, &["member", "add", "d", "--learner", &format!("--peer-urls={peer_url}"), "-w", "json"]);
    let added: Json = serde_json::from_str(&added).expect("JSON");
    let id = format!("{:x}", added["member"]["ID"].as_u64().expect("an id"));
    let again = members.try_at(&first, &["member", "add", "e", &format!("--peer-urls={peer_url}")]).unwrap_err();
    assert!(again.contains("etcdserver: Peer URLs already exists"), "{again}");
    members.begin(3, "existing");
    members.ready(3);
    let learner = members.members[3].client();
    let refused = members.try_at(&learner, &["put", "key", "x"]).unwrap_err();
    assert!(refused.contains("rpc not supported for learner"), "{refused}");
    assert_eq!(members.at(&learner, &["get", "key", "--consistency=s", "--print-value-only"]), "before");
    poll::until("it is promoted", PATIENCE, || members.try_at(&first, &["member", "promote", &id]));
    members.at(&learner, &["put", "key", "after"]);
    assert_eq!(members.get(1, "key"), "after");
    let moved = "--peer-urls=http://127.0.0.1:1";
    members.at(&first, &["member", "update", &id, moved]);
    let list = members.at(&members.members[2].client(), &["member", "list"]);
    assert!(list.lines().any(|line| line.starts_with(&id) && line.contains("http://127.0.0.1:1,")), "{list}");
    members.at(&first, &["member", "remove", &id]);
    let program = members.members[3].program.as_mut().expect("it runs");
    program.wait_for("the member has been permanently removed from the cluster", PATIENCE);
    assert_eq!(members.at(&first, &["member", "list"]).lines().count(), 3);
    members.at(&first, &["put", "key", "without"]);
    assert_eq!(members.get(2, "key"), "without");
}

#[test]
fn a_snapshot_becomes_a_new_cluster_of_three() {
    let Some(etcdctl) = etcdctl() else { return };
    let mut old = Members::new(&etcdctl, &["a", "b", "c"]);
    old.start_all();
    for n in 0..20 {
        old.at(&old.endpoints(0..3), &["put", &format!("key{n}"), &n.to_string()]);
    }
    let file = old.path("snapshot.db").display().to_string();
    let one = old.members[1].client();
    old.at(&one, &["get", "key0"]);
    old.at(&one, &["snapshot", "save", &file]);
    let mut new = Members::new(&etcdctl, &["x", "y", "z"]);
    for member in &new.members {
        let mut restore = Command::new(KELSON);
        restore.args(["snapshot", "restore", &file, "--name", &member.name, "--initial-cluster", &new.named()]);
        restore.args(["--initial-advertise-peer-urls", &member.peer(), "--initial-cluster-token", "restored"]);
        let done = restore.arg("--data-dir").arg(new.path(&member.name)).output().expect("kelson runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    new.start_all();
    for at in 0..3 {
        assert_eq!(new.get(at, "key19"), "19");
    }
    new.at(&new.endpoints([2]), &["put", "more", "1"]);
    assert_eq!(new.get(0, "more"), "1");
}
