//! Unmodified etcdctl against the store of a whole cluster.

use std::process::Command;

use crate::cluster::{Cluster, peer};
use crate::program::Program;

struct Etcdctl {
    program: std::path::PathBuf,
    endpoint: String,
}

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--endpoints", &self.endpoint]).args(arguments);
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("etcdctl starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "etcdctl {}:\n{text}", arguments.join(" "));
        text
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], expected: &str) {
        let output = self.command(arguments).output().expect("etcdctl starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && text.contains(expected), "etcdctl {}:\n{text}", arguments.join(" "));
    }

    #[track_caller]
    fn piped(&self, arguments: &[&str], input: &str) -> String {
        use std::io::Write;
        let mut child = self
            .command(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("etcdctl reads");
        let output = child.wait_with_output().expect("etcdctl ends");
        assert!(output.status.success(), "etcdctl {}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The store's revision, as the endpoint reports it.
    fn revision(&self) -> i64 {
        let status: serde_json::Value =
            serde_json::from_str(&self.ok(&["endpoint", "status", "-w", "json"])).expect("JSON");
        status[0]["Status"]["header"]["revision"].as_i64().expect("a revision")
    }
}

#[test]
fn etcdctl_works_on_a_running_cluster() {
    let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl against the store") else { return };
    let cluster = Cluster::dev(2, &[]);
    let etcdctl = Etcdctl { program, endpoint: cluster.etcd.clone() };

    // Kubernetes' objects lie where kube-apiserver puts them.
    let keys = etcdctl.ok(&["get", "--prefix", "/registry/", "--keys-only"]);
    for key in [
        "/registry/namespaces/default",
        "/registry/namespaces/kube-system",
        "/registry/minions/",
        "/registry/leases/kube-node-lease/",
        "/registry/services/specs/default/kubernetes",
        "/registry/services/endpoints/default/kubernetes",
        "/registry/serviceaccounts/default/default",
        "/registry/configmaps/default/kube-root-ca.crt",
    ] {
        assert!(keys.lines().any(|line| line.starts_with(key)), "{key} is not in:\n{keys}");
    }
    let node = keys.lines().find(|line| line.starts_with("/registry/minions/")).expect("a node");
    let stored = etcdctl.ok(&["get", "--print-value-only", node]);
    let stored: serde_json::Value = serde_json::from_str(&stored).expect("stored as JSON");
    assert_eq!((&stored["kind"], &stored["apiVersion"]), (&"Node".into(), &"v1".into()));
    assert_eq!(stored["metadata"]["resourceVersion"], serde_json::Value::Null, "the revision is the version");

    puts_and_gets(&etcdctl);
    transacts(&etcdctl);
    watches_history(&etcdctl);
    leases(&etcdctl);
    compacts(&etcdctl);
    reports(&etcdctl);
}

fn puts_and_gets(etcdctl: &Etcdctl) {
    for (key, value) in [("app/a", "1"), ("app/b", "2"), ("app/c", "3")] {
        assert_eq!(etcdctl.ok(&["put", key, value]).trim(), "OK");
    }
    assert_eq!(etcdctl.ok(&["get", "app/", "--prefix"]), "app/a\n1\napp/b\n2\napp/c\n3\n");
    assert_eq!(etcdctl.ok(&["get", "app/a", "app/c"]), "app/a\n1\napp/b\n2\n");
    assert_eq!(etcdctl.ok(&["get", "app/", "--prefix", "--limit=1", "--order=DESCEND"]), "app/c\n3\n");
    assert_eq!(etcdctl.ok(&["put", "--prev-kv", "app/a", "one"]), "OK\napp/a\n1\n");
    assert_eq!(etcdctl.ok(&["del", "app/c", "--prev-kv"]), "1\napp/c\n3\n");
    assert_eq!(etcdctl.ok(&["del", "app/c"]), "0\n");
    etcdctl.fails(&["put", "--ignore-value", "app/none"], "key not found");
}

fn transacts(etcdctl: &Etcdctl) {
    let input = "value(\"app/a\") = \"one\"\nver(\"app/none\") = \"0\"\n\nput app/t yes\nget app/a\n\nput app/t no\n\n";
    let answered = etcdctl.piped(&["txn"], input);
    assert!(answered.contains("SUCCESS") && answered.contains("one"), "{answered}");
    let answered = etcdctl.piped(&["txn"], "mod(\"app/t\") = \"1\"\n\nput app/t bad\n\nget app/t\n\n");
    assert!(answered.contains("FAILURE") && answered.contains("yes"), "{answered}");
}

fn watches_history(etcdctl: &Etcdctl) {
    let from = etcdctl.revision() + 1;
    etcdctl.ok(&["put", "seen/x", "1"]);
    etcdctl.ok(&["put", "seen/x", "2"]);
    etcdctl.ok(&["del", "seen/x"]);
    let arguments = ["watch", "seen/", "--prefix", "--prev-kv", "--rev", &from.to_string()];
    let mut watch = Program::start("etcdctl watch", &mut etcdctl.command(&arguments));
    watch.wait_for("DELETE", 20);
    etcdctl.ok(&["put", "seen/y", "live"]);
    watch.wait_for("live", 20);
    let printed = watch.output();
    let lines: Vec<_> = printed.lines().filter(|line| !line.is_empty()).collect();
    let expected = [
        "PUT", "seen/x", "1", "PUT", "seen/x", "1", "seen/x", "2", "DELETE", "seen/x", "2", "seen/x", "PUT", "seen/y",
        "live",
    ];
    assert_eq!(lines, expected, "{printed}");
}

fn leases(etcdctl: &Etcdctl) {
    let granted = etcdctl.ok(&["lease", "grant", "300"]);
    let id = granted.split_whitespace().nth(1).expect("an id").to_string();
    etcdctl.ok(&["put", "--lease", &id, "held/a", "1"]);
    let shown = etcdctl.ok(&["lease", "timetolive", &id, "--keys"]);
    assert!(shown.contains("granted with TTL(300s)") && shown.contains("held/a"), "{shown}");
    assert!(etcdctl.ok(&["lease", "keep-alive", "--once", &id]).contains("keepalived with TTL(300)"));
    assert!(etcdctl.ok(&["lease", "list"]).contains(&id));
    etcdctl.ok(&["lease", "revoke", &id]);
    assert_eq!(etcdctl.ok(&["get", "held/a"]), "");
    etcdctl.fails(&["put", "--lease", &id, "held/a", "1"], "requested lease not found");
    // One that runs out by itself.
    let granted = etcdctl.ok(&["lease", "grant", "2"]);
    let id = granted.split_whitespace().nth(1).expect("an id").to_string();
    etcdctl.ok(&["put", "--lease", &id, "held/b", "1"]);
    crate::poll::until("the lease runs out", 30, || {
        let left = etcdctl.ok(&["get", "held/b"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn compacts(etcdctl: &Etcdctl) {
    etcdctl.ok(&["put", "old", "1"]);
    let before = etcdctl.revision();
    etcdctl.ok(&["put", "old", "2"]);
    let at = etcdctl.revision();
    assert!(etcdctl.ok(&["get", "old", "--rev", &before.to_string()]).contains('1'));
    etcdctl.ok(&["compact", &at.to_string(), "--physical"]);
    etcdctl.fails(&["get", "old", "--rev", &before.to_string()], "required revision has been compacted");
    etcdctl.fails(&["compact", &at.to_string()], "required revision has been compacted");
    etcdctl.fails(&["get", "old", "--rev", "999999999"], "required revision is a future revision");
    assert_eq!(etcdctl.ok(&["get", "old"]), "old\n2\n");
}

fn reports(etcdctl: &Etcdctl) {
    assert!(etcdctl.ok(&["endpoint", "health"]).contains("is healthy"));
    assert!(etcdctl.ok(&["member", "list"]).contains("started"));
    let status = etcdctl.ok(&["endpoint", "status", "-w", "table"]);
    assert!(status.contains("3.7") && status.contains("true"), "{status}");
}
