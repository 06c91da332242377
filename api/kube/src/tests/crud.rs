use super::*;

#[tokio::test]
async fn a_new_cluster_has_namespaces_and_the_kubernetes_service() {
    let cluster = Cluster::new().await;
    let list = cluster.get("/api/v1/namespaces").await.ok();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert!(cluster.stored("/registry/ipaddresses/10.96.0.1").await.is_some());
    // A second gateway on the same store finds everything in place.
    let again = Gateway::start(Arc::new(cluster.store.clone()), Config::default()).await.unwrap();
    drop(again);
}

#[tokio::test]
async fn objects_are_stored_without_and_read_with_their_resource_version() {
    let cluster = Cluster::new().await;
    let created = cluster.post(MAPS, config_map("a")).await;
    assert_eq!(created.code, 201);
    let created = created.body;
    assert!(created["metadata"]["uid"].as_str().unwrap().len() == 36);
    let stored = cluster.stored("/registry/configmaps/default/a").await.unwrap();
    assert!(stored["metadata"].get("resourceVersion").is_none());
    assert_eq!(stored["apiVersion"], "v1");
    let read = cluster.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(read, created);
    cluster.post(MAPS, config_map("a")).await.fails(409, "configmaps \"a\" already exists");
    cluster.get(&format!("{MAPS}/b")).await.fails(404, "configmaps \"b\" not found");
}

#[tokio::test]
async fn generated_names_and_absent_ones() {
    let cluster = Cluster::new().await;
    let created = cluster.post(MAPS, json!({"metadata": {"generateName": "web-"}})).await.ok();
    assert!(created["metadata"]["name"].as_str().unwrap().starts_with("web-"));
    assert_eq!(created["kind"], "ConfigMap");
    cluster
        .post(MAPS, json!({}))
        .await
        .fails(422, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
    let refused = cluster.post(MAPS, config_map("a/b")).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn bodies_must_fit_the_path() {
    let cluster = Cluster::new().await;
    let mut other = config_map("a");
    other["metadata"]["namespace"] = json!("kube-system");
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    cluster.post(MAPS, other).await.fails(400, message);
    let wrong = cluster.post(MAPS, pod("a")).await;
    assert_eq!(wrong.code, 400);
    let message = "the API version in the data (apps/v1) does not match the expected API version (v1)";
    cluster.post(MAPS, json!({"apiVersion": "apps/v1", "kind": "Deployment"})).await.fails(400, message);
    let malformed = cluster.send(Method::POST, MAPS, "application/json", "{").await;
    assert_eq!((malformed.code.as_u16(), &malformed.body["reason"]), (400, &json!("BadRequest")));
    let unknown = cluster.send(Method::POST, MAPS, "text/plain", "x").await;
    assert_eq!((unknown.code.as_u16(), &unknown.body["reason"]), (415, &json!("UnsupportedMediaType")));
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n";
    assert_eq!(cluster.send(Method::POST, MAPS, "application/yaml", yaml).await.code, 201);
    cluster
        .post("/api/v1/namespaces/nowhere/configmaps", config_map("a"))
        .await
        .fails(404, "namespaces \"nowhere\" not found");
    assert_eq!(cluster.post("/api/v1/configmaps", config_map("a")).await.code, 405);
    assert_eq!(cluster.get("/api/v1/nothings").await.code, 404);
}

#[tokio::test]
async fn updates_are_guarded_by_the_resource_version() {
    let cluster = Cluster::new().await;
    let mut object = cluster.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    object["data"]["a"] = json!("2");
    let updated = cluster.put(&path, object.clone()).await.ok();
    assert_eq!(updated["data"]["a"], "2");
    assert_eq!(updated["metadata"]["uid"], object["metadata"]["uid"]);
    let message = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
        changes to the latest version and try again";
    object["data"]["a"] = json!("3");
    let conflict = cluster.put(&path, object.clone()).await.fails(409, message);
    assert_eq!(conflict["reason"], "Conflict");
    assert_eq!(conflict["details"], json!({"name": "a", "kind": "configmaps"}));
    // Without a version the write is unconditional; without a change it is none at all.
    let mut plain = config_map("a");
    plain["data"]["a"] = json!("3");
    let third = cluster.put(&path, plain.clone()).await.ok();
    let fourth = cluster.put(&path, plain).await.ok();
    assert_eq!(third["metadata"]["resourceVersion"], fourth["metadata"]["resourceVersion"]);
    let mut foreign = config_map("a");
    foreign["metadata"]["uid"] = json!("other");
    assert_eq!(cluster.put(&path, foreign).await.code, 409);
    cluster.put(&format!("{MAPS}/b"), config_map("b")).await.fails(404, "configmaps \"b\" not found");
    let message = "the name of the object (c) does not match the name on the URL (a)";
    cluster.put(&path, config_map("c")).await.fails(400, message);
}

#[tokio::test]
async fn leases_are_created_by_an_update() {
    let cluster = Cluster::new().await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"}, "spec": {}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
    assert_eq!(cluster.put(path, lease).await.code, 201);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let cluster = Cluster::new().await;
    let mut created = pod("p");
    created["status"] = json!({"phase": "Running"});
    let created = cluster.post(PODS, created).await.ok();
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{PODS}/p");
    let status = cluster
        .merge(&format!("{path}/status"), json!({"status": {"phase": "Running"}, "spec": {"nodeName": "x"}}))
        .await
        .ok();
    assert_eq!(status["status"]["phase"], "Running");
    assert!(status["spec"].get("nodeName").is_none());
    let main =
        cluster.merge(&path, json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"b": "2"}}})).await.ok();
    assert_eq!(main["status"]["phase"], "Running");
    assert_eq!(main["metadata"]["labels"], json!({"app": "web", "b": "2"}));
    assert_eq!(main["metadata"]["generation"], 1);
    assert_eq!(cluster.post(&format!("{path}/status"), json!({})).await.code, 405);
}

#[tokio::test]
async fn patches_retry_unless_they_name_a_version() {
    let cluster = Arc::new(Cluster::new().await);
    let created = cluster.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    let writers: Vec<_> = (0..20)
        .map(|number| {
            let (cluster, path) = (cluster.clone(), path.clone());
            tokio::spawn(async move { cluster.merge(&path, json!({"data": {format!("k{number}"): "x"}})).await.ok() })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let object = cluster.get(&path).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 21);
    let stale = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"z": "1"}});
    assert_eq!(cluster.merge(&path, stale).await.body["reason"], "Conflict");
    let patch = r#"[{"op":"test","path":"/data/a","value":"1"},{"op":"replace","path":"/data/a","value":"9"}]"#;
    let patched = cluster.send(Method::PATCH, &path, "application/json-patch+json", patch).await.ok();
    assert_eq!(patched["data"]["a"], "9");
    assert_eq!(cluster.send(Method::PATCH, &path, "application/json-patch+json", patch).await.code, 422);
    let apply = cluster.send(Method::PATCH, &path, "application/apply-patch+yaml", "{}").await;
    assert_eq!(apply.code, 415);
}

#[tokio::test]
async fn dry_run_stores_nothing() {
    let cluster = Cluster::new().await;
    let before = cluster.store.revision();
    let created = cluster.post(&format!("{MAPS}?dryRun=All"), config_map("a")).await;
    assert_eq!(created.code, 201);
    cluster.get(&format!("{MAPS}/a")).await.fails(404, "configmaps \"a\" not found");
    assert_eq!(cluster.store.revision(), before);
    cluster.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a?dryRun=All");
    assert_eq!(cluster.merge(&path, json!({"data": {"a": "2"}})).await.ok()["data"]["a"], "2");
    cluster.delete(&path, json!({})).await.ok();
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.ok()["data"]["a"], "1");
    assert_eq!(cluster.post(&format!("{MAPS}?dryRun=Some"), config_map("b")).await.code, 422);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let before = cluster.store.revision();
    let dry = cluster.post("/api/v1/namespaces/default/services?dryRun=All", service).await.ok();
    assert!(dry["spec"]["clusterIP"].as_str().unwrap().starts_with("10."));
    assert_eq!(cluster.store.revision(), before);
}

#[tokio::test]
async fn a_binding_happens_once() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, pod("p")).await.ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = cluster.post(&format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(bound.code, 201);
    let object = cluster.get(&format!("{PODS}/p")).await.ok();
    assert_eq!((&object["spec"]["nodeName"], &object["metadata"]["generation"]), (&json!("n1"), &json!(1)));
    assert_eq!(object["status"]["conditions"][0]["type"], "PodScheduled");
    let message = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"";
    cluster.post("/api/v1/namespaces/default/bindings", binding).await.fails(409, message);
}

#[tokio::test]
async fn a_scale_changes_replicas_alone() {
    let cluster = Cluster::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}},
    });
    cluster.post(deployments, deployment).await.ok();
    let path = format!("{deployments}/web/scale");
    let mut scale = cluster.get(&path).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    scale["spec"]["replicas"] = json!(5);
    assert_eq!(cluster.put(&path, scale.clone()).await.ok()["spec"]["replicas"], 5);
    assert_eq!(cluster.put(&path, scale).await.code, 409);
    let patched = cluster.merge(&path, json!({"spec": {"replicas": 1}})).await.ok();
    assert_eq!(patched["kind"], "Scale");
    let object = cluster.get(&format!("{deployments}/web")).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(1), &json!(3)));
    assert_eq!(cluster.merge(&path, json!({"spec": {"replicas": -1}})).await.code, 422);
}

#[tokio::test]
async fn services_claim_addresses_and_ports() {
    let cluster = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let first = cluster.post(services, service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.ok();
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_string();
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(first["spec"]["clusterIPs"], json!([ip]));
    let address = cluster.stored(&format!("/registry/ipaddresses/{ip}")).await.unwrap();
    assert_eq!(address["spec"]["parentRef"]["name"], "a");
    let taken = cluster.post(services, service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert_eq!(taken.code, 422);
    assert!(taken.body["message"].as_str().unwrap().ends_with("provided IP is already allocated"));
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let refused = cluster.post(services, service("b", taken)).await.fails(
        422,
        &format!("Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"),
    );
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.ports[0].nodePort");
    let outside = cluster.post(services, service("b", json!({"clusterIP": "10.1.2.3", "ports": [{"port": 80}]}))).await;
    assert_eq!(outside.code, 422);
    let headless = cluster.post(services, service("h", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    // A refused Service leaves nothing behind; a deleted one gives everything back.
    let claims = cluster.store.count("/registry/ipaddresses/".into()).await.unwrap().0;
    assert_eq!(claims, 2);
    cluster.delete(&format!("{services}/a"), json!({})).await.ok();
    assert_eq!(cluster.store.count("/registry/ipaddresses/".into()).await.unwrap().0, 1);
    assert_eq!(cluster.store.count("/registry/servicenodeports/".into()).await.unwrap().0, 0);
    let again = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]});
    cluster.post(services, service("b", again)).await.ok();
}

#[tokio::test]
async fn the_kubernetes_service_comes_back() {
    let cluster = Cluster::with(Config { keep_interval: Duration::from_millis(10), ..Config::default() }).await;
    let path = "/api/v1/namespaces/default/services/kubernetes";
    let before = cluster.get(path).await.ok();
    cluster.delete(path, json!({})).await.ok();
    let restored = async {
        loop {
            let reply = cluster.get(path).await;
            if reply.code == 200 && reply.body["metadata"]["uid"] != before["metadata"]["uid"] {
                return reply.body;
            }
            tokio::task::yield_now().await;
        }
    };
    let after = tokio::time::timeout(DEADLINE, restored).await.unwrap();
    assert_eq!(after["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn what_a_crash_left_claimed_is_taken_over() {
    let cluster = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let claim = |created: &str, name: &str| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": "10.96.0.9", "creationTimestamp": created},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": name}},
        })
        .to_string()
    };
    let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}});
    let key = Bytes::from_static(b"/registry/ipaddresses/10.96.0.9");
    // A claim of this moment may belong to a write that is under way.
    let fresh = claim(&kelson_wire::kube::timestamp::now(), "gone");
    cluster.store.put(key.clone(), fresh.into(), 0, 0).await.unwrap();
    assert_eq!(cluster.post(services, service.clone()).await.code, 422);
    let revision = cluster.store.revision();
    cluster.store.put(key, claim("2026-01-01T00:00:00Z", "gone").into(), revision, 0).await.unwrap();
    cluster.post(services, service).await.ok();
    assert_eq!(cluster.stored("/registry/ipaddresses/10.96.0.9").await.unwrap()["spec"]["parentRef"]["name"], "s");
}

#[tokio::test]
async fn large_bodies_and_strangers_are_refused() {
    let cluster = Cluster::with(Config { max_body: 1000, ..Config::default() }).await;
    let mut large = config_map("a");
    large["data"]["a"] = json!("x".repeat(1000));
    let refused = cluster.post(MAPS, large).await.fails(413, "Request entity too large: limit is 1000");
    assert_eq!(refused["reason"], "RequestEntityTooLarge");
    let ask = async |path: &str| {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        cluster.gateway.handle(&User::anonymous(), request).await.status().as_u16()
    };
    assert_eq!(ask("/api/v1/pods").await, 401);
    assert_eq!(ask("/metrics").await, 401);
    assert_eq!(ask("/version").await, 200);
    assert_eq!(ask("/readyz").await, 200);
}

#[tokio::test]
async fn health_and_metrics_speak_for_the_parts() {
    let cluster = Cluster::new().await;
    let ready = cluster.get("/readyz?verbose").await;
    assert_eq!(ready.text, "[+]ping ok\n[+]etcd ok\n[+]informer-sync ok\nreadyz check passed\n");
    assert_eq!(cluster.get("/livez/etcd").await.text, "ok");
    assert_eq!(cluster.get("/livez/nothing").await.code, 404);
    cluster.get("/api/v1/namespaces").await.ok();
    let metrics = cluster.get("/metrics").await.text;
    let text = std::str::from_utf8(&metrics).unwrap();
    assert!(text.contains(
        "apiserver_request_total{code=\"200\",verb=\"LIST\",group=\"\",version=\"v1\",resource=\"namespaces\""
    ));
    assert!(text.contains("apiserver_storage_objects{resource=\"namespaces\"} 4"));
    assert_eq!(cluster.get("/version").await.ok()["minor"], "36");
}
