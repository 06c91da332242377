use super::*;

#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let cluster = Cluster::new().await;
    let created = cluster.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(cluster.delete(&path, wrong).await.body["reason"], "Conflict");
    let wrong = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(cluster.delete(&path, wrong).await.code, 409);
    let right = json!({"preconditions": {"uid": created["metadata"]["uid"]}});
    let gone = cluster.delete(&path, right).await.ok();
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &created["metadata"]["uid"]));
    cluster.delete(&path, json!({})).await.fails(404, "configmaps \"a\" not found");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let cluster = Cluster::new().await;
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/a"]);
    cluster.post(MAPS, object).await.ok();
    let path = format!("{MAPS}/a");
    let marked = cluster.delete(&path, json!({"propagationPolicy": "Foreground"})).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["finalizers"], json!(["example.com/a", "foregroundDeletion"]));
    cluster.merge(&path, json!({"metadata": {"finalizers": ["foregroundDeletion"]}})).await.ok();
    cluster.get(&path).await.ok();
    cluster.merge(&path, json!({"metadata": {"finalizers": null}})).await.ok();
    cluster.get(&path).await.fails(404, "configmaps \"a\" not found");
}

#[tokio::test]
async fn pods_wait_for_their_kubelet() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, pod("free")).await.ok();
    let mut placed = pod("placed");
    placed["spec"]["nodeName"] = json!("n1");
    cluster.post(PODS, placed).await.ok();
    cluster.delete(&format!("{PODS}/free"), json!({})).await.ok();
    cluster.get(&format!("{PODS}/free")).await.fails(404, "pods \"free\" not found");
    let path = format!("{PODS}/placed");
    let marked = cluster.delete(&format!("{path}?gracePeriodSeconds=7"), json!({})).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    cluster.get(&path).await.ok();
    let gone = cluster.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn an_eviction_is_a_deletion() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, pod("p")).await.ok();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(cluster.post(&format!("{PODS}/p/eviction"), eviction.clone()).await.code, 201);
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
    assert_eq!(cluster.post(&format!("{PODS}/p/eviction"), eviction).await.code, 404);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let cluster = Cluster::new().await;
    let created = cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await.ok();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    let maps = "/api/v1/namespaces/team/configmaps";
    cluster.post(maps, config_map("a")).await.ok();
    let marked = cluster.delete("/api/v1/namespaces/team", json!({})).await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    // The cache is a moment behind the store.
    let version = marked["metadata"]["resourceVersion"].as_str().unwrap();
    cluster.get(&format!("/api/v1/namespaces/team?resourceVersion={version}")).await.ok();
    let message =
        "configmaps \"b\" is forbidden: unable to create new content in namespace team because it is being terminated";
    let refused = cluster.post(maps, config_map("b")).await.fails(403, message);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(cluster.send(Method::DELETE, maps, "", "").await.code, 200);
    let mut finalized = marked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    cluster.put("/api/v1/namespaces/team", finalized.clone()).await.ok();
    let kept = cluster.get("/api/v1/namespaces/team").await.ok();
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
    finalized["metadata"]["resourceVersion"] = json!("");
    cluster.put("/api/v1/namespaces/team/finalize", finalized).await.ok();
    assert_eq!(cluster.get("/api/v1/namespaces/team").await.code, 404);
    let message = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    cluster.delete("/api/v1/namespaces/default", json!({})).await.fails(403, message);
}

#[tokio::test]
async fn a_collection_goes_by_selector() {
    let cluster = Cluster::new().await;
    for number in 0..30 {
        let mut object = config_map(&format!("m{number}"));
        object["metadata"]["labels"] = json!({"half": (number % 2).to_string()});
        cluster.post(MAPS, object).await.ok();
    }
    let deleted = cluster.delete(&format!("{MAPS}?labelSelector=half%3D1"), json!({})).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 15);
    assert_eq!(cluster.get(MAPS).await.ok()["items"].as_array().unwrap().len(), 15);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(cluster.delete(MAPS, both).await.code, 422);
}
