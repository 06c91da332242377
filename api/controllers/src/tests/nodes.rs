//! Lost nodes, cordons, pods of vanished nodes.

use super::*;

fn quick() -> Config {
    Config {
        node_monitor_period: Duration::from_millis(100),
        node_monitor_grace_period: Duration::from_secs(2),
        pod_gc_period: Duration::from_millis(200),
        node_eviction_rate: 100.0,
        ..Config::default()
    }
}

/// Keeps a node's lease alive until the token is cancelled.
async fn renew(client: Client, node: &'static str, stop: CancellationToken) {
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": {}});
    client.create::<IgnoredAny>(&Gvr::LEASES, "kube-node-lease", &lease).await.unwrap();
    let mut rhythm = tokio::time::interval(Duration::from_millis(100));
    while !stop.is_cancelled() {
        rhythm.tick().await;
        let patch = json!({"spec": {"renewTime": timestamp::format_micro(std::time::SystemTime::now())}});
        let kind = PatchKind::Merge;
        client.patch::<IgnoredAny>(&Gvr::LEASES, "kube-node-lease", node, "", kind, &patch).await.unwrap();
    }
}

fn taints(node: &Value) -> Vec<(&str, &str)> {
    let list = node["spec"]["taints"].as_array();
    let mut taints: Vec<_> = list
        .into_iter()
        .flatten()
        .map(|taint| (taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
        .collect();
    taints.sort_unstable();
    taints
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_emptied_and_welcomed_back() {
    let cluster = Cluster::with(2, quick()).await;
    let (alive, mute) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(renew(cluster.client.clone(), "node-0", alive.clone()));
    tokio::spawn(renew(cluster.client.clone(), "node-1", mute.clone()));
    let mut object = deployment(4);
    object["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
    ]);
    cluster.create(&Gvr::DEPLOYMENTS, object).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 4)).await;
    mute.cancel();
    let lost = cluster.until(&Gvr::NODES, "node-1", |node| taints(node).len() == 2).await;
    assert_eq!(condition(&lost, "Ready"), "Unknown");
    let unreachable = "node.kubernetes.io/unreachable";
    assert_eq!(taints(&lost), [(unreachable, "NoExecute"), (unreachable, "NoSchedule")]);
    // The stand-in binds to lost nodes too: those pods are evicted in turn.
    cluster
        .until_list(&Gvr::EVENTS, |events| events.iter().any(|event| event["reason"] == "TaintManagerEviction"))
        .await;
    let resumed = CancellationToken::new();
    cluster.client.delete(&Gvr::LEASES, "kube-node-lease", "node-1", &json!({})).await.unwrap();
    tokio::spawn(renew(cluster.client.clone(), "node-1", resumed.clone()));
    report(&cluster.client, "node-1", "True").await;
    cluster.until(&Gvr::NODES, "node-1", |node| taints(node).is_empty()).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 4)).await;
    cluster.patch(&Gvr::NODES, "node-1", json!({"spec": {"unschedulable": true}})).await;
    let cordoned = cluster.until(&Gvr::NODES, "node-1", |node| !taints(node).is_empty()).await;
    assert_eq!(taints(&cordoned), [("node.kubernetes.io/unschedulable", "NoSchedule")]);
    alive.cancel();
    resumed.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_deleted_node_are_replaced() {
    let cluster = Cluster::with(2, quick()).await;
    let alive = CancellationToken::new();
    tokio::spawn(renew(cluster.client.clone(), "node-0", alive.clone()));
    tokio::spawn(renew(cluster.client.clone(), "node-1", alive.clone()));
    cluster.create(&Gvr::DEPLOYMENTS, deployment(4)).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 4)).await;
    let on = |pods: &[Value], node: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    let before = cluster.list(&Gvr::PODS).await;
    let lost = on(&before, "node-1");
    assert!(lost > 0);
    cluster.delete(&Gvr::NODES, "node-1", json!({})).await;
    let known: Vec<_> = before.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    cluster
        .until_list(&Gvr::PODS, |pods| {
            pods.iter().filter(|pod| known.contains(&pod["metadata"]["uid"])).count() == 4 - lost
        })
        .await;
    alive.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_pods_beyond_the_threshold_go() {
    let cluster = Cluster::with(1, Config { terminated_pod_gc_threshold: 3, ..quick() }).await;
    for number in 0..6 {
        let mut pod = template("v1");
        pod["metadata"] = json!({"name": format!("done-{number}"), "labels": {"exit": "0"}});
        cluster.create(&Gvr::PODS, pod).await;
    }
    let ended = |pods: &[Value]| pods.iter().all(|pod| pod["status"]["phase"] == "Succeeded");
    cluster.until_list(&Gvr::PODS, |pods| pods.len() == 3 && ended(pods)).await;
}
