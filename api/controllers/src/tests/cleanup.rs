//! Garbage collection, namespaces, leader election.

use std::collections::BTreeSet;

use super::*;

async fn deployed(cluster: &Cluster) {
    cluster.create(&Gvr::DEPLOYMENTS, deployment(5)).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", |found| is_rolled_out(found, 5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_deletion_takes_the_dependents_along() {
    let cluster = Cluster::start(2).await;
    deployed(&cluster).await;
    cluster.delete(&Gvr::DEPLOYMENTS, "web", json!({"propagationPolicy": "Background"})).await;
    assert!(cluster.get(&Gvr::DEPLOYMENTS, "web").await.is_null());
    cluster.until_list(&Gvr::REPLICA_SETS, <[Value]>::is_empty).await;
    cluster.until_list(&Gvr::PODS, <[Value]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_removes_the_owner_last() {
    let cluster = Cluster::start(2).await;
    deployed(&cluster).await;
    // A pod that does not go yet.
    let held = cluster.list(&Gvr::PODS).await[0]["metadata"]["name"].as_str().unwrap().to_string();
    cluster.patch(&Gvr::PODS, &held, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    cluster.delete(&Gvr::DEPLOYMENTS, "web", json!({"propagationPolicy": "Foreground"})).await;
    cluster.until_list(&Gvr::PODS, |pods| pods.len() == 1).await;
    let waiting = cluster.get(&Gvr::DEPLOYMENTS, "web").await;
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.patch(&Gvr::PODS, &held, json!({"metadata": {"finalizers": null}})).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", Value::is_null).await;
    assert!(cluster.list(&Gvr::REPLICA_SETS).await.is_empty() && cluster.list(&Gvr::PODS).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_dependents_stay_and_are_adopted_again() {
    let cluster = Cluster::start(2).await;
    deployed(&cluster).await;
    cluster.delete(&Gvr::DEPLOYMENTS, "web", json!({"propagationPolicy": "Orphan"})).await;
    cluster.until(&Gvr::DEPLOYMENTS, "web", Value::is_null).await;
    let sets = cluster.list(&Gvr::REPLICA_SETS).await;
    assert_eq!((sets.len(), &sets[0]["metadata"]["ownerReferences"]), (1, &Value::Null));
    assert_eq!(cluster.list(&Gvr::PODS).await.len(), 5);
    deployed(&cluster).await;
    assert_eq!(cluster.list(&Gvr::REPLICA_SETS).await.len(), 1);
    assert_eq!(cluster.pods_made.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_never_was_is_looked_up_once() {
    let cluster = Cluster::start(0).await;
    let map = |name: &str, owner: Value| json!({"metadata": {"name": name, "ownerReferences": [owner]}});
    let real = cluster.create(&Gvr::CONFIG_MAPS, json!({"metadata": {"name": "real"}})).await;
    let reference = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let uid = real["metadata"]["uid"].as_str().unwrap();
    cluster.create(&Gvr::CONFIG_MAPS, map("kept", reference("real", uid))).await;
    cluster.create(&Gvr::CONFIG_MAPS, map("wrong-uid", reference("real", "not-that-one"))).await;
    cluster.create(&Gvr::SECRETS, map("ghost", reference("nobody", "gone"))).await;
    cluster.until(&Gvr::CONFIG_MAPS, "wrong-uid", Value::is_null).await;
    cluster.until(&Gvr::SECRETS, "ghost", Value::is_null).await;
    assert!(!cluster.get(&Gvr::CONFIG_MAPS, "kept").await.is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let config = Config { root_ca_pem: "PEM".into(), ..Config::default() };
    let cluster = Cluster::with(1, config).await;
    cluster.create(&Gvr::NAMESPACES, json!({"metadata": {"name": "team", "namespace": ""}})).await;
    let read = async |gvr: &Gvr, name: &str| cluster.client.get::<Value>(gvr, "team", name).await;
    let map = poll::until("the namespace's account and CA", async || {
        read(&Gvr::SERVICE_ACCOUNTS, "default").await?;
        read(&Gvr::CONFIG_MAPS, "kube-root-ca.crt").await
    });
    assert_eq!(map.await["data"]["ca.crt"], "PEM");
    let mut object = deployment(3);
    object["metadata"]["namespace"] = json!("team");
    cluster.create(&Gvr::DEPLOYMENTS, object).await;
    let held = json!({"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/hold"]}});
    cluster.create(&Gvr::SECRETS, held).await;
    cluster.client.delete(&Gvr::NAMESPACES, "", "team", &json!({})).await.unwrap();
    let waiting =
        cluster.until(&Gvr::NAMESPACES, "team", |found| condition(found, "NamespaceFinalizersRemaining") == "True");
    assert_eq!(waiting.await["status"]["phase"], "Terminating");
    let release = json!({"metadata": {"finalizers": null}});
    let kind = PatchKind::Merge;
    cluster.client.patch::<IgnoredAny>(&Gvr::SECRETS, "team", "held", "", kind, &release).await.unwrap();
    cluster.until(&Gvr::NAMESPACES, "team", Value::is_null).await;
}

/// Ends once the lease was renewed some times: by then the other candidate, in the same rhythm, asked for it as often.
async fn renews_some_times(client: Client) {
    let mut renewals = BTreeSet::new();
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    let renewed = async {
        while renewals.len() < 5 {
            rhythm.tick().await;
            let lease: Value = client.get(&Gvr::LEASES, "kube-system", "kube-scheduler").await.unwrap();
            renewals.insert(lease["spec"]["renewTime"].to_string());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), renewed).await.expect("the leader renews");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_candidates_never_lead_together() {
    let cluster = Cluster::start(0).await;
    let leading = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let mut candidates = JoinSet::new();
    let (terms, mut order) = tokio::sync::mpsc::unbounded_channel();
    for identity in ["one", "two"] {
        let election = crate::Election::new(cluster.client.clone(), "kube-scheduler", identity).with_durations(
            Duration::from_secs(15),
            Duration::from_secs(10),
            Duration::from_millis(20),
        );
        let (leading, terms, stop) = (leading.clone(), terms.clone(), stop.clone());
        let client = cluster.client.clone();
        candidates.spawn(async move {
            election
                .lead(stop, async |_| {
                    assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0);
                    renews_some_times(client).await;
                    leading.fetch_sub(1, Ordering::SeqCst);
                    terms.send(identity).unwrap();
                    Ok(())
                })
                .await
        });
    }
    while let Some(ended) = candidates.join_next().await {
        ended.unwrap().unwrap();
    }
    let mut led = [order.recv().await.unwrap(), order.recv().await.unwrap()];
    led.sort_unstable();
    assert_eq!(led, ["one", "two"], "the second leads as soon as the first gives the lease back");
    let lease: Value = cluster.client.get(&Gvr::LEASES, "kube-system", "kube-scheduler").await.unwrap();
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]), (&json!(""), &json!(1)));
}
