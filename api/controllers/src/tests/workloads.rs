//! Deployments, ReplicaSets, DaemonSets, Jobs.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_and_back() {
    let cluster = Cluster::start(3).await;
    cluster.create(&Gvr::DEPLOYMENTS, deployment(10)).await;
    let first = cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 10)).await;
    assert_eq!(first["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(condition(&first, "Progressing"), "True");
    assert_eq!(cluster.pods_made.load(Ordering::Relaxed), 10, "a stale cache made more pods than asked for");
    cluster.patch(&Gvr::DEPLOYMENTS, "web", json!({"spec": {"template": template("v2")}})).await;
    let second = cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 10)).await;
    assert_eq!(second["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(cluster.list(&Gvr::REPLICA_SETS).await.len(), 2);
    assert_eq!(cluster.pods_made.load(Ordering::Relaxed), 20);
    cluster.patch(&Gvr::DEPLOYMENTS, "web", json!({"spec": {"template": template("v1")}})).await;
    let third = cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 10)).await;
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    let sets =
        cluster.until_list(&Gvr::REPLICA_SETS, |sets| sets.iter().any(|set| set["status"]["replicas"] == 0)).await;
    assert_eq!(sets.len(), 2, "the first set is used again");
    let events =
        cluster.until_list(&Gvr::EVENTS, |events| events.iter().any(|event| event["reason"] == "ScalingReplicaSet"));
    let scaling = events.await.into_iter().find(|event| event["reason"] == "ScalingReplicaSet").unwrap();
    assert_eq!(scaling["involvedObject"]["name"], "web");
    cluster.patch(&Gvr::DEPLOYMENTS, "web", json!({"spec": {"replicas": 3}})).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 3)).await;
    cluster.until_list(&Gvr::PODS, |pods| pods.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_replicas_are_made_once() {
    let cluster = Cluster::start(0).await;
    let begun = Instant::now();
    let wanted = std::env::var("KELSON_TEST_REPLICAS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    cluster.create(&Gvr::DEPLOYMENTS, deployment(wanted)).await;
    poll::until("pods made", async || {
        let made = cluster.pods_made.load(Ordering::Relaxed);
        if made >= wanted { Ok(()) } else { Err(made) }
    })
    .await;
    println!("{wanted} pods made in {:?}", begun.elapsed());
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| found["status"]["replicas"] == wanted).await;
    assert_eq!(cluster.list(&Gvr::PODS).await.len(), wanted);
    assert_eq!(cluster.pods_made.load(Ordering::Relaxed), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_adopts_and_releases() {
    let cluster = Cluster::start(1).await;
    let mut orphan = template("v1");
    orphan["metadata"]["name"] = json!("orphan");
    cluster.create(&Gvr::PODS, orphan).await;
    let mut set = deployment(2);
    set["spec"].as_object_mut().unwrap().remove("strategy");
    cluster.create(&Gvr::REPLICA_SETS, set).await;
    cluster.until(&Gvr::REPLICA_SETS, "web", |found| found["status"]["readyReplicas"] == 2).await;
    let adopted = cluster.get(&Gvr::PODS, "orphan").await;
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "web");
    assert_eq!(cluster.pods_made.load(Ordering::Relaxed), 2);
    cluster.patch(&Gvr::PODS, "orphan", json!({"metadata": {"labels": {"app": "debug"}}})).await;
    cluster.until(&Gvr::PODS, "orphan", |pod| pod["metadata"]["ownerReferences"].is_null()).await;
    cluster.until_list(&Gvr::PODS, |pods| pods.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_runs_on_every_node_and_is_updated() {
    let cluster = Cluster::start(3).await;
    let set = json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}},
    }});
    cluster.create(&Gvr::DAEMON_SETS, set).await;
    let done = |found: &Value| {
        let status = &found["status"];
        ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"].iter().all(|field| status[field] == 3)
            && status["observedGeneration"] == found["metadata"]["generation"]
    };
    cluster.until(&Gvr::DAEMON_SETS, "agent", done).await;
    let mut nodes: Vec<_> =
        cluster.list(&Gvr::PODS).await.iter().map(|pod| pod["spec"]["nodeName"].to_string()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3);
    cluster.patch(&Gvr::DAEMON_SETS, "agent", json!({"spec": {"template": template("v2")}})).await;
    cluster.until(&Gvr::DAEMON_SETS, "agent", done).await;
    let revisions = cluster.list(&Gvr::CONTROLLER_REVISIONS).await;
    assert_eq!(revisions.len(), 2);
    let first = revisions.iter().find(|revision| revision["revision"] == 1).unwrap();
    // What `kubectl rollout undo` sends.
    let undo = &first["data"];
    let kind = PatchKind::Strategic;
    cluster.client.patch::<IgnoredAny>(&Gvr::DAEMON_SETS, "default", "agent", "", kind, undo).await.unwrap();
    cluster.until(&Gvr::DAEMON_SETS, "agent", done).await;
    let images = |pods: &[Value]| pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "v1");
    cluster.until_list(&Gvr::PODS, |pods| pods.len() == 3 && images(pods)).await;
    cluster.until_list(&Gvr::CONTROLLER_REVISIONS, |all| all.iter().any(|each| each["revision"] == 3)).await;
}

fn job(name: &str, exit: &str, spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": name}, "spec": spec});
    let mut template = template("v1");
    template["metadata"]["labels"] = json!({"exit": exit});
    template["spec"]["restartPolicy"] = json!("Never");
    job["spec"]["template"] = template;
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_fail_and_let_their_pods_go() {
    let cluster = Cluster::start(2).await;
    cluster.create(&Gvr::JOBS, job("plain", "0", json!({"parallelism": 3, "completions": 7}))).await;
    let indexed = json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"});
    cluster.create(&Gvr::JOBS, job("indexed", "0", indexed)).await;
    cluster.create(&Gvr::JOBS, job("broken", "1", json!({"backoffLimit": 0}))).await;
    let plain = cluster.until(&Gvr::JOBS, "plain", |found| condition(found, "Complete") == "True").await;
    assert_eq!((&plain["status"]["succeeded"], &plain["status"]["failed"]), (&json!(7), &Value::Null));
    let indexed = cluster.until(&Gvr::JOBS, "indexed", |found| condition(found, "Complete") == "True").await;
    assert_eq!(indexed["status"]["completedIndexes"], "0-3");
    let broken = cluster.until(&Gvr::JOBS, "broken", |found| condition(found, "Failed") == "True").await;
    assert_eq!(broken["status"]["failed"], 1);
    let pods =
        cluster.until_list(&Gvr::PODS, |pods| pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null())).await;
    assert_eq!(pods.len(), 12);
    let background = json!({"propagationPolicy": "Background"});
    for name in ["plain", "indexed", "broken"] {
        cluster.delete(&Gvr::JOBS, name, background.clone()).await;
    }
    cluster.until_list(&Gvr::PODS, <[Value]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_running_job_frees_its_pods() {
    let cluster = Cluster::start(1).await;
    let mut running = job("running", "0", json!({"parallelism": 2}));
    running["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
    cluster.create(&Gvr::JOBS, running).await;
    cluster.until(&Gvr::JOBS, "running", |found| found["status"]["ready"] == 2).await;
    cluster.delete(&Gvr::JOBS, "running", json!({"propagationPolicy": "Background"})).await;
    cluster.until_list(&Gvr::PODS, <[Value]>::is_empty).await;
}
