//! Unmodified kubectl against a whole cluster: what a user does with a guestbook on a first afternoon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, peer};
use crate::poll;
use crate::program::Program;

/// Longest wait for a workload to settle, in seconds.
const SETTLE: u64 = 60;

/// kubectl with one kubeconfig.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// For this cluster; `None`, and a line that says so, where there is no kubectl.
    pub fn new(kubeconfig: &Path) -> Option<Kubectl> {
        let program = peer("KELSON_TEST_KUBECTL", "the kubectl tests")?;
        Some(Kubectl { program, kubeconfig: kubeconfig.into() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Discovery is cached per server address under HOME, and addresses come again: keep it beside the cluster.
        let home = self.kubeconfig.parent().expect("a file is in a folder");
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", home).args(arguments);
        command
    }

    /// Runs it: success or not, and what it printed on either stream.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("kubectl starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs it and expects success.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "kubectl {}:\n{text}", arguments.join(" "));
        text
    }

    /// Runs it and expects failure with this text.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], expected: &str) {
        let (success, text) = self.run(arguments);
        assert!(
            !success && text.contains(expected),
            "kubectl {}: expected {expected:?}, got:\n{text}",
            arguments.join(" ")
        );
    }

    /// Runs it with a manifest on standard input.
    pub fn piped(&self, arguments: &[&str], manifest: &str) -> (bool, String) {
        use std::io::Write;
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // kubectl takes what begins with a brace for JSON; these manifests are YAML in one line.
        let manifest = format!("---\n{manifest}");
        child.stdin.take().expect("piped").write_all(manifest.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs it until its output contains the text.
    #[track_caller]
    pub fn until(&self, arguments: &[&str], expected: &str) -> String {
        poll::until(&format!("kubectl {} shows {expected:?}", arguments.join(" ")), SETTLE, || {
            let (_, text) = self.run(arguments);
            if text.contains(expected) { Ok(text) } else { Err(text) }
        })
    }
}

fn manifest(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn shows(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_first_afternoon_on_one_process() {
    let cluster = Cluster::dev(5, &[]);
    if let Some(kubectl) = Kubectl::new(&cluster.kubeconfig) {
        afternoon(&kubectl);
    }
}

#[test]
fn a_first_afternoon_on_a_real_etcd() {
    let Some(etcd) = peer("KELSON_TEST_ETCD", "kubectl against the API server on a real etcd") else { return };
    let cluster = Cluster::on_etcd(&etcd, 5);
    if let Some(kubectl) = Kubectl::new(&cluster.kubeconfig) {
        afternoon(&kubectl);
    }
}

fn afternoon(kubectl: &Kubectl) {
    looks_around(kubectl);
    applies_the_guestbook(kubectl);
    reads_it_in_every_form(kubectl);
    describes_and_reads_logs(kubectl);
    changes_it(kubectl);
    rolls_out_and_back(kubectl);
    runs_jobs_and_daemons(kubectl);
    cordons_and_drains(kubectl);
    deletes_it(kubectl);
    is_told_what_is_wrong(kubectl);
}

fn looks_around(kubectl: &Kubectl) {
    let resources = kubectl.ok(&["api-resources"]);
    for (name, short, kind) in [
        ("configmaps", "cm", "ConfigMap"),
        ("endpoints", "ep", "Endpoints"),
        ("events", "ev", "Event"),
        ("namespaces", "ns", "Namespace"),
        ("nodes", "no", "Node"),
        ("pods", "po", "Pod"),
        ("secrets", "", "Secret"),
        ("serviceaccounts", "sa", "ServiceAccount"),
        ("services", "svc", "Service"),
        ("daemonsets", "ds", "DaemonSet"),
        ("deployments", "deploy", "Deployment"),
        ("replicasets", "rs", "ReplicaSet"),
        ("jobs", "", "Job"),
        ("leases", "", "Lease"),
        ("endpointslices", "", "EndpointSlice"),
    ] {
        let row = resources.lines().find(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.first() == Some(&name) && words.last() == Some(&kind)
        });
        let row = row.unwrap_or_else(|| panic!("{name} is not in:\n{resources}"));
        assert!(short.is_empty() || row.split_whitespace().any(|word| word == short), "{row}");
    }
    shows(&kubectl.ok(&["version"]), &["Server Version: v1.36"]);
    shows(&kubectl.ok(&["get", "namespaces"]), &["default", "kube-node-lease", "kube-public", "kube-system", "Active"]);
    let nodes = kubectl.ok(&["get", "nodes", "-o", "wide"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 5, "{nodes}");
    shows(&kubectl.ok(&["get", "svc", "kubernetes"]), &["ClusterIP", "10.96.0.1", "443/TCP"]);
    kubectl.until(&["get", "serviceaccount,configmap"], "configmap/kube-root-ca.crt");
    shows(&kubectl.ok(&["explain", "deployment.spec.strategy"]), &["rollingUpdate", "type"]);
    shows(&kubectl.ok(&["cluster-info"]), &["control plane", "https://127.0.0.1:"]);
}

fn applies_the_guestbook(kubectl: &Kubectl) {
    let file = manifest("guestbook.yaml");
    shows(
        &kubectl.ok(&["apply", "--dry-run=server", "-f", &file]),
        &["deployment.apps/frontend created (server dry run)"],
    );
    kubectl.fails(&["get", "deployment", "frontend"], "NotFound");
    shows(&kubectl.ok(&["diff", "--help"]), &["diff"]);
    let applied = kubectl.ok(&["apply", "-f", &file]);
    shows(&applied, &["configmap/guestbook created", "secret/redis-auth created", "deployment.apps/frontend created"]);
    let again = kubectl.ok(&["apply", "-f", &file]);
    // `stringData` is never read back, so that kubectl sends the Secret again.
    assert_eq!(again.matches("unchanged").count(), 7, "{again}");
    for name in ["redis-leader", "redis-follower", "frontend"] {
        let status = kubectl.ok(&["rollout", "status", "deployment", name, "--timeout=60s"]);
        shows(&status, &["successfully rolled out"]);
    }
    kubectl.ok(&["wait", "--for=condition=Ready", "pod", "-l", "app=guestbook", "--timeout=60s"]);
    kubectl.ok(&["wait", "--for=condition=Available", "deployment/frontend", "--timeout=60s"]);
    kubectl.ok(&["wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/frontend", "--timeout=60s"]);
}

fn reads_it_in_every_form(kubectl: &Kubectl) {
    shows(&kubectl.ok(&["get", "deployments"]), &["READY", "UP-TO-DATE", "AVAILABLE", "3/3", "2/2", "1/1"]);
    let wide = kubectl.ok(&["get", "pods", "-o", "wide", "-l", "tier=frontend"]);
    shows(&wide, &["NOMINATED NODE", "READINESS GATES", "1/1", "Running"]);
    assert_eq!(wide.lines().count(), 4, "{wide}");
    let yaml = kubectl.ok(&["get", "deployment", "frontend", "-o", "yaml"]);
    shows(&yaml, &["kind: Deployment", "replicas: 3", "terminationGracePeriodSeconds: 30", "revisionHistoryLimit: 10"]);
    let json: serde_json::Value =
        serde_json::from_str(&kubectl.ok(&["get", "pods", "-l", "tier in (leader,follower)", "-o", "json"]))
            .expect("JSON");
    let pods = json["items"].as_array().expect("items");
    assert_eq!(pods.len(), 3);
    let node = pods[0]["spec"]["nodeName"].as_str().expect("bound");
    let selector = format!("spec.nodeName={node},status.phase=Running");
    shows(&kubectl.ok(&["get", "pods", "-A", "--field-selector", &selector, "-o", "name"]), &["pod/redis-"]);
    let none = kubectl.ok(&["get", "pods", "--field-selector", "status.phase=Failed"]);
    shows(&none, &["No resources found"]);
    shows(&kubectl.ok(&["get", "pods", "-l", "tier!=frontend,app", "-o", "name"]), &["pod/redis-leader"]);
    shows(
        &kubectl.ok(&["get", "all"]),
        &["pod/frontend", "service/frontend", "deployment.apps/frontend", "replicaset.apps/"],
    );
    let services = kubectl.ok(&["get", "services", "-o", "wide"]);
    shows(&services, &["NodePort", "80:3", "None", "app=guestbook,tier=leader"]);
    let frontend = kubectl.until(&["get", "endpointslices", "-l", "kubernetes.io/service-name=frontend"], "10.");
    shows(&frontend, &["IPv4", "80"]);
    let secret = kubectl.ok(&["get", "secret", "redis-auth", "-o", "jsonpath={.data.password}"]);
    assert_eq!(secret, "Y29ycmVjdC1ob3JzZQ==");
    shows(
        &kubectl.ok(&["get", "pods", "--sort-by=.metadata.name", "-o", "custom-columns=N:.metadata.name"]),
        &["frontend-"],
    );
    shows(&kubectl.ok(&["get", "events"]), &["LAST SEEN", "ScalingReplicaSet", "Scheduled"]);
    shows(&kubectl.ok(&["get", "--raw", "/readyz"]), &["ok"]);
}

fn describes_and_reads_logs(kubectl: &Kubectl) {
    // By name: newer versions of kubectl leave the events of several objects out.
    let pod = kubectl.ok(&["get", "pods", "-l", "tier=frontend", "-o", "jsonpath={.items[0].metadata.name}"]);
    let pod = kubectl.ok(&["describe", "pod", &pod]);
    shows(
        &pod,
        &[
            "Controlled By:",
            "ReplicaSet/frontend-",
            "Init Containers:",
            "Liveness:",
            "Readiness:",
            "guestbook",
            "Events:",
        ],
    );
    shows(
        &kubectl.ok(&["describe", "deployment", "frontend"]),
        &["RollingUpdateStrategy:", "NewReplicaSet:", "Available"],
    );
    shows(&kubectl.ok(&["describe", "service", "frontend"]), &["Endpoints:", "TargetPort:", "NodePort:"]);
    shows(&kubectl.ok(&["describe", "nodes"]), &["Allocatable:", "Non-terminated Pods:", "kubelet"]);
    for kind in ["configmap/guestbook", "secret/redis-auth", "namespace/default", "serviceaccount/default"] {
        kubectl.ok(&["describe", kind]);
    }
    shows(&kubectl.ok(&["describe", "replicaset", "-l", "tier=frontend"]), &["Pods Status:", "3 Running"]);
    shows(&kubectl.ok(&["logs", "-l", "tier=frontend", "-c", "migrate"]), &["migrated"]);
    assert!(!kubectl.ok(&["logs", "deployment/redis-leader", "--tail=5"]).is_empty());
    kubectl.fails(&["logs", "no-such-pod"], "NotFound");
}

fn changes_it(kubectl: &Kubectl) {
    shows(&kubectl.ok(&["label", "deployment", "frontend", "team=web"]), &["labeled"]);
    shows(&kubectl.ok(&["get", "deployments", "-l", "team=web", "-o", "name"]), &["deployment.apps/frontend"]);
    kubectl.ok(&["label", "deployment", "frontend", "team-"]);
    kubectl.ok(&["annotate", "deployment", "frontend", "note=seen"]);
    shows(&kubectl.ok(&["get", "deployment", "frontend", "-o", "jsonpath={.metadata.annotations.note}"]), &["seen"]);
    kubectl.ok(&["scale", "deployment", "frontend", "--replicas=5"]);
    kubectl.ok(&["rollout", "status", "deployment", "frontend", "--timeout=60s"]);
    kubectl.until(&["get", "deployment", "frontend"], "5/5");
    kubectl.fails(
        &["scale", "deployment", "frontend", "--replicas=9", "--current-replicas=1"],
        "Expected replicas to be 1",
    );
    kubectl.ok(&["scale", "deployment", "frontend", "--replicas=3"]);
    kubectl.until(&["get", "deployment", "frontend"], "3/3");
    // Each kind of patch.
    let container =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"php","env":[{"name":"COLOR","value":"blue"}]}]}}}}"#;
    kubectl.ok(&["patch", "deployment", "frontend", "-p", container]);
    let env = kubectl.ok(&[
        "get",
        "deployment",
        "frontend",
        "-o",
        "jsonpath={.spec.template.spec.containers[*].env[*].name}",
    ]);
    assert_eq!(env, "COLOR TIER");
    kubectl.ok(&["patch", "cm", "guestbook", "--type=merge", "-p", r#"{"data":{"GREETING":"good day","MORE":"1"}}"#]);
    kubectl.ok(&["patch", "cm", "guestbook", "--type=json", "-p", r#"[{"op":"remove","path":"/data/MORE"}]"#]);
    let data = kubectl.ok(&["get", "cm", "guestbook", "-o", "jsonpath={.data.GREETING}/{.data.MORE}"]);
    assert_eq!(data, "good day/");
    // What `kubectl edit` does, with an editor that is not a person.
    let edited = kubectl
        .command(&["edit", "configmap", "guestbook"])
        .env("KUBE_EDITOR", "sed -i s/good\\ day/good\\ night/")
        .output()
        .expect("kubectl starts");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    shows(&kubectl.ok(&["get", "cm", "guestbook", "-o", "yaml"]), &["good night"]);
    let (replaced, text) = kubectl.piped(
        &["replace", "-f", "-"],
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: guestbook, labels: {app: guestbook}}, data: {GREETING: hi}}",
    );
    assert!(replaced, "{text}");
}

fn rolls_out_and_back(kubectl: &Kubectl) {
    kubectl.ok(&["rollout", "status", "deployment", "frontend", "--timeout=60s"]);
    kubectl.ok(&["set", "image", "deployment/frontend", "php=nginx:1.28"]);
    kubectl.ok(&["rollout", "status", "deployment", "frontend", "--timeout=60s"]);
    let image = ["get", "deployment", "frontend", "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
    assert_eq!(kubectl.ok(&image), "nginx:1.28");
    shows(
        &kubectl.ok(&["rollout", "history", "deployment", "frontend"]),
        &["REVISION", "CHANGE-CAUSE", "first release", "3"],
    );
    shows(&kubectl.ok(&["rollout", "history", "deployment", "frontend", "--revision=1"]), &["nginx:1.27"]);
    kubectl.ok(&["rollout", "undo", "deployment", "frontend"]);
    kubectl.ok(&["rollout", "status", "deployment", "frontend", "--timeout=60s"]);
    assert_eq!(kubectl.ok(&image), "nginx:1.27");
    let sets = kubectl.ok(&["get", "replicasets", "-l", "tier=frontend", "-o", "jsonpath={.items[*].spec.replicas}"]);
    assert_eq!(sets.split(' ').filter(|replicas| *replicas == "3").count(), 1, "one set is in use: {sets}");
    kubectl.ok(&["rollout", "restart", "deployment", "redis-leader"]);
    kubectl.ok(&["rollout", "status", "deployment", "redis-leader", "--timeout=60s"]);
    kubectl.ok(&["rollout", "pause", "deployment", "frontend"]);
    kubectl.ok(&["set", "env", "deployment/frontend", "COLOR=red"]);
    kubectl.until(&["get", "deployment", "frontend", "-o", "yaml"], "DeploymentPaused");
    kubectl.ok(&["rollout", "resume", "deployment", "frontend"]);
    kubectl.ok(&["rollout", "status", "deployment", "frontend", "--timeout=60s"]);
}

fn runs_jobs_and_daemons(kubectl: &Kubectl) {
    kubectl.ok(&["create", "job", "hello", "--image=busybox:1.36", "--", "sh", "-c", "echo hello from a job; exit 0"]);
    kubectl.ok(&["wait", "--for=condition=Complete", "job/hello", "--timeout=60s"]);
    shows(&kubectl.ok(&["get", "job", "hello"]), &["Complete", "1/1"]);
    shows(&kubectl.ok(&["logs", "job/hello"]), &["hello from a job"]);
    let failing = "{apiVersion: batch/v1, kind: Job, metadata: {name: sad}, spec: {backoffLimit: 0, template: {spec: \
        {restartPolicy: Never, containers: [{name: c, image: busybox, command: [sh, -c, exit 3]}]}}}}";
    assert!(kubectl.piped(&["apply", "-f", "-"], failing).0);
    kubectl.ok(&["wait", "--for=condition=Failed", "job/sad", "--timeout=60s"]);
    let code = "jsonpath={.items[0].status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(kubectl.ok(&["get", "pods", "-l", "job-name=sad", "-o", code]), "3");
    kubectl.ok(&["delete", "job", "hello", "sad"]);
    kubectl.until(&["get", "pods", "-l", "job-name"], "No resources found");

    let daemon = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {app: agent}}, \
        template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent, image: 'agent:1'}]}}}}";
    assert!(kubectl.piped(&["apply", "-f", "-"], daemon).0);
    kubectl.ok(&["rollout", "status", "daemonset", "agent", "--timeout=60s"]);
    let nodes = kubectl.ok(&["get", "pods", "-l", "app=agent", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    let mut nodes: Vec<_> = nodes.split(' ').collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 5, "one on each node");
    kubectl.ok(&["set", "image", "daemonset/agent", "agent=agent:2"]);
    kubectl.ok(&["rollout", "status", "daemonset", "agent", "--timeout=60s"]);
    shows(&kubectl.ok(&["rollout", "history", "daemonset", "agent"]), &["1", "2"]);
}

fn cordons_and_drains(kubectl: &Kubectl) {
    let node = kubectl.ok(&["get", "pods", "-l", "tier=leader", "-o", "jsonpath={.items[0].spec.nodeName}"]);
    kubectl.ok(&["cordon", &node]);
    shows(&kubectl.ok(&["get", "node", &node]), &["Ready,SchedulingDisabled"]);
    let drained = kubectl.ok(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"]);
    shows(&drained, &["evicting pod", "drained"]);
    let left = format!("spec.nodeName={node}");
    let left = kubectl.ok(&["get", "pods", "--field-selector", &left, "-o", "name"]);
    assert!(left.lines().all(|name| name.starts_with("pod/agent-")), "{left}");
    kubectl.ok(&["rollout", "status", "deployment", "redis-leader", "--timeout=60s"]);
    kubectl.ok(&["uncordon", &node]);
    kubectl.ok(&["taint", "nodes", &node, "dedicated=db:NoSchedule"]);
    shows(&kubectl.ok(&["describe", "node", &node]), &["dedicated=db:NoSchedule"]);
    kubectl.ok(&["taint", "nodes", &node, "dedicated-"]);
    kubectl.ok(&["delete", "daemonset", "agent"]);
}

fn deletes_it(kubectl: &Kubectl) {
    let mut watching = Program::start(
        "kubectl get -w",
        &mut kubectl.command(&["get", "pods", "-l", "tier=follower", "-w", "--output-watch-events"]),
    );
    watching.wait_for("ADDED", 30);
    kubectl.ok(&["delete", "deployment", "redis-follower", "--cascade=foreground"]);
    // Foreground: when the command returns, everything below is gone.
    shows(&kubectl.ok(&["get", "replicasets,pods", "-l", "tier=follower"]), &["No resources found"]);
    watching.wait_for("DELETED", 30);
    kubectl.ok(&["delete", "deployment", "redis-leader", "--cascade=orphan"]);
    let orphan =
        kubectl.ok(&["get", "replicasets", "-l", "tier=leader", "-o", "jsonpath={.items[*].metadata.ownerReferences}"]);
    assert_eq!(orphan, "");
    kubectl.ok(&["delete", "replicasets", "-l", "tier=leader"]);
    kubectl.ok(&["delete", "-f", &manifest("guestbook.yaml"), "--ignore-not-found"]);
    kubectl.until(&["get", "all,endpointslices,cm,secrets", "-l", "app=guestbook"], "No resources found");
    kubectl.ok(&["create", "namespace", "brief"]);
    kubectl.until(&["get", "serviceaccount", "-n", "brief"], "default");
    kubectl.ok(&["run", "web", "--image=nginx:1.27", "-n", "brief"]);
    kubectl.ok(&["expose", "pod", "web", "--port=80", "-n", "brief"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/web", "-n", "brief", "--timeout=60s"]);
    kubectl.ok(&["delete", "namespace", "brief", "--timeout=60s"]);
    kubectl.fails(&["get", "namespace", "brief"], "NotFound");
}

fn is_told_what_is_wrong(kubectl: &Kubectl) {
    let refuses = |manifest: &str, expected: &str| {
        let (success, text) = kubectl.piped(&["apply", "-f", "-"], manifest);
        assert!(!success && text.contains(expected), "expected {expected:?}, got:\n{text}");
    };
    refuses("apiVersion: v1\nkind: ConfigMap\n  bad: [", "error converting YAML to JSON");
    refuses("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {}}", "unknown field \"dta\"");
    refuses(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}",
        "a lowercase RFC 1123 subdomain must consist of",
    );
    refuses(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: -1, selector: {matchLabels: {a: b}}, \
         template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}}",
        "must be greater than or equal to 0",
    );
    kubectl.fails(&["get", "configmap", "x"], "NotFound");
    kubectl.fails(&["get", "deployment", "x"], "NotFound");
    kubectl.fails(&["get", "pods", "-l", "a in (b"], "unable to parse requirement");
    kubectl.fails(&["get", "pods", "--field-selector", "spec.colour=red"], "field label not supported");
    kubectl.fails(&["delete", "namespace", "kube-system"], "forbidden");
}
