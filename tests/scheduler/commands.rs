//! What `kelson scheduler` refuses and tells, and what `kelson explain` says.

use std::process::Command;

use kelson_wire::kube::{Gvr, PatchKind};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::world::{self, World, pod};
use crate::cluster::{KELSON, START, address_of};
use crate::poll;
use crate::program::Program;

/// Longest reaction on a busy machine, in seconds.
const REACTION: u64 = 60;

/// Standard output and error of a command that ends by itself, and whether it succeeded.
fn run(command: &mut Command) -> (bool, String, String) {
    let output = command.output().expect("kelson starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn configuration_files_are_read_strictly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("scheduler.yaml");
    let refusal = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        let (success, said, error) = run(Command::new(KELSON).arg("scheduler").arg("--config").arg(&file));
        assert!(!success && said.is_empty() && error.trim().lines().count() == 1, "{said}{error}");
        error
    };
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    for (text, want) in [
        ("kind: [", "scheduler.yaml"),
        ("apiVersion: v1\nkind: Pod\n", "no kind \"Pod\" is registered for version \"v1\""),
        (&format!("{head}profile: []\n"), "strict decoding error: unknown field \"profile\""),
        (
            &format!("{head}profiles: [{{plugins: {{filter: {{enabled: [{{name: Mine}}]}}}}}}]\n"),
            "FilterPlugin \"Mine\" does not exist",
        ),
        (&format!("{head}extenders: [{{urlPrefix: 'http://x'}}]\n"), "extenders are not supported"),
        (head, "name a --kubeconfig"),
    ] {
        let error = refusal(text);
        assert!(error.contains(want), "{want:?} is not in: {error}");
    }
}

#[test]
fn the_scheduler_tells_what_it_did_and_why() {
    let world = World::start();
    let (client, runtime) = (&world.client, &world.runtime);
    runtime.block_on(world::create_nodes(client, 3, "1"));
    let taint = json!({"spec": {"taints": [{"key": "broken", "effect": "NoSchedule"}]}});
    let patched = client.patch::<IgnoredAny>(&Gvr::NODES, "", "node-2", "", PatchKind::Merge, &taint);
    runtime.block_on(patched).expect("tainted");
    let create = |pod: Value| {
        runtime.block_on(client.create::<IgnoredAny>(&Gvr::PODS, "default", &pod)).expect("created");
    };
    create(pod("fits", json!({}), json!({})));
    let large = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}}}]});
    create(pod("large", json!({}), large));
    let kubeconfig = world.server.path("pki/scheduler.kubeconfig");
    let mut scheduler = world::scheduler(&kubeconfig, &["--metrics-listen", "127.0.0.1:0"]);
    scheduler.wait_until_ready(START);
    let metrics = address_of(&scheduler.output(), "http://");
    poll::until("one is bound, the other told", REACTION, || {
        let text = http_get(&metrics);
        let has = |line: &str| text.lines().any(|have| have == line);
        let profile = "profile=\"default-scheduler\"";
        let told = has(&format!("scheduler_schedule_attempts_total{{{profile},result=\"scheduled\"}} 1"))
            && has("scheduler_pending_pods{queue=\"unschedulable\"} 1")
            && has("scheduler_cache_size{type=\"nodes\"} 3")
            && has("scheduler_preemption_attempts_total 1")
            && has("leader_election_master_status{name=\"kube-scheduler\"} 1");
        if told { Ok(()) } else { Err(text) }
    });

    let explain = |name: &str, more: &[&str]| {
        let mut command = Command::new(KELSON);
        command
            .args(["explain", "pod", name, "--kubeconfig"])
            .arg(world.server.path("pki/admin.kubeconfig"))
            .args(more);
        run(&mut command)
    };
    let (success, text, error) = explain("fits", &["-o", "json"]);
    assert!(success, "{error}");
    let fits: Value = serde_json::from_str(&text).expect("JSON");
    let nodes = fits["nodes"].as_array().expect("nodes");
    let chosen = fits["node"].as_str().expect("it is bound");
    let best = nodes[0]["total"].as_i64().expect("a sum");
    let own = nodes.iter().find(|node| node["node"] == chosen).expect("its node");
    assert_eq!(own["total"].as_i64(), Some(best), "its node is among the best: {fits}");
    let scores = nodes[0]["scores"].as_array().expect("scores");
    let sum: i64 = scores
        .iter()
        .map(|one| one["score"].as_i64().expect("a score") * one["weight"].as_i64().expect("a weight"))
        .sum();
    assert_eq!((scores.len() >= 7, sum), (true, best));
    assert_eq!((&nodes[2]["node"], &nodes[2]["rejected"]["filter"]), (&json!("node-2"), &json!("TaintToleration")));

    let (success, text, error) = explain("large", &[]);
    assert!(success, "{error}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe:\n{text}");
    for part in ["not bound", "0/3 nodes are available", "Insufficient cpu", "node-0, node-1", "TaintToleration"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let (success, _, error) = explain("absent", &[]);
    assert!(!success && error.contains("pods \"absent\" not found"), "{error}");
}

/// The body that a server gives for a URL.
fn http_get(url: &str) -> String {
    use std::io::{Read, Write};
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = std::net::TcpStream::connect(host).expect("it listens");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).expect("a body")
}

#[test]
fn a_program_in_the_way_of_metrics_is_named_with_its_flag() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = kelson_kube::pki::Authority::open(folder.path()).expect("an authority");
    let text = kelson_kube::pki::kubeconfig(
        "https://127.0.0.1:1",
        authority.certificate(),
        &authority.admin().expect("an identity"),
    );
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, text).expect("a kubeconfig");
    let mut command = Command::new(KELSON);
    command.args(["scheduler", "--metrics-listen", &address, "--kubeconfig"]).arg(&kubeconfig);
    let mut program = Program::start("kelson scheduler", &mut command);
    assert!(!program.ended(REACTION).success());
    let said = program.output();
    assert!(said.contains("--metrics-listen") && said.contains(&address), "{said}");
}
